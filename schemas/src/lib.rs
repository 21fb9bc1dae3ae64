//! What travels and what is stored: the words, shapes and limits that the other crates share.
//!
//! * [`time`]: seconds, minutes, hours and how a reading's time is read
//! * [`quarantine`]: why a message was set aside
//! * [`lifecycle`]: the events that say who owned, leased and lost what, and when
//! * [`warehouse`]: the Arrow schemas of the Parquet tables
//! * [`contract`]: the contract document
//! * [`suggest`]: the word that was meant
//! * [`database`]: the SQL migrations of the commit point

pub mod contract;
pub mod database;
pub mod lifecycle;
pub mod quarantine;
pub mod suggest;
pub mod time;
pub mod warehouse;

/// Longest accepted identity (GPU, server, lease, contract …), in bytes.
pub const IDENTITY_BYTES_MAX: usize = 64;
/// Largest accepted message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
