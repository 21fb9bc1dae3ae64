//! A schedule again: replayed from its list of actions, shrunk, and told.

use super::actions::Action;
use super::rules::{Law, Rules, Violation};
use super::worker::Task;
use super::world::{World, tick_of};

/// The same actions again, without those that are not possible.
pub fn replayed(actions: &[Action], rules: Rules) -> Option<Violation> {
    let mut world = World::new(rules);
    for action in actions {
        if world.can(*action) {
            world.perform(*action);
        }
        if world.broken.is_some() {
            return world.broken;
        }
    }
    world.drain();
    world.broken
}

/// The fewest actions that still break the same law: whole stretches are left out first, then single ones.
pub fn shrink(actions: &[Action], rules: Rules, law: Law) -> Vec<Action> {
    let still = |actions: &[Action]| replayed(actions, rules).is_some_and(|broken| broken.law == law);
    let mut shortest = actions.to_vec();
    let mut length = (shortest.len() / 2).max(1);
    loop {
        let before = shortest.len();
        let mut at = 0;
        while at < shortest.len() {
            let mut shorter = shortest.clone();
            shorter.drain(at..(at + length).min(shortest.len()));
            if still(&shorter) {
                shortest = shorter;
            } else {
                at += length;
            }
        }
        if length > 1 {
            length /= 2;
        } else if shortest.len() == before {
            return shortest;
        }
    }
}

/// A schedule in words: every step, what came of it, and if asked for the state after it.
pub fn tell(actions: &[Action], rules: Rules, with_states: bool) -> String {
    let mut world = World::new(rules);
    world.telling = true;
    let mut text = String::new();
    let mut last = String::new();
    let mut after = |world: &mut World, text: &mut String| {
        text.extend(world.told.drain(..).map(|line| line + "\n"));
        let state = world.state();
        if with_states && state != last {
            *text += &state;
            last = state;
        }
    };
    for (number, action) in actions.iter().enumerate() {
        if world.broken.is_none() && world.can(*action) {
            text += &format!("{:>4}. {}\n", number + 1, world.words(*action));
            world.perform(*action);
            after(&mut world, &mut text);
        }
    }
    if world.broken.is_none() {
        text += "      then everything is drained\n";
        world.drain();
        if !with_states {
            world.told.clear();
        }
        after(&mut world, &mut text);
    }
    match &world.broken {
        Some(broken) => text + &format!("      BROKEN: {broken}\n"),
        None => text + "      every law holds\n",
    }
}

impl World {
    /// What an action is going to do, in words.
    pub fn words(&self, action: Action) -> String {
        match action {
            Action::Clock => format!("it is tick {}", self.now + 1),
            Action::Append { partition, server, tick } => {
                let offset = self.telemetry[partition].len();
                format!("partition {partition}, offset {offset}: server {server} reports tick {tick}")
            }
            Action::Happen(event) => {
                format!("the lifecycle log, offset {}: {event:?}", self.lifecycle.len())
            }
            Action::Step { worker } => format!("worker {worker} {}", self.next_of(worker)),
            Action::Commit { worker } => format!("the server works off worker {worker}'s COMMIT"),
            Action::AbortCommit { worker } => format!("the server fails worker {worker}'s COMMIT"),
            Action::EndSession { worker } => format!("the server ends worker {worker}'s silent transaction"),
            other => format!("{other:?}"),
        }
    }

    /// What a worker's next step is.
    fn next_of(&self, worker: usize) -> String {
        if let Task::TakeOver(task) = &self.workers[worker].task {
            return match task.partitions.get(task.locked) {
                Some(partition) => format!("takes over: locks the lease of partition {partition}"),
                None => "takes over: bumps the epochs".to_owned(),
            };
        }
        if let Some(transaction) = self.transaction(worker) {
            return match (transaction.ended(self), transaction.statement()) {
                (Some(happened), _) => format!("learns: {happened:?}"),
                (None, Some(statement)) => format!("in its transaction: {statement:?}"),
                (None, None) => "goes on".to_owned(),
            };
        }
        match &self.workers[worker].task {
            Task::Round(task) => format!("in its round: {:?}", task.round.step()),
            Task::Open => "reads the evidence of its partitions".to_owned(),
            Task::Publish(_) => "publishes what is owed".to_owned(),
            Task::Sweep(_) => "sweeps".to_owned(),
            Task::Lifecycle(_) => "settles its lifecycle commit".to_owned(),
            Task::Idle | Task::TakeOver(_) => "goes on".to_owned(),
        }
    }

    /// The state in a few lines.
    pub fn state(&self) -> String {
        let mut text = String::new();
        for (partition, lease) in self.database.leases.iter().enumerate() {
            let position = lease.position;
            text += &format!(
                "        partition {partition}: epoch {} round {} next {} replay_from {} time {} closed {} frontier {} revision {}\n",
                lease.epoch,
                lease.round,
                position.next,
                position.replay_from,
                tick_of(position.time / 1_000_000),
                tick_of(position.closed_until * 60),
                tick_of(lease.frontier),
                lease.revision
            );
        }
        let open = self.database.requests.iter().filter(|r| !r.done).count();
        let owed = self.database.files.iter().filter(|f| !f.published).count();
        let staged = self.store.iter().filter(|o| o.stored).count();
        text += &format!(
            "        homes {:?}, totals {:?}, {open} open requests, {owed} files owed of {}, {staged} objects staged, open sessions {:?}\n",
            self.database.homes,
            self.database.totals,
            self.database.files.len(),
            self.database.open.iter().map(|s| (*s, self.database.sessions[*s].state)).collect::<Vec<_>>()
        );
        text
    }
}
