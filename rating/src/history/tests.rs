use super::*;
use proptest::prelude::*;

fn event(time: Second, id: &str, kind: Kind) -> Event {
    Event { key: EventKey { time, rank: kind.rank(), source: "cp".into(), id: id.into() }, kind }
}

fn start(time: Second, id: &str, lease: &str, slots: &[u32]) -> Event {
    let kind =
        Kind::LeaseStarted { lease: lease.into(), contract: "c".into(), server: "s".into(), slots: slots.to_vec() };
    event(time, id, kind)
}

fn end(time: Second, id: &str, lease: &str) -> Event {
    event(time, id, Kind::LeaseEnded { lease: lease.into() })
}

#[test]
fn a_slot_may_be_leased_again_in_the_second_its_lease_ends() {
    let mut history = History::default();
    history.insert([
        start(10, "1", "a", &[0]),
        end(50, "2", "a"),
        start(50, "3", "b", &[0]),
        start(60, "4", "c", &[0]),
    ]);
    let leases: Vec<(&str, Span)> =
        history.server("s").unwrap().leases.iter().map(|l| (l.lease.as_str(), l.span)).collect();
    assert_eq!(leases, [("a", Span { from: 10, to: 50 }), ("b", Span { from: 50, to: FOREVER })]);
    let refused = event(60, "4", Kind::LeaseEnded { lease: "x".into() }).key;
    let key = EventKey { rank: 3, ..refused };
    assert!(history.verdict(&key).unwrap().as_deref().unwrap().contains("leased already, by b"));
}

#[test]
fn a_verdict_flips_when_the_missing_event_arrives() {
    let mut history = History::default();
    history.insert([start(10, "1", "a", &[0])]);
    let resumed = event(40, "3", Kind::LeaseResumed { lease: "a".into() });
    let changes = history.insert([resumed.clone()]);
    assert!(changes.verdicts[&resumed.key].is_some());
    let changes = history.insert([event(20, "2", Kind::LeaseSuspended { lease: "a".into() })]);
    assert_eq!(changes.verdicts[&resumed.key], None);
    assert_eq!(changes.servers["s"], Span { from: 20, to: FOREVER });
    assert_eq!(history.server("s").unwrap().leases[0].suspended, [Span { from: 20, to: 40 }]);
}

#[test]
fn a_fault_named_at_closing_holds_from_the_opening() {
    let mut history = History::default();
    history.insert([event(
        10,
        "1",
        Kind::OutageOpened { outage: "o".into(), server: "s".into(), slots: None, fault: None },
    )]);
    let changes =
        history.insert([event(90, "2", Kind::OutageClosed { outage: "o".into(), fault: Some(Fault::Platform) })]);
    assert_eq!(changes.servers["s"].from, 10);
    assert_eq!(history.server("s").unwrap().outages[0].fault, Some(Fault::Platform));
}

#[test]
fn orphans_wait_for_their_beginning() {
    let mut history = History::default();
    let orphan = end(50, "2", "a");
    assert!(history.insert([orphan.clone()]).verdicts[&orphan.key].is_some());
    let changes = history.insert([start(10, "1", "a", &[0])]);
    assert_eq!(changes.verdicts[&orphan.key], None);
    assert_eq!(history.server("s").unwrap().leases[0].span, Span { from: 10, to: 50 });
    assert!(history.insert([orphan]).verdicts.is_empty(), "applied once");
}

/// Any event of a small world, so that contradictions are the rule.
fn any_event() -> impl Strategy<Value = Event> {
    let name = |prefix: &'static str| (0u8..3).prop_map(move |n| format!("{prefix}{n}"));
    let kind = prop_oneof![
        (name("s"), name("sup"), 1u32..4).prop_map(|(server, supplier, slots)| Kind::ServerRegistered {
            server,
            supplier,
            slots
        }),
        (name("s"), 0u32..3, name("g")).prop_map(|(server, slot, gpu)| Kind::GpuRegistered { server, slot, gpu }),
        (name("s"), 0u32..3, name("g"), name("g")).prop_map(|(server, slot, old, new)| Kind::GpuReplaced {
            server,
            slot,
            old,
            new
        }),
        (name("l"), name("c"), name("s"), 0u32..3).prop_map(|(lease, contract, server, slot)| Kind::LeaseStarted {
            lease,
            contract,
            server,
            slots: vec![slot]
        }),
        name("l").prop_map(|lease| Kind::LeaseSuspended { lease }),
        name("l").prop_map(|lease| Kind::LeaseResumed { lease }),
        name("l").prop_map(|lease| Kind::LeaseEnded { lease }),
        (name("o"), name("s")).prop_map(|(outage, server)| Kind::OutageOpened {
            outage,
            server,
            slots: None,
            fault: None
        }),
        name("o").prop_map(|outage| Kind::OutageClosed { outage, fault: Some(Fault::Renter) }),
        (name("c"), name("r")).prop_map(|(contract, renter)| Kind::ContractApplied {
            contract,
            renter,
            currency: "USD".into(),
            price_per_gpu_hour: "2.5".into(),
            supplier_share_percent: "80".into(),
            rating_window: RatingWindow::Hour,
        }),
        name("c").prop_map(|contract| Kind::PriceChanged { contract, price_per_gpu_hour: "3".into() }),
    ];
    (0i64..40, 0u8..2, kind).prop_map(|(time, source, kind)| {
        let key = EventKey { time, rank: kind.rank(), source: format!("cp{source}"), id: String::new() };
        Event { key, kind }
    })
}

proptest! {
    /// Arrival does not matter: whatever the order and the grouping of insertions, timelines, versions and verdicts are the same,
    /// and whoever follows the reported changes knows every verdict.
    #[test]
    fn history_is_a_function_of_the_set(
        mut events in prop::collection::vec(any_event(), 1..40),
        order in any::<prop::sample::Index>(),
        chunk in 1usize..6,
    ) {
        for (i, event) in events.iter_mut().enumerate() {
            event.key.id = format!("e{i}");
        }
        let mut at_once = History::default();
        at_once.insert(events.clone());

        let shift = order.index(events.len());
        events.rotate_left(shift);
        events.reverse();
        let mut stepwise = History::default();
        let mut followed = BTreeMap::new();
        for chunk in events.chunks(chunk) {
            followed.extend(stepwise.insert(chunk.to_vec()).verdicts);
        }
        prop_assert_eq!(&at_once.servers, &stepwise.servers);
        prop_assert_eq!(&at_once.contracts, &stepwise.contracts);
        prop_assert_eq!(&at_once.verdicts, &stepwise.verdicts);
        prop_assert_eq!(followed.into_iter().collect::<HashMap<_, _>>(), stepwise.verdicts);
    }
}
