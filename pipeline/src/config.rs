//! The worker's configuration: one TOML file, each key also an environment variable (`HYDROMETER_` and the path in capitals, so
//! `database.url` is `HYDROMETER_DATABASE_URL`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is wrong: {detail}. Hint: examples/hydrometer.toml shows every key")]
    Wrong { path: PathBuf, detail: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names this worker in `hydrometer.commit` and in logs.
    pub worker: String,
    pub topics: Topics,
    pub source: SourceConfig,
    pub database: DatabaseConfig,
    pub warehouse: WarehouseConfig,
    pub windows: WindowConfig,
    pub commit: CommitConfig,
    pub ledger: LedgerConfig,
    pub events: EventsConfig,
    pub limits: LimitConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    pub telemetry: String,
    pub lifecycle: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Kafka,
    Files,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    pub kind: SourceKind,
    pub batch_records: usize,
    pub kafka: KafkaConfig,
    pub files: FilesConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    pub brokers: String,
    pub group: String,
    pub accept_producer_time: bool,
    pub options: HashMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    pub dir: PathBuf,
    /// RFC 3339: leases that are still open when the logs end are rated up to here. Empty: to the end of the last record's hour.
    pub until: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    pub url: String,
    /// Instead of an address: the directory of a private cluster, which the commands start when they need it.
    pub private_dir: PathBuf,
    /// How long a database that went away is waited for before the worker ends.
    pub patience_s: u64,
    /// For so long a session waits for a lock, and may leave its transaction idle: what a worker that stopped dead inside a commit
    /// holds up the others.
    pub lock_timeout_s: u64,
    pub idle_in_transaction_timeout_s: u64,
    pub statement_timeout_s: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarehouseConfig {
    pub url: String,
    /// How long a store that refuses or a full disk is tried again before the worker ends.
    pub patience_s: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowConfig {
    pub lateness_s: u32,
    pub idle_s: u32,
    pub vouches_for_s: u32,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommitConfig {
    /// At least this long between two rounds.
    pub interval_ms: u64,
    /// How long a rebalance may wait for a last commit.
    pub drain_s: u64,
    /// At most this many hours in one commit of revisions.
    pub revision_hours: usize,
    /// At least this long between two looks for revisions that are asked for; each costs a few queries.
    pub upkeep_s: u64,
    /// At least this long between two sweeps of staging; on S3 a listing costs money.
    pub sweep_s: u64,
}

/// What a running worker does for the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// What was posted is chained every so many seconds.
    pub chain_s: u64,
    /// An anchor is made when something was chained and the last one is so many seconds old: for that long a chain could be rewritten whole.
    pub anchor_s: u64,
    /// Where anchors are written as files besides; empty: nowhere. Send them to another machine.
    pub anchor_dir: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// Where the ledger's events are published. Empty: nowhere.
    pub topic: String,
    /// Empty: the source's, if that is Kafka, with its options.
    pub brokers: String,
    pub options: HashMap<String, String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    pub identities_per_partition: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            worker: "hydrometer".into(),
            topics: Topics::default(),
            source: SourceConfig::default(),
            database: DatabaseConfig::default(),
            warehouse: WarehouseConfig::default(),
            windows: WindowConfig::default(),
            commit: CommitConfig::default(),
            ledger: LedgerConfig::default(),
            events: EventsConfig::default(),
            limits: LimitConfig { identities_per_partition: 200_000 },
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Topics { telemetry: "gpu.telemetry".into(), lifecycle: "gpu.lifecycle".into() }
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        SourceConfig {
            kind: SourceKind::Kafka,
            batch_records: 20_000,
            kafka: KafkaConfig::default(),
            files: FilesConfig::default(),
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig {
            brokers: "localhost:9092".into(),
            group: "hydrometer".into(),
            accept_producer_time: false,
            options: HashMap::new(),
        }
    }
}

impl Default for WindowConfig {
    fn default() -> Self {
        WindowConfig { lateness_s: 120, idle_s: 60, vouches_for_s: 1 }
    }
}

impl Default for CommitConfig {
    fn default() -> Self {
        CommitConfig { interval_ms: 1_000, drain_s: 20, revision_hours: 24, upkeep_s: 2, sweep_s: 15 }
    }
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig { chain_s: 5, anchor_s: 3_600, anchor_dir: PathBuf::new() }
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        EventsConfig { topic: "gpu.billing.events".into(), brokers: String::new(), options: HashMap::new() }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        DatabaseConfig {
            url: String::new(),
            private_dir: PathBuf::new(),
            patience_s: 60,
            lock_timeout_s: 20,
            idle_in_transaction_timeout_s: 20,
            statement_timeout_s: 120,
        }
    }
}

impl Default for WarehouseConfig {
    fn default() -> Self {
        WarehouseConfig { url: String::new(), patience_s: 60 }
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Config::default().limits
    }
}

impl Config {
    /// Reads a file, then what the environment says over it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config = Config::parse(&text, |name| std::env::var(name).ok())
            .map_err(|detail| ConfigError::Wrong { path: path.to_owned(), detail })?;
        config.check().map_err(|detail| ConfigError::Wrong { path: path.to_owned(), detail })?;
        Ok(config)
    }

    fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
        // Read once by itself first: its errors name line and column.
        let config: Config = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        let mut tree = toml::Value::try_from(&config).map_err(|e| e.to_string())?;
        overlay(&mut tree, "HYDROMETER", &environment)?;
        tree.try_into().map_err(|e: toml::de::Error| e.to_string())
    }

    /// What must be there, and the bounds of what is.
    pub fn check(&self) -> Result<(), String> {
        if self.database.url.is_empty() && self.database.private_dir.as_os_str().is_empty() {
            return Err("database.url is missing (or HYDROMETER_DATABASE_URL)".into());
        }
        if self.warehouse.url.is_empty() {
            return Err("warehouse.url is missing: a folder or s3://bucket/prefix".into());
        }
        if self.source.kind == SourceKind::Files && self.source.files.dir.as_os_str().is_empty() {
            return Err("source.files.dir is missing".into());
        }
        if !(1..=3_600).contains(&self.windows.vouches_for_s) {
            return Err("windows.vouches_for_s must be 1 to 3600".into());
        }
        if self.source.batch_records == 0 || self.source.batch_records > 1_000_000 {
            return Err("source.batch_records must be 1 to 1000000".into());
        }
        if self.commit.revision_hours == 0 {
            return Err("commit.revision_hours must be at least 1".into());
        }
        let timeouts = [
            ("lock_timeout_s", self.database.lock_timeout_s),
            ("idle_in_transaction_timeout_s", self.database.idle_in_transaction_timeout_s),
            ("statement_timeout_s", self.database.statement_timeout_s),
        ];
        // 0 would be none at all: a worker that stops dead would hold its locks for ever.
        if let Some((name, _)) = timeouts.iter().find(|(_, value)| !(1..=3_600).contains(value)) {
            return Err(format!("database.{name} must be 1 to 3600"));
        }
        if self.topics.telemetry == self.topics.lifecycle {
            return Err("topics.telemetry and topics.lifecycle must differ".into());
        }
        if [&self.topics.telemetry, &self.topics.lifecycle].contains(&&self.events.topic) {
            return Err("events.topic must differ from the topics that are read".into());
        }
        Ok(())
    }
}

/// Replaces every leaf of the tree for which the environment has a value, read as the leaf's own type.
fn overlay(value: &mut toml::Value, path: &str, environment: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
    if let toml::Value::Table(table) = value {
        for (key, inner) in table.iter_mut() {
            overlay(inner, &format!("{path}_{}", key.to_uppercase()), environment)?;
        }
        return Ok(());
    }
    let Some(text) = environment(path) else { return Ok(()) };
    *value = match value {
        toml::Value::Integer(_) => {
            toml::Value::Integer(text.parse().map_err(|_| format!("{path}={text} is not a whole number"))?)
        }
        toml::Value::Boolean(_) => {
            toml::Value::Boolean(text.parse().map_err(|_| format!("{path}={text} is not true or false"))?)
        }
        _ => toml::Value::String(text),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins() {
        let text = "[database]\nurl = \"a\"\n[windows]\nlateness_s = 60\n";
        let environment = |name: &str| match name {
            "HYDROMETER_DATABASE_URL" => Some("b".to_owned()),
            "HYDROMETER_WINDOWS_IDLE_S" => Some("7".to_owned()),
            _ => None,
        };
        let config = Config::parse(text, environment).unwrap();
        assert_eq!((config.database.url.as_str(), config.windows.lateness_s, config.windows.idle_s), ("b", 60, 7));
        let wrong = Config::parse(text, |name| (name == "HYDROMETER_WINDOWS_IDLE_S").then(|| "soon".to_owned()));
        assert!(wrong.unwrap_err().contains("HYDROMETER_WINDOWS_IDLE_S=soon"));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = Config::parse("[databse]\nurl = \"a\"\n", |_| None).unwrap_err();
        assert!(wrong.contains("databse"), "{wrong}");
        assert!(Config::default().check().unwrap_err().contains("database.url"));
    }
}
