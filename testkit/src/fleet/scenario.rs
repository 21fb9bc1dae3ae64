//! What the fleet consists of and what happens to it: servers, GPUs, silences, outages, and every lifecycle
//! event in its own time. Times here are seconds since the start of the plan.

use std::collections::BTreeMap;

use super::contracts::sign_contracts;
use super::event::{Event, EventKind, GPU_HOURS, Party, RatingWindow, SimpleContract};
use super::leases::plan_leases;
use super::random::Random;
use super::time::SECOND_US;
use super::wallets::{self, Wallet};
use super::{Contracts, Fault, Plan, Tally, Wallets, random_streams};
use crate::oracle::OracleError;

/// A half-open span of seconds since the start of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Span {
    pub(crate) const NEVER: Span = Span { from: 0, to: 0 };

    pub(crate) fn holds(self, second: i64) -> bool {
        self.from <= second && second < self.to
    }

    /// Whether both touch, or leave less than two seconds between them.
    fn is_close_to(self, other: Span) -> bool {
        self.from < other.to + 2 && other.from < self.to + 2
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    True,
    /// Ahead, within what is believed.
    Fast,
    /// For a while ahead beyond what is believed.
    Far(Span),
}

pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) clock: Clock,
    pub(crate) frozen: Span,
    pub(crate) mute: Vec<Span>,
}

pub(crate) struct Gpu {
    pub(crate) id: String,
    /// When it is powered and has something to say.
    pub(crate) speaks: Span,
    pub(crate) mute: Vec<Span>,
    /// Seconds at which its energy counter starts again.
    pub(crate) resets: Vec<i64>,
}

pub(crate) struct Scenario {
    pub(crate) servers: Vec<Server>,
    pub(crate) events: Vec<Event>,
    /// The events from this one on are about those who pay in advance.
    pub(crate) first_prepaid: usize,
    /// By source and id of an event: seconds by which it arrives later than it says.
    pub(crate) late: BTreeMap<(String, String), u32>,
}

impl Scenario {
    pub(crate) fn new(plan: &Plan, tally: &mut Tally) -> Result<Self, OracleError> {
        let mut random = Random::new(plan.seed, random_streams::SCENARIO, 0);
        let first_outage = random.below(12);
        let mut draft = Draft {
            plan,
            tally,
            random,
            events: Vec::new(),
            late: BTreeMap::new(),
            contracts: Vec::new(),
            wallets: Vec::new(),
            ids: [0; SOURCES.len()],
            outages: first_outage,
        };
        match &plan.contracts {
            Contracts::Simple => draft.sign_contracts(),
            Contracts::Random { time_zone } => sign_contracts(&mut draft, time_zone),
        }
        let roles = draft.deal_roles();
        let mut servers = Vec::new();
        let mut roles = roles.into_iter().enumerate();
        for (number, role) in roles.by_ref().take(draft.first_prepaid()) {
            servers.push(draft.set_up_server(number, role));
        }
        let first_prepaid = draft.events.len();
        wallets::sign(&mut draft);
        for (number, role) in roles {
            servers.push(draft.set_up_server(number, role));
        }
        wallets::give(&mut draft)?;
        Ok(Scenario { servers, events: draft.events, first_prepaid, late: draft.late })
    }
}

/// Where events come from. Each counts its ids from 0, so that only source and id together tell events apart.
const SOURCES: [&str; 3] = ["control-plane", "dcim", "payments"];
const CONTROL_PLANE: usize = 0;
const DCIM: usize = 1;
const PAYMENTS: usize = 2;

/// The faults of which a server has at most one.
const ROLES: [Fault; 4] = [Fault::SilentServer, Fault::FrozenExporter, Fault::FastClock, Fault::FarClock];
/// From this many servers on, each role is played at least once.
const SERVERS_FOR_EVERY_ROLE: usize = 16;

pub(crate) struct Draft<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) tally: &'a mut Tally,
    pub(crate) random: Random,
    /// Those under which servers are leased.
    pub(crate) contracts: Vec<String>,
    pub(crate) wallets: Vec<Wallet>,
    pub(crate) events: Vec<Event>,
    pub(crate) late: BTreeMap<(String, String), u32>,
    ids: [u64; SOURCES.len()],
    outages: u64,
}

impl Draft<'_> {
    pub(crate) fn seconds(&self) -> i64 {
        i64::from(self.plan.seconds)
    }

    /// The first of the servers whose renters pay in advance, which are the last ones.
    fn first_prepaid(&self) -> usize {
        (self.plan.servers - self.plan.wallets.servers(self.plan.servers)) as usize
    }

    pub(crate) fn happens(&mut self, fault: Fault) -> bool {
        let happens = self.random.chance(self.plan.faults.rate(fault));
        if happens {
            self.tally.add(fault);
        }
        happens
    }

    /// How often a fault with an hourly rate happens within the plan.
    pub(crate) fn times_in_plan(&mut self, fault: Fault) -> u64 {
        let hours = f64::from(self.plan.seconds) / 3600.0;
        self.random.times(self.plan.faults.rate(fault) * hours)
    }

    pub(crate) fn record(&mut self, second: i64, kind: EventKind) {
        let source = match kind {
            EventKind::ServerRegistered { .. }
            | EventKind::GpuRegistered { .. }
            | EventKind::GpuReplaced { .. }
            | EventKind::MaintenanceAnnounced { .. }
            | EventKind::MaintenanceStarted { .. }
            | EventKind::MaintenanceEnded { .. }
            | EventKind::OutageOpened { .. }
            | EventKind::OutageClosed { .. }
            | EventKind::OutageFaulted { .. } => DCIM,
            EventKind::WalletGranted(_) => PAYMENTS,
            _ => CONTROL_PLANE,
        };
        self.ids[source] += 1;
        let fraction_us = self.random.pick(&[0, 1, 250_000, 734_512, 999_999]);
        self.events.push(Event {
            source: SOURCES[source].to_owned(),
            id: format!("e-{}", self.ids[source]),
            time_us: self.plan.start_us + second * SECOND_US + fraction_us,
            kind,
        });
    }

    fn sign_contracts(&mut self) {
        for renter in 1..=self.plan.renters {
            for number in 1..=1 + u32::from(self.random.chance(0.3)) {
                let contract = format!("contract-{renter:02}-{number}");
                let signed = self.random.between(-3600, -1);
                let simple = SimpleContract {
                    contract: contract.clone(),
                    renter: format!("renter-{renter:02}"),
                    currency: self.random.pick(&["USD", "USD", "EUR"]).to_owned(),
                    price_per_gpu_hour: self.some_price(),
                    supplier_share_percent: self
                        .random
                        .pick(&["80", "72.5", "66.666667", "85.00", "0", "100", "78.123456"])
                        .to_owned(),
                    rating_window: self.random.pick(&[RatingWindow::Hour, RatingWindow::Minute]),
                };
                self.record(signed, simple.signed(self.plan.start_us + signed * SECOND_US));
                self.contracts.push(contract.clone());
                for _ in 0..self.times_in_plan(Fault::PriceChange) {
                    self.tally.add(Fault::PriceChange);
                    let (contract, charge) = (contract.clone(), GPU_HOURS.to_owned());
                    let changed = EventKind::PriceChanged { contract, charge, price: self.some_price() };
                    let second = self.random.between(1, self.seconds());
                    self.record(second, changed);
                }
            }
        }
    }

    fn some_price(&mut self) -> String {
        let cents = self.random.between(50, 900);
        match self.random.below(4) {
            0 => format!("{}.{:02}", cents / 100, cents % 100),
            1 => format!("{}", 1 + cents / 100),
            2 => format!("{}.{:05}", cents / 100, self.random.below(100_000)),
            _ => format!("{}.{:012}", cents / 100, self.random.below(1_000_000_000_000)),
        }
    }

    fn deal_roles(&mut self) -> Vec<Option<Fault>> {
        let servers = self.plan.servers as usize;
        let mut deck: Vec<usize> = (0..servers).collect();
        self.random.shuffle(&mut deck);
        let mut roles = vec![None; servers];
        for role in ROLES {
            let rate = self.plan.faults.rate(role);
            let mut players = self.random.times(rate * servers as f64);
            if rate > 0.0 && servers >= SERVERS_FOR_EVERY_ROLE {
                players = players.max(1);
            }
            for _ in 0..players {
                let Some(server) = deck.pop() else { break };
                roles[server] = Some(role);
                self.tally.add(role);
            }
        }
        roles
    }

    fn set_up_server(&mut self, number: usize, role: Option<Fault>) -> Server {
        self.random = Random::new(self.plan.seed, random_streams::SERVER, number as u64);
        let seconds = self.seconds();
        let name = format!("srv-{:04}", number + 1);
        let slots = self.plan.gpus_per_server;

        let registered = self.random.between(-1800, 1);
        let supplier = format!("supplier-{}", number as u32 % self.plan.suppliers + 1);
        self.record(registered, EventKind::ServerRegistered { server: name.clone(), supplier, slots });

        let mut gpus: Vec<Gpu> = (0..slots).map(|slot| self.build_gpu(number as u64, u64::from(slot))).collect();
        let replaced = self.happens(Fault::ReplacedGpu).then(|| {
            let slot = self.random.below(u64::from(slots)) as u32;
            let at = self.random.between(seconds / 5, seconds * 4 / 5);
            (slot, at)
        });
        let mut has_silent_gpu = false;
        for slot in 0..slots {
            let is_replaced = replaced.is_some_and(|(other, _)| other == slot);
            let seated = if !is_replaced && self.happens(Fault::LateSeat) {
                self.random.between(1, seconds)
            } else {
                self.random.between(registered, 1)
            };
            let gpu = &mut gpus[slot as usize];
            self.record(seated, EventKind::GpuRegistered { server: name.clone(), slot, gpu: gpu.id.clone() });
            if !is_replaced && self.happens(Fault::SilentGpu) {
                gpu.speaks = Span::NEVER;
                has_silent_gpu = true;
            }
        }
        if let Some((slot, at)) = replaced {
            self.replace_gpu(number, &name, slot, at, &mut gpus);
        }
        if self.happens(Fault::StrayGpu) {
            let from = self.random.between(0, seconds / 2);
            let mut stray = self.build_gpu(number as u64, 98);
            stray.speaks = Span { from, to: self.random.between(from + 1, seconds + 1) };
            gpus.push(stray);
        }

        let mut server = Server { name, gpus, clock: Clock::True, frozen: Span::NEVER, mute: Vec::new() };
        self.play_role(role, &mut server);
        self.silence(&mut server, slots);
        self.maintain(&mut server);
        self.cut_off(&mut server);
        let is_leased_whole = has_silent_gpu || role == Some(Fault::SilentServer);
        match number.checked_sub(self.first_prepaid()) {
            Some(place) if self.plan.wallets == Wallets::Cast => {
                wallets::lease_to_cast(self, place, &server.name, slots);
            }
            _ => plan_leases(self, &server.name, slots, is_leased_whole),
        }
        server
    }

    fn build_gpu(&mut self, server: u64, number: u64) -> Gpu {
        let mut random = Random::new(self.plan.seed, random_streams::IDENTITY, server << 8 | number);
        let (high, low) = (random.draw(), random.draw());
        let resets = (0..self.times_in_plan(Fault::CounterReset))
            .map(|_| self.random.between(1, self.seconds()))
            .collect::<Vec<_>>();
        self.tally.add_times(Fault::CounterReset, resets.len() as u64);
        Gpu {
            id: format!(
                "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                high >> 32,
                high >> 16 & 0xffff,
                high & 0xffff,
                low >> 48,
                low & 0xffff_ffff_ffff
            ),
            speaks: Span { from: 0, to: self.seconds() },
            mute: Vec::new(),
            resets,
        }
    }

    fn replace_gpu(&mut self, number: usize, server: &str, slot: u32, at: i64, gpus: &mut Vec<Gpu>) {
        let mut new = self.build_gpu(number as u64, 99);
        let boot_seconds = self.random.between(0, 90);
        new.speaks.from = (at + boot_seconds).min(self.seconds());
        let lingers = if self.happens(Fault::LingeringGpu) { self.random.between(1, 8) } else { 0 };
        let old = &mut gpus[slot as usize];
        old.speaks.to = (at + lingers).min(self.seconds());
        self.record(
            at,
            EventKind::GpuReplaced { server: server.to_owned(), slot, old: old.id.clone(), new: new.id.clone() },
        );
        gpus.push(new);
    }

    fn play_role(&mut self, role: Option<Fault>, server: &mut Server) {
        let seconds = self.seconds();
        let from = self.random.between(0, seconds / 2);
        let span = Span { from, to: from + self.random.between(2, (seconds / 4).min(1800)) };
        match role {
            Some(Fault::SilentServer) => {
                for gpu in &mut server.gpus {
                    gpu.speaks = Span::NEVER;
                }
            }
            Some(Fault::FrozenExporter) => server.frozen = span,
            Some(Fault::FastClock) => server.clock = Clock::Fast,
            Some(Fault::FarClock) => server.clock = Clock::Far(span),
            _ => {}
        }
    }

    /// Gaps and outages. Outages of a server keep apart from each other, so that none is in doubt.
    fn silence(&mut self, server: &mut Server, slots: u32) {
        let seconds = self.seconds();
        for _ in 0..self.times_in_plan(Fault::Gap) {
            let gap = self.some_span(1, 900);
            if self.random.chance(0.5) {
                server.mute.push(gap);
            } else {
                let gpu = self.random.below(server.gpus.len() as u64) as usize;
                server.gpus[gpu].mute.push(gap);
            }
            self.tally.add(Fault::Gap);
        }
        let mut taken: Vec<Span> = Vec::new();
        for fault in [Fault::RecordedGap, Fault::Outage] {
            for _ in 0..self.times_in_plan(fault) {
                let outage = self.some_span(5, 1200);
                if taken.iter().any(|other| other.is_close_to(outage)) {
                    continue;
                }
                taken.push(outage);
                self.tally.add(fault);
                let is_partial = fault == Fault::Outage && slots > 1 && self.random.chance(0.5);
                let covered = is_partial.then(|| {
                    let first = self.random.between(0, i64::from(slots)) as u32;
                    let last = self.random.between(i64::from(first), i64::from(slots)) as u32;
                    (first..=last).collect()
                });
                if fault == Fault::RecordedGap {
                    // What is on record and what was silent differ by some seconds at both ends.
                    server.mute.push(Span {
                        from: (outage.from - self.random.between(-3, 4)).max(0),
                        to: (outage.to + self.random.between(-3, 4)).min(seconds),
                    });
                }
                self.record_outage(&server.name, outage, covered);
            }
        }
    }

    /// Each party in turn, and nobody; named at opening, only at closing, or corrected at closing.
    fn record_outage(&mut self, server: &str, span: Span, slots: Option<Vec<u32>>) {
        const PARTIES: [Option<Party>; 4] = [Some(Party::Supplier), Some(Party::Platform), Some(Party::Renter), None];
        self.outages += 1;
        let party = PARTIES[self.outages as usize % 4];
        let (at_opening, at_closing) = match (self.outages / 4) % 3 {
            0 => (party, None),
            1 => (None, party),
            _ if party.is_some() => (PARTIES[(self.outages as usize + 1) % 3], party),
            _ => (None, None),
        };
        let outage = format!("outage-{server}-{}", span.from);
        self.record(
            span.from,
            EventKind::OutageOpened { outage: outage.clone(), server: server.to_owned(), slots, fault: at_opening },
        );
        self.record(span.to, EventKind::OutageClosed { outage: outage.clone(), fault: at_closing });
        if self.happens(Fault::LateFault) {
            let fault = self.random.pick(&[Party::Supplier, Party::Platform, Party::Renter]);
            let named = span.to + self.random.between(1, 600);
            self.record(named, EventKind::OutageFaulted { outage, fault });
        }
    }

    /// Maintenance, announced or not; some of it silences the server, and some of what is announced leaves no other trace.
    fn maintain(&mut self, server: &mut Server) {
        for fault in [Fault::Maintenance, Fault::SuddenMaintenance] {
            for number in 0..self.times_in_plan(fault) {
                let Span { from, to } = self.some_span(10, 1200);
                let (is_announced, from) = (fault == Fault::Maintenance, from.max(2));
                self.tally.add(fault);
                let maintenance = format!("{}-{fault:?}-{number}", server.name).to_lowercase();
                if is_announced {
                    let announced = self.random.between(1, from);
                    let instant = |second| super::time::rfc3339(self.plan.start_us + second * SECOND_US);
                    let (from, to) = (instant(from), instant(to.max(from + 1)));
                    let (maintenance, server) = (maintenance.clone(), server.name.clone());
                    self.record(announced, EventKind::MaintenanceAnnounced { maintenance, server, from, to });
                }
                if !is_announced || self.random.chance(0.6) {
                    let started = from + self.random.between(0, 30);
                    let ended = (to + self.random.between(-5, 60)).max(started + 1);
                    let begun =
                        EventKind::MaintenanceStarted { maintenance: maintenance.clone(), server: server.name.clone() };
                    self.record(started, begun);
                    self.record(ended, EventKind::MaintenanceEnded { maintenance });
                }
                if self.random.chance(0.5) {
                    server.mute.push(Span { from, to });
                }
            }
        }
    }

    /// Silence that the control plane witnessed. What it saw and what was silent differ by some seconds at both ends.
    fn cut_off(&mut self, server: &mut Server) {
        let mut taken: Vec<Span> = Vec::new();
        for _ in 0..self.times_in_plan(Fault::Unreachable) {
            let seen = self.some_span(5, 900);
            if taken.iter().any(|other| other.is_close_to(seen)) {
                continue;
            }
            taken.push(seen);
            self.tally.add(Fault::Unreachable);
            server.mute.push(Span {
                from: (seen.from - self.random.between(-3, 4)).max(0),
                to: (seen.to + self.random.between(-3, 4)).min(self.seconds()),
            });
            let name = &server.name;
            self.record(seen.from, EventKind::ServerUnreachable { server: name.clone() });
            self.record(seen.to, EventKind::ServerReachable { server: name.clone() });
        }
    }

    fn some_span(&mut self, shortest: i64, longest: i64) -> Span {
        let seconds = self.seconds();
        let length = self.random.between(shortest, longest.min(seconds / 3).max(shortest + 1));
        let from = self.random.between(0, seconds - length);
        Span { from, to: from + length }
    }
}
