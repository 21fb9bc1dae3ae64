-- The chain itself: every link continues the one before it, every set that is old enough has one.
with link as (
    select l.*, coalesce(lag(l.hash) over w, sha256(convert_to(b.id::text, 'UTF8'))) as before,
           coalesce(lag(l.position) over w, 0) as position_before, coalesce(lag(l.xid) over w, '0') as since,
           coalesce(lag(l.posting) over w, 0) as posting_before
    from ledger.link l left join ledger.identity b on true
    window w as (partition by l.shard order by l.position)
),
head as (
    select distinct on (l.shard) l.shard, l.xid, l.posting from ledger.link l where l.shard > 0 order by l.shard, l.position desc
)
select 'every link of the chain continues the one before' as law, format('shard %s, link %s', l.shard, l.position) as subject,
       case when l.position <> l.position_before + 1 then format('the one before is %s', l.position_before)
            when l.shard > 0 and p.number is null then format('it chains set %s, which is not there', l.posting)
            when l.shard > 0 and (p.xid <> l.xid or l.posting % 4 + 1 <> l.shard or (l.xid, l.posting) <= (l.since, l.posting_before))
                then format('set %s does not belong there', l.posting)
            else format('its hash is %s, computed is %s', encode(l.hash, 'hex'), encode(c.hash, 'hex')) end as detail, null::bigint as account
from link l
left join ledger.posting p on p.number = l.posting
cross join lateral (
    select sha256(l.before || convert_to(
        case when l.shard > 0
             then (select {set_header} from (select p.*, l.shard, l.position) p)
             else (select {facts_header} from (select l.position, l.since, l.xid as until, length(l.digests) / 16 as facts) p) end, 'UTF8')
        || l.content || l.digests) as hash
) c
where c.hash is distinct from l.hash or l.position <> l.position_before + 1
   or l.shard > 0 and (p.number is null or p.xid <> l.xid or l.posting % 4 + 1 <> l.shard or (l.xid, l.posting) <= (l.since, l.posting_before))

union all
select 'every set is chained in its turn', format('set %s', p.number), format('it stands before the head of shard %s, and is not chained', h.shard), null
from ledger.posting p
join head h on h.shard = p.number % 4 + 1
where (p.xid, p.number) <= (h.xid, h.posting) and not exists (select from ledger.link l where l.posting = p.number)

union all
select 'every set is chained in its turn', format('set %s', p.number), 'its number belongs to no shard', null
from ledger.posting p where p.number <= 0

union all
select 'the chain begins with the book', 'book', format('%s ids of the book', count(*)), null
from ledger.identity having count(*) <> 1
