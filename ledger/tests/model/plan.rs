//! What each client does, as a pure function of seed, client and number of the operation: so an operation can be done
//! again by another process, and a seed repeats a run but for its timing.

use chrono::{DateTime, TimeDelta, Utc};
use hydrometer_ledger::{Amount, Capture, Hold, HoldId, Transaction, TransactionId, Transfer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::common::{NAMESPACE, Random, account, transaction, transfer};

/// Accounts without limits.
pub const ACCOUNTS: u64 = 8;
/// Accounts that cannot be overdrawn. What is available of the first two is never held, and their limits never change.
pub const WALLETS: [&str; 4] = ["wallet 0", "wallet 1", "wallet 2", "wallet 3"];
/// Transactions that every client may post.
const COMMON: u64 = 40;

/// A run; the time is when it began, since holds expire by the clock.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    pub seed: u64,
    pub began: DateTime<Utc>,
}

pub enum Operation {
    /// Chains that are posted as one set.
    Post(Vec<Vec<Transaction>>),
    Place(Hold),
    Capture(Hold, Capture),
    Void(HoldId),
    Expire,
}

pub fn operation(run: Run, client: u64, n: u64) -> Operation {
    let mut random = random(run.seed, &[client, n, 1]);
    let earlier = |random: &mut Random| fresh(run.seed, client, random.below(n));
    Operation::Post(match random.below(15) {
        0 => vec![vec![common(run.seed, random.below(COMMON))]],
        1 if n > 0 => earlier(&mut random),
        2 if n > 0 => {
            // Another body under the id of one before.
            let mut chains = earlier(&mut random);
            chains[0][0].transfers[0].amount = Amount::from_nanos(1 + i128::from(random.below(1_000)));
            chains.truncate(1);
            chains
        }
        3 | 4 if n > 0 => {
            let original = &earlier(&mut random)[0][0];
            vec![vec![reversal(&mut random, original, &format!("{client}/{n}"))]]
        }
        choice @ 10..=13 => return with_hold(&mut random, run, choice),
        14 if random.below(3) == 0 => return Operation::Expire,
        _ => fresh(run.seed, client, n),
    })
}

/// Holds are everybody's: any client may place, capture and void any of them.
fn with_hold(random: &mut Random, run: Run, choice: u64) -> Operation {
    let hold = hold(run, random.below(40));
    match choice {
        10 | 11 => Operation::Place(hold),
        12 => {
            // Whole or half: the second of these is a conflict with the first.
            let amount = Amount::from_nanos((hold.transfer.amount.nanos() >> random.below(2)).max(1));
            let capture = Capture {
                hold: hold.id,
                amount,
                kind: "capture".to_owned(),
                effective_at: hold.effective_at,
                description: hold.description.clone(),
                metadata: hold.metadata.clone(),
            };
            Operation::Capture(hold, capture)
        }
        _ => Operation::Void(hold.id),
    }
}

fn hold(run: Run, n: u64) -> Hold {
    let mut random = random(run.seed, &[n, 4]);
    let Transaction { id, effective_at, description, .. } = transaction(&format!("hold/{n}"), vec![]);
    // On wallets of which the test does not follow what is available, or without a limit.
    let from = [WALLETS[2], WALLETS[3], "1"][random.below(3) as usize];
    let lifetime =
        if random.below(3) == 0 { TimeDelta::seconds(2 + random.below(20) as i64) } else { TimeDelta::days(1) };
    Hold {
        id,
        transfer: transfer("5", from, 1 + i128::from(random.below(600))),
        effective_at,
        expires_at: run.began + lifetime,
        description,
        metadata: json!({ "n": n }),
    }
}

/// What a capture posts.
pub fn captured(hold: &Hold, capture: &Capture) -> Transaction {
    Transaction {
        id: capture.transaction_id(),
        kind: capture.kind.clone(),
        effective_at: capture.effective_at,
        description: capture.description.clone(),
        corrects: None,
        reverses: None,
        metadata: capture.metadata.clone(),
        transfers: vec![Transfer { amount: capture.amount, ..hold.transfer.clone() }],
    }
}

/// An operation that refers to none before.
fn fresh(seed: u64, client: u64, n: u64) -> Vec<Vec<Transaction>> {
    let mut random = random(seed, &[client, n, 2]);
    let (chains, length) = [(1, 1), (1, 1), (1, 3), (5, 1), (3, 2)][random.below(5) as usize];
    let mut new = |chain, place| {
        let lines = (0..=random.below(3)).map(|_| random_transfer(&mut random)).collect();
        transaction(&format!("{client}/{n}/{chain}/{place}"), lines)
    };
    (0..chains).map(|chain| (0..length).map(|place| new(chain, place)).collect()).collect()
}

fn common(seed: u64, n: u64) -> Transaction {
    let mut random = random(seed, &[n, 3]);
    transaction(&format!("common/{n}"), vec![random_transfer(&mut random)])
}

/// Wallets spend (a credit, since they grow by debits) more often than they get.
fn random_transfer(random: &mut Random) -> Transfer {
    let wallet = WALLETS[random.below(4) as usize];
    let amount = 1 + i128::from(random.below(1_000));
    match random.below(8) {
        0..3 => transfer(&random.below(ACCOUNTS).to_string(), wallet, amount),
        3 => transfer(wallet, &random.below(ACCOUNTS).to_string(), 2 * amount),
        4 => {
            let from = random.below(4) as usize;
            transfer(WALLETS[(from + 1) % 4], WALLETS[from], amount)
        }
        _ => {
            let debit = random.below(ACCOUNTS);
            let credit = (debit + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
            // Beyond 64 bits, and not round.
            transfer(&debit.to_string(), &credit.to_string(), amount * 10_i128.pow(random.below(24) as u32) + 1)
        }
    }
}

/// Takes back each transfer, whole or in part.
fn reversal(random: &mut Random, original: &Transaction, key: &str) -> Transaction {
    let mut reversal = transaction(&format!("reversal/{key}"), vec![]);
    reversal.kind = "reversal".to_owned();
    reversal.reverses = Some(original.id);
    for Transfer { debit, credit, amount } in &original.transfers {
        let part = (amount.nanos() / i128::from(1 + random.below(3))).max(1);
        reversal.transfers.push(Transfer {
            debit: credit.clone(),
            credit: debit.clone(),
            amount: Amount::from_nanos(part),
        });
    }
    reversal
}

/// What is in the wallets before.
pub fn opening() -> Vec<Transaction> {
    WALLETS.iter().map(|wallet| transaction(&format!("fund {wallet}"), vec![transfer(wallet, "bank", 3_000)])).collect()
}

pub fn wallet_name(n: usize) -> String {
    account(WALLETS[n]).name
}

fn random(seed: u64, parts: &[u64]) -> Random {
    let parts: Vec<String> = parts.iter().map(u64::to_string).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let TransactionId(mixed) = TransactionId::derive(&NAMESPACE, &parts);
    Random(seed ^ mixed.as_u64_pair().0)
}
