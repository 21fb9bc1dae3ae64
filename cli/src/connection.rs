//! Where a deployment's data is, from the configuration; and a private database that is started when a command needs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hydrometer_pipeline::config::Config;
use hydrometer_testkit::services::postgres::{Lifetime, Options, PrivatePostgres};

use crate::CliError;

/// What the reading commands need of a deployment.
#[derive(Debug, Clone)]
pub struct Connection {
    pub database_url: String,
    pub warehouse_url: String,
}

/// How long a private database stays up when nobody uses it.
pub const PRIVATE_IDLE: Duration = Duration::from_secs(120);
/// The name of the database and of the application's role in a private cluster.
pub const PRIVATE_DATABASE: &str = "hydrometer";
pub const APP_ROLE: &str = "hydrometer_app";

/// The configuration of `--config`, or, where there is none, the demo's.
pub fn load_config(path: Option<&Path>) -> Result<Config, CliError> {
    let chosen: PathBuf = match path {
        Some(path) => path.to_owned(),
        None => {
            let candidates = [PathBuf::from("hydrometer.toml"), crate::demo::default_dir().join("hydrometer.toml")];
            let found = candidates.into_iter().find(|candidate| candidate.is_file());
            found.ok_or_else(|| {
                CliError::usage(
                    "no configuration: give --config FILE (examples/hydrometer.toml is one to start from), or run `./demo` first, \
                     whose data the commands use when there is no other",
                )
            })?
        }
    };
    Config::load(&chosen).map_err(CliError::failed)
}

/// Opens the configuration's database: a private cluster is started if it is not running, and stops when it has been idle.
pub fn connect(config: &Config) -> Result<Connection, CliError> {
    let mut database_url = config.database.url.clone();
    if database_url.is_empty() {
        let private = open_private(&config.database.private_dir)?;
        database_url = private.connection_string(PRIVATE_DATABASE, APP_ROLE);
    }
    Ok(Connection { database_url, warehouse_url: config.warehouse.url.clone() })
}

/// The private cluster of a directory, running.
pub fn open_private(dir: &Path) -> Result<PrivatePostgres, CliError> {
    let guard_program = std::env::current_exe().map_err(CliError::failed)?;
    let options = Options { lifetime: Lifetime::UntilIdle { guard_program, idle: PRIVATE_IDLE }, ..Options::default() };
    PrivatePostgres::open(dir, options).map_err(CliError::failed)
}
