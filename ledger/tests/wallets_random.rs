//! Random operations on wallets: however they are cut into commits, ordered or raced, the books end alike.
#![allow(clippy::unwrap_used)]

mod common;
mod wallet_common;

use std::collections::BTreeMap;

use common::{Database, Random};
use hydrometer_ledger::wallet::{
    self, Act, Draw, GrantKind, Manual, NewGrant, OnExpiry, Refund, Terms, Wallet, WalletId, settle, standing,
};
use hydrometer_ledger::{AccountSpec, LedgerError, Outcome};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;
use wallet_common::*;

const SECONDS: i64 = 40;

#[derive(Clone, Debug)]
enum Operation {
    Grant(NewGrant),
    Draw(Draw),
    Advance(i64),
    Refund(Refund),
    Manual(Manual),
}

/// Whether the wallet had enough for it.
async fn perform(tx: &Transaction<'_>, wallet: WalletId, operation: &Operation) -> bool {
    let done = match operation {
        Operation::Grant(new) => wallet::grant(tx, new).await.map(drop),
        Operation::Draw(new) => wallet::draw(tx, new).await.map(drop),
        Operation::Advance(second) => wallet::advance(tx, &[wallet], at(*second)).await.map(drop),
        Operation::Refund(new) => wallet::refund(tx, new).await.map(drop),
        Operation::Manual(new) => wallet::manual(tx, new).await.map(drop),
    };
    match done {
        Ok(()) => true,
        // Found before anything was written, so the database transaction goes on.
        Err(LedgerError::Invalid { detail, .. }) if detail.ends_with("is left") => false,
        Err(error) => panic!("{operation:?}: {error}"),
    }
}

fn random_grant(random: &mut Random, key: &str, wallet: WalletId) -> NewGrant {
    let from = 5 * random.below(SECONDS as u64 / 5) as i64;
    let expires = (random.below(4) > 0).then(|| from + 1 + random.below(20) as i64);
    let paid = random.below(3) > 0;
    NewGrant {
        kind: if paid { GrantKind::Paid { source: rail() } } else { GrantKind::Promotional },
        priority: random.below(3) as i32,
        on_expiry: if random.below(2) == 0 { OnExpiry::Back } else { OnExpiry::Income },
        ..new_grant(key, wallet, 1 + random.below(80) as i128, from, expires)
    }
}

fn fact(new: &NewGrant) -> settle::Grant {
    settle::Grant {
        id: new.id,
        amount: new.amount,
        debited: units(0),
        priority: new.priority,
        from: new.at,
        expires: new.expires,
        promotional: new.kind == GrantKind::Promotional,
    }
}

fn draws(random: &mut Random, wallet: WalletId, used: &[i128]) -> Vec<Draw> {
    let mut news = pieces(random, used);
    let mut draws = Vec::new();
    while !news.is_empty() {
        let rest = news.split_off((1 + random.below(4) as usize).min(news.len()));
        draws.push(new_draw(&format!("draw {}", draws.len()), wallet, &news));
        news = rest;
    }
    draws
}

fn random_use(random: &mut Random) -> Vec<i128> {
    (0..SECONDS).map(|_| if random.below(2) == 0 { 0 } else { random.below(9) as i128 }).collect()
}

/// The id of an operation in another currency. Their order is the same, since it is the last that decides which grant is used.
fn other_id(currency: &str, old: Uuid) -> Uuid {
    let [order, hash] = [old, id(&format!("{currency} {old}"))].map(|id| id.as_u64_pair());
    Uuid::from_u64_pair(order.0, hash.1)
}

/// The same operation in another currency: wallets of one database that share no account.
fn in_currency(operation: &Operation, currency: &str) -> Operation {
    let wallet = Wallet::new("renter:R", currency).id();
    let other_id = |old| other_id(currency, old);
    let account = |spec: &AccountSpec| AccountSpec::new(spec.kind, &spec.party, &spec.purpose, currency);
    match operation.clone() {
        Operation::Grant(mut new) => {
            if let GrantKind::Paid { source } = &mut new.kind {
                *source = account(source);
            }
            Operation::Grant(NewGrant { id: other_id(new.id), wallet, ..new })
        }
        Operation::Draw(new) => Operation::Draw(Draw { id: other_id(new.id), wallet, ..new }),
        Operation::Advance(second) => Operation::Advance(second),
        Operation::Refund(new) => Operation::Refund(Refund {
            id: other_id(new.id),
            grant: other_id(new.grant),
            destination: account(&new.destination),
            wallet,
            ..new
        }),
        Operation::Manual(mut new) => {
            match &mut new.act {
                Act::Credit { source, .. } => *source = source.as_ref().map(account),
                Act::Debit { destination, .. } => *destination = account(destination),
            }
            Operation::Manual(Manual { id: other_id(new.id), wallet, ..new })
        }
    }
}

/// What a wallet comes to: per grant what is debited, consumed and expired, the receivable, and every balance.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    answers: Vec<bool>,
    grants: Vec<[i128; 3]>,
    receivable: i128,
    balances: BTreeMap<String, i128>,
}

/// Runs operations, in a currency of their own, in commits of random sizes, or all in one.
async fn run(app: &mut Client, currency: &str, mut random: Option<&mut Random>, operations: &[Operation]) -> Result {
    let owner = Wallet::new("renter:R", currency);
    let mut opening = new_wallet(&owner, Terms::default());
    opening.id = id(&format!("open {currency}"));
    let wallet = commit!(app, wallet::open, &opening).unwrap().wallet;
    let mut rest = operations;
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let size = random.as_mut().map_or(rest.len(), |random| 1 + random.below(5) as usize).min(rest.len());
        let tx = app.transaction().await.unwrap();
        let mut new = Vec::new();
        for operation in &rest[..size] {
            new.push(perform(&tx, wallet, &in_currency(operation, currency)).await);
        }
        // Some commits fail and are made again.
        if random.as_mut().is_some_and(|random| random.below(5) == 0) {
            tx.rollback().await.unwrap();
            continue;
        }
        tx.commit().await.unwrap();
        answers.append(&mut new);
        rest = &rest[size..];
    }
    let standing = stands(app, wallet).await;
    let ending = format!(":{currency}");
    let balances = book(app).await;
    let balances = balances.iter().filter_map(|(name, nanos)| Some((name.strip_suffix(&ending)?.to_owned(), *nanos)));
    Result {
        answers,
        grants: standing
            .grants
            .iter()
            .map(|grant| [grant.debited.nanos(), grant.consumed.nanos(), grant.expired.nanos()])
            .collect(),
        receivable: standing.receivable.nanos(),
        balances: balances.collect(),
    }
}

#[tokio::test]
async fn commits_may_be_cut_anywhere() {
    let mut random = Random::seeded();
    let database = Database::create().await;
    let mut app = database.app().await;
    let (mut done, mut refused) = (0, 0);
    for round in 0..6 {
        let wallet = renter().id();
        let used = random_use(&mut random);
        let mut operations: Vec<Operation> =
            draws(&mut random, wallet, &used).into_iter().map(Operation::Draw).collect();
        let mut frontier = 0;
        for n in 0..25 {
            let grant = format!("grant {}", random.below(8));
            let amount = units(1 + random.below(20) as i128);
            let second = at(random.below(SECONDS as u64) as i64);
            let new = match random.below(5) {
                0 | 1 if n < 8 => Operation::Grant(random_grant(&mut random, &format!("grant {n}"), wallet)),
                0 | 1 => {
                    frontier += random.below(6) as i64;
                    Operation::Advance(frontier)
                }
                2 => Operation::Manual(Manual {
                    id: id(&format!("manual {n}")),
                    wallet,
                    act: Act::Debit { destination: goodwill(), grant: None },
                    amount,
                    at: second,
                    who: "ann".to_owned(),
                    why: "a fee".to_owned(),
                }),
                3 => Operation::Manual(Manual {
                    id: id(&format!("manual {n}")),
                    wallet,
                    act: Act::Credit {
                        source: Some(goodwill()),
                        priority: 1,
                        expires: None,
                        on_expiry: OnExpiry::Income,
                    },
                    amount,
                    at: second,
                    who: "ann".to_owned(),
                    why: "an outage".to_owned(),
                }),
                _ => Operation::Refund(Refund {
                    id: id(&format!("refund {n}")),
                    wallet,
                    grant: id(&grant),
                    amount: (random.below(2) == 0).then_some(amount),
                    destination: rail(),
                    at: second,
                    who: "ann".to_owned(),
                    why: "asked for".to_owned(),
                }),
            };
            let place = random.below(operations.len() as u64 + 1) as usize;
            operations.insert(place, new);
        }
        // A refund names a grant that is there and paid, so grants come first, in the order of their names.
        let (mut grants, others): (Vec<_>, Vec<_>) =
            operations.into_iter().partition(|operation| matches!(operation, Operation::Grant(_)));
        grants.sort_by_key(|operation| format!("{operation:?}"));
        let paid: Vec<_> = grants
            .iter()
            .filter_map(|operation| match operation {
                Operation::Grant(new) if new.kind != GrantKind::Promotional => Some(new.id),
                _ => None,
            })
            .collect();
        let others = others.into_iter().filter(|operation| match operation {
            Operation::Refund(refund) => paid.contains(&refund.grant),
            _ => true,
        });
        let operations: Vec<Operation> = grants.into_iter().chain(others).collect();

        let expected = run(&mut app, &format!("ONE{round}"), None, &operations).await;
        done += expected.answers.iter().filter(|done| **done).count();
        refused += expected.answers.iter().filter(|done| !**done).count();
        for again in 0..2 {
            let found = run(&mut app, &format!("CUT{round}X{again}"), Some(&mut random), &operations).await;
            assert_eq!(found, expected);
        }
    }
    sound(&mut app).await;
    drop(app);
    database.drop().await;
    assert!(done > 50 && refused > 3, "{done} done, {refused} refused");
}

#[tokio::test]
async fn whatever_comes_late_the_books_end_as_the_oracle_says() {
    let mut random = Random::seeded();
    let database = Database::create().await;
    let mut app = database.app().await;
    for round in 0..8 {
        let wallet = renter().id();
        let used = random_use(&mut random);
        let grants: Vec<NewGrant> =
            (0..random.below(7)).map(|n| random_grant(&mut random, &format!("grant {n}"), wallet)).collect();
        let frontier = random.below(SECONDS as u64 + 10) as i64;
        for again in 0..2 {
            let currency = format!("LATE{round}X{again}");
            let mut operations: Vec<Operation> = grants.iter().cloned().map(Operation::Grant).collect();
            operations.extend(draws(&mut random, wallet, &used).into_iter().map(Operation::Draw));
            operations.push(Operation::Advance(frontier));
            operations.extend((0..3).map(|_| Operation::Advance(random.below(frontier as u64 + 1) as i64)));
            shuffle(&mut random, &mut operations);
            let found = run(&mut app, &currency, Some(&mut random), &operations).await;

            // Grants are found in the order in which they were recorded.
            let grants: Vec<&NewGrant> = operations
                .iter()
                .filter_map(|operation| if let Operation::Grant(new) = operation { Some(new) } else { None })
                .collect();
            let facts: Vec<settle::Grant> = grants.iter().map(|new| fact(new)).collect();
            let truth = oracle(&facts, &used, frontier);
            let receivable: i128 = truth.receivable.values().sum();
            let grants_of = |place: usize| [0, truth.consumed[place], truth.expired[place]];
            assert_eq!(found.grants, (0..grants.len()).map(grants_of).collect::<Vec<_>>());
            assert_eq!(found.receivable, receivable);

            let mut expected: BTreeMap<String, i128> = BTreeMap::new();
            let mut add = |account: &str, nanos: i128| *expected.entry(account.to_owned()).or_default() += nanos;
            add("renter:R:unbilled", -used.iter().sum::<i128>());
            add("renter:R:receivable", receivable);
            for (place, new) in grants.iter().enumerate() {
                let (consumed, expired) = (truth.consumed[place], truth.expired[place]);
                if new.kind == GrantKind::Promotional {
                    add("platform:promotions", consumed);
                    continue;
                }
                let back = if new.on_expiry == OnExpiry::Back { expired } else { 0 };
                add("rail:ach:clearing", new.amount.nanos() - back);
                add("platform:expired_credit", expired - back);
                add("renter:R:wallet", new.amount.nanos() - consumed - expired);
            }
            expected.retain(|_, nanos| *nanos != 0);
            assert_eq!(found.balances, expected);
        }
    }
    sound(&mut app).await;
    drop(app);
    database.drop().await;
}

/// Each draw is made by two tasks, on wallets in any order: no deadlock, none is lost, none counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_who_draw_at_once_add_up() {
    let mut random = Random::seeded();
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut wallets = Vec::new();
    for party in ["renter:A", "renter:B", "renter:C"] {
        let wallet = open(&mut app, &Wallet::new(party, "USD"), Terms::default()).await;
        grant(&mut app, &new_grant(&format!("{party} paid"), wallet, 1_500, 0, None)).await;
        wallets.push(wallet);
    }
    let (mut tasks, mut totals) = (Vec::new(), [0_i128; 3]);
    for pair in 0..4 {
        let mut sets: Vec<Vec<Draw>> = Vec::new();
        for round in 0..25 {
            let mut order = [0, 1, 2];
            shuffle(&mut random, &mut order);
            let count = 1 + random.below(3) as usize;
            sets.push(
                order[..count]
                    .iter()
                    .map(|&which| {
                        let nanos = 1 + random.below(40) as i128;
                        totals[which] += nanos;
                        let key = format!("{pair}/{round}/{which}");
                        new_draw(&key, wallets[which], &[(random.below(500) as i64, nanos)])
                    })
                    .collect(),
            );
        }
        for _ in 0..2 {
            let mut client = database.app().await;
            let mut sets = sets.clone();
            shuffle(&mut random, &mut sets);
            tasks.push(tokio::spawn(async move {
                let mut posted = 0;
                for set in sets {
                    // No retry: a deadlock would be an error here.
                    let (done, _) = commit!(client, wallet::draw_many, &set, &[]).unwrap();
                    posted += done.iter().filter(|done| done.outcome == Outcome::Posted).count();
                }
                posted
            }));
        }
    }
    let mut posted = 0;
    for task in tasks {
        posted += task.await.unwrap();
    }
    let drawn: i64 =
        app.query_one("select count(*) from ledger.wallet_entry where kind = 'draw'", &[]).await.unwrap().get(0);
    assert_eq!(posted as i64, drawn);
    for (wallet, total) in wallets.iter().zip(totals) {
        let standing = standing(&app, *wallet).await.unwrap().unwrap();
        assert_eq!(standing.paid.nanos(), (1_500 - total).max(0));
        assert_eq!(standing.receivable.nanos(), (total - 1_500).max(0));
    }
    sound(&mut app).await;
    drop(app);
    database.drop().await;
}

/// One wallet, money for half of what is tried: whatever races, no more is refunded than was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_that_race_never_exceed_what_is_left() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let wallet = open(&mut app, &renter(), Terms::default()).await;
    grant(&mut app, &new_grant("paid", wallet, 100, 0, None)).await;
    let mut tasks = Vec::new();
    for task in 0..8 {
        let mut client = database.app().await;
        tasks.push(tokio::spawn(async move {
            let mut paid = 0;
            for round in 0..10 {
                let refund = Refund {
                    id: id(&format!("{task}/{round}")),
                    wallet,
                    grant: id("paid"),
                    amount: Some(units(7)),
                    destination: rail(),
                    at: at(5),
                    who: "ann".to_owned(),
                    why: "asked for".to_owned(),
                };
                match commit!(client, wallet::refund, &refund) {
                    Ok(_) => paid += 7,
                    Err(LedgerError::Invalid { detail, .. }) => assert!(detail.ends_with("is left"), "{detail}"),
                    Err(error) => panic!("{error}"),
                }
            }
            paid
        }));
    }
    let mut paid = 0;
    for task in tasks {
        paid += task.await.unwrap();
    }
    assert_eq!(paid, 98);
    assert_eq!(book(&app).await["renter:R:wallet:USD"], 2);
    sound(&mut app).await;
    drop(app);
    database.drop().await;
}
