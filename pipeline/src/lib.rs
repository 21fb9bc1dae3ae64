//! The stream: from a record in a partitioned log to a committed, published, posted minute. It decides *when*; `rating` decides
//! *how much*; `ledger` and `sinks` make it *last*.
//!
//! The way of a record: [`source`] → [`meter`] (a thread per partition: [`decode`] → [`window`], which [`fold`]s) → [`derive`] → [`protocol`] and [`store`] (the commit) →
//! [`publish`]. [`revise`] is the one way back into history. [`worker`] runs it all.

pub mod apply;
pub mod closing;
pub mod config;
pub mod decode;
pub mod derive;
pub mod evidence;
pub mod failpoint;
pub mod fold;
pub mod homes;
pub mod idle;
pub mod meter;
pub mod protocol;
pub mod publish;
pub mod revise;
pub mod source;
pub mod store;
pub mod wallet;
pub mod window;
pub mod worker;
