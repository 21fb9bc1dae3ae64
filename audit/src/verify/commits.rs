//! The one commit point (law 8): each partition's commits are one chain at whose end its lease stands, and every row that a commit
//! writes belongs to one.

use hydrometer_pipeline::store::Database;

use super::{Report, VerifyError, database};

pub(super) async fn check(db: &Database, report: &mut Report) -> Result<(), VerifyError> {
    for (name, sql) in [("commits", CHAIN), ("commits", STAND), ("written", WRITTEN), ("written", EVENTS)] {
        let rows = db.client_ref().query(sql, &[]).await.map_err(database("following the commits"))?;
        let check = report.check(name);
        for row in rows {
            check.violation(row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2));
        }
    }
    for (name, what, sql) in [
        ("commits", "commits", "SELECT count(*) FROM hydrometer.commit"),
        ("commits", "partitions", "SELECT count(*) FROM hydrometer.partition_lease"),
        ("written", "objects", "SELECT count(*) FROM hydrometer.object"),
        ("written", "files", "SELECT count(*) FROM hydrometer.file"),
        ("written", "events", "SELECT count(*) FROM hydrometer.event"),
        ("written", "requests", "SELECT count(*) FROM hydrometer.request"),
        ("written", "closing requests", "SELECT count(*) FROM hydrometer.closing_request"),
        ("written", "commands", "SELECT count(*) FROM hydrometer.command"),
    ] {
        let row = db.client_ref().query_one(sql, &[]).await.map_err(database("counting"))?;
        report.check(name).count(what, row.get::<_, i64>(0).unsigned_abs());
    }
    Ok(())
}

/// Each commit begins where the one before it ended: (subject, expected, found).
const CHAIN: &str = "\
WITH link AS (
    SELECT c.id, e->>'topic' AS topic, (e->>'partition')::int AS partition, (e->>'epoch')::bigint AS epoch, (e->>'round')::bigint AS round,
           (e->>'next_from')::bigint AS next_from, (e->>'next_to')::bigint AS next_to,
           (e->>'frontier_from')::bigint AS frontier_from, (e->>'frontier_to')::bigint AS frontier_to
    FROM hydrometer.commit AS c, jsonb_array_elements(c.partitions) AS e
), chain AS (
    SELECT *, lag(epoch) OVER w AS epoch_was, coalesce(lag(round) OVER w, 0) AS round_was, coalesce(lag(next_to) OVER w, 0) AS next_was,
           coalesce(lag(frontier_to) OVER w, frontier_from) AS frontier_was
    FROM link WINDOW w AS (PARTITION BY topic, partition ORDER BY round, id)
)
SELECT format('commit %s of %s/%s', id, topic, partition),
       format('round %s, from offset %s and frontier %s on, forward', round_was + 1, next_was, to_timestamp(frontier_was)),
       format('round %s of epoch %s, offsets %s to %s, frontier %s to %s', round, epoch, next_from, next_to,
              to_timestamp(frontier_from), to_timestamp(frontier_to))
FROM chain
WHERE round <> round_was + 1 OR next_from <> next_was OR next_to < next_from OR frontier_from <> frontier_was
   OR frontier_to < frontier_from OR epoch < epoch_was
ORDER BY topic, partition, round";

/// Each lease stands where its last commit put it.
const STAND: &str = "\
WITH last AS (
    SELECT DISTINCT ON (topic, partition) c.id, e->>'topic' AS topic, (e->>'partition')::int AS partition,
           (e->>'epoch')::bigint AS epoch, (e->>'round')::bigint AS round, (e->>'next_to')::bigint AS next,
           (e->>'frontier_to')::bigint AS frontier
    FROM hydrometer.commit AS c, jsonb_array_elements(c.partitions) AS e
    ORDER BY topic, partition, round DESC
)
SELECT format('lease of %s/%s', coalesce(l.topic, c.topic), coalesce(l.partition, c.partition)),
       CASE WHEN c.id IS NULL THEN 'round 0, offset 0: there is no commit'
            ELSE format('round %s, offset %s, frontier %s, epoch %s or later, attempt %s: its last commit', c.round, c.next,
                        to_timestamp(c.frontier), c.epoch, c.id) END,
       CASE WHEN l.topic IS NULL THEN 'no lease'
            ELSE format('round %s, offset %s (replay from %s), frontier %s, epoch %s, attempt %s', l.round, l.next, l.replay_from,
                        to_timestamp(l.frontier_s), l.epoch, coalesce(l.attempt::text, 'none')) END
FROM hydrometer.partition_lease AS l FULL JOIN last AS c ON c.topic = l.topic AND c.partition = l.partition
WHERE l.topic IS NULL OR l.replay_from > l.next
   OR (c.id IS NULL AND (l.round, l.next) <> (0, 0))
   OR (c.id IS NOT NULL AND ((c.round, c.next, c.frontier, c.id) IS DISTINCT FROM (l.round, l.next, l.frontier_s, l.attempt)
                             OR l.epoch < c.epoch))
ORDER BY 1";

/// Rows that name a commit which is not there.
const WRITTEN: &str = "\
SELECT k.what, 'a row of a commit', format('commit %s, which is not there', k.id)
FROM (
    SELECT 'object ' || name AS what, commit_id AS id FROM hydrometer.object
    UNION ALL SELECT 'file ' || name, commit_id FROM hydrometer.file
    UNION ALL SELECT 'event ' || e.id || ' of ' || source, commit_id FROM hydrometer.event AS e
    UNION ALL SELECT 'request ' || r.id, asked_by FROM hydrometer.request AS r
    UNION ALL SELECT 'request ' || r.id || ', done', done_by FROM hydrometer.request AS r WHERE done_by IS NOT NULL
    UNION ALL SELECT 'revision ' || revision || ' of lease ' || lease, commit_id FROM hydrometer.revision
    UNION ALL SELECT 'command ' || name || ' of ' || who, commit_id FROM hydrometer.command
    UNION ALL SELECT 'billing period of contract ' || contract || ', closed', closed_by FROM hydrometer.period WHERE closed_by IS NOT NULL
    UNION ALL SELECT 'closing of contract ' || contract, commit_id FROM hydrometer.closing
    UNION ALL SELECT 'step of due ' || due, commit_id FROM hydrometer.due_step
    UNION ALL SELECT 'closing request ' || r.id, asked_by FROM hydrometer.closing_request AS r
    UNION ALL SELECT 'closing request ' || r.id || ', done', done_by FROM hydrometer.closing_request AS r WHERE done_by IS NOT NULL
    UNION ALL SELECT 'fatal XID ' || xid || ' of GPU ' || gpu, commit_id FROM hydrometer.fatal_xid
    UNION ALL SELECT 'unrated time of lease ' || lease, commit_id FROM hydrometer.unrated
    UNION ALL SELECT 'unrated time of lease ' || lease || ', mended', mended_by FROM hydrometer.unrated WHERE mended_by IS NOT NULL
) AS k
WHERE NOT EXISTS (SELECT FROM hydrometer.commit AS c WHERE c.id = k.id)
ORDER BY 1";

/// Events from offsets that their own commit did not handle. Those that follow from time passing stand where it had passed.
const EVENTS: &str = "\
SELECT format('event %s of %s', e.id, e.source), format('an offset of %s/%s from %s to below %s', e.topic, e.partition, p.first, p.next),
       format('offset %s', e.\"offset\")
FROM hydrometer.event AS e
JOIN hydrometer.commit AS c ON c.id = e.commit_id
JOIN LATERAL (
    SELECT (x->>'next_from')::bigint AS first, (x->>'next_to')::bigint AS next FROM jsonb_array_elements(c.partitions) AS x
    WHERE x->>'topic' = e.topic AND (x->>'partition')::int = e.partition
) AS p ON true
WHERE e.\"offset\" < p.first OR e.\"offset\" >= p.next + (e.source = 'hydrometer.wallets')::int
ORDER BY 1";
