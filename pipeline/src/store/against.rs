//! What stands against closing a billing period, each reason with what to do about it.

use hydrometer_rating::history::{History, Span, Version};
use hydrometer_schemas::time::{Second, show_second};
use tokio_postgres::GenericClient;

use super::period::CLOSING;
use super::{StoreError, doing};
use crate::closing::commits_by_the_hour;

/// A reason not to close a period yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub what: String,
    pub hint: String,
    /// Whether somebody may close all the same. What would break the order of the books cannot be accepted.
    pub acceptable: bool,
}

fn reason(what: String, hint: &str) -> Reason {
    Reason { what, hint: hint.to_owned(), acceptable: true }
}

/// All that stands against closing a contract's billing period; nothing: it can be closed.
pub async fn against(
    client: &impl GenericClient,
    history: &History,
    contract: &str,
    period: Span,
) -> Result<Vec<Reason>, StoreError> {
    if in_force(history, contract, period).next().is_none() {
        return Ok(vec![Reason {
            what: "no version of the contract is in force in this period".to_owned(),
            hint: "`hydrometer contract show --applied CONTRACT --at TIME` says when it is".to_owned(),
            acceptable: false,
        }]);
    }
    let mut reasons = Vec::new();
    reasons.extend(earlier_periods(client, contract, period).await?);
    reasons.extend(partitions_behind(client, period).await?);
    reasons.extend(hours_behind(client, history, contract, period).await?);
    reasons.extend(corrections_pending(client, history, contract, period).await?);
    reasons.extend(unrated(client, history, contract, period).await?);
    reasons.extend(unknown(client, history, contract, period).await?);
    Ok(reasons)
}

/// The contract's versions that are in force in a period, in order of time.
fn in_force<'a>(history: &'a History, contract: &str, period: Span) -> impl DoubleEndedIterator<Item = &'a Version> {
    history.versions(contract).iter().filter(move |version| version.span.intersect(period).is_some())
}

async fn earlier_periods(
    client: &impl GenericClient,
    contract: &str,
    period: Span,
) -> Result<Option<Reason>, StoreError> {
    let row = client
        .query_one(
            "SELECT count(*), min(start_s) FROM hydrometer.period WHERE contract = $1 AND start_s < $2 AND closed_by IS NULL",
            &[&contract, &period.from],
        )
        .await
        .map_err(doing("looking for earlier periods"))?;
    let (open, first): (i64, Option<Second>) = (row.get(0), row.get(1));
    Ok(first.map(|first| Reason {
        what: format!("{open} earlier billing periods of the contract are open, the first from {}", show_second(first)),
        hint: "close them first, oldest first: what changes later is booked in the first open one".to_owned(),
        acceptable: false,
    }))
}

async fn partitions_behind(client: &impl GenericClient, period: Span) -> Result<Vec<Reason>, StoreError> {
    let rows = client
        .query(
            "SELECT topic, partition, frontier_s FROM hydrometer.partition_lease WHERE role = 'telemetry' AND frontier_s < $1 \
             ORDER BY frontier_s, topic, partition",
            &[&period.to],
        )
        .await
        .map_err(doing("looking for partitions that are behind"))?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let name = format!("{}/{}", first.get::<_, &str>(0), first.get::<_, i32>(1));
    let what = format!(
        "{} telemetry partitions are not rated to the period's end {}, {name} only to {}",
        rows.len(),
        show_second(period.to),
        show_second(first.get(2))
    );
    Ok(vec![reason(what, "wait until the workers have caught up (`hydrometer sql \"SELECT * FROM partition_lease\"`)")])
}

async fn hours_behind(
    client: &impl GenericClient,
    history: &History,
    contract: &str,
    period: Span,
) -> Result<Option<Reason>, StoreError> {
    if !in_force(history, contract, period).any(commits_by_the_hour) {
        return Ok(None);
    }
    let row = client
        .query_opt("SELECT frontier_s FROM hydrometer.partition_lease WHERE topic = $1 AND partition = 0", &[&CLOSING])
        .await
        .map_err(doing("looking how far hours are closed"))?;
    let until: Second = row.map_or(0, |row| row.get(0));
    let behind = || {
        reason(
            format!("hours of its commitment by the hour are closed only to {}", show_second(until)),
            "a running worker closes them by itself",
        )
    };
    // The last hour in which the commitment is in force.
    let ends = history.versions(contract).iter().filter(|v| commits_by_the_hour(v)).map(|v| v.span.to).max();
    Ok((until < period.to.min(ends.unwrap_or(period.to))).then(behind))
}

async fn corrections_pending(
    client: &impl GenericClient,
    history: &History,
    contract: &str,
    period: Span,
) -> Result<Vec<Reason>, StoreError> {
    let servers: Vec<&str> = history.servers_under(contract).collect();
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM hydrometer.request WHERE done_by IS NULL AND from_s < $3 AND to_s > $4 \
                       AND (scope = 'object' OR subject = ANY ($2))), \
                    (SELECT count(*) FROM hydrometer.closing_request WHERE done_by IS NULL AND contract = $1 AND from_s < $3)",
            &[&contract, &servers, &period.to, &period.from],
        )
        .await
        .map_err(doing("looking for pending corrections"))?;
    let (windows, closings): (i64, i64) = (row.get(0), row.get(1));
    let mut reasons = Vec::new();
    if windows > 0 {
        reasons.push(reason(
            format!("{windows} requests to rate windows of this time again are not answered"),
            "a running worker answers them by itself; late readings of any server count, since whose they are is not known yet",
        ));
    }
    if closings > 0 {
        reasons.push(reason(
            format!("{closings} requests to close hours or periods of this contract again are not answered"),
            "a running worker answers them by itself",
        ));
    }
    Ok(reasons)
}

async fn unrated(
    client: &impl GenericClient,
    history: &History,
    contract: &str,
    period: Span,
) -> Result<Option<Reason>, StoreError> {
    let leases: Vec<&str> = history
        .servers_under(contract)
        .filter_map(|server| history.server(server))
        .flat_map(|timeline| timeline.leases.iter().filter(|lease| lease.contract == contract))
        .map(|lease| lease.lease.as_str())
        .collect();
    let row = client
        .query_one(
            "SELECT coalesce(sum(least(to_s, $3) - greatest(from_s, $2)), 0)::bigint, min(reason) FROM hydrometer.unrated \
             WHERE lease = ANY ($1) AND mended_by IS NULL AND from_s < $3 AND to_s > $2",
            &[&leases, &period.from, &period.to],
        )
        .await
        .map_err(doing("looking for time that could not be rated"))?;
    let (seconds, why): (i64, Option<String>) = (row.get(0), row.get(1));
    Ok(why.map(|why| {
        reason(
            format!("{seconds} s of leased time could not be rated: {why}"),
            "record what is missing (the contract's version, the server's registration); it is then rated by itself",
        )
    }))
}

async fn unknown(
    client: &impl GenericClient,
    history: &History,
    contract: &str,
    period: Span,
) -> Result<Option<Reason>, StoreError> {
    let Some(version) = in_force(history, contract, period).next_back() else { return Ok(None) };
    let row = client
        .query_one(
            "SELECT coalesce(sum(unknown_s), 0)::bigint, \
                    coalesce(sum(used_s + idle_s + unknown_s + down_s + suspended_s + maintenance_s), 0)::bigint \
             FROM hydrometer.lease_use WHERE contract = $1 AND billing_s = $2",
            &[&contract, &period.from],
        )
        .await
        .map_err(doing("counting unknown seconds"))?;
    let (unknown, leased): (i64, i64) = (row.get(0), row.get(1));
    let tolerance = version.terms.unknown_tolerance;
    // unknown / leased > tolerance, in whole numbers.
    let whole = i128::from(hydrometer_rating::money::SHARE_WHOLE);
    let exceeds = i128::from(unknown) * whole > i128::from(leased) * i128::from(tolerance.scaled());
    Ok(exceeds.then(|| {
        reason(
            format!("{unknown} s of {leased} s leased are unknown, more than the {tolerance} % that the contract tolerates"),
            "`hydrometer sql \"SELECT * FROM unknown_seconds\"` lists them: is a collector down, or an outage not on record?",
        )
    }))
}
