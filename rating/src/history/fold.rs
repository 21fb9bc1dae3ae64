//! One pass over the events of a server or a contract, in their own order: timelines and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::lifecycle::{EventKey, Kind};
use hydrometer_schemas::time::{FOREVER, Second};

use super::{Lease, Occupancy, Outage, ServerTimeline, Span, Verdict, Version};
use crate::money::{Price, Share};

pub(super) const NEVER_BEGAN: &str = "names a lease or an outage of which no beginning is known";

/// The event that began a lease or an outage, and its server: the first in order. Later beginnings under the same name are refused.
pub(super) fn owner(events: &BTreeMap<EventKey, Kind>) -> Option<(&EventKey, &str)> {
    events.iter().find_map(|(key, kind)| match kind {
        Kind::LeaseStarted { server, .. } | Kind::OutageOpened { server, .. } => Some((key, server.as_str())),
        _ => None,
    })
}

/// Whether an event only makes sense after the beginning of its lease or outage.
pub(super) fn follows(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::LeaseSuspended { .. } | Kind::LeaseResumed { .. } | Kind::LeaseEnded { .. } | Kind::OutageClosed { .. }
    )
}

/// Folds a server. `foreign` names the beginnings whose lease or outage belongs to another server.
pub(super) fn server(
    server: &str,
    events: &BTreeMap<EventKey, Kind>,
    foreign: &BTreeMap<EventKey, String>,
) -> (ServerTimeline, BTreeMap<EventKey, Verdict>) {
    let mut fold = ServerFold {
        timeline: ServerTimeline { server: server.to_owned(), ..ServerTimeline::default() },
        ends: events
            .iter()
            .filter_map(|(key, kind)| match kind {
                Kind::LeaseEnded { lease } => Some((key.time, lease.as_str())),
                _ => None,
            })
            .collect(),
    };
    let mut verdicts = BTreeMap::new();
    for (key, kind) in events {
        let verdict = match foreign.get(key) {
            Some(owner) => Some(format!("this name is already in use on server {owner}")),
            None => fold.apply(key.time, kind).err(),
        };
        verdicts.insert(key.clone(), verdict);
    }
    (fold.timeline, verdicts)
}

struct ServerFold<'a> {
    timeline: ServerTimeline,
    /// When leases are said to end: a slot may be leased again in the very second in which its lease ends.
    ends: BTreeSet<(Second, &'a str)>,
}

impl ServerFold<'_> {
    fn apply(&mut self, at: Second, kind: &Kind) -> Result<(), String> {
        match kind {
            Kind::ServerRegistered { supplier, slots, .. } => self.register(supplier, *slots),
            Kind::GpuRegistered { slot, gpu, .. } => self.seat(at, *slot, gpu),
            Kind::GpuReplaced { slot, old, new, .. } => self.replace(at, *slot, old, new),
            Kind::LeaseStarted { lease, contract, slots, .. } => self.start(at, lease, contract, slots),
            Kind::LeaseSuspended { lease } => self.suspend(at, lease),
            Kind::LeaseResumed { lease } => self.resume(at, lease),
            Kind::LeaseEnded { lease } => self.end(at, lease),
            Kind::OutageOpened { outage, slots, fault, .. } => {
                if self.timeline.outages.iter().any(|o| o.outage == *outage) {
                    return Err(format!("outage {outage} was opened before"));
                }
                let span = Span { from: at, to: FOREVER };
                self.timeline.outages.push(Outage {
                    outage: outage.clone(),
                    span,
                    slots: slots.clone(),
                    fault: *fault,
                });
                Ok(())
            }
            Kind::OutageClosed { outage, fault } => {
                let open = self.timeline.outages.iter_mut().find(|o| o.outage == *outage && o.span.to == FOREVER);
                let open = open.ok_or_else(|| format!("outage {outage} is not open"))?;
                open.span.to = at;
                open.fault = fault.or(open.fault);
                Ok(())
            }
            Kind::ContractApplied { .. } | Kind::PriceChanged { .. } => Ok(()),
        }
    }

    fn register(&mut self, supplier: &str, slots: u32) -> Result<(), String> {
        match (&self.timeline.supplier, self.timeline.slots) {
            (Some(known), Some(count)) if known != supplier || count != slots => {
                Err(format!("the server is already registered to supplier {known} with {count} slots"))
            }
            _ => {
                self.timeline.supplier = Some(supplier.to_owned());
                self.timeline.slots = Some(slots);
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

    fn start(&mut self, at: Second, lease: &str, contract: &str, slots: &[u32]) -> Result<(), String> {
        if self.timeline.leases.iter().any(|l| l.lease == lease) {
            return Err(format!("lease {lease} was started before"));
        }
        for &slot in slots {
            self.check_slot(slot)?;
            let holder = self.timeline.leases.iter().find(|l| l.span.to == FOREVER && l.slots.contains(&slot));
            if let Some(holder) = holder
                && !self.ends.contains(&(at, holder.lease.as_str()))
            {
                return Err(format!("slot {slot} is leased already, by {}", holder.lease));
            }
        }
        self.timeline.leases.push(Lease {
            lease: lease.to_owned(),
            contract: contract.to_owned(),
            slots: slots.to_vec(),
            span: Span { from: at, to: FOREVER },
            suspended: Vec::new(),
        });
        Ok(())
    }

    fn active(&mut self, lease: &str) -> Result<&mut Lease, String> {
        let found = self.timeline.leases.iter_mut().find(|l| l.lease == lease && l.span.to == FOREVER);
        found.ok_or_else(|| format!("lease {lease} is not active at this time"))
    }

    fn suspend(&mut self, at: Second, lease: &str) -> Result<(), String> {
        let active = self.active(lease)?;
        if active.suspended.last().is_some_and(|s| s.to == FOREVER) {
            return Err(format!("lease {lease} is suspended already"));
        }
        active.suspended.push(Span { from: at, to: FOREVER });
        Ok(())
    }

    fn resume(&mut self, at: Second, lease: &str) -> Result<(), String> {
        let active = self.active(lease)?;
        match active.suspended.last_mut() {
            Some(open) if open.to == FOREVER => {
                open.to = at;
                Ok(())
            }
            _ => Err(format!("lease {lease} is not suspended")),
        }
    }

    fn end(&mut self, at: Second, lease: &str) -> Result<(), String> {
        let active = self.active(lease)?;
        active.span.to = at;
        if let Some(open) = active.suspended.last_mut() {
            open.to = open.to.min(at);
        }
        Ok(())
    }
}

/// Folds a contract into gapless versions.
pub(super) fn contract(events: &BTreeMap<EventKey, Kind>) -> (Vec<Version>, BTreeMap<EventKey, Verdict>) {
    let mut versions: Vec<Version> = Vec::new();
    let mut verdicts = BTreeMap::new();
    for (key, kind) in events {
        let next = next_version(versions.last(), key.time, kind);
        let verdict = match next {
            Ok(version) => {
                if let Some(previous) = versions.last_mut() {
                    previous.span.to = key.time;
                }
                versions.push(version);
                None
            }
            Err(reason) => Some(reason),
        };
        verdicts.insert(key.clone(), verdict);
    }
    // Of versions that begin in one second only the last has any time.
    versions.retain(|v| v.span.from < v.span.to);
    (versions, verdicts)
}

fn next_version(previous: Option<&Version>, at: Second, kind: &Kind) -> Result<Version, String> {
    let span = Span { from: at, to: FOREVER };
    match kind {
        Kind::ContractApplied {
            renter, currency, price_per_gpu_hour, supplier_share_percent, rating_window, ..
        } => {
            if let Some(known) = previous
                && (known.renter != *renter || known.currency != *currency)
            {
                return Err(format!("the contract is with renter {} in {}", known.renter, known.currency));
            }
            Ok(Version {
                span,
                renter: renter.clone(),
                currency: currency.clone(),
                price: Price::parse(price_per_gpu_hour).map_err(|e| format!("price_per_gpu_hour: {e}"))?,
                share: Share::parse_percent(supplier_share_percent)
                    .map_err(|e| format!("supplier_share_percent: {e}"))?,
                rating_window: *rating_window,
            })
        }
        Kind::PriceChanged { contract, price_per_gpu_hour } => {
            let known = previous.ok_or_else(|| format!("contract {contract} has no version before this time"))?;
            let price = Price::parse(price_per_gpu_hour).map_err(|e| format!("price_per_gpu_hour: {e}"))?;
            Ok(Version { span, price, ..known.clone() })
        }
        _ => Err("not an event of a contract".into()),
    }
}
