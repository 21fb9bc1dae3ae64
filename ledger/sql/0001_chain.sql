-- The hash chain: what is stored is bound together after the fact, shard by shard, without a lock on the ledger.
--
-- Shards 1 to 4 chain the sets, one link a set; set N belongs to shard N mod 4 + 1. Shard 0 chains the facts: the rows of
-- all other tables that are only ever added to, one link for those of a range of xids. What is hashed is text in UTF-8:
--   line    transaction, line, debit, credit, amount, currency, effective time; line 1 also kind, corrects, reverses, metadata, description
--   booking posting, place, booking time (canonical.rs has the texts)
--   digest  of a transaction: the first 16 bytes of the SHA-256 of its line; of several lines, of SHA-256 over these together
--   content of a set: SHA-256 over (SHA-256 of the line, its booking) of all lines in order
--   digest  of a fact: the first 16 bytes of SHA-256 over table, tab, row as JSON; in the order of the SHA-256
--   content of a range of facts: SHA-256 over the SHA-256 of its rows in that order
--   hash    of a link: SHA-256 over the hash of the link before, the header, the content and the digests
-- The hash before the first link is the SHA-256 of the book's id as text.

-- Which book this is.
create table if not exists ledger.identity (
    id      uuid not null default gen_random_uuid(),
    made_at timestamptz not null default now(),
    one     boolean primary key default true check (one)
);

create table if not exists ledger.link (
    shard      integer not null,
    position   bigint not null check (position > 0),
    posting    bigint check ((posting is null) = (shard = 0)),
    -- Of a set its xid; of facts the end of the range, which itself is not in it.
    xid        xid8 not null,
    digests    bytea not null,
    content    bytea not null check (length(content) = 32),
    hash       bytea not null check (length(hash) = 32),
    chained_at timestamptz not null default clock_timestamp(),
    primary key (shard, position)
);
create unique index if not exists link_posting on ledger.link (posting) where posting is not null;
alter table ledger.link alter column digests set storage external;

-- Facts know when they were added. (A volatile default is worked out anew for each row.)
do $$
declare
    v_table name;
begin
    for v_table in
        select c.relname
        from pg_catalog.pg_trigger t
        join pg_catalog.pg_class c on c.oid = t.tgrelid
        where c.relnamespace = 'ledger'::regnamespace and t.tgname = 'immutable' and not c.relispartition
          and c.relname not in ('posting', 'transaction_id', 'transfer', 'movement', 'link', 'identity', 'outbox')
        order by c.relname
    loop
        execute format('alter table ledger.%I add column if not exists xid xid8 not null default pg_current_xact_id()', v_table);
        execute format('create index if not exists %I on ledger.%I (xid)', v_table || '_xid', v_table);
    end loop;
end $$;

select ledger.make_immutable('ledger.identity');
select ledger.make_immutable('ledger.link');
do $$ begin
    if not exists (select from ledger.identity) then
        perform set_config('ledger.posting', 'on', true);
        insert into ledger.identity default values;
        perform set_config('ledger.posting', 'off', true);
    end if;
end $$;

-- The tables of facts: those that have an xid, but for the sets, and for events, which only tell of other rows.
create or replace function ledger.fact_tables() returns setof name
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = to_regnamespace('ledger') and c.relkind = 'r' and a.attname = 'xid' and not a.attisdropped
      and c.relname not in ('posting', 'link', 'outbox')
    order by c.relname collate "C"
$$;

-- Adds to the chain what can be added: in each shard that nobody else is working on, the sets that come next, with about
-- `transfers` lines. Says how many lines that were; 0: nothing is left but what others are adding, or what is not
-- final yet. In the caller's transaction.
create or replace function ledger.chain(transfers integer default 50000) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set jit = off
set work_mem = '64MB'
set plan_cache_mode = force_custom_plan  -- how much comes next decides
as $$
#variable_conflict use_column
declare
    v_end   constant xid8 := pg_snapshot_xmin(pg_current_snapshot());  -- all below is committed or gone
    v_lines bigint := 0;
begin
    perform set_config('ledger.posting', 'on', true);
    for v_shard in 0 .. 4 loop
        continue when not pg_try_advisory_xact_lock(hashtextextended('ledger.chain', v_shard));
        v_lines := v_lines + case when v_shard = 0 then ledger.chain_facts(v_end) else ledger.chain_sets(v_shard, v_end, transfers) end;
    end loop;
    perform set_config('ledger.posting', 'off', true);
    return v_lines;
end $$;

-- The last link of a shard, or what stands before the first one.
create or replace function ledger.chain_head(shard integer, out "position" bigint, out posting bigint, out xid xid8, out hash bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    select l.position, l.posting, l.xid, l.hash into "position", posting, xid, hash
    from ledger.link l where l.shard = chain_head.shard order by l.position desc limit 1;
    if not found then
        select 0, 0, '0', sha256(convert_to(b.id::text, 'UTF8')) into "position", posting, xid, hash from ledger.identity b;
    elsif xid > pg_snapshot_xmax(pg_current_snapshot()) then
        raise exception 'shard % of the chain was written by transaction %, which is still to come', shard, xid
            using errcode = 'HL007',
                  detail = 'The ledger was copied to a server whose transactions are numbered lower; their order would be lost.',
                  hint = 'Raise the numbers of the new server first: pg_resetwal --epoch and --next-transaction-id.';
    end if;
end $$;

create or replace function ledger.chain_sets(shard integer, until xid8, transfers integer) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_head     record;
    v_posting  bigint[];
    v_xid      xid8[];
    v_header   text[];
    v_digests  bytea[];
    v_content  bytea[];
    v_hash     bytea[] := '{}';
    v_last     bytea;
    v_lines    bigint;
begin
    v_head := ledger.chain_head(shard);
    if not exists (select from ledger.posting p
                   where (p.xid, p.number) > (v_head.xid, v_head.posting) and p.xid < until and p.number % 4 + 1 = shard) then
        return 0;
    end if;
    with next as materialized (
        select n.* from (
            select p.*, sum(p.transfers) over (order by p.xid, p.number) - p.transfers as before
            from ledger.posting p
            where (p.xid, p.number) > (v_head.xid, v_head.posting) and p.xid < until and p.number % 4 + 1 = shard
            order by p.xid, p.number
            limit chain_sets.transfers  -- a set has one line at least
        ) n
        where n.before < chain_sets.transfers
    ),
    line as (
        select t.posting, t.place, t.line, h.hash, h.hash || convert_to({booking_text}, 'UTF8') as booked
        from next n
        join ledger.transfer t on t.posting = n.number and t.booked_at = n.booked_at
        join ledger.account d on d.id = t.debit_account
        join ledger.account c on c.id = t.credit_account
        cross join lateral (select sha256(convert_to({line_text}, 'UTF8')) as hash) h
        -- The aggregates take their rows in this order. (An order of their own would sort every group for itself.)
        order by t.posting, t.place, t.line
    ),
    whole as (
        select posting, place, substr(case count(*) when 1 then string_agg(hash, '') else sha256(string_agg(hash, '')) end, 1, 16) as digest,
               string_agg(booked, '') as booked
        from line group by posting, place order by posting, place
    ),
    body as (
        select posting, string_agg(digest, '') as digests, sha256(string_agg(booked, '')) as content
        from whole group by posting
    )
    select array_agg(s.number), array_agg(s.xid), array_agg(s.header), array_agg(s.digests), array_agg(s.content), sum(s.transfers)
    into v_posting, v_xid, v_header, v_digests, v_content, v_lines
    from (
        select p.number, p.xid, p.transfers, b.digests, b.content,
               {set_header} as header
        from (select n.*, shard, v_head.position + row_number() over (order by n.xid, n.number) as position from next n) p
        left join body b on b.posting = p.number
        order by p.xid, p.number
    ) s;

    v_last := v_head.hash;
    for n in 1 .. coalesce(cardinality(v_posting), 0) loop
        if v_content[n] is null then
            raise exception 'posting % has no transfers', v_posting[n]
                using errcode = 'HL007', detail = 'It cannot be chained.', hint = 'Run verify: somebody has changed the ledger by hand.';
        end if;
        v_last := sha256(v_last || convert_to(v_header[n], 'UTF8') || v_content[n] || v_digests[n]);
        v_hash[n] := v_last;
    end loop;
    insert into ledger.link (shard, position, posting, xid, digests, content, hash)
    select shard, v_head.position + n.place, n.posting, n.xid, n.digests, n.content, n.hash
    from unnest(v_posting, v_xid, v_digests, v_content, v_hash) with ordinality as n (posting, xid, digests, content, hash, place);
    return coalesce(v_lines, 0);
end $$;

create or replace function ledger.chain_facts(until xid8) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_head    record;
    v_sql     text;
    v_rows    bigint;
    v_digests bytea;
    v_content bytea;
begin
    v_head := ledger.chain_head(0);
    select string_agg(format('select sha256(convert_to(%L || to_jsonb(t)::text, ''UTF8'')) as hash '
                             'from ledger.%I t where t.xid >= $1 and t.xid < $2', name || E'\t', name), ' union all ')
    into v_sql from ledger.fact_tables() as f (name);
    execute format('select count(*), string_agg(substr(hash, 1, 16), '''' order by hash), sha256(string_agg(hash, '''' order by hash)) '
                   'from (%s) f', v_sql)
    into v_rows, v_digests, v_content using v_head.xid, until;
    if v_rows > 0 then
        insert into ledger.link (shard, position, xid, digests, content, hash)
        select 0, p.position, until, v_digests, v_content,
               sha256(v_head.hash || convert_to({facts_header}, 'UTF8') || v_content || v_digests)
        from (select v_head.position + 1 as position, v_head.xid as since, until, v_rows as facts) p;
    end if;
    return v_rows;
end $$;
