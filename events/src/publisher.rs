//! The publisher: takes over the outbox, and passes on page after page.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use hydrometer_ledger::outbox::{self, Claim, Hold, Message, Place};
use rdkafka::producer::DeliveryFuture;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Client;

use crate::PublishError;
use crate::topic::{Topic, TopicSettings};

/// Who does not renew his hold for so long has lost it to whoever waits.
const HOLD: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// So many events at once are in memory and on their way.
const PAGE: i64 = 500;
/// How often an outbox that is empty, or in other hands, is looked at again.
const LOOK: Duration = Duration::from_millis(250);
/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it says that something is still not there.
const REMINDER: Duration = Duration::from_secs(10);
/// Whoever is told to stop waits so long for what is on its way.
const GRACE: Duration = Duration::from_secs(10);
/// How long a publisher that is to end by itself waits for a server that is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Becomes true when the publisher is to stop.
pub type Stop = watch::Receiver<bool>;

/// Publishes one topic. `connect` opens a session of the database.
pub struct Publisher<C> {
    pub settings: TopicSettings,
    /// Who publishes, as others see it.
    pub holder: String,
    pub connect: C,
    /// Told each step: `claimed`, `sent`, `confirmed`, `recorded`. For tests that end the process there.
    pub step: fn(&'static str),
}

/// What a publisher knows while it works; it outlives a lost session.
struct State {
    client: Option<Client>,
    held: Option<Hold>,
    /// The broker has confirmed everything up to here.
    confirmed: Option<Place>,
    renewed: Instant,
    published: u64,
}

impl<C, F, E> Publisher<C>
where
    C: Fn() -> F,
    F: Future<Output = Result<Client, E>>,
    E: Display,
{
    /// Publishes until it is told to stop; how many events it has published.
    ///
    /// Servers that are away are waited for. With [`Claim::AtOnce`] it takes over, and ends when another one does;
    /// with [`Claim::WhenFree`] it waits for its turn, as often as need be.
    pub async fn run(&self, claim: Claim, mut stop: Stop) -> Result<u64, PublishError> {
        let Some(topic) = self.open(None, &mut stop).await? else { return Ok(0) };
        let mut state = State::new();
        let mut stopping: Option<Instant> = None;
        loop {
            let turn = self.outlive(self.turn(&topic, claim, &mut state, &stop).await, &mut state)?;
            if *stop.borrow() {
                // What was committed last is still published, if that goes quickly.
                let since = *stopping.get_or_insert_with(Instant::now);
                if turn == Turn::Idle || since.elapsed() >= GRACE {
                    break;
                }
            } else if turn == Turn::Idle {
                pause(LOOK, &mut stop).await;
            }
        }
        self.let_go(&mut state).await;
        Ok(state.published)
    }

    /// Publishes what can be read now; how many events that were. Takes over at once, and lets go at the end.
    pub async fn once(&self) -> Result<u64, PublishError> {
        let (_never, mut stop) = watch::channel(false);
        let Some(topic) = self.open(Some(Instant::now() + PATIENCE), &mut stop).await? else { return Ok(0) };
        let mut state = State::new();
        let mut since = Instant::now();
        loop {
            let turn = self.turn(&topic, Claim::AtOnce, &mut state, &stop);
            let turn = timeout(PATIENCE, turn).await;
            let turn = turn.unwrap_or(Err(PublishError::Unconfirmed { seconds: PATIENCE.as_secs() }));
            match turn {
                Ok(Turn::Idle) => break,
                Ok(Turn::Busy) => since = Instant::now(),
                Err(error) if since.elapsed() >= PATIENCE => return Err(error),
                failed => {
                    self.outlive(failed, &mut state)?;
                    sleep(PAUSE).await;
                }
            }
        }
        self.let_go(&mut state).await;
        Ok(state.published)
    }

    /// The topic, however long its broker is away. `None`: told to stop before.
    async fn open(&self, deadline: Option<Instant>, stop: &mut Stop) -> Result<Option<Topic>, PublishError> {
        while !*stop.borrow() {
            match Topic::open(&self.settings).await {
                Ok(topic) => return Ok(Some(topic)),
                Err(error) if !error.may_pass() || deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%error, "events wait in the outbox; trying again");
                    pause(PAUSE, stop).await;
                }
            }
        }
        Ok(None)
    }

    /// Says what failed and will be tried again; anything else ends the publisher.
    fn outlive(&self, turn: Result<Turn, PublishError>, state: &mut State) -> Result<Turn, PublishError> {
        match turn {
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, topic = self.settings.topic, "publishing events is held up; trying again");
                if state.client.as_ref().is_none_or(Client::is_closed) {
                    state.client = None;
                }
                Ok(Turn::Idle)
            }
            other => other,
        }
    }

    /// One page: read, sent, confirmed, recorded. Whatever fails on the way, the next turn goes on from there.
    async fn turn(&self, topic: &Topic, claim: Claim, state: &mut State, stop: &Stop) -> Result<Turn, PublishError> {
        if state.client.is_none() {
            let opened = (self.connect)().await.map_err(|error| PublishError::Connect(error.to_string()))?;
            state.client = Some(opened);
        }
        let State { client: Some(client), held, confirmed, renewed, published } = state else { return Ok(Turn::Idle) };
        if held.is_none() {
            *held = outbox::claim(client, &self.settings.topic, &self.holder, HOLD, claim).await?;
            let Some(held) = held else { return Ok(Turn::Idle) };
            *renewed = Instant::now();
            tracing::info!(topic = self.settings.topic, epoch = held.epoch, "publishing events");
            (self.step)("claimed");
        }
        let Some(hold) = held else { return Ok(Turn::Idle) };

        let place = confirmed.unwrap_or(hold.place);
        if confirmed.is_some() || renewed.elapsed() >= RENEWAL {
            if !outbox::advance(client, hold, place, HOLD).await? {
                (*held, *confirmed) = (None, None);
                return self.taken_over(client, claim).await;
            }
            *confirmed = None;
            *renewed = Instant::now();
            (self.step)("recorded");
        }

        let page = outbox::next(client, &place, PAGE).await?;
        let Some(last) = page.last() else { return Ok(Turn::Idle) };
        let deliveries = topic.send(&page)?;
        (self.step)("sent");
        match self.wait(topic, &page, deliveries, client, hold, stop).await? {
            Word::Confirmed => {
                (self.step)("confirmed");
                *confirmed = Some(last.place());
                *published += page.len() as u64;
                Ok(Turn::Busy)
            }
            Word::Stopped => Ok(Turn::Idle),
            Word::TakenOver => {
                *held = None;
                self.taken_over(client, claim).await
            }
        }
    }

    /// Waits until the broker has confirmed a page, and holds the outbox meanwhile.
    async fn wait(
        &self,
        topic: &Topic,
        page: &[Message],
        deliveries: Vec<DeliveryFuture>,
        client: &Client,
        hold: &mut Hold,
        stop: &Stop,
    ) -> Result<Word, PublishError> {
        let sent = Instant::now();
        let mut confirmed = std::pin::pin!(topic.confirmed(page, deliveries));
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.tick().await;
        let (mut reminded, mut stopping) = (sent, stop.clone());
        loop {
            let over = async {
                let _ = stopping.wait_for(|stop| *stop).await;
                sleep(GRACE).await;
            };
            tokio::select! {
                result = &mut confirmed => return result.map(|()| Word::Confirmed),
                () = over => return Ok(Word::Stopped),
                _ = renewal.tick() => {}
            }
            if reminded.elapsed() >= REMINDER {
                reminded = Instant::now();
                let seconds = sent.elapsed().as_secs();
                tracing::warn!(
                    topic = self.settings.topic,
                    seconds,
                    "Kafka has not confirmed the events that were sent; waiting"
                );
            }
            let place = hold.place;
            match outbox::advance(client, hold, place, HOLD).await {
                Ok(true) => {}
                Ok(false) => return Ok(Word::TakenOver),
                Err(error) => tracing::warn!(%error, "the outbox could not be held for longer"),
            }
        }
    }

    async fn taken_over(&self, client: &Client, claim: Claim) -> Result<Turn, PublishError> {
        let topic = self.settings.topic.clone();
        let holder = outbox::holder(client, &topic).await?;
        if claim == Claim::WhenFree {
            tracing::info!(topic, holder, "another publisher has taken over; waiting for its end");
            return Ok(Turn::Idle);
        }
        Err(PublishError::TakenOver { topic, holder })
    }

    /// Records what was confirmed, and lets the next one begin at once. Without success it begins after the hold, and sends a page again.
    async fn let_go(&self, state: &mut State) {
        if let State { client: Some(client), held: Some(hold), confirmed, .. } = state {
            let place = confirmed.unwrap_or(hold.place);
            match timeout(GRACE, outbox::advance(client, hold, place, Duration::ZERO)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the outbox was not let go; whoever comes next waits a few seconds")
                }
                Err(_) => tracing::warn!("the outbox was not let go in time; whoever comes next waits a few seconds"),
            }
        }
    }
}

impl State {
    fn new() -> State {
        State { client: None, held: None, confirmed: None, renewed: Instant::now(), published: 0 }
    }
}

/// What a turn was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A page was published; there may be more.
    Busy,
    /// There was nothing to do.
    Idle,
}

/// What became of a page on its way.
enum Word {
    Confirmed,
    /// Told to stop, and the broker's word has not come in time.
    Stopped,
    TakenOver,
}

/// Sleeps, but not longer than until the stop.
async fn pause(time: Duration, stop: &mut Stop) {
    tokio::select! {
        () = sleep(time) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
