-- Months that are kept elsewhere. A month is recorded (what file holds it, and what it adds up to), then detached.

create table if not exists ledger.archive (
    month           date primary key check (extract(day from month) = 1),
    name            text not null check (name <> ''),
    rows            bigint not null,
    sha256          bytea not null check (length(sha256) = 32),
    -- The latest effective time in it: balances as of an effective time before are not known without the file.
    effective_until timestamptz not null,
    recorded_at     timestamptz not null,
    recorded_by     text not null default session_user,
    xid             xid8 not null default pg_current_xact_id()
);
-- How each account stood at the end of the month, with all months before it.
create table if not exists ledger.archive_balance (
    month   date not null,
    account bigint not null,
    debits  numeric(38, 9) not null,
    credits numeric(38, 9) not null,
    entries bigint not null,
    xid     xid8 not null default pg_current_xact_id(),
    primary key (month, account)
);
create table if not exists ledger.detached (
    month       date primary key,
    detached_at timestamptz not null,
    detached_by text not null default session_user,
    xid         xid8 not null default pg_current_xact_id()
);
select ledger.make_immutable('ledger.archive');
select ledger.make_immutable('ledger.archive_balance');
select ledger.make_immutable('ledger.detached');
