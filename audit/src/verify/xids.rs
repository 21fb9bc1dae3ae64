//! Fatal XIDs: what is on record was metered, and what was metered is on record. A record that a late minute has overtaken (the XID
//! was there before) stays, so it is enough that its minute reports the XID by then.

use std::collections::BTreeSet;
use std::sync::Arc;

use hydrometer_pipeline::evidence::FatalXid;
use hydrometer_rating::xid::XidPolicy;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE, hour_floor, show_second};

use super::hours::{Walk, Work};
use super::usage::Metered;

pub(super) fn check(walk: &mut Walk<'_>, work: &Work<'_>, metered: &Metered) {
    let facts = walk.facts;
    let in_hour = |xid: &&FatalXid| work.hour <= xid.2 && xid.2 < work.hour + SECONDS_PER_HOUR;
    // What counts as fatal is configuration; what was recorded under another one stays on record.
    let policy = XidPolicy::default();
    let here = |xid: &&FatalXid| policy.is_fatal(xid.3) && facts.home(&xid.0, work.hour) == Some(work.partition);
    let on_record: BTreeSet<&FatalXid> = facts.fatal_xids.iter().filter(in_hour).filter(here).collect();
    for xid in &on_record {
        walk.xids.insert((*xid).clone());
        let (server, gpu, at, number) = xid;
        let minute = at.div_euclid(SECONDS_PER_MINUTE);
        let key = (Arc::from(server.as_str()), Arc::from(gpu.as_str()), minute);
        let first = metered.xids.get(&key).and_then(|xids| xids.get(number));
        let is_metered = first.is_some_and(|first| minute * SECONDS_PER_MINUTE + i64::from(*first) <= *at);
        if walk.is_asked_for(server, work.hour) {
            continue;
        }
        let check = walk.report.check("xids");
        check.count("fatal XIDs", 1);
        if !is_metered {
            check.violation(show(xid), "a metered minute that reports it by then", "none");
        }
    }
    let begun = walk.evidence_of(work.partition, work.hour).fatal_xids();
    for xid in begun.iter().filter(in_hour) {
        if !on_record.contains(xid) && !walk.is_asked_for(&xid.0, work.hour) {
            let found = "a metered minute that begins with it, and no record of it";
            walk.report.check("xids").violation(show(xid), "to be on record", found);
        }
    }
}

/// What is on record of hours that are rated and in which nothing was metered.
pub(super) fn never_metered(walk: &mut Walk<'_>) {
    let facts = walk.facts;
    for xid in facts.fatal_xids.iter().filter(|xid| XidPolicy::default().is_fatal(xid.3) && !walk.xids.contains(*xid)) {
        let hour = hour_floor(xid.2);
        let check = walk.report.check("xids");
        match facts.home(&xid.0, hour) {
            Some(home) if !facts.is_frozen(home, hour) => check.wait("fatal XIDs of hours that are not rated yet", 1),
            _ => check.violation(show(xid), "a metered minute that reports it by then", "none"),
        }
    }
}

fn show((server, gpu, at, xid): &FatalXid) -> String {
    format!("fatal XID {xid} of GPU {gpu} on server {server} at {}", show_second(*at))
}
