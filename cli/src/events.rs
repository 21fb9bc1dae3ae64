//! `events`: what the ledger has to tell others, and publishing it to Kafka.

use std::path::Path;
use std::time::Duration;

use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use futures::future::BoxFuture;
use hydrometer_events::cloud_event::TYPE_PREFIX;
use hydrometer_events::{Claim, PublishError, Publisher, TopicSettings};
use hydrometer_ledger::outbox;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::failpoint;
use hydrometer_pipeline::store::{Database, StoreError, Timeouts};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::connection::{connect, load_config};
use crate::run::{log_to_stderr, told_to_stop};
use crate::table::{Format, Kind, Rows};
use crate::{CliError, show};

#[derive(Debug, Args)]
#[command(after_help = "`hydrometer run` publishes by itself; `publish` is for a ledger without a stream.\n\n\
    Examples:\n  \
    hydrometer events show --waiting\n  \
    hydrometer events publish --once")]
pub struct EventsArgs {
    #[command(subcommand)]
    command: EventsCommand,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// Publish the outbox to Kafka, in place of whoever does so now, until SIGTERM or SIGINT
    Publish {
        /// Publishes what is there, and ends
        #[arg(long)]
        once: bool,
    },
    /// The latest events, oldest first, and whether they are published
    Show {
        /// Only those that are not published yet
        #[arg(long)]
        waiting: bool,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

pub async fn run(args: EventsArgs, config: Option<&Path>) -> Result<u8, CliError> {
    let config = load_config(config)?;
    let database_url = connect(&config)?.database_url;
    match args.command {
        EventsCommand::Publish { once } => publish(&config, &database_url, once).await,
        EventsCommand::Show { waiting, limit, format } => {
            show_events(&config, &database_url, waiting, limit, format).await
        }
    }
}

/// Where the configuration wants events to go; `None`: nowhere.
fn settings(config: &Config) -> Option<TopicSettings> {
    let (events, source) = (&config.events, &config.source);
    let (brokers, mut options) = match (events.brokers.as_str(), source.kind) {
        ("", SourceKind::Files) => return None,
        ("", SourceKind::Kafka) => (source.kafka.brokers.as_str(), source.kafka.options.clone()),
        (brokers, _) => (brokers, Default::default()),
    };
    options.extend(events.options.clone());
    let wanted = !events.topic.is_empty();
    wanted.then(|| TopicSettings { brokers: brokers.to_owned(), topic: events.topic.clone(), options })
}

async fn publish(config: &Config, database_url: &str, once: bool) -> Result<u8, CliError> {
    let Some(settings) = settings(config) else {
        return Err(CliError::usage(
            "where are events to be published? Name `events.topic`, and `events.brokers` where the source is not Kafka",
        ));
    };
    log_to_stderr();
    let topic = settings.topic.clone();
    let publisher = publisher(config, database_url, settings);
    let published = if once {
        publisher.once().await
    } else {
        let (tell, stop) = watch::channel(false);
        let told = told_to_stop()?;
        let signals = async move {
            told.await;
            tracing::info!("stopping: what is on its way is waited for");
            // It has ended by itself when nobody listens any more.
            let _ = tell.send(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            published = publisher.run(Claim::AtOnce, stop) => published,
            () = signals => Ok(0),
        }
    };
    let published = published.map_err(CliError::failed)?;
    println!("published to {topic}: {} events", show::count(published));
    Ok(0)
}

type Opened = BoxFuture<'static, Result<Client, StoreError>>;

/// The publisher of a topic, under the worker's name.
fn publisher(config: &Config, database_url: &str, settings: TopicSettings) -> Publisher<impl Fn() -> Opened + use<>> {
    let (url, timeouts) = (database_url.to_owned(), Timeouts::from(&config.database));
    let connect = move || -> Opened {
        let (url, timeouts) = (url.clone(), timeouts.clone());
        Box::pin(async move { Database::connect_with(&url, timeouts).await.map(Database::into_client) })
    };
    Publisher {
        settings,
        holder: format!("{} (process {})", config.worker, std::process::id()),
        connect,
        step: |step| failpoint::pass(format_args!("events.{step}")),
    }
}

/// What publishes while a worker runs.
pub struct Beside {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Beside {
    /// Lets it finish what is on its way.
    pub async fn end(self) {
        if let Some(task) = self.task
            && self.stop.send(true).is_ok()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the publisher of events has ended badly");
        }
    }
}

/// How long after an error that does not pass by itself it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Publishes beside a worker, if the configuration wants it: one of all workers does, the others wait for its end. The worker is not
/// held up by it: whatever fails, events wait in the outbox.
pub fn publish_beside(config: &Config, database_url: &str) -> Beside {
    let (stop, mut stopped) = watch::channel(false);
    let task = settings(config).map(|settings| {
        let publisher = publisher(config, database_url, settings);
        tokio::spawn(async move {
            while let Err(error) = publisher.run(Claim::WhenFree, stopped.clone()).await {
                tracing::error!(%error, again_in_s = AGAIN.as_secs(), "events are not published; they wait in the outbox");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            }
        })
    });
    Beside { stop, task }
}

async fn show_events(
    config: &Config,
    database_url: &str,
    waiting: bool,
    limit: u32,
    format: Format,
) -> Result<u8, CliError> {
    let db = Database::connect(database_url).await.map_err(CliError::failed)?;
    let latest = outbox::latest(db.client_ref(), &config.events.topic, waiting, i64::from(limit)).await;
    let latest = latest.map_err(|error| CliError::failed(PublishError::from(error)))?;
    let columns = ["time", "type", "subject", "id", "published", "data"].map(|name| (name, Kind::Text));
    let mut shown = Rows::new(&columns);
    for (message, published) in latest.into_iter().rev() {
        shown.push([
            message.time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            format!("{TYPE_PREFIX}{}", message.kind),
            message.subject,
            message.id.to_string(),
            if published { "yes" } else { "waiting" }.to_owned(),
            message.data.get().to_owned(),
        ]);
    }
    shown.print(format)?;
    Ok(0)
}
