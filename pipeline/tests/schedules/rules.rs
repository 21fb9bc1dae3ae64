//! The rules of the protocol, as switches of the simulation, and the law that each of them keeps: what is broken when it is left out.

use std::fmt;

/// What may never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// A commit under an epoch that is not the partition's current one.
    ZombieCommitted,
    /// A position, a frontier or a revision number that went back.
    WentBack,
    /// A frontier beyond what is closed, or beyond lifecycle time.
    FrontierAhead,
    /// A reading below `next` that no object holds and no replay would bring.
    ReadingLost,
    /// A reading in two objects, or in two files.
    CountedTwice,
    /// A window rated live twice, or one revision of it committed twice.
    RatedTwice,
    /// A window that stays rated on a timeline that is no longer true, and nobody is asked to look again.
    StaleTimeline,
    /// A server with two homes.
    TwoHomes,
    /// A ledger transaction's id that was posted before.
    PostingRepeated,
    /// An object written twice under one name.
    WrittenTwice,
    /// An object that the manifest names, and that is gone before its file is there.
    ObjectGone,
    /// A file with other bytes, or other objects, than those that were frozen.
    FileChanged,
    /// Two transactions that wait for each other.
    Deadlock,
    /// A worker that was told that it lost its partitions while they were still its own.
    HealthyWorkerStopped,
    /// When all is drained: files, quantities or amounts that are not what the logs say.
    WrongTotal,
    /// When all is drained: a request that nobody answered, a file that is still owed, an object that nobody needs.
    LeftOver,
    /// Draining that does not come to an end.
    NoEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub law: Law,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.detail)
    }
}

macro_rules! rules {
    ($($rule:ident, $name:ident, [$($law:ident),+], $says:literal;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule { $($rule),+ }

        impl Rule {
            pub const ALL: &'static [Rule] = &[$(Rule::$rule),+];

            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => stringify!($name)),+ }
            }

            /// The laws of which one is broken first when the rule is left out.
            pub fn keeps(self) -> &'static [Law] {
                match self { $(Rule::$rule => &[$(Law::$law),+]),+ }
            }

            pub fn says(self) -> &'static str {
                match self { $(Rule::$rule => $says),+ }
            }
        }

        /// A test for each rule.
        mod without {
            $(
                #[test]
                fn $name() {
                    crate::is_missed(super::Rule::$rule);
                }
            )+
        }
    };
}

rules! {
    FenceEpoch, fence_epoch, [ZombieCommitted], "a commit's epoch is the lease's current one";
    FenceRound, fence_round, [RatedTwice, CountedTwice, WentBack, PostingRepeated, FileChanged], "a commit continues exactly where its worker left the partition";
    SettleWaits, settle_waits, [HealthyWorkerStopped, ObjectGone], "whether a commit is there is asked holding the lease row, which a transaction in doubt still holds";
    SettleFirst, settle_first, [HealthyWorkerStopped, ObjectGone], "after a lost reply nothing is done before it is settled, however often the connection breaks";
    VersionCheck, version_check, [StaleTimeline], "events that came since the derivation are judged in the commit";
    TimelineExclusive, timeline_exclusive, [StaleTimeline], "a lifecycle commit waits for the rating commits in flight, and they for it";
    RequestsAfterLock, requests_after_lock, [StaleTimeline], "a lifecycle commit reads the frontiers after it has the lock";
    LeaveRequests, leave_requests, [StaleTimeline], "what is committed in spite of new events is asked for again";
    LocksSorted, locks_sorted, [Deadlock], "locks of a kind are taken in one order";
    FenceFirst, fence_first, [Deadlock], "kinds of locks are taken in one order: leases, then the timeline";
    FreshAttempts, fresh_attempts, [WrittenTwice], "every attempt stages under an id of its own";
    PostingIds, posting_ids, [PostingRepeated], "a posting's id tells the partition's round";
    SweepListsFirst, sweep_lists_first, [ObjectGone], "the sweeper lists staging before it asks the manifest";
    SweepEpochsFirst, sweep_epochs_first, [ObjectGone], "the sweeper reads the epochs before it reads the names";
    SweepEpoch, sweep_epoch, [ObjectGone], "an object without a name is removed only when its writer can no longer commit it";
    SweepKnownOutcome, sweep_known_outcome, [ObjectGone], "an attempt of one's own is finished only when its outcome is known";
    FrontierLifecycle, frontier_lifecycle, [FrontierAhead], "the frontier waits for lifecycle time";
    FrontierClosed, frontier_closed, [FrontierAhead], "the frontier never passes what is closed";
    HandledSkipped, handled_skipped, [CountedTwice], "what was handled already only rebuilds open minutes";
    RestartFromOpen, restart_from_open, [ReadingLost], "a restart reads from the first offset that an open minute depends on";
    RebuildingHolds, rebuilding_holds, [ReadingLost], "while open minutes are being rebuilt, `replay_from` stays";
    LateAsks, late_asks, [WrongTotal], "a late minute behind what was rated asks for a revision";
    AwayAsks, away_asks, [WrongTotal], "a minute away from its server's home asks for a revision";
    ClaimAsks, claim_asks, [StaleTimeline], "a home claimed behind the frontier asks for what nobody rated";
    ClaimOnce, claim_once, [TwoHomes], "a claim of a home that somebody else has is refused";
    DerivableWaits, derivable_waits, [RatedTwice, CountedTwice, WrongTotal, StaleTimeline, ObjectGone, FileChanged], "a request waits until its hours are frozen";
    PublishFirst, publish_first, [RatedTwice, CountedTwice, WrongTotal], "a revision reads the hours' files, so they are published first";
    FreezeAtCommit, freeze_at_commit, [FileChanged, CountedTwice, WrongTotal], "a file's list of objects is frozen by the commit that passes its hour";
    FreezeLate, freeze_late, [WrongTotal], "late objects of the hour are in the frozen list";
    RevisionNumbers, revision_numbers, [RatedTwice], "a window's revision is the one after the last that was said";
    StateLock, state_lock, [WrongTotal], "amounts are worked out under the lock of the rating state";
    RetireWaits, retire_waits, [ObjectGone, WrongTotal, FileChanged], "a late object is retired only when no request and no owed file needs it";
}

/// Which rules are in force.
#[derive(Debug, Clone, Copy)]
pub struct Rules(u64);

impl Rule {
    /// The rule that must be left out as well for this one to be missed: it guards what that one should not let happen.
    pub fn stands_behind(self) -> Option<Rule> {
        (self == Rule::FenceRound).then_some(Rule::SettleFirst)
    }
}

impl Rules {
    pub const ALL: Rules = Rules(u64::MAX);

    pub fn without(rule: Rule) -> Rules {
        let behind = rule.stands_behind().map_or(0, |other| 1 << other as u32);
        Rules(!(1 << rule as u32) & !behind)
    }

    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u32) != 0
    }

    /// What `HYDROMETER_WITHOUT` says.
    pub fn from_environment() -> Rules {
        let Ok(name) = std::env::var("HYDROMETER_WITHOUT") else { return Rules::ALL };
        let rule = Rule::ALL.iter().find(|rule| rule.name() == name);
        let names: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        Rules::without(*rule.unwrap_or_else(|| panic!("HYDROMETER_WITHOUT={name}: the rules are {}", names.join(", "))))
    }
}
