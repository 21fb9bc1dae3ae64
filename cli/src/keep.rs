//! What the ledger wants done beside the stream, by whoever is there: chaining what was posted, anchors at their time, holds that expire.

use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use hydrometer_ledger::{LedgerError, anchor, chain, expire_holds};
use hydrometer_pipeline::config::LedgerConfig;
use hydrometer_pipeline::store::Database;
use tokio::task::JoinHandle;

use crate::CliError;

/// Sets that are chained, and holds that are looked at, in one go.
const AT_ONCE: i32 = 1_000;

/// Keeps the ledger until it is dropped. It holds nothing up and loses nothing when it is killed: it only goes on from what is there.
pub struct Keeper(JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn keep_beside(config: &LedgerConfig, database_url: &str) -> Keeper {
    let (config, url) = (config.clone(), database_url.to_owned());
    Keeper(tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(config.chain_s.max(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut db: Option<Database> = None;
        loop {
            tick.tick().await;
            if db.is_none() {
                db = Database::connect(&url)
                    .await
                    .inspect_err(|error| tracing::warn!(%error, "cannot chain the ledger"))
                    .ok();
            }
            let Some(open) = &mut db else { continue };
            if let Err(error) = keep(open, &config).await {
                tracing::warn!(%error, "keeping the ledger failed; it is tried again");
                db = None;
            }
        }
    }))
}

async fn keep(db: &mut Database, config: &LedgerConfig) -> Result<(), CliError> {
    catch_up(db).await.map_err(CliError::failed)?;
    let tx = db.client().transaction().await.map_err(CliError::failed)?;
    expire_holds(&tx, AT_ONCE).await.map_err(CliError::failed)?;
    tx.commit().await.map_err(CliError::failed)?;
    let interval = TimeDelta::seconds(i64::try_from(config.anchor_s).unwrap_or(i64::MAX / 1_000));
    if anchor::status(db.client_ref()).await.map_err(CliError::failed)?.is_due(interval) {
        let made = anchor::export(db.client_ref()).await.map_err(CliError::failed)?;
        if !config.anchor_dir.as_os_str().is_empty() {
            write(&config.anchor_dir.join(format!("anchor-{:08}.json", made.number)), &made)?;
        }
        tracing::info!(number = made.number, "anchored the ledger");
    }
    Ok(())
}

/// Chains all that can be chained now.
pub async fn catch_up(db: &Database) -> Result<i64, LedgerError> {
    let mut chained = 0;
    loop {
        let more = chain::advance(db.client_ref(), AT_ONCE).await?;
        chained += more;
        if more == 0 {
            return Ok(chained);
        }
    }
}

/// Under another name first, so that nobody copies half of it.
pub fn write(path: &Path, made: &anchor::Anchor) -> Result<(), CliError> {
    let failed =
        |error: std::io::Error| CliError::failed(format!("cannot write the anchor to {}: {error}", path.display()));
    let unfinished = path.with_extension("part");
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    std::fs::write(&unfinished, made.to_json()).map_err(failed)?;
    std::fs::rename(&unfinished, path).map_err(failed)
}
