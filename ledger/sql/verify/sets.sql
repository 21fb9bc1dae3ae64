-- The sets from number $1 to $2 against their rows, and against what the chain says of them.
with line as (
    select t.posting, t.place, t.line, t.transaction, t.effective_at, h.hash, h.hash || convert_to({booking_text}, 'UTF8') as booked
    from ledger.transfer t
    left join ledger.account d on d.id = t.debit_account
    left join ledger.account c on c.id = t.credit_account
    cross join lateral (select sha256(convert_to({line_text}, 'UTF8')) as hash) h
    where t.posting between $1 and $2
    -- The aggregates take their rows in this order.
    order by t.posting, t.place, t.line
),
whole as (
    select posting, place, count(*) as lines, substr(case count(*) when 1 then string_agg(hash, '') else sha256(string_agg(hash, '')) end, 1, 16) as digest,
           string_agg(booked, '') as booked,
           count(*) = max(line) and min(line) = 1 and sum(line) = count(*) * (count(*) + 1) / 2
           and sum(line * line) = count(*) * (count(*) + 1) * (2 * count(*) + 1) / 6
           and min(effective_at) = max(effective_at) as complete
    from line group by posting, place order by posting, place
),
body as (
    select posting, count(*) as transactions, sum(lines) as transfers, string_agg(digest, '') as digests,
           sha256(string_agg(booked, '')) as content, bool_and(complete) as complete
    from whole group by posting
)
select coalesce(p.number, b.posting) as number,
       case when p.number is null then 'transfers without a set'
            when b.posting is null then 'its transfers are missing'
            when (b.transactions, b.transfers) <> (p.transactions, p.transfers)
                then format('%s transactions of %s transfers; it was posted with %s of %s', b.transactions, b.transfers, p.transactions, p.transfers)
            when not b.complete then 'the lines of a transaction have gaps' end as fault,
       l.posting is not null and (b.digests, b.content) is distinct from (l.digests, l.content) as changed
from (select * from ledger.posting p where p.number between $1 and $2 and ({detached}) is not true) p
full join body b on b.posting = p.number
left join (select * from ledger.link l where l.posting between $1 and $2) l on l.posting = p.number
where p.number is null or b.posting is null or (b.transactions, b.transfers) <> (p.transactions, p.transfers) or not b.complete
   or l.posting is not null and (b.digests, b.content) <> (l.digests, l.content)
order by 1
