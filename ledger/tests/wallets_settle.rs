//! Who pays for what, against an oracle that moves every unit by itself.
#![allow(clippy::unwrap_used)]

mod common;
mod wallet_common;

use std::collections::BTreeMap;

use common::Random;
use hydrometer_ledger::Amount;
use hydrometer_ledger::wallet::settle::{Grant, Settlement, edges, interval, settle};
use wallet_common::{Truth, at, id, oracle, pieces, shuffle, units};

const SECONDS: u64 = 40;

fn grant(name: &str, nanos: i128, from: i64, expires: Option<i64>) -> Grant {
    Grant {
        id: id(name),
        amount: units(nanos),
        debited: Amount::ZERO,
        priority: 0,
        from: at(from),
        expires: expires.map(at),
        promotional: false,
    }
}

fn random_grants(random: &mut Random) -> Vec<Grant> {
    (0..random.below(7) as i64)
        .map(|name| {
            let from = random.below(SECONDS) as i64 - 2;
            let expires = (random.below(4) > 0).then(|| from + 1 + random.below(20) as i64);
            let amount = 1 + random.below(60) as i128;
            Grant {
                priority: random.below(3) as i32,
                debited: units(if random.below(4) == 0 { random.below(amount as u64 + 1) as i128 } else { 0 }),
                promotional: random.below(3) == 0,
                ..grant(&name.to_string(), amount, from, expires)
            }
        })
        .collect()
}

fn random_use(random: &mut Random) -> Vec<i128> {
    (0..SECONDS).map(|_| if random.below(3) == 0 { 0 } else { random.below(9) as i128 }).collect()
}

/// Consumed and expired by grant, receivable by start of interval, shares by grant and start of interval.
type Told = (Vec<i128>, Vec<i128>, BTreeMap<i64, i128>, BTreeMap<(usize, i64), i128>);

/// As the oracle tells it: by interval, since it does not tell the seconds within.
fn told(settlement: &Settlement) -> Told {
    let nanos = |amounts: &[Amount]| amounts.iter().map(|amount| amount.nanos()).collect();
    let shares = settlement.shares.iter().map(|s| ((s.grant, s.from.timestamp()), s.amount.nanos()));
    let receivable = settlement.receivable.iter().map(|(from, amount)| (from.timestamp(), amount.nanos()));
    (nanos(&settlement.consumed), nanos(&settlement.expired), receivable.collect(), shares.collect())
}

fn true_for(grants: &[Grant], truth: &Truth) -> Told {
    let edges = edges(grants);
    let start = |second: i64| interval(&edges, at(second)).timestamp();
    let mut receivable = BTreeMap::new();
    for (second, units) in &truth.receivable {
        *receivable.entry(start(*second)).or_default() += units;
    }
    let mut shares = BTreeMap::new();
    for ((place, second), units) in &truth.shares {
        *shares.entry((*place, start(*second))).or_default() += units;
    }
    (truth.consumed.clone(), truth.expired.clone(), receivable, shares)
}

#[test]
fn settles_as_the_oracle_does_whatever_the_order_and_the_pieces() {
    let mut random = Random::seeded();
    for _ in 0..2_000 {
        let grants = random_grants(&mut random);
        let used = random_use(&mut random);
        let frontier = random.below(SECONDS + 5) as i64;
        let truth = true_for(&grants, &oracle(&grants, &used, frontier));
        for _ in 0..3 {
            let news = pieces(&mut random, &used);
            let news = news.iter().map(|(second, nanos)| (at(*second), units(*nanos)));
            let settlement = settle(&grants, news, at(frontier)).unwrap();
            assert_eq!(told(&settlement), truth);
        }
        // The order in which grants are given says nothing.
        let mut order: Vec<usize> = (0..grants.len()).collect();
        shuffle(&mut random, &mut order);
        let shuffled: Vec<Grant> = order.iter().map(|&place| grants[place].clone()).collect();
        let news = (0_i64..).zip(&used).map(|(second, nanos)| (at(second), units(*nanos)));
        let settlement = settle(&shuffled, news, at(frontier)).unwrap();
        for (now, &before) in order.iter().enumerate() {
            assert_eq!(settlement.consumed[now].nanos(), truth.0[before]);
        }
    }
}

/// What the booking relies on: a debit of no more than what is left is a smaller grant.
#[test]
fn debits_of_what_is_left_leave_consumption_as_it_was() {
    let mut random = Random::seeded();
    let mut debits = 0;
    for _ in 0..2_000 {
        let mut grants = random_grants(&mut random);
        let used = random_use(&mut random);
        let frontier = random.below(SECONDS + 5) as i64;
        let news = || (0_i64..).zip(&used).map(|(second, nanos)| (at(second), units(*nanos)));
        let before = settle(&grants, news(), at(frontier)).unwrap();
        let left = before.left(&grants).unwrap();
        for (grant, left) in grants.iter_mut().zip(left) {
            assert!(left >= Amount::ZERO);
            let taken = units(random.below(left.nanos() as u64 + 1) as i128);
            grant.debited = grant.debited.checked_add(taken).unwrap();
            debits += usize::from(taken.is_positive());
        }
        let after = settle(&grants, news(), at(frontier)).unwrap();
        assert_eq!(
            (&after.shares, &after.consumed, &after.receivable),
            (&before.shares, &before.consumed, &before.receivable)
        );
    }
    assert!(debits > 100, "{debits} debits");
}

#[test]
fn priority_then_expiry_then_start_then_promises() {
    let mut first = grant("first", 10, 0, None);
    let second = grant("second", 10, 0, Some(100));
    let third = grant("third", 10, 1, Some(100));
    let mut fourth = grant("fourth", 10, 1, None);
    let consumed = |grants: &[Grant], nanos: i128| -> Vec<i128> {
        let settlement = settle(grants, [(at(5), units(nanos))], at(0)).unwrap();
        settlement.consumed.iter().map(|amount| amount.nanos()).collect()
    };
    let grants = |first: &Grant, fourth: &Grant| [first.clone(), second.clone(), third.clone(), fourth.clone()];
    assert_eq!(consumed(&grants(&first, &fourth), 15), [0, 10, 5, 0]);
    assert_eq!(consumed(&grants(&first, &fourth), 35), [10, 10, 10, 5]);
    fourth.priority = -1;
    assert_eq!(consumed(&grants(&first, &fourth), 15), [0, 5, 0, 10]);
    first.priority = i32::MIN;
    assert_eq!(consumed(&grants(&first, &fourth), 15), [10, 0, 0, 5]);

    let paid = grant("paid", 10, 0, None);
    let promised = Grant { promotional: true, ..grant("promised", 10, 0, None) };
    assert_eq!(consumed(&[paid, promised], 15), [5, 10]);
}

#[test]
fn an_end_is_the_first_second_without_and_a_later_grant_pays_no_earlier_receivable() {
    let grants = [grant("early", 10, 10, Some(20)), grant("late", 10, 30, None)];
    let used = [(at(9), units(1)), (at(10), units(2)), (at(19), units(3)), (at(20), units(4)), (at(30), units(5))];
    let settlement = settle(&grants, used, at(19)).unwrap();
    assert_eq!(settlement.consumed, [units(5), units(5)]);
    assert_eq!(settlement.expired, [units(0), units(0)]);
    assert_eq!(settlement.total_receivable().unwrap(), units(5));
    assert_eq!(settlement.balance(&grants, at(19)).unwrap(), units(5));
    assert_eq!(settlement.balance(&grants, at(20)).unwrap(), units(0));
    assert_eq!(settlement.balance(&grants, at(30)).unwrap(), units(5));

    let settlement = settle(&grants, used, at(20)).unwrap();
    assert_eq!(settlement.expired, [units(5), units(0)]);
    // Late use takes back its part, and no more than there was.
    let late = used.into_iter().chain([(at(15), units(3))]);
    assert_eq!(settle(&grants, late, at(20)).unwrap().expired, [units(2), units(0)]);
    let late = used.into_iter().chain([(at(15), units(8))]);
    let settlement = settle(&grants, late, at(20)).unwrap();
    assert_eq!((settlement.consumed, settlement.expired), (vec![units(10), units(5)], vec![units(0), units(0)]));
    assert_eq!(settlement.receivable[&at(10)], units(3));
}

#[test]
fn an_interval_below_zero_is_a_receivable_below_zero() {
    let grants = [grant("only", 10, 10, None)];
    let settled = |used: &[(i64, i128)]| {
        let used = used.iter().map(|(second, nanos)| (at(*second), units(*nanos)));
        let settlement = settle(&grants, used, at(0)).unwrap();
        (settlement.consumed[0].nanos(), settlement.total_receivable().unwrap().nanos())
    };
    // The correction is there before what it corrects.
    assert_eq!(settled(&[(12, -4)]), (0, -4));
    assert_eq!(settled(&[(12, -4), (13, 6)]), (2, 0));
    // It gives nothing to other intervals.
    assert_eq!(settled(&[(5, -4), (12, 6)]), (6, -4));
    assert_eq!(settled(&[(5, -4), (12, 16)]), (10, 2));
}

#[test]
fn nothing_wraps() {
    let most = Amount::from_nanos(i128::MAX);
    let grants = [Grant { amount: most, ..grant("most", 1, 0, None) }];
    assert!(settle(&grants, [(at(1), most), (at(2), units(1))], at(0)).is_err());
    let settlement = settle(&grants, [(at(1), most)], at(0)).unwrap();
    assert_eq!(settlement.consumed, [most]);
}
