-- How far each reader of the outbox has come, and who is reading. Positions are (xid, time, id) of the last event that was passed on.
create table if not exists ledger.outbox_reader (
    name       text primary key check (name <> ''),
    after_xid  bigint not null default 0,
    after_time timestamptz not null default 'epoch',
    after_id   uuid not null default '00000000-0000-0000-0000-000000000000',
    -- Fences: it grows whenever somebody takes over, and a position moves only under the present one.
    epoch      bigint not null default 0,
    holder     text not null default '',
    held_until timestamptz not null default '-infinity'
);

-- Takes over, at once or if nobody holds the reader any more. No row: somebody does.
create or replace function ledger.claim_outbox(reader text, claimant text, hold interval, at_once boolean)
returns table (epoch bigint, after_xid bigint, after_time timestamptz, after_id uuid)
language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into ledger.outbox_reader as r (name, epoch, holder, held_until)
    select reader, 1, claimant, clock_timestamp() + hold
    -- Whoever waits looks often, and locks nothing meanwhile.
    where at_once
       or not exists (select from ledger.outbox_reader h where h.name = reader and h.held_until > clock_timestamp())
    on conflict (name) do update
    set epoch = r.epoch + 1, holder = excluded.holder, held_until = excluded.held_until
    where at_once or r.held_until <= clock_timestamp()
    returning r.epoch, r.after_xid, r.after_time, r.after_id
$$;

-- Moves the position on, never back, and holds the reader for longer. False: somebody else has taken over.
create or replace function ledger.advance_outbox(
    reader text, own_epoch bigint, to_xid bigint, to_time timestamptz, to_id uuid, hold interval
) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with moved as (
        update ledger.outbox_reader r
        set after_xid = to_xid, after_time = to_time, after_id = to_id, held_until = clock_timestamp() + hold
        where r.name = reader and r.epoch = own_epoch
          and (r.after_xid, r.after_time, r.after_id) <= (to_xid, to_time, to_id)
        returning 1
    )
    select exists (select from moved)
$$;
