-- Balances and movements against entries. $1: a random number, so that nobody can prepare for the fingerprints.
--
-- What a movement says to have moved is its balance less the one before. Weighed by a number that is drawn for each set
-- and account, the sum over all movements of an account is that over its entries if and only if each movement is the
-- sum of its entries; a fingerprint of the places likewise. So neither sides nor entries need to be sorted.
with opening as (
    {opening}
),
sums as (
    select account, sum(debits) as debits, sum(credits) as credits, sum(entries)::bigint as entries, sum(moved) as moved, sum(places) as places
    from (
        select t.debit_account as account, sum(t.amount) as debits, 0 as credits, count(*) as entries,
               sum(t.amount * (hashint8extended(t.posting, hashint8extended(t.debit_account, $1)) & 2147483647)) as moved,
               sum(hashint4extended(t.place, hashint8extended(t.posting, hashint8extended(t.debit_account, $1)))) as places
        from ledger.transfer t group by t.debit_account
        union all
        select t.credit_account, 0, sum(t.amount), count(*),
               - sum(t.amount * (hashint8extended(t.posting, hashint8extended(t.credit_account, $1)) & 2147483647)),
               sum(hashint4extended(t.place, hashint8extended(t.posting, hashint8extended(t.credit_account, $1))))
        from ledger.transfer t group by t.credit_account
        union all
        select o.account, o.debits, o.credits, o.entries, 0, 0 from opening o
    ) s
    group by account
),
place as (
    select m.account, sum(p.print) as places
    from ledger.movement m
    cross join lateral (
        select sum(hashint4extended(u.place, hashint8extended(m.posting, hashint8extended(m.account, $1)))) as print
        from unnest(m.places) as u (place)
    ) p
    group by m.account
),
path as (
    select m.account, m.posting, m.booked_at, m.previous_at, m.entries, m.balance, cardinality(m.places) as count,
           lag(m.entries) over w as entries_before, lag(m.balance) over w as balance_before, lag(m.booked_at) over w as booked_before
    from ledger.movement m
    window w as (partition by m.account order by m.booked_at)
),
moved as (
    select p.account, max(p.booked_at) as booked_at, max(p.previous_at) as booked_before,
           bool_and(p.entries = coalesce(p.entries_before, o.entries, 0) + p.count
                    and case when p.booked_before is not null then p.previous_at = p.booked_before
                             else p.previous_at = '-infinity' or o.account is not null end) as linked,
           max(p.entries) as entries,
           sum((p.balance - coalesce(p.balance_before, o.debits - o.credits, 0))
               * (hashint8extended(p.posting, hashint8extended(p.account, $1)) & 2147483647)) as moved
    from path p left join opening o on o.account = p.account
    group by p.account
),
state as (
    select coalesce(b.account, s.account, m.account, a.id) as account,
           coalesce(a.name, 'number ' || coalesce(b.account, s.account, m.account)) as name,
           a.id is null as unknown, b.account is null as missing, a.type, a.currency as account_currency, b.currency, b.debit_normal,
           b.debits, b.credits, b.entries,
           coalesce(s.debits, 0) as sum_debits, coalesce(s.credits, 0) as sum_credits, coalesce(s.entries, 0) as count,
           (coalesce(m.moved, 0), coalesce(p.places, 0)) = (coalesce(s.moved, 0), coalesce(s.places, 0))
           and coalesce(m.linked and m.entries = s.entries and (m.booked_at, m.booked_before) = (b.last_booked_at, b.booked_before), s.account is null or o.entries = s.entries) as moved
    from ledger.account_balance b
    full join sums s on s.account = b.account
    full join moved m on m.account = coalesce(b.account, s.account)
    full join ledger.account a on a.id = coalesce(b.account, s.account, m.account)
    left join place p on p.account = m.account
    left join opening o on o.account = s.account
)

select 'debits equal credits' as law, 'currency ' || s.currency as subject,
       format('debits %s, credits %s', s.debits, s.credits) as detail, null::bigint as account
from (select b.currency, sum(b.debits) as debits, sum(b.credits) as credits from ledger.account_balance b group by b.currency) s
where s.debits <> s.credits

union all
select 'a balance is the sum of its entries', 'account ' || name,
       format('balance: debits %s, credits %s, %s entries; entries: debits %s, credits %s, %s of them', coalesce(debits::text, 'missing'),
              coalesce(credits::text, 'missing'), coalesce(entries::text, 'no'), sum_debits, sum_credits, count), null
from state
where missing or (debits, credits, entries) <> (sum_debits, sum_credits, count)

union all
-- Named by their rows in a second question.
select 'a movement is the sum of its entries, and follows the one before', 'account ' || name, '', account
from state where not moved

union all
select 'a balance is that of its account', 'account ' || name,
       case when unknown then 'there is no such account'
            else format('a %s account in %s; the balance is in %s, and %s', type, account_currency, currency,
                        case when debit_normal then 'grows by debits' else 'grows by credits' end) end, null
from state
where not missing and (unknown or (account_currency, type in ('asset', 'expense')) is distinct from (currency, debit_normal))
