//! How much: leases, contracts, prices, time and money. Pure: no I/O, no clock, no async; everything can be tested by calling it.
//!
//! The way of a second through this crate:
//! 1. [`history`] folds lifecycle events into timelines: which GPU sat in which slot, who leased it, at which price.
//! 2. [`classes`] puts every leased second of a window into exactly one class (law 3) and yields [`classes::Quantity`]s.
//! 3. [`rate`] turns a period's quantities into amounts by cumulative difference (law 4) and spreads a step over its records.
//! 4. [`money`] holds the exact integers behind all of it (law 5), and the one rounding.

pub mod classes;
pub mod history;
pub mod money;
pub mod rate;

/// The charge of a simple contract: GPU-hours, prorated by the second.
pub const GPU_HOURS: &str = "gpu_hours";
