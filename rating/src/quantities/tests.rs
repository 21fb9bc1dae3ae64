use std::collections::HashMap;
use std::sync::Arc;

use hydrometer_schemas::contract::{Contract, Degradation};
use hydrometer_schemas::lifecycle::Fault;
use hydrometer_schemas::time::{FOREVER, Minute, show_second};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::history::span::union;
use crate::history::{Blame, Maintenance, Occupancy, Outage, Slicing, Work};
use crate::terms::compile;

/// Five minutes before April 2026, so that a billing period ends in the middle of all this.
const START: Second = APRIL - 300;
const APRIL: Second = 1_775_001_600;
const SECONDS: i64 = 600;

fn span(from: i64, to: i64) -> Span {
    Span { from: START + from, to: START + to }
}

fn version(span: Span, changes: &Value) -> Version {
    let mut document = json!({
        "contract": "c", "effective": show_second(span.from), "renter": "r", "currency": "USD",
        "suppliers": [{"supplier": "*", "share_percent": "80"}],
    });
    for (name, value) in changes.as_object().unwrap() {
        document[name] = value.clone();
    }
    let document: Contract = serde_json::from_value(document).unwrap();
    Version { span, terms: Arc::new(compile(&document).unwrap()) }
}

/// Evidence that is made up of a seed: some minutes are full, some silent, some in pieces.
struct MadeUp {
    seed: u64,
    fatal: HashMap<String, Vec<Second>>,
}

impl MadeUp {
    fn mix(&self, gpu: &str, n: i64) -> u64 {
        let name = gpu.bytes().fold(self.seed, |mix, byte| mix.wrapping_mul(31).wrapping_add(byte.into()));
        let mixed = (name ^ (n as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ (mixed >> 31)
    }

    /// A multiple of seven, so that the slices' part of it is whole.
    fn joules_in(&self, gpu: &str, second: Second) -> i64 {
        7 * (self.mix(gpu, second) % 100) as i64
    }
}

impl Evidence for MadeUp {
    fn masks(&self, gpu: &str, minute: Minute) -> Masks {
        let mix = self.mix(gpu, minute);
        let all = (1 << 60) - 1;
        let present = match mix % 4 {
            0 => 0,
            1 => all,
            _ => mix & all,
        };
        Masks { present, busy: present & mix.rotate_left(17) }
    }

    fn fatal(&self, gpu: &str) -> &[Second] {
        self.fatal.get(gpu).map_or(&[], Vec::as_slice)
    }

    fn energy(&self, gpu: &str, span: Span) -> i64 {
        (span.from..span.to).map(|second| self.joules_in(gpu, second)).sum()
    }

    fn memory(&self, gpu: &str, minute: Minute) -> Option<i64> {
        let mix = self.mix(gpu, -minute);
        (!mix.is_multiple_of(3)).then(|| 7 * (mix % 1_000_000) as i64)
    }
}

#[derive(Debug, Clone)]
struct World {
    server: ServerTimeline,
    lease: Lease,
    versions: Vec<Version>,
    fatal: HashMap<String, Vec<Second>>,
    seed: u64,
}

fn stretch() -> impl Strategy<Value = Span> {
    (0i64..SECONDS, 0i64..200).prop_map(|(from, seconds)| span(from, from + seconds))
}

fn stretches(most: usize) -> impl Strategy<Value = Vec<Span>> {
    prop::collection::vec(stretch(), 0..most).prop_map(union)
}

fn some_slots() -> impl Strategy<Value = Option<Vec<u32>>> {
    prop::sample::select(vec![None, Some(vec![0]), Some(vec![1]), Some(vec![0, 1])])
}

fn work() -> impl Strategy<Value = Option<Work>> {
    prop::option::of((stretch(), some_slots()).prop_map(|(span, slots)| Work { span, slots }))
}

fn terms() -> impl Strategy<Value = Value> {
    let charges = prop::sample::subsequence(
        vec!["allocated", "busy", "energy", "memory", "observed", "recurring", "slices", "suspended"],
        0..=8,
    );
    let maintenance = prop::sample::select(vec!["billed", "free", "allowance"]);
    (charges, maintenance, any::<bool>(), any::<bool>()).prop_map(|(charges, rule, is_node, by_time)| {
        let charge = |basis: &&str| {
            let mut charge = json!({"basis": basis, "price": "1.5"});
            if by_time && !matches!(*basis, "recurring" | "slices") {
                charge["by_time"] = json!([{"from": "00:02", "to": "00:04", "price": "1"}]);
            }
            (format!("{basis}_charge"), charge)
        };
        // A contract charges something.
        let charges = if charges.is_empty() { vec!["recurring"] } else { charges };
        let mut maintenance = json!({"announced": rule});
        if rule == "allowance" {
            maintenance["allowance_hours"] = json!("0.01");
        }
        json!({
            "charges": charges.iter().map(charge).collect::<serde_json::Map<_, _>>(),
            "maintenance": maintenance,
            "degradation": if is_node { "node" } else { "gpu" },
        })
    })
}

fn world() -> impl Strategy<Value = World> {
    let troubles = (
        prop::collection::vec((stretch(), some_slots(), 0usize..4, any::<bool>()), 0..4),
        prop::collection::vec((work(), work()), 0..4),
        stretches(3),
        // On few seconds, so that an error and a recovery now and then share one.
        prop::collection::vec((0usize..3, (0..30i64).prop_map(|n| 20 * n)), 0..4),
        prop::collection::vec((0usize..3, (0..30i64).prop_map(|n| 20 * n)), 0..4),
    );
    let lease = (stretch(), stretches(3), prop::collection::vec((0..SECONDS, 1u32..8), 0..3), any::<bool>());
    let contract = (0..SECONDS, terms(), terms(), any::<bool>());
    (troubles, lease, contract, 0..SECONDS, any::<u64>()).prop_map(
        |(troubles, lease, (change, first, second, has_gap), swap, seed)| {
            let (outages, maintenance, unreachable, recovered, fatal) = troubles;
            let faults = [None, Some(Fault::Supplier), Some(Fault::Platform), Some(Fault::Renter)];
            let names = ["a", "b", "c"];
            let by_gpu = |times: Vec<(usize, i64)>| {
                let mut all: BTreeMap<String, Vec<Second>> = BTreeMap::new();
                times.into_iter().for_each(|(n, at)| all.entry(names[n].into()).or_default().push(START + at));
                all.values_mut().for_each(|times| times.sort_unstable());
                all
            };
            let seat = |from, to, gpu: &str| Occupancy { span: span(from, to), gpu: gpu.into() };
            let (mut lease_span, suspended, slices, is_long) = lease;
            lease_span.to = if is_long { START + SECONDS } else { lease_span.to.max(lease_span.from + 1) };
            let mut edges: Vec<(Second, u32)> = slices.into_iter().map(|(at, n)| (lease_span.from + at, n)).collect();
            edges.sort_unstable();
            edges.dedup_by_key(|edge| edge.0);
            let ends = edges.iter().skip(1).map(|edge| edge.0).chain([FOREVER]);
            let slices =
                edges.iter().zip(ends).map(|(edge, to)| Slicing { span: Span { from: edge.0, to }, slices: edge.1 });
            let mut server = ServerTimeline {
                server: "s".into(),
                supplier: Some("sup".into()),
                slots: Some(3),
                // A swap in slot 0; nothing known in slot 1 for a while; a neighbour in slot 2.
                occupancy: BTreeMap::from([
                    (0, vec![seat(0, swap, "a"), seat(swap, 1_000, "b")]),
                    (1, vec![seat(100, 1_000, "c")]),
                    (2, vec![seat(0, 1_000, "d")]),
                ]),
                outages: outages
                    .into_iter()
                    .map(|(span, slots, fault, is_open)| Outage {
                        outage: "o".into(),
                        span: if is_open { Span { to: FOREVER, ..span } } else { span },
                        slots,
                        fault: faults[fault],
                        ..Outage::default()
                    })
                    .collect(),
                maintenance: maintenance
                    .into_iter()
                    .map(|(announced, actual)| Maintenance { maintenance: "m".into(), announced, actual })
                    .collect(),
                unreachable,
                recovered: by_gpu(recovered),
                ..ServerTimeline::default()
            };
            let lease = Lease {
                lease: "l".into(),
                contract: "c".into(),
                slots: vec![0, 1],
                span: lease_span,
                suspended,
                slices: slices.collect(),
            };
            server.leases = vec![lease.clone()];
            server.index();
            let change = START + change.max(1);
            let versions = vec![
                version(Span { from: START, to: change }, &first),
                version(Span { from: change + if has_gap { 30 } else { 0 }, to: FOREVER }, &second),
            ];
            World { server, lease, versions, fatal: by_gpu(fatal).into_iter().collect(), seed }
        },
    )
}

/// The slow, obvious second implementation: one second of one slot at a time, from what the timeline says and nothing that was
/// worked out of it.
struct Brute<'a> {
    world: &'a World,
    evidence: &'a MadeUp,
}

enum Class {
    Suspended,
    Maintenance,
    Down(Blame),
    Seen { is_busy: bool },
    Unknown,
}

impl Brute<'_> {
    fn seat(&self, slot: u32, at: Second) -> Option<&Occupancy> {
        self.world.server.occupancy.get(&slot)?.iter().find(|seat| seat.span.holds(at))
    }

    fn spoke(&self, gpu: &str, at: Second) -> (bool, bool) {
        let masks = self.evidence.masks(gpu, at.div_euclid(60));
        let bit = 1u64 << at.rem_euclid(60);
        (masks.present & bit != 0, masks.busy & bit != 0)
    }

    /// Whether a slot is worked on, and whether that was announced.
    fn worked_on(&self, slot: u32, at: Second) -> (bool, bool) {
        let covers = |work: &Work| work.slots.as_ref().is_none_or(|slots| slots.contains(&slot));
        let (mut announced, mut sudden) = (false, false);
        for maintenance in &self.world.server.maintenance {
            let is_announced = maintenance.announced.as_ref().is_some_and(covers);
            let work = maintenance.actual.as_ref().or(maintenance.announced.as_ref());
            if work.is_some_and(|work| covers(work) && work.span.holds(at)) {
                announced |= is_announced;
                sudden |= !is_announced;
            }
        }
        (announced, sudden)
    }

    fn lost(&self, slot: u32, at: Second) -> Option<Blame> {
        let outages = self.world.server.outages.iter();
        let outages = outages.filter(|o| o.slots.as_ref().is_none_or(|slots| slots.contains(&slot)));
        let on_record = outages.clone().filter(|outage| outage.span.holds(at)).map(|outage| Blame::of(outage.fault));
        let sudden = self.worked_on(slot, at).1.then_some(Blame::Supplier);
        if let Some(blame) = on_record.chain(sudden).max() {
            return Some(blame);
        }
        let seat = self.seat(slot, at)?;
        let closed = outages.map(|outage| outage.span.to);
        let recovered = self.world.server.recovered.get(&seat.gpu).into_iter().flatten().copied();
        let over: Vec<Second> = closed.chain(recovered.filter(|time| seat.span.holds(*time))).collect();
        let has_failed = |edge: &Second| {
            seat.span.from <= *edge && *edge <= at && !over.iter().any(|time| edge < time && *time <= at)
        };
        self.evidence.fatal(&seat.gpu).iter().any(has_failed).then_some(Blame::Supplier)
    }

    fn class(&self, slot: u32, at: Second, degradation: Degradation) -> Class {
        let lease = &self.world.lease;
        if lease.suspended.iter().any(|span| span.holds(at)) {
            return Class::Suspended;
        }
        if self.worked_on(slot, at).0 {
            return Class::Maintenance;
        }
        let lost = match degradation {
            Degradation::Gpu => self.lost(slot, at),
            Degradation::Node => {
                let others = lease.slots.iter().filter(|slot| !self.worked_on(**slot, at).0);
                others.filter_map(|slot| self.lost(*slot, at)).max()
            }
        };
        if let Some(blame) = lost {
            return Class::Down(blame);
        }
        let seated: Vec<&Occupancy> = (0..3).filter_map(|slot| self.seat(slot, at)).collect();
        let is_silent = !seated.iter().any(|seat| self.spoke(&seat.gpu, at).0);
        if is_silent && self.world.server.unreachable.iter().any(|span| span.holds(at)) {
            return Class::Down(Blame::Supplier);
        }
        match self.seat(slot, at).map(|seat| self.spoke(&seat.gpu, at)) {
            Some((true, is_busy)) => Class::Seen { is_busy },
            _ => Class::Unknown,
        }
    }

    /// All of a window, by slot, GPU, charge, period, version and segment.
    fn count(&self, window: Span) -> (BTreeMap<Key, Quantity>, i64) {
        let mut all: BTreeMap<Key, Quantity> = BTreeMap::new();
        let mut unrated = 0;
        let World { lease, versions, .. } = self.world;
        for &slot in &lease.slots {
            // Seconds of maintenance by period, from the lease's beginning.
            let mut maintained: BTreeMap<bool, i64> = BTreeMap::new();
            for at in lease.span.from..lease.span.to {
                let is_april = at >= APRIL;
                let version = versions.iter().find(|version| version.span.holds(at));
                let degradation = version.map_or(Degradation::Gpu, |version| version.terms.degradation);
                let class = self.class(slot, at, degradation);
                let before = maintained.get(&is_april).copied().unwrap_or(0);
                if matches!(class, Class::Maintenance) {
                    maintained.insert(is_april, before + 1);
                }
                if !window.holds(at) {
                    continue;
                }
                let Some(version) = version else {
                    unrated += 1;
                    continue;
                };
                self.add(&mut all, slot, at, version, class, before);
            }
        }
        (all, unrated)
    }

    fn add(
        &self,
        all: &mut BTreeMap<Key, Quantity>,
        slot: u32,
        at: Second,
        version: &Version,
        class: Class,
        maintained: i64,
    ) {
        let gpu = self.seat(slot, at).map(|seat| seat.gpu.clone());
        let (is_present, is_busy) = gpu.as_ref().map_or((false, false), |gpu| self.spoke(gpu, at));
        let mut classes = ClassSeconds::default();
        let (mut billed, mut paid, mut lost) = (false, false, false);
        match class {
            Class::Suspended => classes.suspended = 1,
            Class::Maintenance => {
                classes.maintenance = 1;
                let is_billed = match version.terms.document.maintenance.as_ref().unwrap().announced {
                    MaintenanceRule::Billed => true,
                    MaintenanceRule::Free => false,
                    MaintenanceRule::Allowance => maintained < 36,
                };
                (billed, paid) = (is_billed, is_billed);
            }
            Class::Down(blame) => {
                classes.down = 1;
                classes.down_renter = i64::from(blame == Blame::Renter);
                classes.down_platform = i64::from(blame == Blame::Platform);
                (billed, paid) = (blame == Blame::Renter, blame != Blame::Supplier);
                lost = blame != Blame::Renter;
            }
            Class::Seen { is_busy } => {
                classes.used = i64::from(is_busy);
                classes.idle = i64::from(!is_busy);
                (billed, paid) = (true, true);
            }
            Class::Unknown => {
                classes.unknown = 1;
                (billed, paid) = (true, true);
            }
        }
        (classes.billed, classes.paid) = (i64::from(billed), i64::from(paid));

        let slices = self.world.lease.slices.iter().find(|it| it.span.holds(at)).map(|it| i64::from(it.slices));
        let of_card = |whole: i64| slices.map_or(whole, |slices| whole * slices / 7);
        let joules = gpu.as_ref().map_or(0, |gpu| self.evidence.joules_in(gpu, at));
        let bytes = gpu.as_ref().and_then(|gpu| self.evidence.memory(gpu, at.div_euclid(60))).unwrap_or(0);
        let is_early = (120..240).contains(&(at - APRIL).rem_euclid(86_400));
        let charges: Vec<(&String, &Arc<Charge>)> =
            version.terms.charges.iter().filter(|(_, charge)| charge.is_metered()).collect();
        let mut carried = false;
        let mut put = |name: &str, segment: u16, (billed, paid, lost): (i64, i64, i64)| {
            let period = if at < APRIL { APRIL - 31 * 86_400 } else { APRIL };
            let key = (slot, gpu.clone(), name.to_owned(), period, version.span.from, segment);
            let sum = all.entry(key).or_default();
            let classes = if carried { ClassSeconds::default() } else { classes };
            *sum = sum.plus(Quantity { classes, billed, paid, lost });
            carried = true;
        };
        for (name, charge) in &charges {
            let segment = u16::from(!charge.by_time.is_empty() && is_early);
            let each = |weight: i64| (weight * i64::from(billed), weight * i64::from(paid), 0);
            let pieces = match charge.basis {
                Basis::Allocated => (i64::from(billed), i64::from(paid), i64::from(lost)),
                Basis::Slices => {
                    let slices = slices.unwrap_or(7);
                    (slices * i64::from(billed), slices * i64::from(paid), slices * i64::from(lost))
                }
                Basis::Observed => each(i64::from(is_present)),
                Basis::Busy => each(i64::from(is_present && is_busy)),
                Basis::Suspended => (classes.suspended, classes.suspended, 0),
                Basis::Energy => (of_card(joules), of_card(joules), 0),
                Basis::Memory => each(of_card(bytes) * i64::from(is_present)),
                other => panic!("{other:?} is not metered"),
            };
            put(name, segment, pieces);
        }
        if charges.is_empty() {
            put("allocation", 0, (0, 0, 0));
        }
    }
}

type Key = (u32, Option<String>, String, Second, Second, u16);

fn by_key(world: &World, quantities: Quantities) -> BTreeMap<Key, Quantity> {
    let named = quantities.into_iter().map(|(key, quantity)| {
        let version = world.versions.iter().find(|v| v.span.from == key.cell.version_from).unwrap();
        let rate = version.terms.rate(&key.charge, "sup").map_or(RateId(0), |rate| rate.id);
        assert_eq!((key.cell.rate, key.cell.supplier.as_str()), (rate, "sup"));
        ((key.slot, key.gpu, key.charge, key.period, key.cell.version_from, key.cell.segment), quantity)
    });
    named.collect()
}

fn add_up(into: &mut BTreeMap<Key, Quantity>, parts: BTreeMap<Key, Quantity>) {
    for (key, quantity) in parts {
        let sum = into.entry(key).or_default();
        *sum = sum.plus(quantity);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Everything at once agrees with the second-by-second count; the classes sum to the lease, nothing lies outside it, and a
    /// window cut anywhere gives the same as a whole.
    #[test]
    fn quantities_are_what_the_seconds_say(
        world in world(),
        window in (0i64..SECONDS, 1i64..SECONDS).prop_map(|(from, seconds)| span(from, from + seconds)),
        cuts in prop::collection::vec(0i64..SECONDS, 0..4),
    ) {
        let evidence = MadeUp { seed: world.seed, fatal: world.fatal.clone() };
        let rate = |window| quantities(&world.server, &world.lease, &world.versions, window, &evidence);
        let (found, unrated) = rate(window);
        let found = by_key(&world, found);

        let leased = world.lease.span.intersect(window).map_or(0, Span::seconds);
        let counted: i64 = found.values().map(|quantity| quantity.classes.leased()).sum();
        let not_rated: i64 = unrated.iter().map(|it| it.span.seconds()).sum();
        prop_assert_eq!(counted + not_rated, 2 * leased);
        prop_assert!(unrated.iter().all(|it| it.reason == NO_VERSION));

        let (expected, expected_unrated) = Brute { world: &world, evidence: &evidence }.count(window);
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(not_rated, expected_unrated);

        let mut edges: Vec<Second> = cuts.into_iter().map(|at| window.from + at % window.seconds()).collect();
        edges.extend([window.from, window.to]);
        edges.sort_unstable();
        let mut summed = BTreeMap::new();
        for pair in edges.windows(2) {
            add_up(&mut summed, by_key(&world, rate(Span { from: pair[0], to: pair[1] }).0));
        }
        prop_assert_eq!(summed, expected);
    }
}

/// A server of one slot and GPU `a`, leased for all of the time.
fn one_slot() -> (ServerTimeline, Lease) {
    let lease =
        Lease { lease: "l".into(), contract: "c".into(), slots: vec![0], span: span(0, 600), ..Lease::default() };
    let mut server = ServerTimeline {
        server: "s".into(),
        supplier: Some("sup".into()),
        slots: Some(1),
        occupancy: BTreeMap::from([(0, vec![Occupancy { span: span(0, 600), gpu: "a".into() }])]),
        leases: vec![lease.clone()],
        ..ServerTimeline::default()
    };
    server.index();
    (server, lease)
}

fn full(_: &str) -> MadeUp {
    // Seed and name are such that the minute at the start is full of readings.
    (0..1_000)
        .map(|seed| MadeUp { seed, fatal: HashMap::new() })
        .find(|evidence| (0..10).all(|n| evidence.masks("a", START / 60 + n).present.count_ones() > 0))
        .unwrap()
}

#[test]
fn what_cannot_be_rated_is_listed() {
    let (mut server, lease) = one_slot();
    let evidence = full("a");
    let versions = [version(span(100, 200), &json!({"charges": {"h": {"basis": "allocated", "price": "1"}}}))];
    let (found, unrated) = quantities(&server, &lease, &versions, span(0, 600), &evidence);
    assert_eq!(found.values().map(|quantity| quantity.classes.leased()).sum::<i64>(), 100);
    let listed: Vec<(Span, &str)> = unrated.iter().map(|it| (it.span, it.reason)).collect();
    assert_eq!(listed, [(span(0, 100), NO_VERSION), (span(200, 600), NO_VERSION)]);

    server.supplier = None;
    let (found, unrated) = quantities(&server, &lease, &versions, span(150, 600), &evidence);
    assert!(found.is_empty());
    assert!(unrated.iter().all(|it| it.reason == NO_SUPPLIER), "{unrated:?}");
}

/// Cost is a matter of the window: a server with years of trouble behind it is rated as fast as a new one.
///
/// `cargo test --release -p hydrometer-rating -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed_of_classing() {
    struct Plain;
    impl Evidence for Plain {
        fn masks(&self, _: &str, minute: Minute) -> Masks {
            Masks { present: (1 << 60) - 1, busy: minute as u64 & ((1 << 60) - 1) }
        }
        fn fatal(&self, _: &str) -> &[Second] {
            &[]
        }
        fn energy(&self, _: &str, _: Span) -> i64 {
            0
        }
        fn memory(&self, _: &str, _: Minute) -> Option<i64> {
            None
        }
    }
    for troubles in [0, 100_000] {
        let (mut server, mut lease) = one_slot();
        lease.span = Span { from: START, to: FOREVER };
        lease.slots = (0..8).collect();
        server.leases = vec![lease.clone()];
        let seats = |slot| vec![Occupancy { span: Span { from: START, to: FOREVER }, gpu: format!("GPU-{slot}") }];
        server.occupancy = (0..8).map(|slot| (slot, seats(slot))).collect();
        server.outages = (0..troubles)
            .map(|n| Outage {
                outage: format!("o{n}"),
                span: span(n * 1_000, n * 1_000 + 60),
                slots: None,
                fault: Some(Fault::Platform),
                ..Outage::default()
            })
            .collect();
        server.index();
        let versions = [version(
            Span { from: START, to: FOREVER },
            &json!({"charges": {"h": {"basis": "allocated", "price": "1"}}}),
        )];
        for length in [3_600, 60] {
            let begun = std::time::Instant::now();
            let windows = 200_000 / (length / 60);
            let mut seconds = 0;
            for n in 0..windows {
                let from = START / 3_600 * 3_600 + 50_000_400 + n * length;
                let (found, _) = quantities(&server, &lease, &versions, Span { from, to: from + length }, &Plain);
                seconds += found.values().map(|quantity| quantity.classes.leased()).sum::<i64>();
            }
            let rate = (seconds / 60) as f64 / begun.elapsed().as_secs_f64();
            println!("{troubles} outages, windows of {length} s: {rate:.0} GPU-minutes a second");
        }
    }
}
