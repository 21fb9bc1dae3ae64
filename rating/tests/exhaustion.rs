//! When a wallet runs dry and when it can pay again, against a second implementation that goes second by second.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use hydrometer_rating::exhaustion::Purse;
use hydrometer_rating::history::History;
use hydrometer_schemas::contract::Decimal;
use hydrometer_schemas::lifecycle::{
    Event, EventKey, Fault, GrantKind, Kind, OnExpiry, WalletDebit, WalletGrant, WalletKey,
};
use hydrometer_schemas::time::{FOREVER, Second, show_second};
use proptest::prelude::*;
use serde_json::json;

/// 2026-03-01T00:00:00Z
const START: Second = 1_772_323_200;
const NANOS: i128 = 1_000_000_000;

fn wallet() -> WalletKey {
    WalletKey { renter: "r".into(), currency: "USD".into() }
}

fn event(time: Second, id: &str, kind: Kind) -> Event {
    Event { key: EventKey { time, rank: kind.rank(), source: "cp".into(), id: id.into() }, kind }
}

fn decimal(nanos: i128) -> Decimal {
    Decimal(format!("{}.{:09}", nanos / NANOS, nanos % NANOS))
}

/// A contract whose GPU-seconds cost so many nanos.
fn signed(contract: &str, per_second: i128, prepaid: &serde_json::Value) -> Event {
    let document = json!({
        "contract": contract, "effective": show_second(START), "renter": "r", "currency": "USD", "prepaid": prepaid,
        "charges": {"gpu_hours": {"basis": "allocated", "price": decimal(per_second * 3_600).0}},
        "suppliers": [{"supplier": "*", "share_percent": "80"}],
    });
    let document = Box::new(serde_json::from_value(document).unwrap());
    event(START, &format!("sign-{contract}"), Kind::ContractSigned { document })
}

fn grant(id: &str, given: &Grant) -> Event {
    let grant = WalletGrant {
        wallet: wallet(),
        grant: id.into(),
        amount: decimal(given.nanos),
        kind: given.kind,
        priority: given.priority,
        expires: given.expires,
        on_expiry: OnExpiry::Income,
        source: "clearing".into(),
        counts_from: None,
        made_by: None,
    };
    event(given.from, id, Kind::WalletGranted(Box::new(grant)))
}

fn debit(id: &str, debit: &Debit) -> Event {
    let taken = WalletDebit {
        wallet: wallet(),
        debit: id.into(),
        amount: decimal(debit.nanos),
        grant: debit.grant.map(|n| format!("g{n:02}")),
        counts_from: None,
    };
    event(debit.at, id, Kind::WalletDebited(taken))
}

fn server(name: &str) -> Event {
    let (server, supplier) = (name.into(), "sup".into());
    event(START, name, Kind::ServerRegistered { server, supplier, slots: 8, slices_per_card: None })
}

fn lease(lease: &Lease) -> Vec<Event> {
    let (name, server) = (lease.name.clone(), format!("server-{}", lease.name));
    let slots = (0..lease.gpus).collect();
    let started = Kind::LeaseStarted {
        lease: name.clone(),
        contract: lease.contract.into(),
        server: server.clone(),
        slots,
        slices: None,
    };
    let mut events = vec![event(lease.from, &format!("start-{name}"), started), self::server(&server)];
    if let Some(Outage { from, to, opened, named, closed }) = lease.outage {
        let (outage, server) = (format!("out-{name}"), server.clone());
        let opened = Kind::OutageOpened { outage: outage.clone(), server, slots: None, fault: opened };
        events.push(event(from, &format!("open-{name}"), opened));
        if let Some((at, fault)) = named {
            let named = Kind::OutageFaulted { outage: outage.clone(), fault };
            events.push(event(at, &format!("fault-{name}"), named));
        }
        events.push(event(to, &format!("close-{name}"), Kind::OutageClosed { outage, fault: closed }));
    }
    if let Some(Work { announced, done }) = lease.work {
        let maintenance = format!("work-{name}");
        if let Some((at, from, to)) = announced {
            let (maintenance, server) = (maintenance.clone(), server.clone());
            let announced = Kind::MaintenanceAnnounced { maintenance, server, slots: None, from, to };
            events.push(event(at, &format!("announce-{name}"), announced));
        }
        if let Some((from, to)) = done {
            let started = Kind::MaintenanceStarted { maintenance: maintenance.clone(), server, slots: None };
            events.push(event(from, &format!("work-{name}"), started));
            events.push(event(to, &format!("done-{name}"), Kind::MaintenanceEnded { maintenance }));
        }
    }
    if lease.to < FOREVER {
        events.push(event(lease.to, &format!("end-{name}"), Kind::LeaseEnded { lease: name }));
    }
    events
}

#[derive(Debug, Clone)]
struct Lease {
    name: String,
    contract: &'static str,
    gpus: u32,
    from: Second,
    to: Second,
    outage: Option<Outage>,
    work: Option<Work>,
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    from: Second,
    to: Second,
    opened: Option<Fault>,
    /// While it is open or later.
    named: Option<(Second, Fault)>,
    closed: Option<Fault>,
}

/// Maintenance: when it was announced for when, and when it was done.
#[derive(Debug, Clone, Copy)]
struct Work {
    announced: Option<(Second, Second, Second)>,
    done: Option<(Second, Second)>,
}

impl Outage {
    fn plain(from: Second, to: Second) -> Outage {
        Outage { from, to, opened: None, named: None, closed: None }
    }

    /// Whether a second is lost, by what was known in it.
    fn loses(&self, t: Second) -> bool {
        let fault = self.named.filter(|(at, _)| *at <= t).map(|(_, fault)| fault).or(self.opened);
        (self.from..self.to).contains(&t) && fault != Some(Fault::Renter)
    }
}

impl Work {
    /// Whether it goes on in a second, by what was known in it.
    fn goes_on(&self, t: Second) -> bool {
        match (self.done, self.announced) {
            (Some((from, to)), _) if from <= t => t < to,
            (_, Some((_, from, to))) => (from..to).contains(&t),
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
struct Grant {
    from: Second,
    nanos: i128,
    kind: GrantKind,
    priority: i32,
    expires: Option<Second>,
}

impl Grant {
    fn paid(from: Second, nanos: i128) -> Grant {
        Grant { from, nanos, kind: GrantKind::Paid, priority: 0, expires: None }
    }

    fn end(&self) -> Second {
        self.expires.map_or(FOREVER, |e| (e + 59) / 60 * 60)
    }
}

#[derive(Debug, Clone)]
struct Debit {
    at: Second,
    nanos: i128,
    /// The place of the grant that it names.
    grant: Option<usize>,
}

#[derive(Debug, Clone)]
struct World {
    leases: Vec<Lease>,
    grants: Vec<Grant>,
    debits: Vec<Debit>,
    prices: BTreeMap<&'static str, i128>,
    grace: i64,
    credit: i128,
    until: Second,
    /// Lifecycle time at each commit.
    cuts: Vec<Second>,
}

impl World {
    fn rules(&self) -> [(&'static str, serde_json::Value); 3] {
        [
            ("suspend", json!({"on_exhaustion": "suspend"})),
            ("grace", json!({"on_exhaustion": "grace", "grace_s": self.grace})),
            (
                "credit",
                json!({"on_exhaustion": "credit", "credit_limit": decimal(self.credit / 10_000_000 * 10_000_000).0[..].trim_end_matches('0').trim_end_matches('.')}),
            ),
        ]
    }

    fn events(&self) -> Vec<Event> {
        let signed = self.rules().map(|(name, rule)| signed(name, self.prices[name], &rule));
        let leases = self.leases.iter().flat_map(lease);
        let grants = self.grants.iter().enumerate();
        let grants = grants.map(|(n, g)| grant(&format!("g{n:02}"), g));
        let debits = self.debits.iter().enumerate().map(|(n, d)| debit(&format!("d{n:02}"), d));
        signed.into_iter().chain(leases).chain(grants).chain(debits).collect()
    }

    fn history(&self) -> History {
        let mut history = History::default();
        history.insert(self.events());
        history
    }

    /// What is recorded as lifecycle time goes from cut to cut, as (second, type, contract), with nothing known of what is to come.
    fn recorded(&self, cuts: &[Second]) -> Vec<(Second, String)> {
        let (mut history, mut events) = (History::default(), self.events());
        let mut found = Vec::new();
        let mut before = START;
        for &until in cuts {
            let (known, to_come) = events.into_iter().partition(|event| event.key.time < until);
            events = to_come;
            let known: Vec<Event> = known;
            assert!(history.insert(known).verdicts.values().all(Option::is_none));
            // Anew each time, as by whoever has the partition now.
            let Some(mut purse) = Purse::begin(&history, &wallet()) else { continue };
            while let Some(transition) = purse.next(&history, before, until).unwrap() {
                let name = match &transition.kind {
                    Kind::WalletCreditReached { contract, .. } => format!("credit {contract}"),
                    kind => kind.name().to_owned(),
                };
                found.push((transition.at, name));
                let id = format!("derived-{}", found.len());
                let changes = history.insert([event(transition.at, &id, transition.kind)]);
                assert!(changes.verdicts.values().all(Option::is_none), "{changes:?}");
                assert!(found.len() < 1_000, "no end to it: {found:?}");
            }
            before = until;
        }
        found
    }

    /// The grants that can be used in a second, in the order in which they are.
    fn usable(&self, t: Second) -> Vec<usize> {
        let usable = |g: &Grant| g.from <= t && t < g.end();
        let mut order: Vec<usize> = (0..self.grants.len()).filter(|n| usable(&self.grants[*n])).collect();
        order.sort_by_key(|n| {
            let g = &self.grants[*n];
            (g.priority, g.end(), g.from, g.kind != GrantKind::Promotional, *n)
        });
        order
    }

    /// The same, second by second, from scratch.
    fn oracle(&self) -> Vec<(Second, String)> {
        let mut found = Vec::new();
        let mut left: Vec<i128> = self.grants.iter().map(|g| g.nanos).collect();
        let limit = self.credit / 10_000_000 * 10_000_000;
        let (mut dry, mut restored, mut owed, mut reached, mut price) = (None, Second::MIN, 0, false, 0);
        let Some(first) = self.leases.iter().map(|l| l.from).min() else { return found };
        for t in first..self.until {
            // What was taken before anything was leased is taken first.
            for d in self.debits.iter().filter(|d| d.at == t || t == first && d.at < t) {
                let paid = |n: &usize| self.grants[*n].kind == GrantKind::Paid;
                let from: Vec<usize> = match d.grant {
                    Some(n) => [n].into_iter().filter(|n| d.at < self.grants[*n].end()).collect(),
                    None => self.usable(d.at).into_iter().filter(paid).collect(),
                };
                let mut rest = d.nanos;
                for n in from.into_iter().chain(self.usable(d.at)) {
                    let taken = rest.min(left[n]);
                    left[n] -= taken;
                    rest -= taken;
                }
            }
            let order = self.usable(t);
            let balance: i128 = order.iter().map(|n| left[*n]).sum();
            let mut cost = 0;
            if dry.is_some_and(|since| since < t) && balance >= price {
                found.push((t, "gpu.wallet.restored".to_owned()));
                (dry, restored) = (None, t);
            }
            let cost_of = |dry: Option<Second>, reached: bool| -> i128 {
                let runs = |l: &&Lease| {
                    let cut = match (dry, l.contract) {
                        (None, _) => false,
                        (Some(_), "suspend") => true,
                        (Some(since), "grace") => t >= since + self.grace,
                        (Some(_), _) => reached,
                    };
                    let out = l.outage.is_some_and(|outage| outage.loses(t));
                    let worked_on = l.work.is_some_and(|work| work.goes_on(t));
                    (l.from..l.to).contains(&t) && !cut && !out && !worked_on
                };
                self.leases.iter().filter(runs).map(|l| self.prices[l.contract] * i128::from(l.gpus)).sum()
            };
            let whole = cost_of(dry, reached);
            if dry.is_none() && whole > balance && t > restored {
                (dry, owed, reached, price) = (Some(t), 0, false, whole);
                found.push((t, "gpu.wallet.exhausted".to_owned()));
            }
            if dry.is_some() && !reached {
                let beyond = (cost_of(dry, reached) - balance).max(0);
                if owed + beyond > limit {
                    reached = true;
                    found.push((t, "credit credit".to_owned()));
                }
            }
            cost += cost_of(dry, reached);
            for n in order {
                let taken = cost.min(left[n]);
                left[n] -= taken;
                cost -= taken;
            }
            if dry.is_some() {
                owed += cost;
            }
        }
        found
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::Renter, Fault::Platform, Fault::Supplier])
}

/// In seconds after the lease began.
fn outage() -> impl Strategy<Value = Outage> {
    let named = prop::option::of((1..3_000i64, fault()));
    let times = (0..5_000i64, 1..2_000i64);
    (times, prop::option::of(fault()), named, prop::option::of(fault())).prop_map(
        |((from, length), opened, named, closed)| Outage {
            from,
            to: from + length,
            opened,
            named: named.map(|(after, fault)| (from + after, fault)),
            closed,
        },
    )
}

/// Announced, done, or both; begun before it was announced for, in time, late, or after its announced end.
fn work() -> impl Strategy<Value = Work> {
    let announced = (0..3_000i64, 1..2_000i64, 1..1_000i64);
    let announced = announced.prop_map(|(at, ahead, length)| (at, at + ahead, at + ahead + length));
    let done = (-1_000..2_000i64, 1..1_500i64);
    (prop::option::of(announced), prop::option::of(done)).prop_map(|(announced, done)| {
        let (known, expected) = announced.map_or((0, 2_000), |(at, from, _)| (at, from));
        let done = done.map(|(late, length)| {
            let from = (expected + late).max(known + 1);
            (from, from + length)
        });
        Work { announced, done }
    })
}

fn world() -> impl Strategy<Value = World> {
    let lease = (0..3usize, 1..4u32, 0..4_000i64, 0..9_000i64, prop::option::of(outage()), prop::option::of(work()));
    let grant = (0..9_000i64, 1..400i128, -1..2i32, prop::option::of(1..9_000i64), any::<bool>());
    let debit = (0..9_000i64, 1..200i128, prop::option::of(0..6usize));
    let first = (0..300i64, 50..600i128);
    (
        prop::collection::vec(lease, 1..4),
        (prop::collection::vec(grant, 0..6), prop::collection::vec(debit, 0..3)),
        prop::option::of(first),
        [1..90i128, 1..90i128, 1..90i128],
        1..2_000i64,
        0..40i128,
        prop::collection::vec(1..10_000i64, 0..8),
    )
        .prop_map(|(leases, (grants, debits), first, prices, grace, credit, cuts)| {
            let leases =
                leases.into_iter().enumerate().map(|(n, (contract, gpus, from, length, outage, work))| Lease {
                    name: format!("l{n}"),
                    contract: ["suspend", "grace", "credit"][contract],
                    gpus,
                    from: START + from,
                    to: if length < 100 { FOREVER } else { START + from + length },
                    outage: outage.map(|it: Outage| Outage {
                        from: START + from + it.from,
                        to: START + from + it.to,
                        named: it.named.map(|(at, fault)| (START + from + at, fault)),
                        ..it
                    }),
                    work: work.map(|it: Work| Work {
                        announced: it
                            .announced
                            .map(|(at, a, b)| (START + from + at, START + from + a, START + from + b)),
                        done: it.done.map(|(a, b)| (START + from + a, START + from + b)),
                    }),
                });
            let grants = grants.into_iter().chain(first.map(|(from, amount)| (from, amount, 0, None, true))).map(
                |(from, amount, priority, expires, paid)| Grant {
                    from: START + from,
                    nanos: amount * NANOS / 7,
                    kind: if paid { GrantKind::Paid } else { GrantKind::Promotional },
                    priority,
                    expires: expires.map(|after| START + from + 60 + after),
                },
            );
            let mut grants: Vec<Grant> = grants.collect();
            grants.sort_by_key(|g| g.from);
            // Of a grant that is there.
            let known = |at: Second, n: usize| grants.get(n).is_some_and(|g| g.from <= at);
            let mut debits: Vec<Debit> = debits
                .into_iter()
                .map(|(at, amount, grant)| {
                    let at = START + at;
                    Debit { at, nanos: amount * NANOS / 7, grant: grant.filter(|n| known(at, *n)) }
                })
                .collect();
            debits.sort_by_key(|d| d.at);
            let mut cuts: Vec<Second> = cuts.into_iter().map(|cut| START + cut).collect();
            cuts.push(START + 10_000);
            cuts.sort_unstable();
            World {
                leases: leases.collect(),
                grants,
                debits,
                prices: ["suspend", "grace", "credit"].into_iter().zip(prices.map(|p| p * 1_000_000)).collect(),
                grace,
                credit: credit * NANOS / 3,
                until: START + 10_000,
                cuts,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The same seconds, wherever lifecycle time was cut, and whoever worked it out.
    #[test]
    fn it_is_the_second_that_cannot_be_paid(world in world()) {
        let expected = world.oracle();
        prop_assert_eq!(&world.recorded(&[world.until]), &expected, "in one go");
        prop_assert_eq!(&world.recorded(&world.cuts), &expected, "in pieces");
    }
}

#[test]
fn a_wallet_runs_dry_is_topped_up_and_goes_on() {
    // 2 GPUs at 0.01 a second each; 10.00 lasts 500 s; the outage of 60 s costs nothing.
    let world = World {
        leases: vec![Lease {
            name: "l".into(),
            contract: "suspend",
            gpus: 2,
            from: START + 100,
            to: FOREVER,
            outage: Some(Outage::plain(START + 200, START + 260)),
            work: None,
        }],
        grants: vec![Grant::paid(START, 10 * NANOS), Grant::paid(START + 1_111, NANOS)],
        debits: vec![],
        prices: [("suspend", 10_000_000), ("grace", 1), ("credit", 1)].into(),
        grace: 1,
        credit: 0,
        until: START + 2_000,
        cuts: vec![],
    };
    let expected = [(660, "gpu.wallet.exhausted"), (1_111, "gpu.wallet.restored"), (1_161, "gpu.wallet.exhausted")];
    let expected: Vec<(Second, String)> = expected.map(|(after, name)| (START + after, name.to_owned())).into();
    assert_eq!(world.recorded(&[world.until]), expected);
    assert_eq!(world.oracle(), expected);

    // The lease is suspended in between.
    let mut history = world.history();
    let mut purse = Purse::begin(&history, &wallet()).unwrap();
    while let Some(transition) = purse.next(&history, START, START + 1_150).unwrap() {
        history.insert([event(transition.at, &format!("d{}", transition.at), transition.kind)]);
    }
    let suspended = &history.server("server-l").unwrap().leases[0].suspended;
    assert_eq!(suspended.iter().map(|s| (s.from - START, s.to - START)).collect::<Vec<_>>(), [(660, 1_111)]);
}

#[test]
fn what_is_learned_late_moves_no_cut_of_access() {
    let mut world = World {
        leases: vec![Lease {
            name: "l".into(),
            contract: "suspend",
            gpus: 1,
            from: START,
            to: FOREVER,
            outage: None,
            work: None,
        }],
        grants: vec![Grant::paid(START, 10 * NANOS)],
        debits: vec![],
        prices: [("suspend", 10_000_000), ("grace", 1), ("credit", 1)].into(),
        grace: 1,
        credit: 0,
        until: START + 3_000,
        cuts: vec![],
    };
    assert_eq!(world.recorded(&[world.until]), [(START + 1_000, "gpu.wallet.exhausted".to_owned())]);
    // Recorded once lifecycle time was 1,500: an outage of 100 s before. What was saved counts from then on.
    world.leases[0].outage = Some(Outage::plain(START + 500, START + 600));
    let mut history = world.history();
    let exhausted = Kind::WalletExhausted { wallet: wallet(), second_costs: decimal(10_000_000) };
    history.insert([event(START + 1_000, "d", exhausted)]);
    let mut purse = Purse::begin(&history, &wallet()).unwrap();
    let restored = purse.next(&history, START + 1_500, START + 3_000).unwrap().unwrap();
    assert_eq!((restored.at, restored.kind.name()), (START + 1_500, "gpu.wallet.restored"));
    history.insert([event(restored.at, "e", restored.kind)]);
    let again = purse.next(&history, START + 1_500, START + 3_000).unwrap().unwrap();
    assert_eq!((again.at, again.kind.name()), (START + 1_600, "gpu.wallet.exhausted"));
}

/// What counts is the version in force in the second, wherever lifecycle time is cut.
#[test]
fn a_limit_that_is_lowered_counts_from_then_on() {
    let rule = |limit: &str| json!({"on_exhaustion": "credit", "credit_limit": limit});
    let first = signed("c", 10_000_000, &rule("100"));
    let Kind::ContractSigned { document } = signed("c", 10_000_000, &rule("10")).kind else { panic!() };
    let mut lowered = *document;
    lowered.effective = show_second(START + 1_800);
    let amended = event(START + 1_800, "amend-c", Kind::ContractAmended { document: Box::new(lowered) });
    let lease = Lease { name: "l".into(), contract: "c", gpus: 1, from: START, to: FOREVER, outage: None, work: None };
    for cuts in [vec![5_000], vec![1_800, 5_000], vec![60, 1_801, 2_500, 5_000]] {
        let mut history = History::default();
        history.insert([first.clone(), amended.clone()].into_iter().chain(self::lease(&lease)));
        let mut found = Vec::new();
        for until in cuts {
            let mut purse = Purse::begin(&history, &wallet()).unwrap();
            while let Some(transition) = purse.next(&history, START, START + until).unwrap() {
                found.push((transition.at - START, transition.kind.name().to_owned()));
                history.insert([event(transition.at, &format!("d{}", found.len()), transition.kind)]);
            }
        }
        let expected = [(0, "gpu.wallet.exhausted"), (1_800, "gpu.wallet.credit_reached")];
        assert_eq!(found, expected.map(|(second, name)| (second, name.to_owned())));
    }
}
