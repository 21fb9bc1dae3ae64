//! What is posted: transactions of one transfer each, among accounts that all have a limit.

use std::collections::BTreeMap;

use hydrometer_ledger::{AccountSpec, AccountType, Amount, Transaction, TransactionId, Transfer};
use uuid::Uuid;

pub const ACCOUNTS: u64 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Both sides anywhere.
    Uniform,
    /// All debit one account; the other side anywhere.
    Hot,
}

pub fn account(number: u64) -> AccountSpec {
    AccountSpec::new(AccountType::Asset, &format!("party:{number:05}"), "bench", "USD")
}

/// Transactions with ids that never come again.
pub struct Work {
    accounts: Vec<AccountSpec>,
    random: u64,
    number: u64,
}

impl Work {
    pub fn new(seed: u64) -> Work {
        Work { accounts: (0..ACCOUNTS).map(account).collect(), random: seed, number: 0 }
    }

    /// splitmix64
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub fn next(&mut self, shape: Shape) -> Transaction {
        self.number += 1;
        let debit = if shape == Shape::Hot { 0 } else { self.below(ACCOUNTS) };
        let credit = (debit + 1 + self.below(ACCOUNTS - 1)) % ACCOUNTS;
        let id = (u128::from(self.below(u64::MAX)) << 64) | u128::from(self.below(u64::MAX));
        Transaction {
            // As random as a hash.
            id: TransactionId(uuid::Builder::from_random_bytes(id.to_be_bytes()).into_uuid()),
            kind: "usage".to_owned(),
            effective_at: chrono::DateTime::UNIX_EPOCH,
            description: "gpu hours of a lease".to_owned(),
            corrects: None,
            reverses: None,
            metadata: serde_json::json!({}),
            transfers: vec![Transfer {
                debit: self.accounts[debit as usize].clone(),
                credit: self.accounts[credit as usize].clone(),
                amount: Amount::from_nanos(1 + i128::from(self.below(1_000_000_000_000))),
            }],
        }
    }

    pub fn set(&mut self, shape: Shape, size: usize) -> Vec<Transaction> {
        (0..size).map(|_| self.next(shape)).collect()
    }
}

/// The same rows as a bare COPY takes them, with the net change of each account.
pub struct Bare {
    pub rows: Vec<(Uuid, i64, i64, Amount)>,
    pub accounts: Vec<i64>,
    pub debits: Vec<Amount>,
    pub credits: Vec<Amount>,
}

impl Bare {
    pub fn of(set: &[Transaction]) -> Bare {
        let number = |account: &AccountSpec| account.party["party:".len()..].parse::<i64>().unwrap();
        let rows = set
            .iter()
            .flat_map(|t| t.transfers.iter().map(move |l| (t.id.0, number(&l.debit), number(&l.credit), l.amount)));
        let rows: Vec<_> = rows.collect();
        let mut net: BTreeMap<i64, (Amount, Amount)> = BTreeMap::new();
        for (_, debit, credit, amount) in &rows {
            let side = &mut net.entry(*debit).or_default().0;
            *side = side.checked_add(*amount).unwrap();
            let side = &mut net.entry(*credit).or_default().1;
            *side = side.checked_add(*amount).unwrap();
        }
        Bare {
            rows,
            accounts: net.keys().copied().collect(),
            debits: net.values().map(|(debit, _)| *debit).collect(),
            credits: net.values().map(|(_, credit)| *credit).collect(),
        }
    }
}
