-- What is wrong inside the set $1.
with line as (
    select t.posting, t.place, t.line, t.transaction, t.effective_at, sha256(convert_to({line_text}, 'UTF8')) as hash
    from ledger.transfer t
    left join ledger.account d on d.id = t.debit_account
    left join ledger.account c on c.id = t.credit_account
    where t.posting = $1
    order by t.place, t.line
),
whole as (
    select place, (array_agg(transaction))[1] as id, array_agg(line) as lines, substr(case count(*) when 1 then string_agg(hash, '') else sha256(string_agg(hash, '')) end, 1, 16) as digest,
           count(distinct transaction) > 1 or count(distinct effective_at) > 1 as mixed
    from line group by place order by place
),
chained as (
    select substr(l.digests, n * 16 + 1, 16) as digest
    from ledger.link l cross join generate_series(0, length(l.digests) / 16 - 1) as n where l.posting = $1
)
select 'a transaction has its transfers' as law, 'transaction ' || w.id as subject,
       format('its lines are numbered %s%s', w.lines, case when w.mixed then ', and differ in transaction or effective time' else '' end) as detail,
       null::bigint as account
from whole w
where w.mixed or w.lines <> array(select generate_series(1, cardinality(w.lines)))
union all
select 'what is chained never changes', 'transaction ' || w.id, format('set %s: it is not what was chained, or was not in it', $1), null
from whole w
where exists (select from chained) and w.digest not in (select c.digest from chained c)
union all
select 'what is chained never changes', format('set %s', $1),
       format('%s of its %s transactions are not there as they were chained', count(*) filter (where c.digest not in (select w.digest from whole w)), count(*)),
       null
from chained c
having count(*) filter (where c.digest not in (select w.digest from whole w)) > 0
union all
select 'what is chained never changes', format('set %s', $1), 'the places of its transfers or their booking times changed', null
where exists (select from chained)
  and array(select c.digest from chained c order by 1) = array(select w.digest from whole w order by 1)
