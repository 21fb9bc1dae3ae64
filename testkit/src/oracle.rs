//! What is true of a fleet, by brute force: a byte per GPU and second, every lease walked second by second, plain wide
//! integers. It shares no code with what it judges, and it judges by what was emitted, not by what arrived.

mod contracts;
mod history;
#[cfg(test)]
mod tests;
mod wallets;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Datelike};
use serde::{Deserialize, Serialize};

use crate::fleet::{Event, Party};
pub use contracts::{CLASSES, ContractUse, Stretch};
pub use history::Refusal;
use history::{Contract, CountsFrom, History, Lease};
pub use wallets::{CutOff, Dry, SourceAmount, WalletTruth};
use wallets::{Uses, Wallets, holds};
pub(crate) use wallets::{burn_ahead, dry_ahead};

/// What must come out at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The seconds of each lease, slot, GPU and hour.
    pub seconds: Vec<LeaseSeconds>,
    /// The money of each contract and calendar month (UTC) in which it had leased seconds.
    pub charges: Vec<Charge>,
    /// The terms of contracts of any kind, and what was used under them; `charges` is empty then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contracts: BTreeMap<String, ContractUse>,
    /// The wallets of renters who pay in advance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wallets: Vec<WalletTruth>,
    /// Seconds in which a GPU spoke and was not in a leased slot. (A suspended lease is still a lease.)
    pub leakage_seconds: u64,
    /// Seconds in which a GPU spoke while its lease was suspended.
    pub suspended_presence_seconds: u64,
    /// Readings that exporters made, once each, sound or not.
    pub readings_emitted: u64,
    /// Those among them that are sound and believed.
    pub readings_counted: u64,
    /// Minutes of a GPU on a server in which it spoke.
    pub metered_minutes: u64,
    /// Events that contradict the others.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSeconds {
    pub lease: String,
    pub contract: String,
    pub server: String,
    pub slot: u32,
    /// None: nothing sat in the slot.
    pub gpu: Option<String>,
    pub hour_us: i64,
    pub used: u64,
    pub idle: u64,
    pub unknown: u64,
    pub down: u64,
    pub suspended: u64,
    /// Announced ahead.
    #[serde(default)]
    pub maintenance: u64,
    pub billed: u64,
    pub paid: u64,
}

impl LeaseSeconds {
    pub fn leased(&self) -> u64 {
        self.used + self.idle + self.unknown + self.down + self.suspended + self.maintenance
    }
}

/// Amounts in units of 10⁻⁹ of the currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    pub contract: String,
    pub period_us: i64,
    pub renter: String,
    pub currency: String,
    /// Whether it is the renter's wallet that pays.
    #[serde(default)]
    pub is_prepaid: bool,
    #[serde(with = "as_text")]
    pub renter_amount_e9: i128,
    pub suppliers: Vec<SupplierAmount>,
    /// What the platform keeps; below 0 where it is at fault.
    #[serde(with = "as_text")]
    pub commission_e9: i128,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupplierAmount {
    pub supplier: String,
    #[serde(with = "as_text")]
    pub amount_e9: i128,
}

#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    #[error("{0:?} is not a decimal number of at most {1} places")]
    Decimal(String, usize),
    #[error("a reading at second {0} lies outside the oracle's seconds")]
    Outside(i64),
    #[error("second {0} is not a date")]
    Date(i64),
    #[error(
        "{contract} is prepaid at {price_e12} x 10⁻¹² an hour, which is not a whole number of 10⁻⁹ a second; \
         take a multiple of 0.0000036"
    )]
    Fraction { contract: String, price_e12: i128 },
}

/// A GPU on a server, whose seconds are being noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track(usize);

const PRESENT: u8 = 1;
const BUSY: u8 = 2;
const LEASED: u8 = 4;

#[derive(Debug)]
pub struct Oracle {
    from: i64,
    length: usize,
    tracks: Vec<Vec<u8>>,
    names: HashMap<String, HashMap<String, usize>>,
    events: Vec<Event>,
    counts_from: CountsFrom,
    outside: Option<i64>,
    /// Whether contracts may be of any kind.
    is_of_contracts: bool,
    truth: Truth,
}

impl Oracle {
    /// An oracle for readings of the seconds `[from, to)` since 1970.
    pub fn new(from: i64, to: i64) -> Self {
        Oracle {
            from,
            length: (to - from).max(0) as usize,
            tracks: Vec::new(),
            names: HashMap::new(),
            events: Vec::new(),
            counts_from: CountsFrom::new(),
            outside: None,
            is_of_contracts: false,
            truth: Truth::default(),
        }
    }

    /// The same for contracts of any kind: it notes what was used second by second instead of adding prices up.
    #[must_use]
    pub fn of_contracts(mut self) -> Self {
        self.is_of_contracts = true;
        self
    }

    pub fn track(&mut self, server: &str, gpu: &str) -> Track {
        let gpus = self.names.entry(server.to_owned()).or_default();
        let track = *gpus.entry(gpu.to_owned()).or_insert(self.tracks.len());
        if track == self.tracks.len() {
            self.tracks.push(vec![0; self.length]);
        }
        Track(track)
    }

    /// Notes one sound reading that vouches for `seconds` from its own second on.
    pub fn mark(&mut self, track: Track, second: i64, seconds: i64, is_busy: bool) {
        self.truth.readings_emitted += 1;
        self.truth.readings_counted += 1;
        let bits = if is_busy { PRESENT | BUSY } else { PRESENT };
        for at in second..second + seconds {
            match self.tracks[track.0].get_mut((at - self.from) as usize) {
                Some(noted) => *noted |= bits,
                None => self.outside = Some(at),
            }
        }
    }

    /// Notes one sound reading that vouches for one second.
    pub fn reading(&mut self, server: &str, gpu: &str, second: i64, is_busy: bool) {
        let track = self.track(server, gpu);
        self.mark(track, second, 1, is_busy);
    }

    /// Notes a reading that was emitted and cannot count.
    pub fn lost(&mut self) {
        self.truth.readings_emitted += 1;
    }

    /// Notes an event, in any order.
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Notes that a grant counts from a later second than its own.
    pub fn counts_from(&mut self, source: &str, id: &str, second: i64) {
        self.counts_from.insert((source.to_owned(), id.to_owned()), second);
    }

    pub fn truth(mut self) -> Result<Truth, OracleError> {
        if let Some(second) = self.outside {
            return Err(OracleError::Outside(second));
        }
        let mut history = History::of(std::mem::take(&mut self.events), &self.counts_from)?;
        let end = self.from + self.length as i64;
        let wallets = Wallets::of(&history, end)?;
        let mut ledger = Ledger::default();
        if self.is_of_contracts {
            let terms = |(name, contract): (&String, &Contract)| (name.clone(), ContractUse::under(&contract.versions));
            self.truth.contracts = history.contracts.iter().map(terms).collect();
        }
        for lease in &history.leases {
            for &slot in &lease.slots {
                self.walk(&history, lease, slot, wallets.cut(&lease.contract), &mut ledger)?;
            }
        }
        self.truth.wallets = wallets.settle(&history, &ledger.uses, end);
        self.truth.seconds = ledger.seconds.into_values().collect();
        let sums = if self.is_of_contracts { BTreeMap::new() } else { ledger.sums };
        self.truth.charges =
            sums.into_iter().map(|((contract, period_us), sums)| sums.settle(&history, contract, period_us)).collect();
        for noted in &self.tracks {
            self.truth.leakage_seconds +=
                noted.iter().filter(|&&bits| bits & (PRESENT | LEASED) == PRESENT).count() as u64;
            let minutes: BTreeSet<i64> = noted
                .iter()
                .zip(self.from..)
                .filter(|(bits, _)| *bits & PRESENT != 0)
                .map(|(_, second)| second.div_euclid(60))
                .collect();
            self.truth.metered_minutes += minutes.len() as u64;
        }
        self.truth.refused = std::mem::take(&mut history.refused);
        Ok(self.truth)
    }

    /// Every second of a lease's slot, into its class and onto both bills.
    fn walk(
        &mut self,
        history: &History,
        lease: &Lease,
        slot: u32,
        cut: &[(i64, i64)],
        ledger: &mut Ledger,
    ) -> Result<(), OracleError> {
        let server = &history.servers[&lease.server];
        let contract = &history.contracts[&lease.contract];
        let to = lease.to.unwrap_or(self.from + self.length as i64);
        let mut run: Option<Run> = None;
        for second in lease.from..to {
            let gpu = server.seated(slot, second);
            let hour = second.div_euclid(3600);
            let current = match run.take() {
                Some(current) if current.gpu == gpu && current.hour == hour => run.insert(current),
                ended => {
                    if let Some(ended) = ended {
                        ledger.add(ended, lease, slot, &server.supplier)?;
                    }
                    let gpus = self.names.get(&lease.server);
                    let track = gpu.and_then(|gpu| gpus?.get(gpu).copied());
                    run.insert(Run::new(gpu, hour, track))
                }
            };
            let said = match current.track {
                Some(track) => self.said(track, second),
                None => 0,
            };
            let (is_announced, is_sudden) = server.worked_on(second);
            let is_lost = server.is_unreachable(second) && !self.has_spoken(&lease.server, server, second);
            let row = &mut current.row;
            let (is_billed, is_paid, class);
            if lease.is_suspended(second) || holds(cut, second) {
                row.suspended += 1;
                self.truth.suspended_presence_seconds += u64::from(said & PRESENT);
                (is_billed, is_paid, class) = (false, false, "suspended");
            } else if is_announced {
                row.maintenance += 1;
                (is_billed, is_paid, class) = (false, false, "maintenance");
            } else if is_sudden {
                row.down += 1;
                (is_billed, is_paid, class) = (false, false, "down");
            } else if let Some(fault) = server.outage(slot, second) {
                row.down += 1;
                is_billed = fault == Some(Party::Renter);
                is_paid = matches!(fault, Some(Party::Renter | Party::Platform));
                class = match fault {
                    Some(Party::Supplier) => "down_supplier",
                    Some(Party::Platform) => "down_platform",
                    Some(Party::Renter) => "down_renter",
                    None => "down",
                };
            } else if is_lost {
                row.down += 1;
                (is_billed, is_paid, class) = (false, false, "down");
            } else {
                let count;
                (class, count) = match said & (PRESENT | BUSY) {
                    0 => ("unknown", &mut row.unknown),
                    PRESENT => ("idle", &mut row.idle),
                    _ => ("used", &mut row.used),
                };
                *count += 1;
                (is_billed, is_paid) = (true, true);
            }
            if let Some(contract) = self.truth.contracts.get_mut(&lease.contract) {
                let read = match said & (PRESENT | BUSY) {
                    0 => "unknown",
                    PRESENT => "idle",
                    _ => "used",
                };
                contract.note(lease, slot, &server.supplier, second, (class, read));
            }
            let price = contract.price(second);
            if is_billed {
                if contract.prepaid.is_some() {
                    ledger.draw(contract, second);
                }
                row.billed += 1;
                current.billed_e12 += price;
            }
            if is_paid {
                row.paid += 1;
                current.paid_e12 += price;
            }
        }
        match run {
            Some(last) => ledger.add(last, lease, slot, &server.supplier),
            None => Ok(()),
        }
    }

    /// Whether any GPU that sits in a server spoke in a second.
    fn has_spoken(&self, name: &str, server: &history::Server, second: i64) -> bool {
        let Some(gpus) = self.names.get(name) else { return false };
        let mut tracks = server.all_seated(second).filter_map(|gpu| gpus.get(gpu));
        tracks
            .any(|&track| self.tracks[track].get((second - self.from) as usize).is_some_and(|bits| bits & PRESENT != 0))
    }

    /// What a GPU said in a second, which from now on counts as leased.
    fn said(&mut self, track: usize, second: i64) -> u8 {
        match self.tracks[track].get_mut((second - self.from) as usize) {
            Some(noted) => {
                *noted |= LEASED;
                *noted
            }
            None => 0,
        }
    }
}

/// Seconds of a lease's slot in which the GPU and the hour, and so the month, stay the same: what is looked up once.
struct Run<'a> {
    gpu: Option<&'a str>,
    hour: i64,
    track: Option<usize>,
    row: LeaseSeconds,
    /// Price (in 10⁻¹² per GPU-hour), summed over the seconds.
    billed_e12: i128,
    paid_e12: i128,
}

impl<'a> Run<'a> {
    fn new(gpu: Option<&'a str>, hour: i64, track: Option<usize>) -> Self {
        Run { gpu, hour, track, row: LeaseSeconds::default(), billed_e12: 0, paid_e12: 0 }
    }
}

#[derive(Default)]
struct Ledger {
    seconds: BTreeMap<(String, u32, Option<String>, i64), LeaseSeconds>,
    sums: BTreeMap<(String, i64), Sums>,
    uses: Uses,
}

/// Prices summed over the seconds of a contract and month.
#[derive(Default)]
struct Sums {
    renter_e12: i128,
    suppliers_e12: BTreeMap<String, i128>,
}

impl Ledger {
    /// Notes a second of a GPU that a wallet pays for.
    fn draw(&mut self, contract: &Contract, second: i64) {
        let minutes = self.uses.entry(contract.wallet()).or_default();
        *minutes.entry(second.div_euclid(60)).or_default() += contract.price_of_second_e9(second);
    }

    fn add(&mut self, run: Run, lease: &Lease, slot: u32, supplier: &str) -> Result<(), OracleError> {
        let period = (lease.contract.clone(), month_of(run.hour * 3600)?);
        let sums = self.sums.entry(period).or_default();
        sums.renter_e12 += run.billed_e12;
        let earned = sums.suppliers_e12.entry(supplier.to_owned());
        *earned.or_default() += run.paid_e12;

        let gpu = run.gpu.map(str::to_owned);
        let hour_us = run.hour * 3_600_000_000;
        let total =
            self.seconds.entry((lease.id.clone(), slot, gpu.clone(), hour_us)).or_insert_with(|| LeaseSeconds {
                lease: lease.id.clone(),
                contract: lease.contract.clone(),
                server: lease.server.clone(),
                slot,
                gpu,
                hour_us,
                ..LeaseSeconds::default()
            });
        total.used += run.row.used;
        total.idle += run.row.idle;
        total.unknown += run.row.unknown;
        total.down += run.row.down;
        total.suspended += run.row.suspended;
        total.maintenance += run.row.maintenance;
        total.billed += run.row.billed;
        total.paid += run.row.paid;
        Ok(())
    }
}

impl Sums {
    /// The one rounding of each side, to 10⁻⁹.
    fn settle(self, history: &History, contract: String, period_us: i64) -> Charge {
        const SECONDS_OF_HOUR: i128 = 3600;
        const E12_TO_E9: i128 = 1000;
        const PERCENT_E6: i128 = 100_000_000;
        let Contract { renter, currency, share_e6, prepaid, .. } = &history.contracts[&contract];
        let renter_amount_e9 = half_even(self.renter_e12, SECONDS_OF_HOUR * E12_TO_E9);
        let suppliers: Vec<SupplierAmount> = self
            .suppliers_e12
            .into_iter()
            .map(|(supplier, sum_e12)| SupplierAmount {
                supplier,
                amount_e9: half_even(sum_e12 * share_e6, SECONDS_OF_HOUR * E12_TO_E9 * PERCENT_E6),
            })
            .collect();
        let earned: i128 = suppliers.iter().map(|supplier| supplier.amount_e9).sum();
        Charge {
            renter: renter.clone(),
            currency: currency.clone(),
            is_prepaid: prepaid.is_some(),
            renter_amount_e9,
            suppliers,
            commission_e9: renter_amount_e9 - earned,
            contract,
            period_us,
        }
    }
}

/// Quotient of non-negative numbers, rounded to the nearest, and to the even one of two that are as near.
fn half_even(numerator: i128, denominator: i128) -> i128 {
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    let rounds_up = match (2 * rest).cmp(&denominator) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => whole % 2 == 1,
        std::cmp::Ordering::Greater => true,
    };
    whole + i128::from(rounds_up)
}

/// First microsecond of the calendar month (UTC) of a second.
fn month_of(second: i64) -> Result<i64, OracleError> {
    let first = DateTime::from_timestamp(second, 0)
        .and_then(|time| time.date_naive().with_day(1))
        .and_then(|day| day.and_hms_opt(0, 0, 0))
        .ok_or(OracleError::Date(second))?;
    Ok(first.and_utc().timestamp_micros())
}

/// JSON numbers lose what lies beyond 53 bits, so wide integers travel as text.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &i128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i128, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
