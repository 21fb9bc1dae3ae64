-- Anchors: where the chain stood. What lies before one that somebody else keeps cannot be rewritten unnoticed, not even
-- by a superuser. They are facts, and so chained themselves.

create table if not exists ledger.anchor (
    number    bigint primary key,
    made_at   timestamptz not null,
    made_by   text not null default session_user,
    -- Of shard 0, 1 …: the position and the hash of the last link; before the first, 0 and what the chain begins with.
    positions bigint[] not null,
    hashes    bytea[] not null,
    -- Everything that was posted at that moment, chained or not.
    transfers bigint not null,
    currency  text[] not null,
    debits    numeric[] not null,
    credits   numeric[] not null,
    xid       xid8 not null default pg_current_xact_id()
);
select ledger.make_immutable('ledger.anchor');

-- Puts down where the chain stands now. Call ledger.chain before, until nothing is left.
create or replace function ledger.make_anchor() returns setof ledger.anchor
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('ledger.make_anchor', 0));
    perform set_config('ledger.posting', 'on', true);
    return query
        insert into ledger.anchor (number, made_at, positions, hashes, transfers, currency, debits, credits)
        select (select coalesce(max(a.number), 0) + 1 from ledger.anchor a), clock_timestamp(), h.positions, h.hashes,
               t.transfers, t.currency, t.debits, t.credits
        from (
            select array_agg(h.position order by s.shard) as positions, array_agg(h.hash order by s.shard) as hashes
            from generate_series(0, 4) as s (shard) cross join lateral ledger.chain_head(s.shard) h
        ) h
        cross join (
            select coalesce(sum(c.entries) / 2, 0)::bigint as transfers,
                   coalesce(array_agg(c.currency order by c.currency), '{}') as currency,
                   coalesce(array_agg(c.debits order by c.currency), '{}') as debits,
                   coalesce(array_agg(c.credits order by c.currency), '{}') as credits
            from (select b.currency, sum(b.entries) as entries, sum(b.debits) as debits, sum(b.credits) as credits
                  from ledger.account_balance b group by b.currency) c
        ) t
        returning *;
    perform set_config('ledger.posting', 'off', true);
end $$;
