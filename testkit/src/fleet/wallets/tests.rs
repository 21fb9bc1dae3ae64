use std::collections::BTreeSet;

use super::*;
use crate::fleet::scenario::Scenario;
use crate::fleet::{Event, Outcome, Tally, Topic, generate};
use crate::oracle::{Charge, Oracle, Truth, WalletTruth};

fn outcome(plan: &Plan) -> Outcome {
    generate(plan, &mut |_| Ok(())).unwrap()
}

/// Seconds since the start of the demo: exhausted, restored.
fn dry(wallet: &WalletTruth) -> Vec<(i64, i64)> {
    let start = Plan::demo().start_us / SECOND_US;
    wallet.dry.iter().map(|dry| (dry.exhausted - start, dry.restored.unwrap() - start)).collect()
}

#[test]
fn the_cast_plays_its_parts() {
    let mut partitions = BTreeSet::new();
    let outcome = generate(&Plan::demo(), &mut |record| {
        if record.topic == Topic::Telemetry && [&b"srv-0120"[..], b"srv-0121"].contains(&record.key.as_slice()) {
            partitions.insert(record.partition);
        }
        Ok(())
    })
    .unwrap();
    let Ok([first, second, third, fourth, fifth]) = <[WalletTruth; 5]>::try_from(outcome.truth.wallets) else {
        panic!("a wallet each")
    };
    let at_odd_second = |wallet: &WalletTruth| {
        let [(exhausted, restored)] = dry(wallet)[..] else { panic!("{wallet:?}") };
        assert!(exhausted % 60 != 0 && restored % 60 != 0 && exhausted > 1_200, "{wallet:?}");
        (exhausted, restored)
    };

    let (exhausted, restored) = at_odd_second(&first);
    let leases: Vec<&str> = first.cut_off.iter().map(|cut| cut.lease.as_str()).collect();
    assert_eq!(leases, ["lease-srv-0120-1", "lease-srv-0121-1"]);
    assert!(partitions.len() > 1, "its servers speak in different partitions");
    for cut in &first.cut_off {
        assert_eq!(cut.to - cut.from, restored - exhausted);
    }
    assert!(0 < first.promotional_e9 && first.promotional_e9 < first.promised_e9, "part of the promotion lapses");
    assert!(first.left_e9 > 0 && first.receivable_e9 == 0);

    assert!(second.dry.is_empty() && second.cut_off.is_empty() && second.left_e9 > 0);
    assert_eq!(second.promotional_e9, second.promised_e9);

    let (exhausted, restored) = at_odd_second(&third);
    assert_eq!(third.cut_off[0].to - third.cut_off[0].from, restored - exhausted - CAST_GRACE_S);
    assert!(third.receivable_e9 > 0);

    let (exhausted, restored) = at_odd_second(&fourth);
    let reached = *fourth.dry[0].credit_reached.values().next().unwrap() - Plan::demo().start_us / SECOND_US;
    assert!(exhausted < reached && reached < restored, "{fourth:?}");
    assert!(fourth.receivable_e9 > 0);

    assert_eq!(fifth.dry[0].exhausted, fifth.cut_off[0].from, "it begins dry");
    assert!(fifth.dry[0].restored.is_some() && fifth.left_e9 > 0);
    let spoke_in_suspension = outcome.truth.suspended_presence_seconds;
    assert!(spoke_in_suspension > 0);
}

#[test]
fn the_cast_of_a_small_demo_plays_its_parts_too() {
    for seed in 0..6 {
        let plan = Plan { seed, shuffle_seed: seed, servers: CAST_SERVERS + 2, seconds: 3_600, ..Plan::demo() };
        let wallets = outcome(&plan).truth.wallets;
        let times: Vec<usize> = wallets.iter().map(|wallet| wallet.dry.len()).collect();
        // Where so little happens, lifecycle time may not have passed the lease's beginning when the fifth one's payment is told.
        assert_eq!(times[..4], [1, 0, 1, 1], "seed {seed}");
        assert!(wallets.iter().flat_map(|wallet| &wallet.dry).all(|dry| dry.restored.is_some()), "seed {seed}");
    }
}

#[test]
fn those_who_pay_in_advance_change_nothing_for_others() {
    let plan = Plan { servers: 12, seconds: 3_600, ..Plan::demo() };
    let others = |plan: &Plan| {
        let truth = outcome(plan).truth;
        let is_theirs = |server: &str| server > "srv-0006";
        truth.seconds.into_iter().filter(|it| !is_theirs(&it.server)).collect::<Vec<_>>()
    };
    assert_eq!(others(&plan), others(&Plan { wallets: Wallets::Nobody, ..plan.clone() }));
}

#[test]
fn another_arrival_changes_no_wallet() {
    for seed in 0..12 {
        let plan = Plan::of_wallets(seed);
        let plan = Plan { faults: plan.faults.clone().without(Fault::LateGrant), ..plan };
        let truth = outcome(&plan).truth;
        for shuffle_seed in 100..103 {
            assert_eq!(outcome(&plan.shuffled(shuffle_seed)).truth, truth, "seed {seed}, {shuffle_seed}");
        }
    }
}

/// What is paid in is consumed, expires, goes back or is left; what is billed is paid by somebody.
#[test]
fn no_money_is_lost() {
    let (mut seen, mut late) = ([0; 6], 0);
    for seed in 0..150 {
        let Outcome { truth, tally } = outcome(&Plan::of_wallets(seed));
        late += tally.count(Fault::LateGrant);
        for wallet in &truth.wallets {
            let WalletTruth { consumed_e9, expired_e9, returned_e9, left_e9, promotional_e9, receivable_e9, .. } =
                wallet;
            let parts =
                [consumed_e9, expired_e9, returned_e9, left_e9, promotional_e9, receivable_e9].map(|part| *part);
            assert!(parts.iter().all(|part| *part >= 0), "seed {seed}: {wallet:?}");
            assert_eq!(wallet.paid_in_e9, parts[..4].iter().sum::<i128>(), "seed {seed}: {wallet:?}");
            assert!(*promotional_e9 <= wallet.promised_e9, "seed {seed}: {wallet:?}");
            let from_sources: i128 = wallet.sources.iter().map(|source| source.amount_e9).sum();
            assert_eq!(from_sources, wallet.paid_in_e9 - returned_e9, "seed {seed}: {wallet:?}");
            let charges = truth.charges.iter().filter(|it| it.is_prepaid);
            let of_wallet = charges.filter(|it| (&it.renter, &it.currency) == (&wallet.renter, &wallet.currency));
            let billed: i128 = of_wallet.map(|it| it.renter_amount_e9).sum();
            assert_eq!(billed, consumed_e9 + promotional_e9 + receivable_e9, "seed {seed}: {wallet:?}");
            seen.iter_mut().zip(parts).for_each(|(seen, part)| *seen += usize::from(part > 0));

            let is_ordered = |dry: &Dry| dry.restored.is_none_or(|restored| dry.exhausted < restored);
            assert!(wallet.dry.iter().all(is_ordered), "seed {seed}: {wallet:?}");
            let follows = |pair: &[Dry]| pair[0].restored.is_some_and(|restored| restored < pair[1].exhausted);
            assert!(wallet.dry.windows(2).all(follows), "seed {seed}: {wallet:?}");
        }
    }
    assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
    assert!(late > 20);
}

/// What follows from a wallet is what would follow from suspensions that somebody had put on record.
#[test]
fn to_be_cut_off_is_to_be_suspended() {
    let mut suspended = 0;
    for seed in 0..60 {
        let plan = Plan::of_wallets(seed);
        let faults = plan.faults.clone().without(Fault::Suspension).without(Fault::Contradiction);
        let plan = Plan { faults, ..plan };
        let events = Scenario::new(&plan, &mut Tally::default()).unwrap().events;
        let prepaid = unheard(&plan, events.clone());

        let mut on_record = events;
        for event in &mut on_record {
            if let EventKind::ContractSigned { document } = &mut event.kind {
                document.as_object_mut().unwrap().remove("prepaid");
            }
        }
        for (number, cut) in prepaid.wallets.iter().flat_map(|wallet| &wallet.cut_off).enumerate() {
            let mut says = |what: &str, second: i64, kind| {
                let (source, id) = ("judge".to_owned(), format!("{what}-{number}"));
                on_record.push(Event { source, id, time_us: second * SECOND_US, kind });
            };
            says("suspended", cut.from, EventKind::LeaseSuspended { lease: cut.lease.clone() });
            says("resumed", cut.to, EventKind::LeaseResumed { lease: cut.lease.clone() });
            suspended += cut.to - cut.from;
        }
        let postpaid = unheard(&plan, on_record);
        assert!(postpaid.refused.is_empty(), "seed {seed}: {:?}", postpaid.refused);
        assert_eq!(prepaid.seconds, postpaid.seconds, "seed {seed}");
        let charges = prepaid.charges.into_iter().map(|charge| Charge { is_prepaid: false, ..charge });
        assert_eq!(charges.collect::<Vec<_>>(), postpaid.charges, "seed {seed}");
    }
    assert!(suspended > 10_000);
}

/// What is true when no GPU is ever heard.
fn unheard(plan: &Plan, events: Vec<Event>) -> Truth {
    let start = plan.start_us / SECOND_US;
    let mut oracle = Oracle::new(start, start + i64::from(plan.seconds));
    for event in events {
        oracle.event(event);
    }
    oracle.truth().unwrap()
}
