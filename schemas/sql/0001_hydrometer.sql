-- The commit point of Hydrometer: stream position, manifest, rating state and requests. The ledger, with its outbox, has a schema of its own.
-- Times: *_us are microseconds, *_s seconds since 1970 UTC. The stream compares and stores them as it computes them.

CREATE SCHEMA IF NOT EXISTS hydrometer;

-- One row per partition of a topic. `epoch` fences: it grows with every assignment, and a commit must match it.
CREATE TABLE hydrometer.partition_lease (
    topic         text    NOT NULL,
    partition     integer NOT NULL,
    role          text    NOT NULL CHECK (role IN ('telemetry', 'lifecycle', 'internal')),
    epoch         bigint  NOT NULL DEFAULT 0,
    worker        text    NOT NULL DEFAULT '',
    round         bigint  NOT NULL DEFAULT 0,      -- commits so far
    attempt       uuid,                            -- the attempt that made the last commit: settles a lost reply to COMMIT
    next          bigint  NOT NULL DEFAULT 0,      -- first offset not yet handled
    replay_from   bigint  NOT NULL DEFAULT 0,      -- first offset that an open minute depends on
    time_us       bigint  NOT NULL DEFAULT 0,      -- the partition's time at `next`
    closed_until_s bigint NOT NULL DEFAULT 0,      -- every minute before it is closed
    frontier_s    bigint  NOT NULL DEFAULT 0,      -- every window that ends by it is rated
    homes         bigint  NOT NULL DEFAULT 0,      -- version of the homes that this partition owns; every move of one raises it on both sides
    revision      integer NOT NULL DEFAULT 0,      -- rounds of revisions so far
    PRIMARY KEY (topic, partition)
);

-- Where a server's minutes are written and its leases rated, from a second on: the first home from the beginning of time, every
-- other from an hour's edge that was ahead of both partitions when it was moved, so that no window has two homes.
CREATE TABLE hydrometer.home (
    server     text    NOT NULL,
    since_s    bigint  NOT NULL DEFAULT 0 CHECK (since_s >= 0 AND since_s % 3600 = 0),
    topic      text    NOT NULL,
    partition  integer NOT NULL,
    claimed_by text    NOT NULL CHECK (claimed_by IN ('reading', 'lease', 'move')),
    PRIMARY KEY (server, since_s)
);

-- One row per committed round: what it moved, for whom, and under which attempt.
CREATE TABLE hydrometer.commit (
    id         uuid PRIMARY KEY,                   -- the attempt's id
    kind       text NOT NULL CHECK (kind IN ('live', 'revision', 'lifecycle', 'closing')),
    worker     text NOT NULL,
    partitions jsonb NOT NULL,                     -- [{topic, partition, epoch, round, next_from, next_to, frontier_from, frontier_to}]
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What an operator's command committed: who asked for it, and why.
CREATE TABLE hydrometer.command (
    commit_id uuid PRIMARY KEY,
    name      text NOT NULL,
    who       text NOT NULL CHECK (who <> ''),
    why       text NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The version of all timelines; every lifecycle commit takes the next one while it holds the timeline lock exclusively,
-- so whoever sees version n sees all that came before it.
CREATE TABLE hydrometer.timeline (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO hydrometer.timeline DEFAULT VALUES;

CREATE TABLE hydrometer.event (
    source    text   NOT NULL,
    id        text   NOT NULL,
    time_s    bigint NOT NULL,
    rank      smallint NOT NULL,
    body      jsonb  NOT NULL,
    version   bigint NOT NULL,                     -- the timeline version that brought it
    verdict   text,                                -- why it is not applied; null when it is
    topic     text   NOT NULL,
    partition integer NOT NULL,
    "offset"  bigint NOT NULL,
    commit_id uuid   NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, id)
);
CREATE INDEX event_version ON hydrometer.event (version);

-- "Look at this stretch of history again." One row, however much it covers.
CREATE TABLE hydrometer.request (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic     text    NOT NULL,
    partition integer NOT NULL,                    -- whose owner derives it
    scope     text    NOT NULL CHECK (scope IN ('server', 'object')),
    subject   text    NOT NULL,                    -- a server, or the name of an object of late readings
    from_s    bigint  NOT NULL,
    to_s      bigint  NOT NULL,
    cause     text    NOT NULL,
    asked_by  uuid    NOT NULL,
    done_by   uuid
);
CREATE INDEX request_open ON hydrometer.request (topic, partition) WHERE done_by IS NULL;

-- A window that was rated again: one of two racing derivations wins.
CREATE TABLE hydrometer.revision (
    lease       text    NOT NULL,
    server      text    NOT NULL,                  -- a lease may turn out to belong to another server
    window_start_s bigint NOT NULL,
    window_end_s   bigint NOT NULL,
    revision    integer NOT NULL,
    commit_id   uuid    NOT NULL,
    PRIMARY KEY (lease, server, window_start_s, window_end_s, revision)
);

-- The manifest of staged objects: written before the commit that names them, gone some time after their publication.
CREATE TABLE hydrometer.object (
    name      text PRIMARY KEY,
    kind      text NOT NULL CHECK (kind IN ('usage', 'late', 'away', 'rated', 'quarantine')),
    topic     text NOT NULL,
    partition integer NOT NULL,
    hour_s    bigint,                              -- null where an object spans hours (late, away, quarantine)
    from_s    bigint NOT NULL,
    to_s      bigint NOT NULL,
    rows      bigint NOT NULL,
    bytes     bigint NOT NULL,
    sha256    text   NOT NULL,
    commit_id uuid   NOT NULL,
    retired_at timestamptz                         -- when everything it holds was published
);
CREATE INDEX object_hour ON hydrometer.object (topic, partition, kind, hour_s);
CREATE INDEX object_commit ON hydrometer.object (commit_id);
CREATE INDEX object_live ON hydrometer.object (kind) WHERE retired_at IS NULL;

-- The files that readers glob. A row is owed from the commit that froze its list of objects; `published_at` says that it is there.
CREATE TABLE hydrometer.file (
    name      text PRIMARY KEY,
    tbl       text NOT NULL CHECK (tbl IN ('usage', 'rated_usage', 'quarantine')),
    topic     text NOT NULL,
    partition integer NOT NULL,
    hour_s    bigint NOT NULL,
    revision  integer NOT NULL DEFAULT 0,
    commit_id uuid NOT NULL,
    epoch     bigint NOT NULL,
    rows      bigint,
    bytes     bigint,
    sha256    text,
    published_at timestamptz
);
CREATE INDEX file_owed ON hydrometer.file (topic, partition) WHERE published_at IS NULL;
CREATE INDEX file_hour ON hydrometer.file (topic, partition, hour_s);

CREATE TABLE hydrometer.file_object (
    file   text NOT NULL REFERENCES hydrometer.file,
    object text NOT NULL REFERENCES hydrometer.object,
    PRIMARY KEY (file, object)
);
CREATE INDEX file_object_object ON hydrometer.file_object (object);

-- The billing periods that something was rated in. A closed one changes no more: what comes later is booked in an open one.
CREATE TABLE hydrometer.period (
    contract  text   NOT NULL,
    start_s   bigint NOT NULL,
    end_s     bigint NOT NULL CHECK (end_s > start_s),
    closed_by uuid,                                -- the commit that closed it
    PRIMARY KEY (contract, start_s)
);

-- The rating state: one row to lock per contract, charge and stretch over which amounts are cumulated (the billing period, or the
-- hour of an hourly commitment), for each resource where a ladder's scope is the resource; and its cells.
CREATE TABLE hydrometer.rating_state (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    contract  text   NOT NULL,
    renter    text   NOT NULL,
    currency  text   NOT NULL,
    charge    text   NOT NULL,
    period_s  bigint NOT NULL,
    resource  text   NOT NULL,                     -- empty, LEASE, LEASE/SLOT or a server: whose usage climbs the ladder
    raw       boolean NOT NULL,                    -- quantities of a lease and slot before minimum and step: they have no amounts
    billing_s bigint NOT NULL,                     -- where the billing period begins that period_s lies in
    UNIQUE (contract, charge, period_s, resource, renter, currency, raw)
);
CREATE INDEX rating_state_billing ON hydrometer.rating_state (contract, billing_s);
CREATE INDEX rating_state_raw ON hydrometer.rating_state (contract, charge, resource) WHERE raw;
CREATE TABLE hydrometer.rating_cell (
    state     bigint NOT NULL REFERENCES hydrometer.rating_state,
    version_from_s bigint NOT NULL,
    rate      text   NOT NULL,                     -- names the charge's terms and the supplier's side of them
    segment   integer NOT NULL,                    -- the time of the week; 0 is the charge's own price
    supplier  text   NOT NULL,
    billed    numeric(38, 6) NOT NULL CHECK (billed >= 0),   -- pieces: seconds, joules, slice-seconds, byte-seconds
    paid      numeric(38, 6) NOT NULL CHECK (paid >= 0),
    renter_amount   numeric(38, 9) NOT NULL,
    supplier_amount numeric(38, 9) NOT NULL,
    PRIMARY KEY (state, version_from_s, rate, segment, supplier)
);

-- What a commit changed in a cell, per partition and hour: with the staged quantities it gives every rated record its amount.
CREATE TABLE hydrometer.rating_step (
    object    text   NOT NULL REFERENCES hydrometer.object,
    state     bigint NOT NULL REFERENCES hydrometer.rating_state,
    version_from_s bigint NOT NULL,
    rate      text   NOT NULL,
    segment   integer NOT NULL,
    supplier  text   NOT NULL,
    billed_before numeric(38, 6) NOT NULL,
    billed_after  numeric(38, 6) NOT NULL,
    paid_before   numeric(38, 6) NOT NULL,
    paid_after    numeric(38, 6) NOT NULL,
    renter_before   numeric(38, 9) NOT NULL,
    renter_after    numeric(38, 9) NOT NULL,
    supplier_before numeric(38, 9) NOT NULL,
    supplier_after  numeric(38, 9) NOT NULL,
    booked_s    bigint NOT NULL,                   -- the billing period in which it is booked: its own while that is open
    transaction uuid NOT NULL,
    PRIMARY KEY (object, state, version_from_s, rate, segment, supplier)
);

-- Of prepaid contracts: a cell's quantity by the interval between edges of its wallet in which it was used. The cell's amount is
-- shared over the intervals by it, and each is paid from the grants that can be used in it.
CREATE TABLE hydrometer.prepaid_use (
    state     bigint NOT NULL REFERENCES hydrometer.rating_state,
    version_from_s bigint NOT NULL,
    rate      text   NOT NULL,
    segment   integer NOT NULL,
    supplier  text   NOT NULL,
    from_s    bigint NOT NULL,                     -- where the interval begins
    billed    numeric(38, 6) NOT NULL,             -- pieces, before minimum and step
    PRIMARY KEY (state, version_from_s, rate, segment, supplier, from_s)
);

-- What each lease used in a billing period: what uptime, fees and credits are worked out from when it closes.
CREATE TABLE hydrometer.lease_use (
    contract  text   NOT NULL,
    renter    text   NOT NULL,
    currency  text   NOT NULL,
    charge    text   NOT NULL,
    billing_s bigint NOT NULL,
    lease     text   NOT NULL,
    server    text   NOT NULL,
    period_s  bigint NOT NULL,                     -- of the rating state: the billing period, or the hour
    resource  text   NOT NULL,
    version_from_s bigint NOT NULL,
    rate      text   NOT NULL,
    segment   integer NOT NULL,
    supplier  text   NOT NULL,
    used_s bigint NOT NULL, idle_s bigint NOT NULL, unknown_s bigint NOT NULL, down_s bigint NOT NULL, suspended_s bigint NOT NULL,
    maintenance_s bigint NOT NULL, down_platform_s bigint NOT NULL, down_renter_s bigint NOT NULL,
    billed_s bigint NOT NULL, paid_s bigint NOT NULL,
    billed bigint NOT NULL, paid bigint NOT NULL,  -- pieces of the charge's basis
    lost   bigint NOT NULL,                        -- pieces that would have been billed had it not been down
    PRIMARY KEY (contract, billing_s, lease, server, charge, period_s, resource, version_from_s, rate, segment, supplier, renter, currency)
);

-- What falls due only at the end of an hour or of a billing period, as it stands now, and each change of it. A closing says what
-- is due and books the difference from what was said before, so it can be repeated.
CREATE TABLE hydrometer.due (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    contract  text   NOT NULL,
    renter    text   NOT NULL,
    currency  text   NOT NULL,
    charge    text   NOT NULL,
    kind      text   NOT NULL,
    period_s  bigint NOT NULL,                     -- the hour, or the billing period
    end_s     bigint NOT NULL,
    billing_s bigint NOT NULL,
    version_from_s bigint NOT NULL,                -- the version that it is of, where each has its own; else 0
    subject   text   NOT NULL,                     -- a lease, slot or server, or empty
    supplier  text   NOT NULL,                     -- or empty: it concerns the platform alone
    renter_amount   numeric(38, 9) NOT NULL,
    supplier_amount numeric(38, 9) NOT NULL,
    why       text   NOT NULL,
    UNIQUE (contract, billing_s, period_s, charge, kind, version_from_s, subject, supplier, renter, currency)
);
CREATE TABLE hydrometer.due_step (
    due       bigint NOT NULL REFERENCES hydrometer.due,
    commit_id uuid   NOT NULL,
    file      text   NOT NULL,                     -- the file that tells it
    renter_before   numeric(38, 9) NOT NULL,
    renter_after    numeric(38, 9) NOT NULL,
    supplier_before numeric(38, 9) NOT NULL,
    supplier_after  numeric(38, 9) NOT NULL,
    booked_s    bigint NOT NULL,
    why         text   NOT NULL,
    transaction uuid   NOT NULL,
    PRIMARY KEY (due, commit_id)
);
CREATE INDEX due_step_file ON hydrometer.due_step (file);

-- Who closed a billing period, over what. What is derived again behind it leaves steps of what is due, and no closing of its own.
CREATE TABLE hydrometer.closing (
    contract  text    NOT NULL,
    period_s  bigint  NOT NULL,
    number    integer NOT NULL,
    closed_by text    NOT NULL,                    -- who
    accepted  jsonb   NOT NULL,                    -- what stood against it and was accepted, and why
    commit_id uuid    NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (contract, period_s, number)
);

-- "Close these hours and periods again": something changed that they were closed over.
CREATE TABLE hydrometer.closing_request (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    contract  text   NOT NULL,
    from_s    bigint NOT NULL,
    to_s      bigint NOT NULL,
    cause     text   NOT NULL,
    asked_by  uuid   NOT NULL,
    done_by   uuid
);
CREATE INDEX closing_request_open ON hydrometer.closing_request (contract) WHERE done_by IS NULL;

-- Seconds in which fatal XIDs were first read: a GPU is down from then until an event says that it recovered.
CREATE TABLE hydrometer.fatal_xid (
    server    text    NOT NULL,
    gpu       text    NOT NULL,
    at_s      bigint  NOT NULL,
    xid       integer NOT NULL,
    commit_id uuid    NOT NULL,
    PRIMARY KEY (server, gpu, at_s, xid)
);

-- What could not be rated: it stops nothing and is asked for again by the event that mends it.
CREATE TABLE hydrometer.unrated (
    server      text   NOT NULL,
    lease       text   NOT NULL,
    slot        integer NOT NULL,
    from_s      bigint NOT NULL,
    to_s        bigint NOT NULL,
    reason      text   NOT NULL,
    commit_id   uuid   NOT NULL,
    mended_by   uuid,
    PRIMARY KEY (lease, slot, from_s, to_s, commit_id)
);
CREATE INDEX unrated_open ON hydrometer.unrated (server) WHERE mended_by IS NULL;

-- The application reads and writes the state of the stream; history it may only add to.
GRANT USAGE ON SCHEMA hydrometer TO {app_role};
GRANT SELECT ON ALL TABLES IN SCHEMA hydrometer TO {app_role};
GRANT INSERT ON ALL TABLES IN SCHEMA hydrometer TO {app_role};
GRANT UPDATE ON hydrometer.partition_lease, hydrometer.timeline, hydrometer.rating_state, hydrometer.rating_cell,
    hydrometer.lease_use, hydrometer.prepaid_use TO {app_role};
GRANT UPDATE (closed_by) ON hydrometer.period TO {app_role};
GRANT UPDATE (renter_amount, supplier_amount, why) ON hydrometer.due TO {app_role};
GRANT UPDATE (done_by) ON hydrometer.closing_request TO {app_role};
GRANT UPDATE (done_by) ON hydrometer.request TO {app_role};
GRANT UPDATE (verdict) ON hydrometer.event TO {app_role};
GRANT UPDATE (retired_at) ON hydrometer.object TO {app_role};
GRANT UPDATE (rows, bytes, sha256, published_at) ON hydrometer.file TO {app_role};
GRANT UPDATE (mended_by) ON hydrometer.unrated TO {app_role};
