//! The SQL of the commit point. Migrations are applied in order, each once, by the owner's role (`hydrometer migrate`).

/// Numbered migrations; `{app_role}` stands for the role that the worker logs in with.
pub const MIGRATIONS: [(i32, &str, &str); 1] = [(1, "the commit point", include_str!("../sql/0001_hydrometer.sql"))];

/// The key of the transaction-level advisory lock on all timelines: shared by rating commits, exclusive for lifecycle commits.
pub const TIMELINE_LOCK: i64 = 0x4859_4452_4f54_4c31;

/// A migration's text for a role, quoted as an identifier.
pub fn for_role(sql: &str, app_role: &str) -> String {
    sql.replace("{app_role}", &format!("\"{}\"", app_role.replace('"', "\"\"")))
}
