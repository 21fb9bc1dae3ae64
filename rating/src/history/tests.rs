use hydrometer_schemas::contract::{Contract, Decimal};
use hydrometer_schemas::lifecycle::Fault;
use hydrometer_schemas::time::show_second;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn event(time: Second, id: &str, kind: Kind) -> Event {
    Event { key: EventKey { time, rank: kind.rank(), source: "cp".into(), id: id.into() }, kind }
}

fn start(time: Second, id: &str, lease: &str, slots: &[u32]) -> Event {
    sliced(time, id, lease, slots, None)
}

fn sliced(time: Second, id: &str, lease: &str, slots: &[u32], slices: Option<u32>) -> Event {
    let (lease, contract, server) = (lease.into(), "c".into(), "s".into());
    event(time, id, Kind::LeaseStarted { lease, contract, server, slots: slots.to_vec(), slices })
}

fn end(time: Second, id: &str, lease: &str) -> Event {
    event(time, id, Kind::LeaseEnded { lease: lease.into() })
}

fn repartition(time: Second, id: &str, lease: &str, slices: u32) -> Event {
    event(time, id, Kind::LeaseRepartitioned { lease: lease.into(), slices })
}

fn span(from: Second, to: Second) -> Span {
    Span { from, to }
}

fn document(effective: Second, changes: Value) -> Box<Contract> {
    let mut document = json!({
        "contract": "c", "effective": show_second(effective), "renter": "r", "currency": "USD",
        "charges": {"gpu_hours": {"basis": "allocated", "price": "2.5"}},
        "suppliers": [{"supplier": "*", "share_percent": "80"}],
    });
    for (name, value) in changes.as_object().unwrap() {
        document[name] = value.clone();
    }
    Box::new(serde_json::from_value(document).unwrap())
}

fn signed(time: Second, id: &str, changes: Value) -> Event {
    event(time, id, Kind::ContractSigned { document: document(time, changes) })
}

fn amended(time: Second, id: &str, changes: Value) -> Event {
    event(time, id, Kind::ContractAmended { document: document(time, changes) })
}

fn price(time: Second, id: &str, price: &str) -> Event {
    let (contract, charge) = ("c".into(), "gpu_hours".into());
    event(time, id, Kind::PriceChanged { contract, charge, price: Decimal(price.into()) })
}

fn renewed(time: Second, id: &str, ends: Second) -> Event {
    event(time, id, Kind::ContractRenewed { contract: "c".into(), ends })
}

fn terminated(time: Second, id: &str) -> Event {
    event(time, id, Kind::ContractTerminated { contract: "c".into() })
}

fn history(events: impl IntoIterator<Item = Event>) -> History {
    let mut history = History::default();
    history.insert(events);
    history
}

/// The reasons of what was refused, by id.
fn refused(history: &History) -> BTreeMap<&str, &str> {
    let refused = history.verdicts.iter().filter_map(|(key, verdict)| Some((key.id.as_str(), verdict.as_deref()?)));
    refused.collect()
}

fn is_refused(history: &History, id: &str, part: &str) {
    let refused = refused(history);
    assert!(refused.get(id).is_some_and(|reason| reason.contains(part)), "{id}: {part:?} in {refused:?}");
}

/// Each version's span and price.
fn versions(history: &History) -> Vec<(Span, String)> {
    let price = |version: &Version| version.terms.document.charges["gpu_hours"].price.clone().unwrap().0;
    history.versions("c").iter().map(|version| (version.span, price(version))).collect()
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
    is_refused(&history, "4", "leased already, by b");
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

#[test]
fn leases_share_a_card_as_long_as_their_slices_fit() {
    let history = history([
        sliced(10, "1", "a", &[0], Some(3)),
        sliced(10, "2", "b", &[0, 1], Some(4)),
        sliced(11, "3", "c", &[0], Some(1)),
        start(12, "4", "d", &[1]),
        sliced(13, "5", "e", &[2], Some(8)),
        // In one second a gives up what b and f take, though its own event is ordered after theirs.
        repartition(20, "8", "a", 1),
        repartition(20, "7", "b", 5),
        sliced(20, "6", "f", &[0], Some(1)),
        repartition(30, "9", "a", 2),
        end(40, "10", "b"),
        repartition(40, "11", "a", 6),
        start(50, "12", "g", &[1]),
        repartition(60, "13", "g", 2),
        sliced(60, "14", "h", &[1], Some(5)),
    ]);
    assert_eq!(refused(&history).into_keys().collect::<BTreeSet<_>>(), ["3", "4", "5", "9"].into());
    is_refused(&history, "3", "slot 0 is leased already, by b: 7 of 7 slices");
    is_refused(&history, "5", "a card has 7 slices");
    let leases = &history.server("s").unwrap().leases;
    let slices = |n: usize, at| leases[n].slices_at(at);
    assert_eq!([slices(0, 19), slices(0, 20), slices(0, 39), slices(0, 40)], [Some(3), Some(1), Some(1), Some(6)]);
    assert_eq!((leases[1].lease.as_str(), slices(1, 20), slices(1, 40)), ("b", Some(5), None));
    assert_eq!((leases[3].lease.as_str(), slices(3, 59), slices(3, 60)), ("g", None, Some(2)));
}

#[test]
fn a_reservation_is_kept_or_given_up() {
    let reserve = |time, id: &str, lease: &str, from, to| {
        let (lease, contract, server) = (lease.into(), "c".into(), "s".into());
        event(time, id, Kind::LeaseReserved { lease, contract, server, slots: vec![0], slices: None, from, to })
    };
    let elsewhere = Kind::LeaseStarted {
        lease: "a".into(),
        contract: "other".into(),
        server: "s".into(),
        slots: vec![0],
        slices: None,
    };
    let history = history([
        reserve(1, "1", "a", 100, 200),
        reserve(2, "2", "b", 150, 300),
        reserve(3, "3", "d", 200, 300),
        end(50, "4", "d"),
        reserve(60, "5", "e", 250, 300),
        event(100, "6", elsewhere),
        start(100, "7", "a", &[0]),
        end(120, "8", "d"),
    ]);
    assert_eq!(refused(&history).into_keys().collect::<BTreeSet<_>>(), ["2", "6", "8"].into());
    is_refused(&history, "2", "reserved for a");
    is_refused(&history, "6", "reserved under contract c");
    assert_eq!(history.server("s").unwrap().leases.len(), 1);
}

#[test]
fn a_server_goes_when_nobody_leases_it() {
    let server = |kind: fn(String) -> Kind, time, id: &str| event(time, id, kind("s".into()));
    let gone = |server| Kind::ServerDecommissioned { server };
    let there = |server| Kind::ServerProvisioned { server };
    let seat = Kind::GpuRegistered { server: "s".into(), slot: 0, gpu: "g".into() };
    let recovered = Kind::GpuRecovered { server: "s".into(), gpu: "g".into() };
    let history = history([
        event(1, "seat", seat),
        start(10, "1", "a", &[0]),
        server(gone, 20, "2"),
        event(30, "3", recovered.clone()),
        server(gone, 40, "4"),
        end(40, "5", "a"),
        start(50, "6", "b", &[0]),
        event(50, "7", recovered),
        server(there, 60, "8"),
        server(there, 61, "9"),
        start(60, "10", "d", &[0]),
    ]);
    assert_eq!(refused(&history).into_keys().collect::<BTreeSet<_>>(), ["2", "6", "7", "9"].into());
    let timeline = history.server("s").unwrap();
    assert_eq!(timeline.provisioned, [span(0, 40), span(60, FOREVER)]);
    assert_eq!(timeline.occupancy[&0][0].span, span(1, 40));
    assert_eq!(timeline.recovered["g"], [30]);
}

#[test]
fn maintenance_is_announced_ahead_or_it_is_down() {
    let announced = |time, id: &str, name: &str, from, to| {
        let (maintenance, server, slots) = (name.into(), "s".into(), Some(vec![0]));
        event(time, id, Kind::MaintenanceAnnounced { maintenance, server, slots, from, to })
    };
    let started = |time, id: &str, name: &str, slots: Option<Vec<u32>>| {
        let (maintenance, server) = (name.into(), "s".into());
        event(time, id, Kind::MaintenanceStarted { maintenance, server, slots })
    };
    let ended = |time, id: &str, name: &str| event(time, id, Kind::MaintenanceEnded { maintenance: name.into() });
    let history = history([
        start(1, "0", "a", &[0, 1]),
        // As announced, and moved before it began.
        announced(5, "1", "plain", 100, 150),
        announced(6, "2", "plain", 110, 160),
        announced(115, "3", "plain", 300, 400),
        // Later and shorter than announced, and on a slot that was not.
        announced(7, "4", "actual", 200, 300),
        started(210, "5", "actual", Some(vec![0, 1])),
        ended(250, "6", "actual"),
        // Not ahead; done all the same.
        announced(400, "7", "late", 400, 500),
        started(410, "8", "late", None),
        ended(420, "9", "late"),
        // Called off, before and within.
        announced(8, "10", "off", 600, 700),
        ended(590, "11", "off"),
        announced(9, "12", "cut", 800, 900),
        ended(850, "13", "cut"),
        started(860, "14", "cut", None),
        ended(950, "15", "unheard of"),
    ]);
    assert_eq!(refused(&history).into_keys().collect::<BTreeSet<_>>(), ["14", "15", "3", "7"].into());
    is_refused(&history, "7", "has to be announced before it begins");
    is_refused(&history, "15", "no beginning is known");
    let records = &history.server("s").unwrap().records;
    assert_eq!(records[&0].maintenance, [span(110, 160), span(210, 250), span(800, 850)]);
    assert_eq!(records[&0].lost, [(span(410, 420), Blame::Supplier)]);
    assert_eq!(records[&1].maintenance, []);
    assert_eq!(records[&1].lost, [(span(210, 250), Blame::Supplier), (span(410, 420), Blame::Supplier)]);
}

#[test]
fn a_fault_can_be_named_after_the_outage() {
    let opened = Kind::OutageOpened { outage: "o".into(), server: "s".into(), slots: None, fault: None };
    let closed = Kind::OutageClosed { outage: "o".into(), fault: None };
    let mut history = history([start(1, "0", "a", &[0]), event(10, "1", opened), event(20, "2", closed)]);
    assert_eq!(history.server("s").unwrap().records[&0].lost, [(span(10, 20), Blame::Supplier)]);
    let named = Kind::OutageFaulted { outage: "o".into(), fault: Fault::Renter };
    let changes = history.insert([event(500, "3", named)]);
    assert_eq!(changes.servers["s"].from, 10);
    assert_eq!(history.server("s").unwrap().records[&0].lost, [(span(10, 20), Blame::Renter)]);
    assert_eq!(history.server("s").unwrap().records[&0].recoveries, [20]);
}

#[test]
fn versions_follow_each_other_without_a_gap() {
    let mut history = history([signed(100, "1", json!({})), price(300, "3", "3"), price(400, "4", "4")]);
    let superseded = history.versions("c")[0].terms.rate("gpu_hours", "any").unwrap();
    let changes =
        history.insert([amended(200, "2", json!({"charges": {"gpu_hours": {"basis": "allocated", "price": "2"}}}))]);
    assert_eq!(changes.contracts["c"], 200);
    let expected = [(span(100, 200), "2.5"), (span(200, 300), "2"), (span(300, 400), "3"), (span(400, FOREVER), "4")];
    assert_eq!(versions(&history), expected.map(|(span, price)| (span, price.to_owned())));
    // Of one second the last in order counts; what it replaces is still known by its rate.
    history.insert([amended(100, "1b", json!({"suppliers": []}))]);
    assert_eq!(history.versions("c")[0].span, span(100, 200));
    assert_ne!(history.versions("c")[0].terms.rate("gpu_hours", "any").unwrap().id, superseded.id);
    assert_eq!(history.rate(superseded.id), Some(&superseded));
    assert_eq!(history.rate(RateId(1)), None);
}

#[test]
fn a_term_ends_is_renewed_or_goes_on_by_itself() {
    let term = |ends| json!({"term": {"ends": show_second(ends)}});
    let by_itself = json!({"term": {"ends": show_second(500), "renewal": "automatic", "renewal_months": 1}});
    let spans = |events: Vec<Event>| history(events).versions("c").iter().map(|v| v.span).collect::<Vec<_>>();
    assert_eq!(spans(vec![signed(100, "1", term(500))]), [span(100, 500)]);
    assert_eq!(spans(vec![signed(100, "1", by_itself)]), [span(100, FOREVER)]);
    assert_eq!(spans(vec![signed(100, "1", term(500)), renewed(500, "2", 900)]), [span(100, 900)]);
    let later = vec![signed(100, "1", term(500)), renewed(300, "2", 900), price(700, "3", "9"), terminated(800, "4")];
    assert_eq!(spans(later), [span(100, 700), span(700, 800)]);
    assert_eq!(
        spans(vec![signed(100, "1", term(500)), signed(600, "2", json!({}))]),
        [span(100, 500), span(600, FOREVER)]
    );

    let contradictions = history([
        price(50, "early", "1"),
        signed(100, "1", term(500)),
        signed(200, "again", json!({})),
        renewed(300, "shorter", 400),
        amended(350, "other renter", json!({"renter": "somebody else", "term": {"ends": show_second(500)}})),
        event(360, "other time", Kind::ContractAmended { document: document(361, json!({})) }),
        price(370, "no price", "1e3"),
        terminated(400, "2"),
        renewed(401, "too late", 800),
        amended(450, "over", json!({})),
        terminated(460, "over too"),
    ]);
    let all: BTreeSet<&str> = refused(&contradictions).into_keys().collect();
    let expected =
        ["early", "again", "shorter", "other renter", "other time", "no price", "too late", "over", "over too"];
    assert_eq!(all, expected.into());
    is_refused(&contradictions, "early", "not signed before");
    is_refused(&contradictions, "again", "in force since");
    is_refused(&contradictions, "other renter", "renter");
    is_refused(&contradictions, "other time", "effective");
    is_refused(&contradictions, "too late", "ended at 1970-01-01T00:06:40Z");
    is_refused(&contradictions, "over", "ended at");
    assert_eq!(contradictions.versions("c").len(), 1);
}

#[test]
fn all_mistakes_of_a_document_are_named_in_one_line() {
    let mistaken = json!({
        "currency": "XXQ",
        "charges": {"gpu_hours": {"basis": "allocated", "price": "1.0000000000001"}, "other": {"basis": "allocated"}},
    });
    let history = history([signed(100, "1", mistaken)]);
    for part in ["currency", "charges.gpu_hours.price", "charges.other"] {
        is_refused(&history, "1", part);
    }
    let reason = refused(&history)["1"];
    assert!(reason.len() <= 1_200 && !reason.contains('\n'), "{reason}");
    assert!(history.versions("c").is_empty());
}

/// Any event of a small world, so that contradictions are the rule.
fn any_event() -> impl Strategy<Value = Event> {
    let name = |prefix: &'static str| (0u8..3).prop_map(move |n| format!("{prefix}{n}"));
    let slots = || prop::option::of(prop::sample::select(vec![vec![0], vec![1], vec![0, 1]]));
    let slices = || prop::option::of(1u32..8);
    let fault = || prop::sample::select(vec![Fault::Supplier, Fault::Platform, Fault::Renter]);
    let stretch = || (0i64..40, 1i64..20).prop_map(|(from, seconds)| (from, from + seconds));
    let servers = prop_oneof![
        (name("s"), name("sup"), 1u32..4, prop::option::of(4u32..8)).prop_map(
            |(server, supplier, slots, slices_per_card)| Kind::ServerRegistered {
                server,
                supplier,
                slots,
                slices_per_card
            }
        ),
        (name("s"), 0u32..3, name("g")).prop_map(|(server, slot, gpu)| Kind::GpuRegistered { server, slot, gpu }),
        name("s").prop_map(|server| Kind::ServerProvisioned { server }),
        name("s").prop_map(|server| Kind::ServerDecommissioned { server }),
        (name("s"), 0u32..3, name("g"), name("g")).prop_map(|(server, slot, old, new)| Kind::GpuReplaced {
            server,
            slot,
            old,
            new
        }),
        (name("s"), name("g")).prop_map(|(server, gpu)| Kind::GpuRecovered { server, gpu }),
        name("s").prop_map(|server| Kind::ServerUnreachable { server }),
        name("s").prop_map(|server| Kind::ServerReachable { server }),
    ];
    let leases = prop_oneof![
        (name("l"), name("c"), name("s"), 0u32..3, slices(), stretch()).prop_map(
            |(lease, contract, server, slot, slices, (from, to))| Kind::LeaseReserved {
                lease,
                contract,
                server,
                slots: vec![slot],
                slices,
                from,
                to
            }
        ),
        (name("l"), name("c"), name("s"), 0u32..3, slices()).prop_map(|(lease, contract, server, slot, slices)| {
            Kind::LeaseStarted { lease, contract, server, slots: vec![slot], slices }
        }),
        name("l").prop_map(|lease| Kind::LeaseSuspended { lease }),
        name("l").prop_map(|lease| Kind::LeaseResumed { lease }),
        name("l").prop_map(|lease| Kind::LeaseEnded { lease }),
        (name("l"), 1u32..8).prop_map(|(lease, slices)| Kind::LeaseRepartitioned { lease, slices }),
    ];
    let troubles = prop_oneof![
        (name("m"), name("s"), slots(), stretch()).prop_map(|(maintenance, server, slots, (from, to))| {
            Kind::MaintenanceAnnounced { maintenance, server, slots, from, to }
        }),
        (name("m"), name("s"), slots()).prop_map(|(maintenance, server, slots)| Kind::MaintenanceStarted {
            maintenance,
            server,
            slots
        }),
        name("m").prop_map(|maintenance| Kind::MaintenanceEnded { maintenance }),
        (name("o"), name("s"), slots(), prop::option::of(fault()))
            .prop_map(|(outage, server, slots, fault)| Kind::OutageOpened { outage, server, slots, fault }),
        (name("o"), prop::option::of(fault())).prop_map(|(outage, fault)| Kind::OutageClosed { outage, fault }),
        (name("o"), fault()).prop_map(|(outage, fault)| Kind::OutageFaulted { outage, fault }),
    ];
    let plain = prop_oneof![
        4 => servers,
        5 => leases,
        3 => troubles,
        1 => (name("c"), 0i64..60).prop_map(|(contract, ends)| Kind::ContractRenewed { contract, ends }),
        1 => name("c").prop_map(|contract| Kind::ContractTerminated { contract }),
        2 => (name("c"), prop::sample::select(vec!["1", "2", "3.5", "?"])).prop_map(|(contract, price)| {
            Kind::PriceChanged { contract, charge: "gpu_hours".into(), price: Decimal(price.into()) }
        }),
    ];
    let plain = (0i64..40, plain);
    let documents = (0i64..40, 0i64..8, name("c"), any::<bool>(), prop::option::of(0i64..60), any::<bool>()).prop_map(
        |(time, off, contract, is_amendment, ends, is_other)| {
            let mut changes = json!({"contract": contract});
            if let Some(ends) = ends {
                changes["term"] = json!({"ends": show_second(ends)});
            }
            if is_other {
                changes["renter"] = json!("r2");
            }
            // Now and then at another time than it says.
            let document = document(if off == 0 { time + 1 } else { time }, changes);
            let kind =
                if is_amendment { Kind::ContractAmended { document } } else { Kind::ContractSigned { document } };
            (time, kind)
        },
    );
    (0u8..2, prop_oneof![4 => plain.boxed(), 1 => documents.boxed()]).prop_map(|(source, (time, kind))| {
        let key = EventKey { time, rank: kind.rank(), source: format!("cp{source}"), id: String::new() };
        Event { key, kind }
    })
}

proptest! {
    /// Arrival does not matter: whatever the order and the grouping of insertions, timelines, versions and verdicts are the same,
    /// and whoever follows the reported changes knows every verdict.
    #[test]
    fn history_is_a_function_of_the_set(
        mut events in prop::collection::vec(any_event(), 1..60),
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
    /// Whatever the events say, no second lies in two versions, and no card is leased to more than it has slices.
    #[test]
    fn nothing_is_given_twice(mut events in prop::collection::vec(any_event(), 1..60)) {
        for (i, event) in events.iter_mut().enumerate() {
            event.key.id = format!("e{i}");
        }
        let history = history(events);
        for versions in history.contracts.values() {
            prop_assert!(versions.windows(2).all(|pair| pair[0].span.to <= pair[1].span.from));
            prop_assert!(versions.iter().all(|version| version.span.from < version.span.to));
        }
        for server in history.servers() {
            for (slot, second) in (0..3).flat_map(|slot| (0..60).map(move |second| (slot, second))) {
                let holders: Vec<&Lease> =
                    server.leases.iter().filter(|l| l.slots.contains(&slot) && l.span.holds(second)).collect();
                let whole = holders.iter().filter(|lease| lease.slices_at(second).is_none()).count();
                let slices: u32 = holders.iter().filter_map(|lease| lease.slices_at(second)).sum();
                // The server may be registered, and its cards' slices be known, after the leases began.
                prop_assert!(slices <= 7 && whole <= 1 && (whole == 0 || slices == 0), "{holders:?}");
            }
        }
    }
}
