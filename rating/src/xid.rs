//! XIDs: the errors that a GPU's driver reports. Some are the renter's own program's, some end a GPU's usefulness.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::time::{Minute, SECONDS_PER_MINUTE, Second};

/// What XIDs mean for the bill. One that is on neither list means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidPolicy {
    fatal: BTreeSet<i32>,
    renter: BTreeSet<i32>,
}

/// Double-bit and row-remapping errors, bus and firmware failures: the GPU needs a reset or a replacement.
pub const FATAL: [i32; 8] = [48, 62, 64, 74, 79, 95, 119, 120];
/// What the renter's program brings on itself, such as a page fault: the GPU goes on, and so does the bill.
pub const RENTER: [i32; 5] = [8, 11, 13, 31, 43];

impl Default for XidPolicy {
    fn default() -> Self {
        XidPolicy { fatal: FATAL.into(), renter: RENTER.into() }
    }
}

impl XidPolicy {
    /// Refuses a number that is on both lists.
    pub fn new(fatal: BTreeSet<i32>, renter: BTreeSet<i32>) -> Result<XidPolicy, String> {
        match fatal.intersection(&renter).next() {
            Some(xid) => Err(format!("XID {xid} is listed as fatal and as the renter's: it can be one of them")),
            None => Ok(XidPolicy { fatal, renter }),
        }
    }

    pub fn is_fatal(&self, xid: i32) -> bool {
        self.fatal.contains(&xid)
    }

    pub fn is_renters(&self, xid: i32) -> bool {
        self.renter.contains(&xid)
    }

    /// The seconds at which fatal XIDs appeared, sorted. `minutes` are a GPU's metered minutes in order, each with the first second
    /// of every XID that was reported in it; `before` are the XIDs of the metered minute before them. The driver repeats an XID until
    /// it is reset, so one that the minute before had as well has not appeared again.
    pub fn fatal_edges<'a>(
        &self,
        before: &BTreeMap<i32, u8>,
        minutes: impl IntoIterator<Item = (Minute, &'a BTreeMap<i32, u8>)>,
    ) -> Vec<Second> {
        let mut edges = Vec::new();
        let mut previous: BTreeSet<i32> = before.keys().copied().collect();
        for (minute, xids) in minutes {
            let new = xids.iter().filter(|(xid, _)| self.is_fatal(**xid) && !previous.contains(xid));
            edges.extend(new.map(|(_, second)| minute * SECONDS_PER_MINUTE + i64::from(*second)));
            previous = xids.keys().copied().collect();
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_repeated_appears_once() {
        let said = |all: &[(i32, u8)]| all.iter().copied().collect::<BTreeMap<i32, u8>>();
        let minutes = [
            (10, said(&[(79, 5), (13, 1)])),
            (11, said(&[(79, 0), (13, 0), (999, 4)])),
            (12, said(&[])),
            (15, said(&[(79, 30), (48, 30), (64, 2)])),
        ];
        let policy = XidPolicy::default();
        let edges = |before| policy.fatal_edges(&before, minutes.iter().map(|(minute, xids)| (*minute, xids)));
        assert_eq!(edges(said(&[])), [605, 902, 930]);
        assert_eq!(edges(said(&[(79, 3)])), [902, 930], "it was there before");
        assert!(policy.is_renters(31) && !policy.is_fatal(31) && !policy.is_fatal(999));
    }

    #[test]
    fn a_number_is_on_one_list() {
        let problem = XidPolicy::new([79, 13].into(), [13].into()).unwrap_err();
        assert!(problem.contains("XID 13"), "{problem}");
    }
}
