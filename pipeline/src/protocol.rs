//! The commit protocol's decisions, as pure functions: what is known goes in, what to do next comes out. All I/O is at their edge,
//! in [`crate::worker`] and [`crate::store`], so that they can be driven through any order of crashes and replies.
//!
//! A round: **cut → derive → stage → commit → publish**. Postgres is the only commit point (law 8).

use std::collections::BTreeMap;

use hydrometer_schemas::time::{FOREVER, Minute, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, hour_ceil, hour_floor};
use uuid::Uuid;

/// What a round does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Work out the quantities of the windows due from what is known now.
    Derive,
    /// Write the objects, under names of this attempt's own.
    Stage { attempt: Uuid },
    /// One transaction.
    Commit { attempt: Uuid, timeline: TimelineRule },
    /// The reply to COMMIT was lost: look whether this attempt's commit is there. The look waits for a transaction in doubt.
    Settle { attempt: Uuid },
    /// Publish what is owed.
    Publish,
    /// The partitions are somebody else's: discard and stop.
    Stop,
    /// The round is over.
    Done,
}

/// What to do about events that came in after the derivation and touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineRule {
    /// Roll back and derive again.
    DeriveAgain,
    /// Commit, and leave requests for the windows concerned: steady lifecycle traffic must not starve the rating.
    LeaveRequests,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Derived,
    Staged,
    /// The transaction said what it found; it has rolled back unless this is `Committed`.
    Committed,
    /// The fence matched no row: the epoch is stale.
    FenceLost,
    /// The fence's homes are not what the derivation assumed.
    HomesMoved,
    /// Events came in that touch the windows due.
    TimelineMoved,
    /// The transaction failed for a passing reason (a deadlock, a serialization failure, a timeout at a lock).
    Refused,
    /// The connection broke before COMMIT was sent.
    BrokeBeforeCommit,
    /// COMMIT was sent, the reply did not come.
    ReplyLost,
    /// Settling found the lease's last attempt to be this one, or not; or the epoch to be another's.
    SettledCommitted,
    SettledNotCommitted,
    SettledForeign,
    Published,
}

impl Happened {
    /// Whether an attempt is over for good after this, so that what it staged is either named by now or never will be. While its
    /// transaction is in doubt, it is not.
    pub fn finishes_attempt(self) -> bool {
        match self {
            Happened::Derived | Happened::Staged | Happened::ReplyLost | Happened::Published => false,
            Happened::Committed
            | Happened::FenceLost
            | Happened::HomesMoved
            | Happened::TimelineMoved
            | Happened::Refused
            | Happened::BrokeBeforeCommit
            | Happened::SettledCommitted
            | Happened::SettledNotCommitted
            | Happened::SettledForeign => true,
        }
    }
}

/// How often one round tries to commit before it gives up and lets the worker start over from the last commit.
pub const ATTEMPTS_MAX: u32 = 10;

/// One round's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    attempts: u32,
    derived_again: bool,
    step: Step,
}

impl Round {
    pub fn begin() -> Round {
        Round { attempts: 0, derived_again: false, step: Step::Derive }
    }

    pub fn step(&self) -> Step {
        self.step
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes note of what happened and says what to do next. `fresh` is an id that was never used: names are never written twice.
    pub fn happened(&mut self, what: Happened, fresh: Uuid) -> Step {
        self.step = self.next(what, fresh);
        self.step
    }

    fn next(&mut self, what: Happened, fresh: Uuid) -> Step {
        match (self.step, what) {
            (Step::Derive, Happened::Derived) => {
                self.attempts += 1;
                Step::Stage { attempt: fresh }
            }
            (Step::Stage { attempt }, Happened::Staged) => {
                let timeline = if self.derived_again { TimelineRule::LeaveRequests } else { TimelineRule::DeriveAgain };
                Step::Commit { attempt, timeline }
            }
            (Step::Commit { .. } | Step::Settle { .. }, Happened::Committed | Happened::SettledCommitted) => {
                Step::Publish
            }
            (Step::Commit { .. } | Step::Settle { .. }, Happened::FenceLost | Happened::SettledForeign) => Step::Stop,
            (Step::Commit { .. }, Happened::TimelineMoved) => {
                self.derived_again = true;
                Step::Derive
            }
            (Step::Commit { .. }, Happened::HomesMoved | Happened::Refused | Happened::BrokeBeforeCommit)
            | (Step::Settle { .. }, Happened::SettledNotCommitted) => self.derive_or_give_up(),
            (Step::Commit { attempt, .. }, Happened::ReplyLost) => Step::Settle { attempt },
            (Step::Publish, Happened::Published) => Step::Done,
            // Anything else is not of this round; to stop is always safe, since the last commit holds.
            _ => Step::Stop,
        }
    }

    fn derive_or_give_up(&self) -> Step {
        if self.attempts < ATTEMPTS_MAX { Step::Derive } else { Step::Stop }
    }
}

/// What becomes of a piece of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// It goes into its open minute.
    Open,
    /// Its minute was closed before it came.
    Late,
    /// It is read again, and was counted before this worker came: in a closed minute, or as late.
    Handled,
}

/// Where a piece belongs. Records below `next` of the commit that a worker continues from (`replayed`) are compared with what was
/// closed then; new ones with what is closed just before them.
pub fn piece_belongs(minute: Minute, replayed: bool, closed_before: Minute, closed_until: Minute) -> Belongs {
    match (replayed, if replayed { closed_before } else { closed_until }) {
        (_, closed) if minute >= closed => Belongs::Open,
        (true, _) => Belongs::Handled,
        (false, _) => Belongs::Late,
    }
}

/// The first offset that an open minute depends on. While the open minutes are still being rebuilt they depend on all that is yet
/// to be read again, so it stays where it is.
pub fn replay_from(rebuilding: bool, committed: i64, first_of_open: Option<i64>, next: i64) -> i64 {
    if rebuilding { committed } else { first_of_open.unwrap_or(next) }
}

/// Where a minute goes that a round brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinuteGoes {
    /// Into the usage of its hour.
    Usage,
    /// Into the late object; `asks` when a revision has to bring it in.
    Late { asks: bool },
    /// Its server's home is elsewhere: kept, and brought in by a revision there.
    Away,
}

/// What closes in an hour that is frozen already (a partition that was added later) is late as well.
pub fn minute_goes(
    start: Second,
    at_home: bool,
    late: bool,
    frontier: Second,
    minute_window_covers: impl FnOnce() -> bool,
) -> MinuteGoes {
    if !at_home {
        MinuteGoes::Away
    } else if late || hour_floor(start) + SECONDS_PER_HOUR <= frontier {
        MinuteGoes::Late { asks: late_minute_asks(start + SECONDS_PER_MINUTE, frontier, minute_window_covers()) }
    } else {
        MinuteGoes::Usage
    }
}

/// How far a partition's rating frontier may move: its minutes are closed, lifecycle time has passed, and (for a log that ends) the
/// horizon is not exceeded. It never moves back.
pub fn frontier_target(
    frontier: Second,
    closed_until: Second,
    lifecycle_time: Second,
    horizon: Option<Second>,
) -> Second {
    let reached = closed_until.min(lifecycle_time).min(horizon.unwrap_or(Second::MAX));
    let whole_minute = reached.div_euclid(SECONDS_PER_MINUTE) * SECONDS_PER_MINUTE;
    frontier.max(whole_minute)
}

/// Whether a late minute asks for a revision: its hour is frozen, or a window that covers it was rated.
pub fn late_minute_asks(minute_end: Second, frontier: Second, minute_window_covers: bool) -> bool {
    hour_floor(minute_end - 1) + SECONDS_PER_HOUR <= frontier || (minute_window_covers && minute_end <= frontier)
}

/// Whether a request can be derived now: every hour that it touches is frozen, behind the frontier. Until then it waits.
pub fn derivable(request_to: Second, frontier: Second) -> bool {
    hour_ceil(request_to) <= frontier
}

/// For how long a server must have spoken only elsewhere before its home is moved there.
pub const AWAY_BEFORE_MOVE_S: i64 = SECONDS_PER_HOUR;

/// Where the home of a server is to be moved: to the partition in which it spoke in most minutes since its home heard it last, once
/// that is an hour ago by the home's own log; the first of several. Nowhere while it speaks at home, or nowhere at all.
///
/// The owner of the old home decides. That a server is silent follows from its home's log alone, and nobody else has that; what it
/// says elsewhere is addressed to its home as it is (away readings ask there); and a home has one owner at a time, whose epoch the
/// move is fenced by, so two workers cannot decide twice. The new home's owner need not do or know anything: its next commit is
/// refused by the version of its homes, and it derives again with the new ones.
///
/// `silent_since` is the end of the last minute that was heard at home, or since when one could have been; `closed_until` how far the
/// home's minutes are closed; `elsewhere` the ends of minutes heard in other partitions. All of it is event time.
pub fn moves_to<P: Ord + Clone>(
    silent_since: Second,
    closed_until: Second,
    elsewhere: impl IntoIterator<Item = (P, Second)>,
) -> Option<P> {
    if closed_until.saturating_sub(silent_since) < AWAY_BEFORE_MOVE_S {
        return None;
    }
    let mut minutes: BTreeMap<P, u64> = BTreeMap::new();
    for (partition, _) in elsewhere.into_iter().filter(|(_, end)| *end > silent_since) {
        *minutes.entry(partition).or_default() += 1;
    }
    minutes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0))).map(|(partition, _)| partition)
}

/// From when on a moved home counts: the first hour's edge that neither side has passed, be it by rating or by closing minutes, so that
/// no window has two homes and no minute that is committed changes its own. Never for a log that has ended: there is nothing ahead.
pub fn move_edge(old_reached: Second, new_reached: Second) -> Option<Second> {
    let reached = old_reached.max(new_reached);
    (reached < FOREVER - SECONDS_PER_HOUR).then(|| hour_ceil(reached))
}

/// Whether the sweeper may remove a staged object that the manifest does not name: it belongs to a finished attempt of this worker,
/// or to an epoch below the lease's current one (its writer can never commit it).
pub fn may_sweep(object_epoch: i64, current_epoch: i64, own_finished_attempt: bool) -> bool {
    own_finished_attempt || object_epoch < current_epoch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn a_smooth_round() {
        let mut round = Round::begin();
        assert_eq!(round.happened(Happened::Derived, id(1)), Step::Stage { attempt: id(1) });
        let commit = Step::Commit { attempt: id(1), timeline: TimelineRule::DeriveAgain };
        assert_eq!(round.happened(Happened::Staged, id(2)), commit);
        assert_eq!(round.happened(Happened::Committed, id(3)), Step::Publish);
        assert_eq!(round.happened(Happened::Published, id(4)), Step::Done);
    }

    #[test]
    fn a_lost_reply_is_settled_and_a_retry_has_another_id() {
        let mut round = Round::begin();
        round.happened(Happened::Derived, id(1));
        round.happened(Happened::Staged, id(2));
        assert_eq!(round.happened(Happened::ReplyLost, id(3)), Step::Settle { attempt: id(1) });
        assert_eq!(round.happened(Happened::SettledNotCommitted, id(4)), Step::Derive);
        assert_eq!(round.happened(Happened::Derived, id(5)), Step::Stage { attempt: id(5) });
    }

    #[test]
    fn events_make_it_derive_again_once() {
        let mut round = Round::begin();
        round.happened(Happened::Derived, id(1));
        round.happened(Happened::Staged, id(2));
        assert_eq!(round.happened(Happened::TimelineMoved, id(3)), Step::Derive);
        round.happened(Happened::Derived, id(4));
        let commit = Step::Commit { attempt: id(4), timeline: TimelineRule::LeaveRequests };
        assert_eq!(round.happened(Happened::Staged, id(5)), commit);
    }

    #[test]
    fn a_zombie_stops() {
        let mut round = Round::begin();
        round.happened(Happened::Derived, id(1));
        round.happened(Happened::Staged, id(2));
        assert_eq!(round.happened(Happened::FenceLost, id(3)), Step::Stop);
    }

    #[test]
    fn passing_refusals_are_bounded() {
        let mut round = Round::begin();
        for n in 0..ATTEMPTS_MAX {
            assert_eq!(round.step(), Step::Derive, "attempt {n}");
            round.happened(Happened::Derived, id(1));
            round.happened(Happened::Staged, id(2));
            round.happened(Happened::Refused, id(3));
        }
        assert_eq!(round.step(), Step::Stop);
    }

    #[test]
    fn the_frontier_never_moves_back_and_keeps_to_whole_minutes() {
        assert_eq!(frontier_target(600, 1_000, 805, None), 780);
        assert_eq!(frontier_target(600, 500, 800, None), 600);
        assert_eq!(frontier_target(600, 10_000, 10_000, Some(3_600)), 3_600);
    }

    #[test]
    fn an_attempt_in_doubt_is_not_finished() {
        assert!(!Happened::Staged.finishes_attempt());
        assert!(!Happened::ReplyLost.finishes_attempt());
        assert!(Happened::SettledNotCommitted.finishes_attempt());
        assert!(Happened::BrokeBeforeCommit.finishes_attempt());
    }

    #[test]
    fn what_was_handled_only_rebuilds_open_minutes() {
        assert_eq!(piece_belongs(5, true, 5, 9), Belongs::Open);
        assert_eq!(piece_belongs(4, true, 5, 9), Belongs::Handled);
        assert_eq!(piece_belongs(8, false, 5, 9), Belongs::Late);
        assert_eq!(piece_belongs(9, false, 5, 9), Belongs::Open);
        assert_eq!(replay_from(true, 3, Some(7), 9), 3);
        assert_eq!(replay_from(false, 3, Some(7), 9), 7);
        assert_eq!(replay_from(false, 3, None, 9), 9);
    }

    #[test]
    fn a_minute_goes_to_its_hour_or_waits_for_a_revision() {
        let never = || unreachable!("only late minutes need to know");
        assert_eq!(minute_goes(3_600, true, false, 3_600, never), MinuteGoes::Usage);
        assert_eq!(minute_goes(3_600, false, true, 3_600, never), MinuteGoes::Away);
        assert_eq!(minute_goes(0, true, false, 3_600, || false), MinuteGoes::Late { asks: true });
        assert_eq!(minute_goes(3_600, true, true, 3_600, || true), MinuteGoes::Late { asks: false });
    }

    #[test]
    fn late_minutes_ask_behind_the_frontier_only() {
        assert!(!late_minute_asks(120, 3_540, false), "the hour is rated live with it");
        assert!(late_minute_asks(120, 3_540, true), "a minute window was rated without it");
        assert!(late_minute_asks(120, 3_600, false));
        assert!(!late_minute_asks(3_600, 3_540, true));
    }

    #[test]
    fn a_home_moves_after_an_hour_elsewhere() {
        let minutes =
            |partition: u32, from: Second, to: Second| (from / 60..to / 60).map(move |m| (partition, (m + 1) * 60));
        assert_eq!(moves_to(600, 4_199, minutes(2, 600, 4_100)), None, "not an hour yet");
        assert_eq!(moves_to(600, 4_200, minutes(2, 600, 4_100)), Some(2));
        assert_eq!(
            moves_to(600, 90_000, minutes(2, 0, 600)),
            None,
            "it spoke elsewhere before it fell silent, and nowhere since"
        );
        assert_eq!(moves_to(600, 90_000, minutes(2, 0, 0)), None, "it is silent everywhere");
        let two = || minutes(5, 600, 1_200).chain(minutes(3, 1_200, 3_000));
        assert_eq!(moves_to(600, 4_200, two()), Some(3), "most of its minutes are there");
        assert_eq!(
            moves_to(600, 4_200, minutes(5, 600, 1_200).chain(minutes(3, 1_200, 1_800))),
            Some(3),
            "the first of equals"
        );
        assert_eq!(moves_to(4_260, 4_200, two()), None, "its home has heard it since");
    }

    #[test]
    fn a_home_moves_at_an_edge_ahead_of_both() {
        assert_eq!(move_edge(3_601, 3_000), Some(7_200));
        assert_eq!(move_edge(60, 7_260), Some(10_800), "the new home is ahead");
        assert_eq!(move_edge(7_200, 0), Some(7_200), "nothing of the hour is closed or rated");
        assert_eq!(move_edge(FOREVER - 59, 0), None, "the old home's log has ended");
        assert_eq!(move_edge(0, FOREVER), None, "the new home's log has ended");
    }
}
