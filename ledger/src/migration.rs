//! The schema, as text for whoever runs migrations.

const LEDGER: &str = include_str!("../sql/0001_ledger.sql");
const POST: &str = include_str!("../sql/0001_post.sql");

/// The SQL that creates or upgrades the schema `ledger`, and lets `app_role` read it and post to it.
///
/// The role must exist. Run the text as the role that is to own the ledger, in one database transaction; running it
/// again changes nothing.
pub fn migration(app_role: &str) -> String {
    // The literal first: its placeholder is the longer one.
    [LEDGER, POST]
        .join("\n")
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
