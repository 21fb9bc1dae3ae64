//! One pass over the events of a server, in their own order: its timeline, and a verdict on each event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hydrometer_schemas::lifecycle::{EventKey, Kind};
use hydrometer_schemas::time::{FOREVER, Second, show_second};

use super::Verdict;
use super::span::Span;
use super::timeline::{Lease, Maintenance, Occupancy, Outage, Reservation, ServerTimeline, Slicing, Work};

pub(super) const NEVER_BEGAN: &str = "names a lease, an outage or maintenance of which no beginning is known";

/// The event that began a lease, an outage or maintenance, and its server: the first in order. Beginnings under the same name on
/// another server are refused.
pub(super) fn owner(events: &BTreeMap<EventKey, Kind>) -> Option<(&EventKey, &str)> {
    events.iter().find_map(|(key, kind)| begins_on(kind).map(|server| (key, server)))
}

/// The server on which an event begins a lease, an outage or maintenance.
pub(super) fn begins_on(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::LeaseReserved { server, .. }
        | Kind::LeaseStarted { server, .. }
        | Kind::MaintenanceAnnounced { server, .. }
        | Kind::MaintenanceStarted { server, .. }
        | Kind::OutageOpened { server, .. } => Some(server),
        _ => None,
    }
}

/// Whether an event only makes sense after the beginning of its lease, outage or maintenance.
pub(super) fn follows(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::LeaseSuspended { .. }
            | Kind::LeaseResumed { .. }
            | Kind::LeaseEnded { .. }
            | Kind::LeaseRepartitioned { .. }
            | Kind::MaintenanceEnded { .. }
            | Kind::OutageClosed { .. }
            | Kind::OutageFaulted { .. }
    )
}

/// Folds a server. `foreign` names the beginnings whose lease, outage or maintenance belongs to another server.
pub(super) fn fold(
    server: &str,
    events: &BTreeMap<EventKey, Kind>,
    foreign: &BTreeMap<EventKey, String>,
) -> (ServerTimeline, BTreeMap<EventKey, Verdict>) {
    let mut fold = Fold::new(server, events);
    let mut verdicts = BTreeMap::new();
    for (key, kind) in events {
        let verdict = match foreign.get(key) {
            Some(owner) => Some(format!("this name is already in use on server {owner}")),
            None => fold.apply(key, kind).err(),
        };
        verdicts.insert(key.clone(), verdict);
    }
    fold.timeline.index();
    (fold.timeline, verdicts)
}

struct Fold<'a> {
    timeline: ServerTimeline,
    /// When leases are said to end: a slot may be leased again in the very second in which its lease ends.
    ends: BTreeSet<(Second, &'a str)>,
    /// When leases are said to be re-partitioned: what one gives up in a second, another may take in it.
    repartitions: BTreeMap<(Second, &'a str), Vec<(&'a EventKey, u32)>>,
    /// Where in the timeline they are, by name.
    leases: HashMap<&'a str, usize>,
    outages: HashMap<&'a str, usize>,
    maintenance: HashMap<&'a str, usize>,
    /// Leases that have begun and not ended.
    active: BTreeSet<usize>,
    /// Maintenance that has ended or was called off.
    over: HashSet<&'a str>,
}

impl<'a> Fold<'a> {
    fn new(server: &str, events: &'a BTreeMap<EventKey, Kind>) -> Fold<'a> {
        let mut fold = Fold {
            timeline: ServerTimeline { server: server.to_owned(), ..ServerTimeline::default() },
            ends: BTreeSet::new(),
            repartitions: BTreeMap::new(),
            leases: HashMap::new(),
            outages: HashMap::new(),
            maintenance: HashMap::new(),
            active: BTreeSet::new(),
            over: HashSet::new(),
        };
        for (key, kind) in events {
            match kind {
                Kind::LeaseEnded { lease } => {
                    fold.ends.insert((key.time, lease));
                }
                Kind::LeaseRepartitioned { lease, slices } => {
                    fold.repartitions.entry((key.time, lease)).or_default().push((key, *slices));
                }
                _ => {}
            }
        }
        fold
    }

    fn apply(&mut self, key: &EventKey, kind: &'a Kind) -> Result<(), String> {
        let at = key.time;
        match kind {
            Kind::ServerRegistered { supplier, slots, slices_per_card, .. } => {
                self.register(supplier, *slots, *slices_per_card)
            }
            Kind::GpuRegistered { slot, gpu, .. } => self.seat(at, *slot, gpu),
            Kind::ServerProvisioned { .. } => self.provision(at),
            Kind::ServerDecommissioned { .. } => self.decommission(at),
            Kind::GpuReplaced { slot, old, new, .. } => self.replace(at, *slot, old, new),
            Kind::GpuRecovered { gpu, .. } => self.recover(at, gpu),
            Kind::ServerUnreachable { .. } => match open(&mut self.timeline.unreachable) {
                Some(_) => Err("the server is unreachable already".into()),
                None => {
                    self.timeline.unreachable.push(Span { from: at, to: FOREVER });
                    Ok(())
                }
            },
            Kind::ServerReachable { .. } => {
                let span = open(&mut self.timeline.unreachable);
                span.ok_or("the server is not unreachable")?.to = at;
                Ok(())
            }
            Kind::LeaseReserved { lease, contract, slots, slices, from, to, .. } => self.reserve(Reservation {
                lease: lease.clone(),
                contract: contract.clone(),
                slots: slots.clone(),
                slices: *slices,
                span: Span { from: *from, to: *to },
            }),
            Kind::LeaseStarted { lease, contract, slots, slices, .. } => {
                self.start(key, lease, contract, slots, *slices)
            }
            Kind::LeaseSuspended { lease } => self.suspend(at, lease),
            Kind::LeaseResumed { lease } => self.resume(at, lease),
            Kind::LeaseEnded { lease } => self.end(at, lease),
            Kind::LeaseRepartitioned { lease, slices } => self.repartition(key, lease, *slices),
            Kind::MaintenanceAnnounced { maintenance, slots, from, to, .. } => {
                let work = Work { span: Span { from: *from, to: *to }, slots: slots.clone() };
                self.announce(at, maintenance, work)
            }
            Kind::MaintenanceStarted { maintenance, slots, .. } => self.start_work(at, maintenance, slots),
            Kind::MaintenanceEnded { maintenance } => self.end_work(at, maintenance),
            Kind::OutageOpened { outage, slots, fault, .. } => {
                if self.outages.contains_key(outage.as_str()) {
                    return Err(format!("outage {outage} was opened before"));
                }
                self.outages.insert(outage, self.timeline.outages.len());
                let span = Span { from: at, to: FOREVER };
                let (outage, slots) = (outage.clone(), slots.clone());
                let opened = Outage { outage, span, slots, fault: *fault, said: vec![(at, *fault)] };
                self.timeline.outages.push(opened);
                Ok(())
            }
            Kind::OutageClosed { outage, fault } => {
                let known = self.outage(outage)?;
                if known.span.to != FOREVER {
                    return Err(format!("outage {outage} is not open"));
                }
                known.span.to = at;
                known.fault = fault.or(known.fault);
                Ok(())
            }
            Kind::OutageFaulted { outage, fault } => {
                let known = self.outage(outage)?;
                known.fault = Some(*fault);
                if known.span.to == FOREVER {
                    known.said.push((at, known.fault));
                }
                Ok(())
            }
            _ => Err("not an event of a server".into()),
        }
    }

    fn register(&mut self, supplier: &str, slots: u32, slices_per_card: Option<u32>) -> Result<(), String> {
        let timeline = &mut self.timeline;
        match (&timeline.supplier, timeline.slots) {
            (Some(known), Some(count))
                if known != supplier || count != slots || timeline.slices_per_card != slices_per_card =>
            {
                let slices = timeline.slices_per_card();
                Err(format!(
                    "the server is already registered to supplier {known} with {count} slots of {slices} slices each"
                ))
            }
            _ => {
                timeline.supplier = Some(supplier.to_owned());
                timeline.slots = Some(slots);
                timeline.slices_per_card = slices_per_card;
                Ok(())
            }
        }
    }

    fn check_slot(&self, slot: u32) -> Result<(), String> {
        match self.timeline.slots {
            Some(count) if slot >= count => Err(format!("the server has {count} slots, there is no slot {slot}")),
            _ => Ok(()),
        }
    }

    fn seated(&mut self, slot: u32) -> Option<&mut Occupancy> {
        self.timeline.occupancy.get_mut(&slot).and_then(|all| all.last_mut()).filter(|o| o.span.to == FOREVER)
    }

    fn seat(&mut self, at: Second, slot: u32, gpu: &str) -> Result<(), String> {
        self.check_slot(slot)?;
        if let Some(sitting) = self.seated(slot) {
            return if sitting.gpu == gpu {
                Ok(())
            } else {
                Err(format!("slot {slot} is taken by {}: a change is a gpu.gpu.replaced", sitting.gpu))
            };
        }
        let seat = Occupancy { span: Span { from: at, to: FOREVER }, gpu: gpu.to_owned() };
        self.timeline.occupancy.entry(slot).or_default().push(seat);
        Ok(())
    }

    fn provision(&mut self, at: Second) -> Result<(), String> {
        match open(&mut self.timeline.provisioned) {
            Some(since) => Err(format!("the server is provisioned since {}", show_second(since.from))),
            None => {
                self.timeline.provisioned.push(Span { from: at, to: FOREVER });
                Ok(())
            }
        }
    }

    /// The server goes, and its GPUs with it. A server whose provisioning is not on record was there from the beginning.
    fn decommission(&mut self, at: Second) -> Result<(), String> {
        let holder = self.active.iter().filter_map(|&n| self.timeline.leases.get(n));
        if let Some(holder) = holder.clone().find(|lease| !self.ends.contains(&(at, lease.lease.as_str()))) {
            return Err(format!("lease {} is active on the server", holder.lease));
        }
        if self.timeline.provisioned.is_empty() {
            self.timeline.provisioned.push(Span { from: 0, to: FOREVER });
        }
        open(&mut self.timeline.provisioned).ok_or("the server is not provisioned")?.to = at;
        for seat in self.timeline.occupancy.values_mut().filter_map(|seats| seats.last_mut()) {
            seat.span.to = seat.span.to.min(at);
        }
        Ok(())
    }

    fn replace(&mut self, at: Second, slot: u32, old: &str, new: &str) -> Result<(), String> {
        match self.seated(slot) {
            Some(sitting) if sitting.gpu == old => {
                sitting.span.to = at;
                let seat = Occupancy { span: Span { from: at, to: FOREVER }, gpu: new.to_owned() };
                self.timeline.occupancy.entry(slot).or_default().push(seat);
                Ok(())
            }
            Some(sitting) => Err(format!("slot {slot} holds {}, not {old}", sitting.gpu)),
            None => Err(format!("slot {slot} holds no GPU that could be replaced")),
        }
    }

    fn recover(&mut self, at: Second, gpu: &str) -> Result<(), String> {
        let seats = self.timeline.occupancy.values().filter_map(|seats| seats.last());
        if !seats.clone().any(|seat| seat.span.to == FOREVER && seat.gpu == gpu) {
            return Err(format!("{gpu} does not sit in the server"));
        }
        self.timeline.recovered.entry(gpu.to_owned()).or_default().push(at);
        Ok(())
    }

    fn reserve(&mut self, wanted: Reservation) -> Result<(), String> {
        let Reservation { lease, slots, span, .. } = &wanted;
        if self.leases.contains_key(lease.as_str()) {
            return Err(format!("lease {lease} has begun"));
        }
        if self.reservation(lease).is_some() {
            return Err(format!("lease {lease} was reserved before"));
        }
        let card = self.timeline.slices_per_card();
        let size = |reservation: &Reservation| reservation.slices.unwrap_or(card);
        if size(&wanted) > card {
            return Err(format!("a card has {card} slices"));
        }
        for &slot in slots {
            self.check_slot(slot)?;
            let rivals = self.timeline.reservations.iter().filter(|other| other.slots.contains(&slot));
            let rivals: Vec<&Reservation> = rivals.filter(|other| other.span.intersect(*span).is_some()).collect();
            // The most is promised where one of them begins.
            let begins = rivals.iter().map(|rival| rival.span.from).filter(|from| span.holds(*from));
            for at in begins.chain([span.from]) {
                let promised = rivals.iter().filter(|rival| rival.span.holds(at));
                let sum: u32 = promised.clone().map(|rival| size(rival)).sum();
                if let Some(rival) = promised.clone().next()
                    && sum + size(&wanted) > card
                {
                    return Err(format!("slot {slot} is reserved for {} at {}", rival.lease, show_second(at)));
                }
            }
        }
        self.timeline.reservations.push(wanted);
        Ok(())
    }

    fn reservation(&mut self, lease: &str) -> Option<&mut Reservation> {
        self.timeline.reservations.iter_mut().find(|reservation| reservation.lease == lease)
    }

    fn start(
        &mut self,
        key: &EventKey,
        lease: &'a str,
        contract: &str,
        slots: &[u32],
        slices: Option<u32>,
    ) -> Result<(), String> {
        if self.leases.contains_key(lease) {
            return Err(format!("lease {lease} was started before"));
        }
        if self.timeline.provisioned.last().is_some_and(|last| last.to != FOREVER) {
            return Err("the server is decommissioned".into());
        }
        if let Some(reserved) = self.reservation(lease)
            && reserved.contract != contract
        {
            return Err(format!("lease {lease} was reserved under contract {}", reserved.contract));
        }
        self.check_slices(slices)?;
        for &slot in slots {
            self.check_slot(slot)?;
            self.check_room(key, slot, slices, None)?;
        }
        let span = Span { from: key.time, to: FOREVER };
        let number = self.timeline.leases.len();
        self.leases.insert(lease, number);
        self.active.insert(number);
        self.timeline.leases.push(Lease {
            lease: lease.to_owned(),
            contract: contract.to_owned(),
            slots: slots.to_vec(),
            span,
            suspended: Vec::new(),
            slices: slices.map(|slices| Slicing { span, slices }).into_iter().collect(),
        });
        Ok(())
    }

    fn check_slices(&self, slices: Option<u32>) -> Result<(), String> {
        let card = self.timeline.slices_per_card();
        if slices.is_some_and(|slices| slices > card) { Err(format!("a card has {card} slices")) } else { Ok(()) }
    }

    /// Whether a slot has room for `slices` (`None`: for the whole card) beside the leases on it other than `except`.
    fn check_room(&self, key: &EventKey, slot: u32, slices: Option<u32>, except: Option<usize>) -> Result<(), String> {
        let card = self.timeline.slices_per_card();
        let others = self.active.iter().filter(|n| Some(**n) != except).filter_map(|&n| self.timeline.leases.get(n));
        let mut taken = 0;
        for other in others.filter(|other| other.slots.contains(&slot)) {
            let held = self.held(key, other);
            taken += held;
            if held > 0 && taken + slices.unwrap_or(card) > card {
                return Err(format!("slot {slot} is leased already, by {}: {taken} of {card} slices", other.lease));
            }
        }
        Ok(())
    }

    /// The slices that an active lease holds of a card when all of this second has happened: less, if what gives them up is still to
    /// come in it. (That cannot be refused: the lease is active, and who shrinks needs no room.)
    fn held(&self, key: &EventKey, lease: &Lease) -> u32 {
        let this_second = (key.time, lease.lease.as_str());
        if self.ends.contains(&this_second) {
            return 0;
        }
        let now = lease.slices.last().map_or(self.timeline.slices_per_card(), |slicing| slicing.slices);
        let to_come = self.repartitions.get(&this_second).into_iter().flatten();
        to_come.filter(|(other, _)| *other > key).map(|(_, slices)| *slices).fold(now, u32::min)
    }

    fn active(&mut self, lease: &str) -> Result<(usize, &mut Lease), String> {
        let number = self.leases.get(lease).copied().filter(|number| self.active.contains(number));
        let found = number.and_then(|number| Some((number, self.timeline.leases.get_mut(number)?)));
        found.ok_or_else(|| format!("lease {lease} is not active at this time"))
    }

    fn suspend(&mut self, at: Second, lease: &str) -> Result<(), String> {
        let (_, active) = self.active(lease)?;
        if open(&mut active.suspended).is_some() {
            return Err(format!("lease {lease} is suspended already"));
        }
        active.suspended.push(Span { from: at, to: FOREVER });
        Ok(())
    }

    fn resume(&mut self, at: Second, lease: &str) -> Result<(), String> {
        let (_, active) = self.active(lease)?;
        open(&mut active.suspended).ok_or_else(|| format!("lease {lease} is not suspended"))?.to = at;
        Ok(())
    }

    fn end(&mut self, at: Second, lease: &str) -> Result<(), String> {
        if !self.leases.contains_key(lease)
            && let Some(reserved) = self.reservation(lease)
        {
            if reserved.span.to <= at || reserved.span.seconds() == 0 {
                return Err(format!("the reservation of lease {lease} is over"));
            }
            reserved.span.to = at.max(reserved.span.from);
            return Ok(());
        }
        let (number, active) = self.active(lease)?;
        active.span.to = at;
        if let Some(open) = active.suspended.last_mut() {
            open.to = open.to.min(at);
        }
        if let Some(last) = active.slices.last_mut() {
            last.span.to = at;
        }
        self.active.remove(&number);
        Ok(())
    }

    fn repartition(&mut self, key: &EventKey, lease: &str, slices: u32) -> Result<(), String> {
        self.check_slices(Some(slices))?;
        let card = self.timeline.slices_per_card();
        let (number, active) = self.active(lease)?;
        let (slots, held) = (active.slots.clone(), active.slices.last().map_or(card, |last| last.slices));
        if slices > held {
            slots.iter().try_for_each(|slot| self.check_room(key, *slot, Some(slices), Some(number)))?;
        }
        let (_, active) = self.active(lease)?;
        if let Some(last) = active.slices.last_mut() {
            last.span.to = key.time;
        }
        active.slices.retain(|slicing| slicing.span.from < slicing.span.to);
        active.slices.push(Slicing { span: Span { from: key.time, to: FOREVER }, slices });
        Ok(())
    }

    /// Maintenance that has not ended; a new one where the name is not known.
    fn work(&mut self, maintenance: &'a str) -> Result<&mut Maintenance, String> {
        if self.over.contains(maintenance) {
            return Err(format!("maintenance {maintenance} is over"));
        }
        let all = &mut self.timeline.maintenance;
        let number = *self.maintenance.entry(maintenance).or_insert(all.len());
        if number == all.len() {
            all.push(Maintenance { maintenance: maintenance.to_owned(), announced: None, actual: None });
        }
        all.get_mut(number).ok_or_else(|| NEVER_BEGAN.to_owned())
    }

    fn announce(&mut self, at: Second, maintenance: &'a str, work: Work) -> Result<(), String> {
        if work.span.from <= at {
            return Err(format!(
                "maintenance has to be announced before it begins, at {}",
                show_second(work.span.from)
            ));
        }
        let known = self.work(maintenance)?;
        let begun = known.actual.as_ref().or(known.announced.as_ref()).map(|work| work.span.from);
        if let Some(begun) = begun.filter(|begun| *begun <= at) {
            return Err(format!("maintenance {maintenance} has begun at {}", show_second(begun)));
        }
        known.announced = Some(work);
        Ok(())
    }

    fn start_work(&mut self, at: Second, maintenance: &'a str, slots: &Option<Vec<u32>>) -> Result<(), String> {
        let known = self.work(maintenance)?;
        if known.actual.is_some() {
            return Err(format!("maintenance {maintenance} was started before"));
        }
        let announced = known.announced.as_ref().and_then(|work| work.slots.clone());
        let span = Span { from: at, to: FOREVER };
        known.actual = Some(Work { span, slots: slots.clone().or(announced) });
        Ok(())
    }

    fn end_work(&mut self, at: Second, maintenance: &'a str) -> Result<(), String> {
        if !self.maintenance.contains_key(maintenance) {
            return Err(NEVER_BEGAN.into());
        }
        let known = self.work(maintenance)?;
        match (&mut known.actual, &mut known.announced) {
            (Some(actual), _) => actual.span.to = at,
            // Called off: what is left of it, if it had begun by what was announced, stands.
            (None, Some(announced)) => announced.span.to = at.clamp(announced.span.from, announced.span.to),
            (None, None) => return Err(format!("maintenance {maintenance} has not begun")),
        }
        self.over.insert(maintenance);
        Ok(())
    }

    fn outage(&mut self, outage: &str) -> Result<&mut Outage, String> {
        let number = self.outages.get(outage).copied();
        let known = number.and_then(|number| self.timeline.outages.get_mut(number));
        known.ok_or_else(|| format!("outage {outage} is not open"))
    }
}

/// The last span while it is open.
fn open(spans: &mut [Span]) -> Option<&mut Span> {
    spans.last_mut().filter(|span| span.to == FOREVER)
}
