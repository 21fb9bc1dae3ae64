//! What the events say, applied one by one in their own order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OracleError;
use crate::fleet::{Event, EventKind, Grant, GrantKind, OnExpiry, Party, Prepaid};

/// An event that contradicts the others, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub source: String,
    pub id: String,
    pub reason: String,
}

#[derive(Default)]
pub(super) struct History {
    pub(super) servers: BTreeMap<String, Server>,
    pub(super) leases: Vec<Lease>,
    pub(super) contracts: BTreeMap<String, Contract>,
    /// In the order of their events.
    pub(super) grants: Vec<Given>,
    pub(super) refused: Vec<Refusal>,
}

pub(super) struct Server {
    pub(super) supplier: String,
    slots: u32,
    /// Which GPU sits in a slot from a second on, in order.
    seats: Vec<(u32, i64, String)>,
    outages: Vec<Outage>,
    works: Vec<Work>,
    unreachable: Vec<(i64, Option<i64>)>,
}

/// Maintenance of a server, as it was announced and as it was done.
struct Work {
    id: String,
    announced: Option<(i64, i64)>,
    done: Option<(i64, Option<i64>)>,
}

struct Outage {
    id: String,
    slots: Option<Vec<u32>>,
    from: i64,
    to: Option<i64>,
    fault: Option<Party>,
    /// Each fault that was named, and when.
    named: Vec<(i64, Party)>,
}

pub(super) struct Lease {
    pub(super) id: String,
    pub(super) contract: String,
    pub(super) server: String,
    pub(super) slots: Vec<u32>,
    pub(super) from: i64,
    pub(super) to: Option<i64>,
    suspensions: Vec<(i64, Option<i64>)>,
}

pub(super) struct Contract {
    pub(super) renter: String,
    pub(super) currency: String,
    pub(super) share_e6: i128,
    /// Its whole text from a second on, in order.
    pub(super) versions: Vec<Value>,
    /// Price per GPU-hour in 10⁻¹², from a second on, in order.
    prices_e12: Vec<(i64, i128)>,
    pub(super) prepaid: Option<Prepaid>,
    pub(super) credit_limit_e9: i128,
}

/// What a wallet was given.
#[derive(Clone)]
pub(super) struct Given {
    /// Renter and currency.
    pub(super) wallet: (String, String),
    pub(super) kind: GrantKind,
    pub(super) priority: i32,
    /// From the second in which it counts to the end of the minute in which it expires.
    pub(super) from: i64,
    pub(super) to: Option<i64>,
    pub(super) on_expiry: OnExpiry,
    pub(super) source: String,
    pub(super) amount_e9: i128,
    pub(super) left_e9: i128,
}

/// By source and id of an event: the second from which it counts, where that is not its own.
pub(super) type CountsFrom = BTreeMap<(String, String), i64>;

impl Server {
    pub(super) fn seated(&self, slot: u32, second: i64) -> Option<&str> {
        let mut seats = self.seats.iter().rev();
        seats.find(|(other, from, _)| *other == slot && *from <= second).map(|(_, _, gpu)| gpu.as_str())
    }

    /// The fault of the outage that covers a slot; the outer None: there is no outage.
    pub(super) fn outage(&self, slot: u32, second: i64) -> Option<Option<Party>> {
        let mut outages = self.outages.iter();
        outages
            .find(|outage| {
                let covers_slot = outage.slots.as_ref().is_none_or(|all| all.contains(&slot));
                covers_slot && within(outage.from, outage.to, second)
            })
            .map(|outage| outage.fault)
    }
}

impl Server {
    /// Whether it is worked on in a second: as that was done, else as it was announced; and whether it was announced.
    pub(super) fn worked_on(&self, second: i64) -> (bool, bool) {
        let (mut announced, mut sudden) = (false, false);
        for work in &self.works {
            let holds = match (work.done, work.announced) {
                (Some((from, to)), _) => within(from, to, second),
                (None, Some((from, to))) => within(from, Some(to), second),
                (None, None) => false,
            };
            announced |= holds && work.announced.is_some();
            sudden |= holds && work.announced.is_none();
        }
        (announced, sudden)
    }

    /// Whether a slot burns in a second by what was known in that second, were its GPU heard.
    pub(super) fn burns(&self, slot: u32, second: i64) -> bool {
        let is_worked_on = self.works.iter().any(|work| match (work.done, work.announced) {
            (Some((from, to)), _) if from <= second => within(from, to, second),
            (_, Some((from, to))) => within(from, Some(to), second),
            _ => false,
        });
        let mut outages = self.outages.iter().filter(|outage| {
            let covers_slot = outage.slots.as_ref().is_none_or(|all| all.contains(&slot));
            covers_slot && within(outage.from, outage.to, second)
        });
        !is_worked_on && outages.all(|outage| outage.fault_known(second) == Some(Party::Renter))
    }

    pub(super) fn is_unreachable(&self, second: i64) -> bool {
        self.unreachable.iter().any(|&(from, to)| within(from, to, second))
    }

    /// The GPUs that sit in it.
    pub(super) fn all_seated(&self, second: i64) -> impl Iterator<Item = &str> {
        (0..self.slots).filter_map(move |slot| self.seated(slot, second))
    }

    fn work(&mut self, id: &str) -> Option<&mut Work> {
        self.works.iter_mut().find(|work| work.id == id)
    }
}

impl Outage {
    /// What was named last, up to a second.
    fn fault_known(&self, second: i64) -> Option<Party> {
        let mut known = self.named.iter().rev();
        known.find(|(named, _)| *named <= second).map(|(_, fault)| *fault)
    }
}

impl Lease {
    pub(super) fn is_suspended(&self, second: i64) -> bool {
        self.suspensions.iter().any(|&(from, to)| within(from, to, second))
    }
}

impl Contract {
    pub(super) fn price(&self, second: i64) -> i128 {
        let mut versions = self.prices_e12.iter().rev();
        versions.find(|(from, _)| *from <= second).map_or(0, |(_, price)| *price)
    }

    /// Renter and currency.
    pub(super) fn wallet(&self) -> (String, String) {
        (self.renter.clone(), self.currency.clone())
    }

    /// Of a GPU; whole where [`Contract::check_prepaid`] has nothing to say.
    pub(super) fn price_of_second_e9(&self, second: i64) -> i128 {
        self.price(second) / PRICE_OF_SECOND
    }

    /// A second that costs a fraction of 10⁻⁹ would leave in doubt in which second the wallet runs dry.
    pub(super) fn check_prepaid(&self, name: &str) -> Result<(), OracleError> {
        match self.prices_e12.iter().find(|(_, price)| price % PRICE_OF_SECOND != 0) {
            Some((_, price)) => Err(OracleError::Fraction { contract: name.to_owned(), price_e12: *price }),
            None => Ok(()),
        }
    }
}

/// From 10⁻¹² an hour to 10⁻⁹ a second.
const PRICE_OF_SECOND: i128 = 3600 * 1000;

impl Given {
    fn of(grant: Grant, from: i64) -> Result<Self, OracleError> {
        let amount_e9 = decimal(&grant.amount, 9)?;
        let ends = |at: i64| at + (-at).rem_euclid(60);
        Ok(Given {
            wallet: (grant.renter, grant.currency),
            kind: grant.kind,
            priority: grant.priority,
            from,
            to: grant.expires.as_deref().and_then(instant).map(ends),
            on_expiry: grant.on_expiry,
            source: grant.source,
            amount_e9,
            left_e9: amount_e9,
        })
    }

    pub(super) fn is_usable(&self, second: i64) -> bool {
        within(self.from, self.to, second)
    }
}

fn within(from: i64, to: Option<i64>, second: i64) -> bool {
    from <= second && to.is_none_or(|to| second < to)
}

impl History {
    pub(super) fn of(mut events: Vec<Event>, counts_from: &CountsFrom) -> Result<Self, OracleError> {
        events.sort_by_key(|event| {
            let Event { source, id, .. } = event;
            (second_of(event), rank(event), source.clone(), id.clone())
        });
        let mut history = History::default();
        let mut known = BTreeSet::new();
        for event in events {
            let identity = (event.source.clone(), event.id.clone());
            let second = counts_from.get(&identity).copied().unwrap_or(second_of(&event));
            if !known.insert(identity) {
                continue;
            }
            if let Err(reason) = history.apply(second, event.kind)? {
                history.refused.push(Refusal { source: event.source, id: event.id, reason: reason.to_owned() });
            }
        }
        Ok(history)
    }

    fn apply(&mut self, second: i64, kind: EventKind) -> Result<Result<(), &'static str>, OracleError> {
        Ok(match kind {
            EventKind::ContractSigned { document } => {
                let text = |pointer: &str| document.pointer(pointer).and_then(|value| value.as_str()).unwrap_or("");
                // A contract of any kind has other charges: its amounts are worked out from its documents.
                let simple = |pointer: &str, places| match document.pointer(pointer).and_then(Value::as_str) {
                    Some(text) => decimal(text, places),
                    None => Ok(0),
                };
                let price = simple("/charges/gpu_hours/price", 12)?;
                let terms = Contract {
                    renter: text("/renter").to_owned(),
                    currency: text("/currency").to_owned(),
                    share_e6: simple("/suppliers/0/share_percent", 6)?,
                    versions: vec![document.clone()],
                    prices_e12: vec![(second, price)],
                    prepaid: document.get("prepaid").and_then(|it| serde_json::from_value(it.clone()).ok()),
                    credit_limit_e9: simple("/prepaid/credit_limit", 9)?,
                };
                match self.contracts.get(text("/contract")) {
                    Some(_) => Err("the contract is in force"),
                    None if instant(text("/effective")) != Some(second) => Err("it is effective at another time"),
                    None => {
                        self.contracts.insert(text("/contract").to_owned(), terms);
                        Ok(())
                    }
                }
            }
            EventKind::ContractAmended { document } => {
                let name = document["contract"].as_str().unwrap_or_default();
                match self.contracts.get_mut(name) {
                    Some(contract) => {
                        contract.versions.push(document);
                        Ok(())
                    }
                    None => Err("no such contract"),
                }
            }
            EventKind::PriceChanged { contract, charge, price } => {
                let price_e12 = decimal(&price, 12)?;
                match self.contracts.get_mut(&contract) {
                    Some(contract) => {
                        let mut version = contract.versions.last().cloned().unwrap_or_default();
                        version["effective"] = crate::fleet::rfc3339(second * 1_000_000).into();
                        version["charges"][charge]["price"] = price.into();
                        contract.versions.push(version);
                        contract.prices_e12.push((second, price_e12));
                        Ok(())
                    }
                    None => Err("no such contract"),
                }
            }
            EventKind::WalletGranted(grant) => {
                self.grants.push(Given::of(grant, second)?);
                Ok(())
            }
            EventKind::ServerUnreachable { server } => self.on_server(&server, |server| {
                match server.unreachable.last() {
                    Some((_, None)) => return Err("the server is unreachable"),
                    _ => server.unreachable.push((second, None)),
                }
                Ok(())
            }),
            EventKind::ServerReachable { server } => self.on_server(&server, |server| {
                match server.unreachable.last_mut() {
                    Some((_, to @ None)) => *to = Some(second),
                    _ => return Err("the server is reachable"),
                }
                Ok(())
            }),
            EventKind::MaintenanceAnnounced { maintenance, server, from, to } => {
                let (Some(from), Some(to)) = (instant(&from), instant(&to)) else { return Ok(Err("no instant")) };
                self.on_server(&server, |server| match server.work(&maintenance) {
                    _ if from <= second || to <= from => Err("it is not announced ahead"),
                    Some(_) => Err("it is announced"),
                    None => {
                        server.works.push(Work { id: maintenance, announced: Some((from, to)), done: None });
                        Ok(())
                    }
                })
            }
            EventKind::MaintenanceStarted { maintenance, server } => {
                self.on_server(&server, |server| match server.work(&maintenance) {
                    Some(Work { done: Some(_), .. }) => Err("it has been started"),
                    Some(work) => {
                        work.done = Some((second, None));
                        Ok(())
                    }
                    None => {
                        server.works.push(Work { id: maintenance, announced: None, done: Some((second, None)) });
                        Ok(())
                    }
                })
            }
            EventKind::MaintenanceEnded { maintenance } => {
                let mut works = self.servers.values_mut().flat_map(|server| &mut server.works);
                match works.find(|work| work.id == maintenance) {
                    Some(Work { done: Some((_, to @ None)), .. }) => {
                        *to = Some(second);
                        Ok(())
                    }
                    _ => Err("it is not under way"),
                }
            }
            EventKind::OutageFaulted { outage, fault } => {
                let mut all = self.servers.values_mut().flat_map(|it| &mut it.outages);
                match all.find(|other| other.id == outage) {
                    None => Err("no such outage"),
                    Some(outage) => {
                        outage.fault = Some(fault);
                        outage.named.push((second, fault));
                        Ok(())
                    }
                }
            }
            EventKind::OutageClosed { outage, fault } => self.close_outage(second, &outage, fault),
            EventKind::LeaseStarted { lease, contract, server, slots } => self.start_lease(Lease {
                id: lease,
                contract,
                server,
                slots,
                from: second,
                to: None,
                suspensions: Vec::new(),
            }),
            EventKind::LeaseSuspended { lease } => self.on_lease(&lease, |lease| {
                match lease.suspensions.last() {
                    Some((_, None)) => return Err("the lease is suspended"),
                    _ => lease.suspensions.push((second, None)),
                }
                Ok(())
            }),
            EventKind::LeaseResumed { lease } => self.on_lease(&lease, |lease| {
                match lease.suspensions.last_mut() {
                    Some((_, to @ None)) => *to = Some(second),
                    _ => return Err("the lease is not suspended"),
                }
                Ok(())
            }),
            EventKind::LeaseEnded { lease } => self.on_lease(&lease, |lease| {
                lease.to = Some(second);
                Ok(())
            }),
            EventKind::ServerRegistered { server, supplier, slots } => match self.servers.get(&server) {
                Some(_) => Err("the server is registered"),
                None => {
                    let registered = Server {
                        supplier,
                        slots,
                        seats: Vec::new(),
                        outages: Vec::new(),
                        works: Vec::new(),
                        unreachable: Vec::new(),
                    };
                    self.servers.insert(server, registered);
                    Ok(())
                }
            },
            EventKind::GpuRegistered { server, slot, gpu } => match self.servers.get_mut(&server) {
                None => Err("no such server"),
                Some(server) if slot >= server.slots => Err("no such slot"),
                Some(server) if server.seated(slot, second).is_some() => Err("the slot is taken"),
                Some(server) => {
                    server.seats.push((slot, second, gpu));
                    Ok(())
                }
            },
            EventKind::GpuReplaced { server, slot, old, new } => match self.servers.get_mut(&server) {
                None => Err("no such server"),
                Some(server) if server.seated(slot, second) != Some(&old) => Err("the old GPU does not sit there"),
                Some(server) => {
                    server.seats.push((slot, second, new));
                    Ok(())
                }
            },
            EventKind::OutageOpened { outage, server, slots, fault } => {
                let mut all = self.servers.values().flat_map(|server| &server.outages);
                if all.any(|other| other.id == outage) {
                    return Ok(Err("the outage has been opened"));
                }
                match self.servers.get_mut(&server) {
                    None => Err("no such server"),
                    Some(server) => {
                        let named = fault.iter().map(|fault| (second, *fault)).collect();
                        server.outages.push(Outage { id: outage, slots, from: second, to: None, fault, named });
                        Ok(())
                    }
                }
            }
        })
    }

    fn start_lease(&mut self, lease: Lease) -> Result<(), &'static str> {
        let Some(server) = self.servers.get(&lease.server) else {
            return Err("no such server");
        };
        if !self.contracts.contains_key(&lease.contract) {
            return Err("no such contract");
        }
        if self.leases.iter().any(|other| other.id == lease.id) {
            return Err("the lease has been started");
        }
        if lease.slots.is_empty() || lease.slots.iter().any(|&slot| slot >= server.slots) {
            return Err("no such slot");
        }
        let is_taken = self.leases.iter().any(|other| {
            other.to.is_none()
                && other.server == lease.server
                && other.slots.iter().any(|slot| lease.slots.contains(slot))
        });
        if is_taken {
            return Err("a slot is leased");
        }
        self.leases.push(lease);
        Ok(())
    }

    fn on_server(
        &mut self,
        server: &str,
        change: impl FnOnce(&mut Server) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        self.servers.get_mut(server).map_or(Err("no such server"), change)
    }

    fn on_lease(
        &mut self,
        lease: &str,
        change: impl FnOnce(&mut Lease) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        match self.leases.iter_mut().find(|other| other.id == lease) {
            None => Err("no such lease"),
            Some(lease) if lease.to.is_some() => Err("the lease has ended"),
            Some(lease) => change(lease),
        }
    }

    fn close_outage(&mut self, second: i64, outage: &str, fault: Option<Party>) -> Result<(), &'static str> {
        let mut all = self.servers.values_mut().flat_map(|it| &mut it.outages);
        match all.find(|other| other.id == outage) {
            None => Err("no such outage"),
            Some(outage) if outage.to.is_some() => Err("the outage has been closed"),
            Some(outage) => {
                outage.to = Some(second);
                outage.fault = fault.or(outage.fault);
                outage.named.extend(fault.map(|fault| (second, fault)));
                Ok(())
            }
        }
    }
}

fn second_of(event: &Event) -> i64 {
    event.time_us.div_euclid(1_000_000)
}

/// The order of events within a second.
fn rank(event: &Event) -> u8 {
    match event.kind {
        EventKind::ServerRegistered { .. } => 0,
        EventKind::GpuRegistered { .. } => 1,
        EventKind::GpuReplaced { .. } => 2,
        EventKind::ServerUnreachable { .. } => 3,
        EventKind::ServerReachable { .. } => 4,
        EventKind::LeaseStarted { .. } => 5,
        EventKind::LeaseSuspended { .. } => 6,
        EventKind::LeaseResumed { .. } => 7,
        EventKind::LeaseEnded { .. } => 8,
        EventKind::MaintenanceAnnounced { .. } => 9,
        EventKind::MaintenanceStarted { .. } => 10,
        EventKind::MaintenanceEnded { .. } => 11,
        EventKind::OutageOpened { .. } => 12,
        EventKind::OutageClosed { .. } => 13,
        EventKind::OutageFaulted { .. } => 14,
        EventKind::ContractSigned { .. } => 15,
        EventKind::ContractAmended { .. } => 16,
        EventKind::PriceChanged { .. } => 17,
        EventKind::WalletGranted(_) => 18,
    }
}

fn instant(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp())
}

/// `"2.50"` as an integer in units of 10 to the power of minus `places`.
fn decimal(text: &str, places: usize) -> Result<i128, OracleError> {
    let refuse = || OracleError::Decimal(text.to_owned(), places);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > places {
        return Err(refuse());
    }
    format!("{whole}{fraction:0<places$}").parse().map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_decimals_exactly() {
        assert_eq!(decimal("2.50", 12).unwrap(), 2_500_000_000_000);
        assert_eq!(decimal("66.666667", 6).unwrap(), 66_666_667);
        assert!(decimal("1.0000001", 6).is_err());
        assert!(decimal("-1", 6).is_err());
    }
}
