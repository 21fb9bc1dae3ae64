//! What goes wrong in a fleet: how often it is made to happen, and how often it did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A kind of trouble. The first group decides what is true and depends on the plan's `seed` alone, the second
/// decides how it arrives and depends on `shuffle_seed` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Per server-hour: a server or one of its GPUs is silent for a while, and nobody says why.
    Gap,
    /// Per server-hour: a server is silent for a while, with an outage on record.
    RecordedGap,
    /// Per server-hour: an outage on record while telemetry goes on, on the whole server or on some slots.
    Outage,
    /// Per outage: the party at fault is named, or named anew, only after it was closed.
    LateFault,
    /// Per server-hour: maintenance that was announced ahead, done as announced or a little otherwise.
    Maintenance,
    /// Per server-hour: maintenance that nobody announced.
    SuddenMaintenance,
    /// Per server-hour: a server is silent for a while, and the control plane cannot reach it either.
    Unreachable,
    /// Per GPU: registered and leased, and never speaks.
    SilentGpu,
    /// Per server: none of its GPUs ever speaks.
    SilentServer,
    /// Per server: for a while the exporter sends one reading again and again, with its old time.
    FrozenExporter,
    /// Per server: its clock is 90 seconds ahead, which is believed.
    FastClock,
    /// Per server: for a while its clock is 10 minutes ahead, which is not believed.
    FarClock,
    /// Per server and second: DCGM's blank values in a reading.
    Blank,
    /// Per server and second: a reading, or all of the server's, arrive as something that is not JSON.
    Garbled,
    /// Per server and second: a reading lacks a field or holds an impossible value.
    BadField,
    /// Per server and second: a sound reading, written oddly (unknown fields, escapes, white space).
    OddJson,
    /// Per server: a GPU that speaks and that nobody registered.
    StrayGpu,
    /// Per GPU: registered, in its own time too, only after a while, so that its slot is leased empty.
    LateSeat,
    /// Per GPU-hour: the energy counter starts again at 0.
    CounterReset,
    /// Per server: a GPU is replaced.
    ReplacedGpu,
    /// Per replaced GPU: the old one goes on to speak for some seconds.
    LingeringGpu,
    /// Per lease: it starts and ends within a minute.
    ShortLease,
    /// Per lease: it is suspended, and resumed or not.
    Suspension,
    /// Per contract-hour: a price change at an odd second.
    PriceChange,
    /// Per lease: an event that contradicts the others.
    Contradiction,
    /// Per grant of a wallet: it arrives minutes after its own time, and counts only then.
    LateGrant,

    /// Per server-hour: a stretch of a server's messages is sent again later.
    Redelivery,
    /// Per message: sent twice or three times.
    Duplicate,
    /// Per message: delayed within the plan's bound.
    Disorder,
    /// Per message: later than the allowed lateness.
    Late,
    /// Per message: later by more than an hour.
    VeryLate,
    /// Per server: its readings turn up in a second partition for a while.
    SecondPartition,
    /// Per server: from a second of the plan's first half on, its readings come in a second partition for good.
    MovedServer,
    /// Per message: one more message, of rubbish or with a time that cannot be.
    Garbage,
    /// Per event: minutes after the telemetry that it governs.
    LateEvent,
    /// Per event: hours after it.
    VeryLateEvent,
    /// Per registration: it arrives after the telemetry.
    LateRegistration,
    /// Per event: sent twice.
    RepeatedEvent,
    /// Per event: one more that is not an event, or of a type that nobody knows.
    BadEvent,
}

use Fault::*;

impl Fault {
    pub const ALL: [Fault; 39] = [
        Gap,
        RecordedGap,
        Outage,
        LateFault,
        Maintenance,
        SuddenMaintenance,
        Unreachable,
        SilentGpu,
        SilentServer,
        FrozenExporter,
        FastClock,
        FarClock,
        Blank,
        Garbled,
        BadField,
        OddJson,
        StrayGpu,
        LateSeat,
        CounterReset,
        ReplacedGpu,
        LingeringGpu,
        ShortLease,
        Suspension,
        PriceChange,
        Contradiction,
        LateGrant,
        Redelivery,
        Duplicate,
        Disorder,
        Late,
        VeryLate,
        SecondPartition,
        MovedServer,
        Garbage,
        LateEvent,
        VeryLateEvent,
        LateRegistration,
        RepeatedEvent,
        BadEvent,
    ];

    /// A rate that shows the fault often enough in a fleet of a hundred servers without drowning it.
    fn usual_rate(self) -> f64 {
        match self {
            Gap => 0.4,
            RecordedGap => 0.15,
            Outage => 0.15,
            LateFault => 0.3,
            Maintenance => 0.1,
            SuddenMaintenance => 0.05,
            Unreachable => 0.1,
            SilentGpu => 0.004,
            SilentServer => 0.01,
            FrozenExporter => 0.03,
            FastClock => 0.02,
            FarClock => 0.02,
            Blank => 0.002,
            Garbled => 0.0003,
            BadField => 0.0003,
            OddJson => 0.002,
            StrayGpu => 0.05,
            LateSeat => 0.01,
            CounterReset => 0.1,
            ReplacedGpu => 0.08,
            LingeringGpu => 0.5,
            ShortLease => 0.1,
            Suspension => 0.1,
            PriceChange => 0.5,
            Contradiction => 0.1,
            // The cast of prepaid renters has one.
            LateGrant => 0.0,
            Redelivery => 0.1,
            Duplicate => 0.005,
            Disorder => 0.05,
            Late => 0.001,
            VeryLate => 0.0001,
            SecondPartition => 0.03,
            MovedServer => 0.02,
            Garbage => 0.0002,
            LateEvent => 0.1,
            VeryLateEvent => 0.03,
            LateRegistration => 0.05,
            RepeatedEvent => 0.1,
            BadEvent => 0.02,
        }
    }

    /// A rate that shows the fault in many of the fleets of a handful of GPUs and an hour.
    fn frequent_rate(self) -> f64 {
        match self {
            Gap | RecordedGap | Outage => 1.0,
            LateFault => 0.3,
            Maintenance | SuddenMaintenance | Unreachable => 0.5,
            SilentGpu | SilentServer => 0.08,
            FrozenExporter | FastClock | FarClock => 0.15,
            Blank => 0.02,
            Garbled | BadField => 0.004,
            OddJson => 0.01,
            StrayGpu | LateSeat => 0.15,
            CounterReset => 0.5,
            ReplacedGpu => 0.4,
            LingeringGpu => 0.5,
            ShortLease => 0.25,
            Suspension | Contradiction => 0.3,
            LateGrant => 0.15,
            PriceChange => 1.0,
            Redelivery => 0.7,
            Duplicate => 0.03,
            Disorder => 0.2,
            Late => 0.01,
            VeryLate => 0.002,
            SecondPartition => 0.25,
            // An hour is too short for a home to follow; tests of that ask for it.
            MovedServer => 0.0,
            Garbage => 0.003,
            LateEvent => 0.2,
            VeryLateEvent => 0.1,
            LateRegistration => 0.3,
            RepeatedEvent => 0.2,
            BadEvent => 0.05,
        }
    }
}

/// How often each fault is made to happen; what is not named never does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<Fault, f64>);

impl Faults {
    pub fn none() -> Self {
        Faults::default()
    }

    /// Every fault, at rates for a large fleet.
    pub fn all() -> Self {
        Faults(Fault::ALL.map(|fault| (fault, fault.usual_rate())).into())
    }

    /// Every fault, at rates for a fleet of a few GPUs.
    pub fn frequent() -> Self {
        Faults(Fault::ALL.map(|fault| (fault, fault.frequent_rate())).into())
    }

    #[must_use]
    pub fn with(mut self, fault: Fault, rate: f64) -> Self {
        self.0.insert(fault, rate);
        self
    }

    #[must_use]
    pub fn without(mut self, fault: Fault) -> Self {
        self.0.remove(&fault);
        self
    }

    pub fn rate(&self, fault: Fault) -> f64 {
        self.0.get(&fault).copied().unwrap_or(0.0)
    }
}

/// What a run really made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How often each fault was injected.
    pub faults: BTreeMap<Fault, u64>,
    /// Messages that must end in quarantine, by reason (a message with several bad elements: by its first one).
    pub quarantine: BTreeMap<String, u64>,
    /// Records sent to the telemetry topic, copies and rubbish among them.
    pub telemetry_records: u64,
    /// Records sent to the lifecycle topic, copies and rubbish among them.
    pub lifecycle_records: u64,
    /// Sound readings sent, every copy counted.
    pub readings_sent: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.add_times(fault, 1);
    }

    pub(crate) fn add_times(&mut self, fault: Fault, times: u64) {
        if times > 0 {
            *self.faults.entry(fault).or_default() += times;
        }
    }

    pub(crate) fn quarantined(&mut self, reason: &str) {
        match self.quarantine.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.quarantine.insert(reason.to_owned(), 1)),
        }
    }

    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }
}
