//! The schema, as text for whoever runs migrations.

use crate::canonical::fill;

/// By subject, in this order.
pub(crate) const PARTS: [&str; 17] = [
    include_str!("../sql/0001_schema.sql"),
    include_str!("../sql/0001_accounts.sql"),
    include_str!("../sql/0001_transfers.sql"),
    include_str!("../sql/0001_outbox.sql"),
    include_str!("../sql/0001_outbox_reader.sql"),
    include_str!("../sql/0001_metadata.sql"),
    include_str!("../sql/0001_limits.sql"),
    include_str!("../sql/0001_holds.sql"),
    include_str!("../sql/0001_rules.sql"),
    include_str!("../sql/0001_book.sql"),
    include_str!("../sql/0001_post.sql"),
    include_str!("../sql/0001_wallets.sql"),
    include_str!("../sql/0001_anchor.sql"),
    include_str!("../sql/0001_archive.sql"),
    include_str!("../sql/0001_chain.sql"),
    include_str!("../sql/0001_detach.sql"),
    include_str!("../sql/0001_privileges.sql"),
];

/// The SQL that creates or upgrades the schema `ledger`, and lets `app_role` read it and post to it.
///
/// The role must exist. Run the text as the role that is to own the ledger, in one database transaction; running it
/// again changes nothing.
pub fn migration(app_role: &str) -> String {
    // The literal first: its placeholder is the longer one.
    fill(&PARTS.join("\n"))
        .replace("{app_role_literal}", &literal(app_role))
        .replace("{app_role}", &identifier(app_role))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// In the form that means the same whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names_are_quoted() {
        let sql = migration("o'dd\"ro\\le");
        assert!(sql.contains("constant name := E'o''dd\"ro\\\\le';"));
        assert!(sql.contains("grant usage on schema ledger to \"o'dd\"\"ro\\le\";"));
        assert!(!sql.contains("{app_role"));
    }
}
