//! What tests and the demo stand on: a simulated fleet with an oracle that knows the truth by brute force, a recorded
//! series to replay, and real services.
//!
//! Nothing here uses the crates that it judges.

pub mod fleet;
pub mod oracle;
pub mod replay;
pub mod services;
