//! Creates or upgrades the database: the owner's work (`hydrometer migrate`).

use hydrometer_schemas::database::{MIGRATIONS, for_role};
use tokio_postgres::Client;

use super::{StoreError, doing};

/// Applies what is missing, each migration in a transaction of its own; returns what was applied. `client` is the owner's.
/// The role is created (without a password) when it does not exist.
pub async fn migrate(client: &mut Client, app_role: &str) -> Result<Vec<String>, StoreError> {
    let failed = doing("migrating");
    let quoted = for_role("{app_role}", app_role);
    let exists = client
        .query_one("SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)", &[&app_role])
        .await
        .map_err(&failed)?
        .get::<_, bool>(0);
    if !exists {
        client.batch_execute(&format!("CREATE ROLE {quoted} LOGIN")).await.map_err(&failed)?;
    }
    client
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS hydrometer_migration (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); \
             GRANT SELECT ON hydrometer_migration TO {quoted}"
        ))
        .await
        .map_err(&failed)?;

    let mut wanted = vec![("ledger 1".to_owned(), hydrometer_ledger::migration(app_role))];
    for (number, title, sql) in MIGRATIONS {
        wanted.push((format!("hydrometer {number}: {title}"), for_role(sql, app_role)));
    }
    let mut applied = Vec::new();
    for (name, sql) in wanted {
        let tx = client.transaction().await.map_err(&failed)?;
        tx.batch_execute("LOCK TABLE hydrometer_migration IN EXCLUSIVE MODE").await.map_err(&failed)?;
        let new = tx
            .execute("INSERT INTO hydrometer_migration (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&name])
            .await
            .map_err(&failed)?;
        if new == 1 {
            tx.batch_execute(&sql).await.map_err(&failed)?;
            applied.push(name);
        }
        tx.commit().await.map_err(&failed)?;
    }
    Ok(applied)
}
