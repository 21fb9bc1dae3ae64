//! Races, made and not hoped for: connections of the tests hold the locks that workers want, `pg_stat_activity` says that a worker
//! waits, and the order in which the locks are let go is the order of the race. Every test ends in [`common::sound::assert_sound`].
//!
//! The order of locks (ARCHITECTURE.md): leases, timeline, homes, rating states, ledger accounts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "races/assignment.rs"]
mod assignment;
#[path = "races/files.rs"]
mod files;
#[path = "races/homes.rs"]
mod homes;
#[path = "races/lifecycle.rs"]
mod lifecycle;
#[path = "races/outbox.rs"]
mod outbox;
#[path = "races/rating.rs"]
mod rating;
#[path = "races/revisions.rs"]
mod revisions;
