//! What usage would cost under a contract, without any stream: for `contract price`, and to check a contract before it is signed.
//!
//! A row is cut at the exact second where a version, a billing period, an hour of an hourly commitment or a time of the week begins:
//! an interval of seconds exactly, a quantity in proportion to time (what does not divide goes to the later part). From there on it
//! is the engine that rates the stream: steps and minimums, states, amounts, dues.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::contract::{Basis, MaintenanceRule, Scope};
use hydrometer_schemas::time::{Second, hour_floor, show_second};

use crate::classes::ClassSeconds;
use crate::due::{Closing, Due, LeaseFacts, dues, hour_dues};
use crate::history::span::cut;
use crate::history::{Span, Version};
use crate::keys::{Cell, CellKey, StateKey};
use crate::money::{Amount, MoneyError};
use crate::rate::{RateError, Rates, State, amounts};
use crate::stepped::{Pieces, stepped};
use crate::terms::{Charge, MICRO, Micro, Rate, RateId, TimePrice};
use crate::usage_csv::UsageMistake;

mod lines;

pub use lines::{Line, of as lines_of, unit_of};

/// Use of one GPU under a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Where it was written down.
    pub line: usize,
    pub span: Span,
    pub lease: String,
    pub gpu: String,
    /// `*`: one without terms of its own.
    pub supplier: String,
    pub server: String,
    pub used: Used,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Used {
    /// Millionths of the unit of the charge's price.
    Quantity { charge: String, micro_units: i128 },
    /// All of its seconds are in this class.
    Class(Class),
}

/// The class of leased seconds; what is down by whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Used,
    Idle,
    Unknown,
    Suspended,
    Maintenance,
    /// The fault is not known: as if it were the supplier's.
    Down,
    DownSupplier,
    DownPlatform,
    DownRenter,
}

impl Class {
    pub const ALL: [Class; 9] = [
        Class::Used,
        Class::Idle,
        Class::Unknown,
        Class::Suspended,
        Class::Maintenance,
        Class::Down,
        Class::DownSupplier,
        Class::DownPlatform,
        Class::DownRenter,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Class::Used => "used",
            Class::Idle => "idle",
            Class::Unknown => "unknown",
            Class::Suspended => "suspended",
            Class::Maintenance => "maintenance",
            Class::Down => "down",
            Class::DownSupplier => "down_supplier",
            Class::DownPlatform => "down_platform",
            Class::DownRenter => "down_renter",
        }
    }

    pub fn parse(text: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// What usage costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub contract: String,
    pub renter: String,
    pub currency: String,
    /// By period, charge, resource, version and time of the week. Their amounts add up to the subtotals.
    pub lines: Vec<Line>,
    pub subtotals: Vec<Subtotal>,
    /// What falls due as the periods and hours in the span close, each with its period. Those of hours are summed up per period.
    pub dues: Vec<(Span, Due)>,
    pub totals: Totals,
}

/// One charge in one billing period, metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtotal {
    pub period: Span,
    pub charge: String,
    pub renter: Amount,
    pub supplier: Amount,
}

impl Subtotal {
    /// What the platform keeps.
    pub fn platform(&self) -> Amount {
        Amount::from_scaled(self.renter.scaled().saturating_sub(self.supplier.scaled()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    pub renter: Amount,
    pub suppliers: BTreeMap<String, Amount>,
    pub supplier: Amount,
    /// What is left of the renter's amount.
    pub platform: Amount,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("the usage does not fit the contract ({} mistakes)", .0.len())]
    Usage(Vec<UsageMistake>),
    #[error(transparent)]
    Rate(#[from] RateError),
    #[error("there is no version of the contract to price with")]
    NoVersion,
    #[error("the usage is cut into too many pieces: expected at most {PIECES_MAX} stretches of one price")]
    TooManyPieces,
}

impl From<MoneyError> for QuoteError {
    fn from(error: MoneyError) -> QuoteError {
        QuoteError::Rate(error.into())
    }
}

const PIECES_MAX: usize = 10_000_000;
const MISTAKES_MAX: usize = 100;
/// A century of months.
const PERIODS_MAX: usize = 1_200;

/// Rates `usage` under the versions of one contract. `within`: only what lies in it counts, and only the periods and hours that end in it
/// are closed. Default: the billing periods that the usage touches, whole.
pub fn quote(versions: &[Version], usage: &[Usage], within: Option<Span>) -> Result<Quote, QuoteError> {
    let last = &versions.last().ok_or(QuoteError::NoVersion)?.terms;
    let within = within.unwrap_or_else(|| touched(versions, usage));
    let rates = KnownRates::of(versions);
    let mut meter = Meter::new(versions, within);
    let mut rows: Vec<&Usage> = usage.iter().collect();
    rows.sort_by_key(|row| (row.span.from, row.line));
    for row in rows {
        meter.take(row)?;
    }
    if !meter.mistakes.is_empty() {
        meter.mistakes.sort_by_key(|mistake| mistake.line);
        meter.mistakes.truncate(MISTAKES_MAX);
        return Err(QuoteError::Usage(meter.mistakes));
    }
    let (states, leases) = meter.states(&rates)?;

    let mut quote = Quote {
        contract: last.contract.clone(),
        renter: last.renter.clone(),
        currency: last.currency.clone(),
        lines: lines::of(versions, &states, &rates)?,
        subtotals: Vec::new(),
        dues: Vec::new(),
        totals: Totals::default(),
    };
    let mut subtotals: BTreeMap<(Span, String), (Amount, Amount)> = BTreeMap::new();
    for (key, state) in &states {
        let sums = subtotals.entry((period_of(versions, key.period), key.charge.clone())).or_default();
        for (cell, amount) in amounts(state, &rates)? {
            sums.0 = sums.0.checked_add(amount.renter)?;
            sums.1 = sums.1.checked_add(amount.supplier)?;
            quote.totals.earn(&cell.supplier, amount.supplier)?;
        }
    }
    for ((period, charge), (renter, supplier)) in subtotals {
        quote.totals.renter = quote.totals.renter.checked_add(renter)?;
        quote.subtotals.push(Subtotal { period, charge, renter, supplier });
    }
    for (period, due) in closings(versions, within, &states, &leases, &rates)? {
        if due.is_booked {
            quote.totals.renter = quote.totals.renter.checked_add(due.renter_amount)?;
            if let Some(supplier) = &due.supplier {
                quote.totals.earn(supplier, due.supplier_amount)?;
            }
        }
        quote.dues.push((period, due));
    }
    quote.totals.platform = quote.totals.renter.checked_sub(quote.totals.supplier)?;
    Ok(quote)
}

impl Totals {
    fn earn(&mut self, supplier: &str, amount: Amount) -> Result<(), MoneyError> {
        self.supplier = self.supplier.checked_add(amount)?;
        let sum = self.suppliers.entry(supplier.to_owned()).or_default();
        *sum = sum.checked_add(amount)?;
        Ok(())
    }
}

/// The rates of the versions that price.
struct KnownRates(BTreeMap<RateId, std::sync::Arc<Rate>>);

impl KnownRates {
    fn of(versions: &[Version]) -> KnownRates {
        let rates = versions.iter().flat_map(|version| version.terms.rates());
        KnownRates(rates.map(|rate| (rate.id, rate.clone())).collect())
    }
}

impl Rates for KnownRates {
    fn rate(&self, id: RateId) -> Option<&Rate> {
        self.0.get(&id).map(|rate| &**rate)
    }
}

/// The billing periods that the usage touches, whole; those of the versions where there is none.
pub fn touched(versions: &[Version], usage: &[Usage]) -> Span {
    let first = usage.iter().map(|row| row.span.from).min();
    let last = usage.iter().map(|row| row.span.to - 1).max();
    let begin = versions.first().map_or(0, |version| version.span.from);
    let (first, last) = (first.unwrap_or(begin), last.unwrap_or(begin));
    Span { from: period_of(versions, first).from, to: period_of(versions, last).to }
}

/// The billing period of a second, by the calendar of the version in force (the nearest one, where none is).
fn period_of(versions: &[Version], second: Second) -> Span {
    let version = versions.iter().rfind(|version| version.span.from <= second).or(versions.first());
    version.map_or(Span { from: second, to: second + 1 }, |version| version.terms.calendar.period_of(second))
}

/// Micro-pieces that downtime took off the bill, by billing period and cell.
type Lost = BTreeMap<(Second, CellKey), Micro>;

/// Usage by lease, GPU and charge.
struct Meter<'a> {
    versions: &'a [Version],
    within: Span,
    pieces: BTreeMap<(&'a str, &'a str, &'a str), Pieces>,
    lost: BTreeMap<(&'a str, &'a str, &'a str), Lost>,
    leases: BTreeMap<&'a str, LeaseUse<'a>>,
    /// Billed seconds of announced maintenance by lease, GPU and period.
    allowed: BTreeMap<(&'a str, &'a str, Second), i64>,
    count: usize,
    mistakes: Vec<UsageMistake>,
}

struct LeaseUse<'a> {
    span: Span,
    gpus: BTreeSet<&'a str>,
    server: &'a str,
    supplier: &'a str,
    /// By billing period.
    seconds: BTreeMap<Second, ClassSeconds>,
}

/// What a stretch of a row counts for one charge.
#[derive(Clone, Copy, Default)]
struct Counted {
    billed: Micro,
    paid: Micro,
    lost: Micro,
}

impl<'a> Meter<'a> {
    fn new(versions: &'a [Version], within: Span) -> Meter<'a> {
        Meter {
            versions,
            within,
            pieces: BTreeMap::new(),
            lost: BTreeMap::new(),
            leases: BTreeMap::new(),
            allowed: BTreeMap::new(),
            count: 0,
            mistakes: Vec::new(),
        }
    }

    fn take(&mut self, row: &'a Usage) -> Result<(), QuoteError> {
        let Some(span) = row.span.intersect(self.within) else { return Ok(()) };
        let lease = self.leases.entry(&row.lease).or_insert_with(|| LeaseUse {
            span: row.span,
            gpus: BTreeSet::new(),
            server: &row.server,
            supplier: &row.supplier,
            seconds: BTreeMap::new(),
        });
        lease.gpus.insert(&row.gpu);
        lease.span = Span { from: lease.span.from.min(row.span.from), to: lease.span.to.max(row.span.to) };
        if lease.supplier != row.supplier {
            self.say(
                row,
                "supplier",
                "the lease has another supplier in a row before".into(),
                "one supplier per lease",
            );
            return Ok(());
        }
        for (part, version) in cut(self.versions, span) {
            let Some(version) = version else {
                let what = format!("no version of the contract is in force at {}", show_second(part.from));
                self.say(row, "start", what, "usage while the contract is in force");
                continue;
            };
            self.under(row, part, version)?;
        }
        Ok(())
    }

    fn under(&mut self, row: &'a Usage, span: Span, version: &'a Version) -> Result<(), QuoteError> {
        let metered: Vec<&'a Charge> = match &row.used {
            Used::Class(_) => version.terms.charges.values().map(|c| &**c).filter(|c| c.is_metered()).collect(),
            Used::Quantity { charge, .. } => match version.terms.charges.get(charge) {
                Some(charge) if charge.is_metered() => vec![charge],
                Some(_) => {
                    self.say(row, "charge", format!("{charge:?} is not metered"), "a metered charge of the contract");
                    return Ok(());
                }
                None => {
                    let what = format!("the contract has no charge {charge:?} at {}", show_second(span.from));
                    let known: Vec<&str> = version.terms.charges.keys().map(String::as_str).collect();
                    self.say(row, "charge", what, &known.join(", "));
                    return Ok(());
                }
            },
        };
        let by_time: Vec<TimePrice> = metered.iter().flat_map(|charge| charge.by_time.iter().copied()).collect();
        let calendar = &version.terms.calendar;
        let mut edges = calendar.cuts(&by_time, span);
        if metered.iter().any(|charge| charge.is_hourly()) {
            let mut hour = hour_floor(span.from) + 3_600;
            while hour < span.to {
                edges.push(hour);
                hour += 3_600;
            }
            edges.sort_unstable();
            edges.dedup();
        }
        edges.push(span.to);
        self.count += edges.len();
        if self.count > PIECES_MAX {
            return Err(QuoteError::TooManyPieces);
        }
        let mut from = span.from;
        for to in edges {
            let part = Span { from, to };
            let period = calendar.period_of(from).from;
            let allowed = self.classify(row, part, period, version);
            for charge in &metered {
                let counted = counted(row, part, charge, allowed)?;
                self.add(row, part, period, version, charge, counted)?;
            }
            from = to;
        }
        Ok(())
    }

    /// Notes the seconds of a class, and says how many of them are billed maintenance.
    fn classify(&mut self, row: &'a Usage, part: Span, period: Second, version: &Version) -> i64 {
        let Used::Class(class) = row.used else { return 0 };
        let seconds = part.seconds();
        if let Some(lease) = self.leases.get_mut(row.lease.as_str()) {
            let sum = lease.seconds.entry(period).or_default();
            *sum = sum.plus(class_seconds(class, seconds));
        }
        if class != Class::Maintenance {
            return 0;
        }
        match version.terms.maintenance {
            MaintenanceRule::Billed => seconds,
            MaintenanceRule::Free => 0,
            MaintenanceRule::Allowance => {
                let taken = self.allowed.entry((&row.lease, &row.gpu, period)).or_default();
                let billed = (version.terms.maintenance_allowance - *taken).clamp(0, seconds);
                *taken += seconds;
                billed
            }
        }
    }

    fn add(
        &mut self,
        row: &'a Usage,
        part: Span,
        period: Second,
        version: &'a Version,
        charge: &'a Charge,
        counted: Counted,
    ) -> Result<(), QuoteError> {
        let Some(rate) = version.terms.rate(&charge.name, &row.supplier) else { return Ok(()) };
        let segment = version.terms.calendar.segment(&charge.by_time, part.from);
        let cell = CellKey { version_from: version.span.from, rate: rate.id, segment, supplier: row.supplier.clone() };
        let period = if charge.is_hourly() { hour_floor(part.from) } else { period };
        let of = (row.lease.as_str(), row.gpu.as_str(), charge.name.as_str());
        let sum = self.pieces.entry(of).or_default().entry((period, cell.clone())).or_default();
        *sum = Cell { billed: plus(sum.billed, counted.billed)?, paid: plus(sum.paid, counted.paid)? };
        if counted.lost != 0 {
            let sum = self.lost.entry(of).or_default().entry((period, cell)).or_default();
            *sum = plus(*sum, counted.lost)?;
        }
        Ok(())
    }

    fn say(&mut self, row: &Usage, column: &str, what: String, expected: &str) {
        if self.mistakes.len() < 2 * MISTAKES_MAX {
            let (column, expected) = (column.to_owned(), expected.to_owned());
            self.mistakes.push(UsageMistake { line: row.line, column, what, expected });
        }
    }

    /// Steps and minimums of each lease and GPU, then the states, and each lease's part of them.
    #[allow(clippy::type_complexity)]
    fn states(
        self,
        rates: &dyn Rates,
    ) -> Result<(BTreeMap<StateKey, State>, BTreeMap<Second, Vec<LeaseFacts>>), QuoteError> {
        let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
        let mut leases: BTreeMap<Second, BTreeMap<&str, LeaseFacts>> = BTreeMap::new();
        for (name, lease) in &self.leases {
            for (&period, &seconds) in &lease.seconds {
                leases.entry(period).or_default().entry(name).or_insert_with(|| lease.facts(name)).seconds = seconds;
            }
        }
        for (of @ (name, gpu, charge), raw) in &self.pieces {
            let Some(lease) = self.leases.get(name) else { continue };
            let slot = lease.gpus.iter().position(|other| other == gpu).unwrap_or(0);
            for ((period, cell), counted) in stepped(raw, rates)? {
                let Some(terms) = self.versions.iter().find(|v| v.span.from == cell.version_from).map(|v| &v.terms)
                else {
                    continue;
                };
                let Some(scope) = terms.charges.get(*charge).map(|charge| charge.scope) else { continue };
                let resource = match scope {
                    Scope::Contract => String::new(),
                    Scope::Lease => (*name).to_owned(),
                    Scope::Gpu => format!("{name}/{slot}"),
                    Scope::Server => lease.server.to_owned(),
                };
                let (contract, renter, currency) =
                    (terms.contract.clone(), terms.renter.clone(), terms.currency.clone());
                let key = StateKey { contract, renter, currency, charge: (*charge).to_owned(), period, resource };
                let billing = terms.calendar.period_of(period).from;
                let facts = leases.entry(billing).or_default().entry(name).or_insert_with(|| lease.facts(name));
                let own = facts.quantities.entry((key.clone(), cell.clone())).or_default();
                own.billed = plus(own.billed, counted.billed)?;
                if let Some(lost) = self.lost.get(of).and_then(|lost| lost.get(&(period, cell.clone()))) {
                    own.lost = plus(own.lost, *lost)?;
                }
                let sum = states.entry(key).or_default().entry(cell).or_default();
                *sum = Cell { billed: plus(sum.billed, counted.billed)?, paid: plus(sum.paid, counted.paid)? };
            }
        }
        let leases = leases.into_iter().map(|(period, facts)| (period, facts.into_values().collect())).collect();
        Ok((states, leases))
    }
}

impl LeaseUse<'_> {
    fn facts(&self, name: &str) -> LeaseFacts {
        LeaseFacts {
            lease: name.to_owned(),
            span: self.span,
            slots: (0..u32::try_from(self.gpus.len()).unwrap_or(u32::MAX)).collect(),
            server: self.server.to_owned(),
            supplier: self.supplier.to_owned(),
            ..LeaseFacts::default()
        }
    }
}

/// What `part` of a row counts for a charge; `maintenance`: how many of its seconds are billed maintenance.
fn counted(row: &Usage, part: Span, charge: &Charge, maintenance: i64) -> Result<Counted, MoneyError> {
    let class = match &row.used {
        Used::Class(class) => *class,
        Used::Quantity { micro_units, .. } => {
            let all = micro_units.checked_mul(charge.pieces_per_unit).ok_or(TOO_MUCH)?;
            // In proportion to time, cumulative, so that the parts add up; floored, so that the rest goes to the later part.
            let until = |second: Second| {
                let passed = i128::from(second - row.span.from);
                let (whole, rest) = (all / i128::from(row.span.seconds()), all % i128::from(row.span.seconds()));
                let whole = whole.checked_mul(passed).ok_or(TOO_MUCH)?;
                plus(whole, rest.checked_mul(passed).ok_or(TOO_MUCH)? / i128::from(row.span.seconds()))
            };
            let quantity = until(part.to)? - until(part.from)?;
            return Ok(Counted { billed: quantity, paid: quantity, lost: 0 });
        }
    };
    let seconds = part.seconds();
    let counts = |billed: i64, paid: i64, lost: i64| {
        let micros = |seconds: i64| Micro::from(seconds) * MICRO;
        Counted { billed: micros(billed), paid: micros(paid), lost: micros(lost) }
    };
    Ok(match (charge.basis, class) {
        (Basis::Allocated, Class::Used | Class::Idle | Class::Unknown | Class::DownRenter) => {
            counts(seconds, seconds, 0)
        }
        (Basis::Allocated, Class::Maintenance) => counts(maintenance, maintenance, 0),
        (Basis::Allocated, Class::DownPlatform) => counts(0, seconds, seconds),
        (Basis::Allocated, Class::Down | Class::DownSupplier) => counts(0, 0, seconds),
        (Basis::Observed, Class::Used | Class::Idle) | (Basis::Busy, Class::Used) => counts(seconds, seconds, 0),
        (Basis::Suspended, Class::Suspended) => counts(seconds, seconds, 0),
        // Energy, slices and memory do not follow from a class: they are given as quantities.
        _ => Counted::default(),
    })
}

fn class_seconds(class: Class, seconds: i64) -> ClassSeconds {
    let none = ClassSeconds::default();
    match class {
        Class::Used => ClassSeconds { used: seconds, ..none },
        Class::Idle => ClassSeconds { idle: seconds, ..none },
        Class::Unknown => ClassSeconds { unknown: seconds, ..none },
        Class::Suspended => ClassSeconds { suspended: seconds, ..none },
        Class::Maintenance => ClassSeconds { maintenance: seconds, ..none },
        Class::Down | Class::DownSupplier => ClassSeconds { down: seconds, ..none },
        Class::DownPlatform => ClassSeconds { down: seconds, down_platform: seconds, ..none },
        Class::DownRenter => ClassSeconds { down: seconds, down_renter: seconds, ..none },
    }
}

/// What falls due as the periods, and the hours of hourly commitments, that end in `within` close.
fn closings(
    versions: &[Version],
    within: Span,
    states: &BTreeMap<StateKey, State>,
    leases: &BTreeMap<Second, Vec<LeaseFacts>>,
    rates: &dyn Rates,
) -> Result<Vec<(Span, Due)>, QuoteError> {
    let mut all = Vec::new();
    let begin = versions.first().map_or(within.from, |version| version.span.from.max(within.from));
    let mut period = period_of(versions, begin);
    for _ in 0..PERIODS_MAX {
        if period.from >= within.to || !versions.iter().any(|version| version.span.to > period.from) {
            break;
        }
        let inside = |key: &StateKey| period.holds(key.period);
        let of_period: BTreeMap<StateKey, State> =
            states.iter().filter(|(key, _)| inside(key)).map(|(key, state)| (key.clone(), state.clone())).collect();
        all.extend(of_hours(versions, period, within, &of_period, rates)?.into_iter().map(|due| (period, due)));
        if within.from <= period.from && period.to <= within.to {
            let leases = leases.get(&period.from).map_or(&[][..], Vec::as_slice);
            let closing = Closing { versions, period, states: &of_period, rates, leases, terminated: None };
            all.extend(dues(&closing)?.into_iter().map(|due| (period, due)));
        }
        let next = period_of(versions, period.to);
        if next.from <= period.from {
            break;
        }
        period = next;
    }
    Ok(all)
}

/// The true-ups of a period's hours, summed up by charge, version and supplier.
fn of_hours(
    versions: &[Version],
    period: Span,
    within: Span,
    states: &BTreeMap<StateKey, State>,
    rates: &dyn Rates,
) -> Result<Vec<Due>, QuoteError> {
    let is_hourly = |version: &Version| {
        version.span.intersect(period).is_some() && version.terms.charges.values().any(|charge| charge.is_hourly())
    };
    if !versions.iter().any(is_hourly) {
        return Ok(Vec::new());
    }
    let mut by_hour: BTreeMap<Second, BTreeMap<StateKey, State>> = BTreeMap::new();
    for (key, state) in states {
        by_hour.entry(key.period).or_default().insert(key.clone(), state.clone());
    }
    let none = BTreeMap::new();
    type Of = (String, Option<Second>, Option<String>);
    let mut sums: BTreeMap<Of, (Due, usize)> = BTreeMap::new();
    let closed = period.intersect(within).unwrap_or(Span { from: period.to, to: period.to });
    let mut hour = hour_floor(closed.from + 3_599);
    while hour < closed.to {
        for due in hour_dues(versions, hour, by_hour.get(&hour).unwrap_or(&none), rates)? {
            let of = (due.charge.clone(), due.version_from, due.supplier.clone());
            match sums.get_mut(&of) {
                Some((sum, hours)) => {
                    sum.renter_amount = sum.renter_amount.checked_add(due.renter_amount)?;
                    sum.supplier_amount = sum.supplier_amount.checked_add(due.supplier_amount)?;
                    *hours += 1;
                }
                None => drop(sums.insert(of, (due, 1))),
            }
        }
        hour += 3_600;
    }
    let summed = |(due, hours): (Due, usize)| Due { why: format!("{hours} hours below the commitment"), ..due };
    Ok(sums.into_values().map(summed).collect())
}

const TOO_MUCH: MoneyError = MoneyError::Overflow { doing: "counting usage" };

fn plus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_add(b).ok_or(TOO_MUCH)
}
