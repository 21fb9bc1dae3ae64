//! The contract document: what a billing engineer writes down (YAML), what `gpu.contract.signed` and `gpu.contract.amended` carry (JSON).
//!
//! One document is one version of a contract: its whole text from its `effective` second on, until the next version begins. The
//! types here are the only description of it: the JSON Schema for editors is generated from them, and the reader checks a file
//! against that very schema before the types are filled. Every choice is an optional field or a word from a list, so that each
//! mistake has one line and one name. What the fields *mean* for money is `hydrometer_rating::terms`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lifecycle::RatingWindow;

mod diff;
mod mistake;
mod read;
mod schema;
mod tree;

pub use diff::{Change, changes, fields};
pub use mistake::{Located, Mistake, Place, shorten};
pub use read::{Document, MISTAKES_MAX, Reading, read};
pub use schema::{json_schema, json_schema_text};
pub use tree::{FILE_BYTES_MAX, NODES_MAX};

/// What a [`Decimal`] looks like.
pub const DECIMAL_PATTERN: &str = r"^-?[0-9]+(\.[0-9]+)?$";

/// A plain decimal number as it was written, such as `2.50`: never a float.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(pub String);

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "number"], "pattern": DECIMAL_PATTERN })
    }
}

/// [`DECIMAL_PATTERN`], by hand.
pub(crate) fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    match unsigned.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(unsigned),
    }
}

/// One version of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// The contract's name, the same in all its versions. At most 64 bytes.
    pub contract: String,
    /// The first second of this version: RFC 3339 with a zone, such as `2026-03-01T00:00:00-08:00`.
    pub effective: String,
    /// Who leases and pays.
    pub renter: String,
    /// The one currency of all amounts (ISO 4217), such as `USD`.
    pub currency: String,
    /// The zone in which billing periods and times of day are read (IANA), such as `America/Los_Angeles`. Default `UTC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// When billing periods begin. Default: on the first of each month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<Calendar>,
    /// How often usage is rated: `minute` or `hour`. Default `hour`, and `minute` when prepaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rating_window: Option<RatingWindow>,
    /// How long it runs. Default: until it is terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
    /// Paid in advance from a wallet. Either this or `postpaid`; default postpaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Prepaid>,
    /// Paid by invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postpaid: Option<Postpaid>,
    /// What is charged, by name.
    pub charges: BTreeMap<String, Charge>,
    /// The least that a billing period costs, all charges together; the rest falls due when the period closes. Prorated in a short period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_spend: Option<Decimal>,
    /// The most that a billing period costs, all charges together; what is above is taken back when the period closes. Prorated like the minimum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_spend: Option<Decimal>,
    /// Uptime that is promised, and what is credited where it is missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,
    /// What announced maintenance costs. Default `free`. Maintenance that was not announced is downtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// What is down when some GPUs of a lease are: those GPUs (`gpu`, the default) or all of the lease (`node`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degradation: Option<Degradation>,
    /// How much leased time without readings and without a witness a period may have and still be closed, in percent. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_tolerance_percent: Option<Decimal>,
    /// What suppliers get. A supplier without terms of its own takes those of `*`; without either the platform keeps all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppliers: Vec<SupplierTerms>,
    /// The tax that invoices add. It is no part of rated amounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<Tax>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    /// How long a billing period is. Default `month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodLength>,
    /// The day of the month on which periods begin, 1 to 28. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeriodLength {
    #[default]
    Month,
    /// Beginning in January, April, July and October.
    Quarter,
    /// Beginning in January.
    Year,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// The second at which it ends: RFC 3339 with a zone. Nothing is rated from then on unless it is renewed.
    pub ends: String,
    /// What happens at the end. Default `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// By how many months an automatic renewal extends it, again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_months: Option<u32>,
    /// How many days before its end it must be cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_days: Option<u32>,
    /// What ending it early costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_termination: Option<EarlyTermination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Renewal {
    None,
    Automatic,
}

/// Either a fee, or a percentage of what the rest of the term would have cost at least (its recurring fees, commitments and minimum spend).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyTermination {
    /// A fixed amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<Decimal>,
    /// Percent of what the rest of the term would have cost at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_percent: Option<Decimal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prepaid {
    /// What happens in the second in which the wallet runs dry.
    pub on_exhaustion: Exhaustion,
    /// How long a grace lasts, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u32>,
    /// How far below zero the wallet may go (with `credit`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit_limit: Option<Decimal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exhaustion {
    Suspend,
    Grace,
    Credit,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Postpaid {
    /// Days after the invoice in which it is to be paid. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_days: Option<u32>,
    /// The most that may be owed, invoiced or not. Nothing is refused to the meter; reaching it is an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit_limit: Option<Decimal>,
}

/// One priced component. Its price is exactly one of `price`, `graduated`, `volume`, `package` and `percent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Charge {
    /// What is counted.
    pub basis: Basis,
    /// Per unit: per GPU-hour, card-hour, kWh, GiB-hour or piece, as the basis says; of a `recurring` charge per period, of a `one_off` once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
    /// Other prices at some times of the week; `price` holds for the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_time: Vec<TimePrice>,
    /// Each unit costs what its own tier says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graduated: Vec<Tier>,
    /// All units cost what the tier of their sum says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume: Vec<Tier>,
    /// Whole packages, the last one begun counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Package>,
    /// Percent of the amounts of other charges in the period (basis `percentage`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Decimal>,
    /// The charges that `percent` is of. Default: all metered ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<String>,
    /// Units of each period that cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<Decimal>,
    /// Whether the first tier's flat fee is due in a period without any usage. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat_at_zero: Option<bool>,
    /// The least quantity of each lease and slot, in seconds, over the whole lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_s: Option<u32>,
    /// The step to which the quantity of each lease and slot is rounded, in seconds, over the whole lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_s: Option<u32>,
    /// Which way a step rounds. Default `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// Whose usage climbs a ladder together. Default `contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Whether a ladder's position carries over when this version replaces another inside a period. Default `carry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
    /// A quantity that is paid for whether it is used or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
    /// The least that this charge costs in a period; the rest falls due when the period closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_spend: Option<Decimal>,
    /// The most that this charge costs in a period; what is above is taken back when the period closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_spend: Option<Decimal>,
    /// The slices that a whole card has (basis `slices`). Default 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices_per_card: Option<u32>,
    /// What a `recurring` charge is counted by. Default `contract`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
    /// How a `recurring` charge is cut in a period that it does not fill. Default `second`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proration: Option<Proration>,
}

/// What a charge counts; the unit of its price in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Leased seconds that are billable, used or not \[GPU-hour\].
    Allocated,
    /// Billable seconds with readings \[GPU-hour\].
    Observed,
    /// Billable seconds in which the GPU was busy \[GPU-hour\].
    Busy,
    /// Seconds in suspension: a retention rate \[GPU-hour\].
    Suspended,
    /// Energy drawn during the lease \[kWh\].
    Energy,
    /// Allocated seconds times MIG slices \[card-hour\].
    Slices,
    /// GPU memory in use, weighted by time \[GiB-hour\].
    Memory,
    /// A fee per period.
    Recurring,
    /// A fee in the period in which the contract begins.
    OneOff,
    /// A percentage of other charges.
    Percentage,
}

/// Units up to and including `up_to` (the last tier has none) at `price` each, plus a `flat` fee for entering the tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The last unit of the tier, which belongs to it. The last tier has no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Decimal>,
    /// Of each unit in the tier. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
    /// A fee that is due once the tier is entered. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat: Option<Decimal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Units in a package.
    pub size: Decimal,
    /// Price of a package.
    pub price: Decimal,
}

/// A price for some times of the week, read in the contract's zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimePrice {
    /// Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// `HH:MM`, included.
    pub from: String,
    /// `HH:MM`, excluded; `24:00` is the end of the day.
    pub to: String,
    /// Per unit in these times.
    pub price: Decimal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    #[default]
    Up,
    Down,
    Nearest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Contract,
    Lease,
    /// A lease's slot, whichever GPU sits in it.
    Gpu,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    #[default]
    Carry,
    Reset,
}

/// The committed units cost what the charge's price says; what is beyond costs `overage_multiplier` times as much, or `overage_price` a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// Committed units in each period, or in each hour.
    pub quantity: Decimal,
    /// `period` (the billing period) or `hour`.
    pub per: CommitmentPer,
    /// What units beyond cost, as a multiple of what the charge's price says. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_multiplier: Option<Decimal>,
    /// What a unit beyond costs, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_price: Option<Decimal>,
    /// Whether committed units that were not used are paid for all the same, when the period (or hour) closes. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_up: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommitmentPer {
    Period,
    Hour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    #[default]
    Contract,
    Lease,
    /// Each leased slot.
    Gpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proration {
    /// Seconds in force ÷ seconds of the period.
    #[default]
    Second,
    /// Days begun in force ÷ days of the period, in the contract's zone.
    ActualDays,
    /// The US rule: months of 30 days.
    #[serde(rename = "30_360")]
    Thirty360,
    /// Hours in force ÷ 730 for each month of the period.
    #[serde(rename = "730_hours")]
    Hours730,
    /// Never cut: a period begun is paid in full.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sla {
    /// From the highest uptime to the lowest: below `below_percent`, `credit_percent` is credited; the lowest that applies counts.
    pub tiers: Vec<SlaTier>,
    /// What the percentage is of. Default `lease`: the metered charges of the lease that missed it; `invoice`: all of the period's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<SlaOf>,
    /// Whether the base is what was charged (`after` downtime was left out, the default) or what it would have been without downtime (`before`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<SlaBase>,
    /// The most that is credited, in percent of the same base. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_percent: Option<Decimal>,
    /// Whether it is credited when the period closes (the default) or only listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlaTier {
    /// The tier applies when the uptime is below this.
    pub below_percent: Decimal,
    /// What is credited then, in percent of the base.
    pub credit_percent: Decimal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlaOf {
    #[default]
    Lease,
    Invoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlaBase {
    #[default]
    After,
    Before,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// `billed`, `free`, or an `allowance` of hours that are billed, and no more beyond them.
    pub announced: MaintenanceRule,
    /// Hours of announced maintenance of each leased slot that are billed in a period (with `allowance`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowance_hours: Option<Decimal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceRule {
    Billed,
    Free,
    Allowance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Degradation {
    #[default]
    Gpu,
    Node,
}

/// What a supplier gets of the metered charges: a share of what the renter owes, or a rate of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SupplierTerms {
    /// The supplier's name, or `*` for every other one.
    pub supplier: String,
    /// Percent of the renter's amount, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_percent: Option<Decimal>,
    /// Rates of its own, by charge: what it gets whatever the renter pays.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<String, SupplierRate>,
    /// Whether true-ups of commitments are shared as well. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_true_ups: Option<bool>,
    /// The least that it earns in a billing period under this contract; the rest falls due when the period closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_guarantee: Option<Decimal>,
    /// Percent of its earnings that is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdback_percent: Option<Decimal>,
    /// Days after the period's end at which what was held back is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdback_days: Option<u32>,
    /// What it bears of SLA credits for downtime by its fault: its `share` (the default), the `full` credit, or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clawback: Option<Clawback>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SupplierRate {
    /// Per unit, in the charge's units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
    /// Each unit earns what its own tier says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graduated: Vec<Tier>,
    /// All units earn what the tier of their sum says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume: Vec<Tier>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clawback {
    None,
    #[default]
    Share,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tax {
    /// Such as `VAT`.
    pub name: String,
    /// Percent of the invoice.
    pub percent: Decimal,
    /// The jurisdiction, for the account `platform:tax:…`.
    pub jurisdiction: String,
    /// The renter owes the tax itself. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_charge: Option<bool>,
}
