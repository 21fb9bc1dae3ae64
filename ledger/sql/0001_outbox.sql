-- Events for others, written in the database transaction of what they tell, so that they are true exactly when it is.
create table if not exists ledger.outbox (
    id      uuid primary key,
    xid     xid8 not null default pg_current_xact_id(),
    type    text not null,
    subject text not null,
    time    timestamptz not null,
    data    jsonb not null
);
-- The order in which it is read.
create index if not exists outbox_xid on ledger.outbox (xid, time, id);

create or replace trigger immutable before update or delete or truncate on ledger.outbox
    for each statement execute function ledger.refuse_change();
create or replace trigger immutable_row before update or delete on ledger.outbox
    for each row execute function ledger.refuse_change();
alter table ledger.outbox enable always trigger immutable, enable always trigger immutable_row;
