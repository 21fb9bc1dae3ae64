//! What tests of wallets share: short ways to say things, and an oracle that moves every unit by itself.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use hydrometer_ledger::wallet::{
    Done, Draw, GrantKind, NewGrant, NewWallet, OnExpiry, Standing, Terms, Wallet, WalletId, settle, standing,
};
use hydrometer_ledger::{AccountSpec, AccountType, Amount, AsOf, LedgerError, TransactionId, balances, verify, wallet};
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::common::{NAMESPACE, Random};

pub fn id(key: &str) -> Uuid {
    TransactionId::derive(&NAMESPACE, &["wallet test", key]).0
}

/// A second of the tests' time.
pub fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_750_000_000 + second, 0).unwrap()
}

pub fn units(nanos: i128) -> Amount {
    Amount::from_nanos(nanos)
}

pub fn renter() -> Wallet {
    Wallet::new("renter:R", "USD")
}

pub fn rail() -> AccountSpec {
    AccountSpec::new(AccountType::Asset, "rail:ach", "clearing", "USD")
}

pub fn goodwill() -> AccountSpec {
    AccountSpec::new(AccountType::Expense, "platform", "goodwill", "USD")
}

pub fn new_wallet(wallet: &Wallet, terms: Terms) -> NewWallet {
    NewWallet {
        id: id(&format!("open {}", wallet.party)),
        wallet: wallet.clone(),
        terms,
        at: at(0),
        who: "ann".to_owned(),
        why: "a new renter".to_owned(),
    }
}

pub fn new_grant(key: &str, wallet: WalletId, nanos: i128, from: i64, expires: Option<i64>) -> NewGrant {
    NewGrant {
        id: id(key),
        wallet,
        kind: GrantKind::Paid { source: rail() },
        amount: units(nanos),
        priority: 0,
        at: at(from),
        expires: expires.map(at),
        on_expiry: OnExpiry::Income,
        release: Vec::new(),
        plan: Vec::new(),
        answers: None,
        who: "payments".to_owned(),
        why: format!("top-up {key}"),
    }
}

pub fn new_draw(key: &str, wallet: WalletId, uses: &[(i64, i128)]) -> Draw {
    Draw {
        id: id(key),
        wallet,
        uses: uses.iter().map(|(second, nanos)| (at(*second), units(*nanos))).collect(),
        why: format!("usage {key}"),
    }
}

/// One operation in a database transaction of its own.
#[macro_export]
macro_rules! commit {
    ($client:expr, $operation:path, $($argument:expr),+) => {{
        let tx = $client.transaction().await.unwrap();
        let done = $operation(&tx, $($argument),+).await;
        if done.is_ok() {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        done
    }};
}

pub async fn open(client: &mut Client, wallet: &Wallet, terms: Terms) -> WalletId {
    commit!(client, wallet::open, &new_wallet(wallet, terms)).unwrap().wallet
}

pub async fn grant(client: &mut Client, new: &NewGrant) -> Done {
    commit!(client, wallet::grant, new).unwrap()
}

pub async fn draw(client: &mut Client, key: &str, wallet: WalletId, uses: &[(i64, i128)]) -> Done {
    commit!(client, wallet::draw, &new_draw(key, wallet, uses)).unwrap()
}

pub async fn advance(client: &mut Client, wallet: WalletId, second: i64) -> Done {
    commit!(client, wallet::advance, &[wallet], at(second)).unwrap()[0]
}

pub async fn stands(client: &Client, wallet: WalletId) -> Standing {
    standing(client, wallet).await.unwrap().unwrap()
}

/// Balances on their natural sides, where they are not zero.
pub async fn book(client: &Client) -> BTreeMap<String, i128> {
    let all = balances(client, "", AsOf::Now).await.unwrap();
    let named = all.into_iter().map(|b| (b.account.spec.name.clone(), b.natural().unwrap().nanos()));
    named.filter(|(_, nanos)| *nanos != 0).collect()
}

pub fn expect(lines: &[(&str, i128)]) -> BTreeMap<String, i128> {
    lines.iter().map(|(name, nanos)| ((*name).to_owned(), *nanos)).collect()
}

/// Type and data of the events, in the order in which they were written within each transaction.
pub async fn events(client: &Client) -> Vec<(String, Value)> {
    let rows = client.query("select type, data from ledger.outbox order by xid, ctid", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

pub async fn sound(client: &mut Client) {
    let moment = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let tx = moment.start().await.unwrap();
    assert_eq!(wallet::verify(&tx).await.unwrap(), []);
    assert_eq!(verify(&tx).await.unwrap(), []);
}

pub fn says(error: LedgerError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// What the oracle finds: by grant, and by second.
#[derive(Debug, PartialEq, Eq)]
pub struct Truth {
    pub consumed: Vec<i128>,
    pub expired: Vec<i128>,
    pub receivable: BTreeMap<i64, i128>,
    /// (grant, second, units)
    pub shares: BTreeMap<(usize, i64), i128>,
}

/// Second by second and unit by unit: each unit is taken from the best grant that is there, or from none.
pub fn oracle(grants: &[settle::Grant], used: &[i128], frontier: i64) -> Truth {
    let second = |time: DateTime<Utc>| time.timestamp() - at(0).timestamp();
    let mut left: Vec<i128> = grants.iter().map(|g| g.amount.nanos() - g.debited.nanos()).collect();
    let mut truth = Truth {
        consumed: vec![0; grants.len()],
        expired: vec![0; grants.len()],
        receivable: BTreeMap::new(),
        shares: BTreeMap::new(),
    };
    for (now, units) in (0_i64..).zip(used) {
        for _ in 0..*units {
            let mut best: Option<usize> = None;
            for place in 0..grants.len() {
                let g = &grants[place];
                let there = second(g.from) <= now && g.expires.is_none_or(|end| now < second(end)) && left[place] > 0;
                if !there {
                    continue;
                }
                let better = match best {
                    None => true,
                    Some(other) => {
                        let o = &grants[other];
                        let end = |g: &settle::Grant| g.expires.map_or(i64::MAX, second);
                        let order = |g: &settle::Grant| (g.priority, end(g), second(g.from), u8::from(!g.promotional));
                        order(g) < order(o) || order(g) == order(o) && g.id < o.id
                    }
                };
                if better {
                    best = Some(place);
                }
            }
            match best {
                Some(place) => {
                    left[place] -= 1;
                    truth.consumed[place] += 1;
                    *truth.shares.entry((place, now)).or_default() += 1;
                }
                None => *truth.receivable.entry(now).or_default() += 1,
            }
        }
    }
    for (place, g) in grants.iter().enumerate() {
        if g.expires.is_some_and(|end| second(end) <= frontier) {
            truth.expired[place] = left[place];
        }
    }
    truth
}

/// Signed pieces, in random order, that add up to the use of every second.
pub fn pieces(random: &mut Random, used: &[i128]) -> Vec<(i64, i128)> {
    let mut pieces = Vec::new();
    for (second, total) in (0_i64..).zip(used) {
        let mut open = *total;
        while open != 0 || random.below(6) == 0 {
            let piece = random.below(12) as i128 - 3;
            if random.below(3) == 0 {
                break;
            }
            pieces.push((second, piece));
            open -= piece;
        }
        if open != 0 {
            pieces.push((second, open));
        }
    }
    shuffle(random, &mut pieces);
    pieces
}

pub fn shuffle<T>(random: &mut Random, list: &mut [T]) {
    for last in (1..list.len()).rev() {
        list.swap(last, random.below(last as u64 + 1) as usize);
    }
}
