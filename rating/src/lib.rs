//! How much: leases, contracts, prices, time and money. Pure: no I/O, no clock, no async; everything can be tested by calling it.
//!
//! The way of a second through this crate:
//! 1. [`history`] folds lifecycle events into timelines: which GPU sat in which slot, who leased it, under which terms.
//! 2. [`classes`] puts every leased second of a window into exactly one class (law 3); [`quantities`] counts what each charge counts.
//! 3. [`rate`] turns a period's quantities into amounts by cumulative difference (law 4) and spreads a step over its records.
//! 4. [`due`] says what falls due only when a period or an hour closes.
//! 5. [`burn`] says ahead what a wallet's leases cost, and so when it runs dry.
//! 6. [`money`] holds the exact integers behind all of it (law 5), and the one rounding.

pub mod burn;
pub mod calendar;
pub mod classes;
pub mod currency;
mod downtime;
pub mod due;
pub mod energy;
pub mod exhaustion;
pub mod history;
pub mod keys;
pub mod ladder;
pub mod money;
pub mod quantities;
pub mod rate;
pub mod stepped;
pub mod terms;
pub mod usage_csv;
pub mod what_if;
pub mod xid;
