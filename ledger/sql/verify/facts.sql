-- The rows that are only ever added to other tables, against the chain. They are digested as PostgreSQL prints JSON in UTC.
with link as (
    select l.position, l.digests, coalesce(lag(l.xid) over (order by l.position), '0') as since, l.xid as until, l.content
    from ledger.link l where l.shard = 0
),
fact as (
    select l.position, f.*
    from link l
    cross join lateral ({facts}) f
),
range as (
    select l.position, l.digests, coalesce(f.found, '') as found
    from link l
    left join (
        select position, sha256(string_agg(hash, '')) as content, string_agg(substr(hash, 1, 16), '') as found
        from (select position, hash from fact order by position, hash) f group by position
    ) f using (position)
    where f.content is distinct from l.content or f.found is distinct from l.digests
)
select 'what is chained never changes' as law, f.tab || ' ' || f.subject as subject,
       'the row is not what was chained, or was not there' as detail, null::bigint as account
from range r
join fact f using (position)
where substr(f.hash, 1, 16) not in (select substr(r.digests, n * 16 + 1, 16) from generate_series(0, length(r.digests) / 16 - 1) as n)
union all
select 'what is chained never changes', format('shard 0, link %s', r.position),
       format('%s of its %s rows are not there as they were chained', x.missing, length(r.digests) / 16), null
from range r
cross join lateral (
    select count(*) as missing from generate_series(0, length(r.digests) / 16 - 1) as n
    where substr(r.digests, n * 16 + 1, 16) not in (select substr(r.found, m * 16 + 1, 16) from generate_series(0, length(r.found) / 16 - 1) as m)
) x
