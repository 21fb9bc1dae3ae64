//! The canonical text of what the chain hashes, in one place: SQL for whoever has the rows in a database. Whoever has
//! them in a file finds the same in `archive`. The texts must never change: what is chained was hashed in them.
//!
//! Fields are parted by tabs; a null is empty. Times are seconds since 1970 with six decimals, amounts have nine; JSON is
//! as PostgreSQL prints `jsonb`. No field but the last can hold a tab. So the text does not depend on any setting.

/// Of a transfer `t` between the accounts `d` and `c`. The first line of a transaction goes on with what belongs to it
/// as a whole.
pub(crate) const LINE_TEXT: &str = "concat(t.transaction, E'\\t', t.line, E'\\t', d.name, E'\\t', c.name, E'\\t', t.amount, \
     E'\\t', t.currency, E'\\t', extract(epoch from t.effective_at), case when t.line = 1 then concat(E'\\t', t.kind, E'\\t', \
     t.corrects, E'\\t', t.reverses, E'\\t', t.metadata, E'\\t', t.description) end)";

/// Of where a transfer `t` was booked.
pub(crate) const BOOKING_TEXT: &str =
    "concat(t.posting, E'\\t', t.place, E'\\t', extract(epoch from t.booked_at), E'\\n')";

/// Of the link of a set `p`.
pub(crate) const SET_HEADER: &str = "concat(p.shard, E'\\t', p.position, E'\\t', p.number, E'\\t', p.xid, E'\\t', \
     extract(epoch from p.booked_at), E'\\t', p.transactions, E'\\t', p.transfers, E'\\t', p.posted_by)";

/// Of the link of a range of facts `p`.
pub(crate) const FACTS_HEADER: &str =
    "concat(0, E'\\t', p.position, E'\\t', p.since, E'\\t', p.until, E'\\t', p.facts)";

/// Puts the texts where SQL names them.
pub(crate) fn fill(sql: &str) -> String {
    sql.replace("{line_text}", LINE_TEXT)
        .replace("{booking_text}", BOOKING_TEXT)
        .replace("{set_header}", SET_HEADER)
        .replace("{facts_header}", FACTS_HEADER)
}
