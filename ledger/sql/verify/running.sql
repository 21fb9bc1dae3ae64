-- The movements of the accounts $1 that are not the sum of their entries, or do not follow the one before.
with opening as (
    {opening}
),
counted as (
    select e.account, e.posting, count(*) as entries, sum(e.change) as change, array_agg(e.place order by e.place) as places
    from (
        select t.debit_account as account, t.posting, t.place, t.amount as change
        from ledger.transfer t where t.debit_account = any ($1)
        union all
        select t.credit_account, t.posting, t.place, - t.amount
        from ledger.transfer t where t.credit_account = any ($1)
    ) e
    group by e.account, e.posting
),
followed as (
    select m.*, coalesce(lag(m.entries) over w, o.entries, 0) as entries_before,
           coalesce(lag(m.balance) over w, o.debits - o.credits, 0) as balance_before,
           coalesce(lag(m.booked_at) over w, case when o.account is null then '-infinity' else m.previous_at end) as booked_before
    from ledger.movement m left join opening o on o.account = m.account
    where m.account = any ($1)
    window w as (partition by m.account order by m.booked_at, m.posting)
),
last as (
    select distinct on (m.account) m.account, m.booked_at, m.previous_at
    from ledger.movement m where m.account = any ($1) order by m.account, m.booked_at desc
)
select 'a movement is the sum of its entries, and follows the one before' as law,
       format('account %s, set %s', coalesce(a.name, 'number ' || coalesce(f.account, c.account)), coalesce(f.posting, c.posting)) as subject,
       case when f.account is null then 'the movement is missing'
            when c.account is null then 'the movement has no entries'
            when f.places <> c.places then format('it has places %s, its entries have %s', f.places, c.places)
            when f.entries <> f.entries_before + c.entries then format('entry %s after %s and %s more', f.entries, f.entries_before, c.entries)
            when f.balance <> f.balance_before + c.change then format('balance %s after %s and %s', f.balance, f.balance_before, c.change)
            else format('the one before was booked at %s, it says %s', f.booked_before, f.previous_at) end as detail, null::bigint as account
from followed f
full join counted c on c.account = f.account and c.posting = f.posting
left join ledger.account a on a.id = coalesce(f.account, c.account)
where f.account is null or c.account is null or f.places <> c.places or f.entries <> f.entries_before + c.entries
   or f.balance <> f.balance_before + c.change or f.previous_at <> f.booked_before
union all
select 'a movement is the sum of its entries, and follows the one before', 'account ' || coalesce(a.name, 'number ' || l.account),
       format('its last movements were booked at %s and %s, its balance says %s and %s', l.booked_at, l.previous_at,
              b.last_booked_at, b.booked_before), null
from last l
join ledger.account_balance b on b.account = l.account
left join ledger.account a on a.id = l.account
where (b.last_booked_at, b.booked_before) <> (l.booked_at, l.previous_at)
