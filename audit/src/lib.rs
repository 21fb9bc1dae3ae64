//! What holds the system to account: SQL over warehouse and ledger at one consistent cut, the way from an amount to its evidence,
//! and the proof of every law on live data.

pub mod cut;
pub mod explain;
pub mod sql;
pub mod verify;
