//! What quantities are counted by, and what amounts are kept by.

use hydrometer_schemas::time::Second;

use crate::terms::{Micro, RateId};

/// What a rating state is kept per: a contract's charge in a period, for one renter in one currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    pub contract: String,
    pub renter: String,
    pub currency: String,
    pub charge: String,
    /// The beginning of the billing period; of the hour, where a commitment is by the hour.
    pub period: Second,
    /// Whose usage climbs the ladder: empty for the whole contract, else `LEASE`, `LEASE/SLOT` or the server, as the scope says.
    pub resource: String,
}

/// What tells one cell of a state from another: all that its amounts depend on besides the quantities. A backdated change of price
/// moves quantity from one cell to another; it never changes what a cell means. Field order is the order of evaluation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// The first second of the contract's version.
    pub version_from: Second,
    pub rate: RateId,
    /// The time of the week: 0 is the charge's own price, `n` its `by_time[n - 1]`.
    pub segment: u16,
    pub supplier: String,
}

/// Cumulative quantities of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// What the renter pays for.
    pub billed: Micro,
    /// What the supplier is paid for.
    pub paid: Micro,
}
