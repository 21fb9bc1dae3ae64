-- What SQL can tell of wallets by itself. A row is a violation: the law, the row, what is wrong.
with guard (tab, name, function, always) as (
    select t.tab, g.name, g.function, g.always
    from unnest(array['wallet', 'wallet_entry', 'wallet_terms', 'wallet_grant', 'wallet_plan', 'wallet_debit', 'wallet_use',
                      'wallet_topup', 'wallet_topup_answer', 'wallet_proposal', 'wallet_decision']) as t (tab)
    cross join (values ('immutable', 'refuse_change', true), ('immutable_row', 'refuse_change', true),
                       ('by_post', 'refuse_bypass', false)) as g (name, function, always)
    union all
    select t.tab, g.name, g.function, g.always
    from unnest(array['wallet_state', 'wallet_interval', 'wallet_booked']) as t (tab)
    cross join (values ('permanent', 'refuse_change', true), ('by_post', 'refuse_bypass', false))
         as g (name, function, always)
    union all
    values ('hold', 'not_on_wallet', 'refuse_hold_on_wallet', false)
),
-- What each wallet's own transactions moved. Not complete where months were detached since.
flow as (
    select e.wallet, bool_and(l.transaction is not null) as complete,
           coalesce(sum(l.amount) filter (where l.credit = a.unbilled), 0)
               - coalesce(sum(l.amount) filter (where l.debit = a.unbilled), 0) as unbilled,
           coalesce(sum(l.amount) filter (where l.debit = a.receivable and l.credit = a.unbilled), 0)
               - coalesce(sum(l.amount) filter (where l.credit = a.receivable and l.debit = a.unbilled), 0) as receivable,
           coalesce(sum(l.amount) filter (where l.debit = a.promotions and l.credit = a.unbilled), 0)
               - coalesce(sum(l.amount) filter (where l.credit = a.promotions and l.debit = a.unbilled), 0) as promotions
    from ledger.wallet_entry e
    join ledger.wallet w on w.id = e.wallet
    cross join lateral (
        select max(id) filter (where name = w.party || ':unbilled:' || w.currency) as unbilled,
               max(id) filter (where name = w.party || ':receivable:' || w.currency) as receivable,
               max(id) filter (where name = 'platform:promotions:' || w.currency) as promotions
        from ledger.account
        where name in (w.party || ':unbilled:' || w.currency, w.party || ':receivable:' || w.currency,
                       'platform:promotions:' || w.currency)
    ) a
    cross join lateral unnest(e.transactions) as t (id)
    join ledger.transaction_id i on i.id = t.id
    left join lateral (
        select f.transaction, f.amount, f.debit_account as debit, f.credit_account as credit
        from ledger.transfer f
        where f.posting = i.posting and f.place = i.place and f.transaction = i.id
    ) l on true
    group by e.wallet
)

select 'the paid grants left are the balance of the wallet''s account' as law,
       format('wallet %s:wallet:%s', w.party, w.currency) as subject,
       format('left %s, balance %s', g.left, a.balance) as detail
from ledger.wallet w
cross join lateral (
    select coalesce(sum(b.amount - b.debited - b.consumed - b.expired), 0) as left
    from ledger.wallet_booked b join ledger.wallet_grant g on g.id = b.grant_id
    where b.wallet = w.id and g.kind = 'paid'
) g
cross join lateral (
    select coalesce(sum(b.credits - b.debits), 0) as balance
    from ledger.account a join ledger.account_balance b on b.account = a.id
    where a.name = w.party || ':wallet:' || w.currency
) a
where g.left <> a.balance

union all
select 'a wallet''s account cannot fall below zero', format('wallet %s:wallet:%s', w.party, w.currency),
       format('its limit is %s, held on it is %s', coalesce(b.credit_limit::text, 'missing'), b.pending_debits)
from ledger.wallet w
left join ledger.account a on a.name = w.party || ':wallet:' || w.currency
left join ledger.account_balance b on b.account = a.id
where b.credit_limit is distinct from 0 or b.pending_debits <> 0

union all
select 'a grant is booked as it was made', 'grant ' || coalesce(g.id, b.grant_id),
       case when g.id is null then 'booked without a grant' when b.grant_id is null then 'not booked'
            else format('granted %s to wallet %s, booked %s of wallet %s', g.amount, g.wallet, b.amount, b.wallet) end
from ledger.wallet_grant g
full join ledger.wallet_booked b on b.grant_id = g.id
where (g.amount, g.wallet) is distinct from (b.amount, b.wallet)

union all
select 'no grant is below zero', 'grant ' || b.grant_id,
       format('amount %s, debited %s, consumed %s, expired %s', b.amount, b.debited, b.consumed, b.expired)
from ledger.wallet_booked b
where b.debited < 0 or b.consumed < 0 or b.expired < 0 or b.debited + b.consumed + b.expired > b.amount

union all
select 'the debits of a grant are those of operations', 'grant ' || b.grant_id,
       format('booked %s, operations took %s', b.debited, coalesce(d.amount, 0))
from ledger.wallet_booked b
left join (select grant_id, sum(amount) as amount from ledger.wallet_debit group by grant_id) d on d.grant_id = b.grant_id
where b.debited <> coalesce(d.amount, 0)

union all
select 'entries are numbered without a gap', format('wallet %s', s.wallet),
       format('%s entries, from number %s to %s; the wallet stands at %s', e.entries, e.first, e.last, s.number)
from ledger.wallet_state s
cross join lateral (
    select count(*) as entries, min(e.number) as first, max(e.number) as last
    from ledger.wallet_entry e where e.wallet = s.wallet
) e
where e.entries <> s.number or e.first <> 1 or e.last <> s.number or s.number = 0

union all
select 'an entry is what its rows add up to', format('operation %s, a %s', e.id, e.kind),
       format('it says %s; grants %s, debits %s, use %s', e.amount, g.amount, d.amount, u.amount)
from ledger.wallet_entry e
cross join lateral (
    select coalesce(sum(g.amount), 0) as amount from ledger.wallet_grant g where g.wallet = e.wallet and g.number = e.number
) g
cross join lateral (
    select coalesce(sum(d.amount), 0) as amount from ledger.wallet_debit d where d.wallet = e.wallet and d.number = e.number
) d
cross join lateral (
    select coalesce(sum(u.amount), 0) as amount from ledger.wallet_use u where u.wallet = e.wallet and u.number = e.number
) u
where e.kind <> 'advance' and e.amount <> g.amount - d.amount - u.amount
   or e.kind = 'advance' and (g.amount, d.amount, u.amount) <> (0, 0, 0)

union all
select 'rows belong to an entry', format('%s of wallet %s', r.tab, r.wallet), format('number %s', r.number)
from (
    select 'grant' as tab, wallet, number from ledger.wallet_grant
    union all select 'debit', wallet, number from ledger.wallet_debit
    union all select 'use', wallet, number from ledger.wallet_use
    union all select 'terms', wallet, number from ledger.wallet_terms
    union all select 'request for a top-up', wallet, number from ledger.wallet_topup
    union all select 'answer to a request for a top-up', wallet, number from ledger.wallet_topup_answer
) r
where not exists (select from ledger.wallet_entry e where e.wallet = r.wallet and e.number = r.number)

union all
select 'what an entry posted is in the book', format('operation %s, a %s', e.id, e.kind),
       format('transaction %s is missing', t.id)
from ledger.wallet_entry e
cross join lateral unnest(e.transactions) as t (id)
where not exists (select from ledger.transaction_id i where i.id = t.id)

union all
select 'what a wallet posted is what it says', format('wallet %s:wallet:%s', w.party, w.currency),
       format('unbilled was credited %s, use is %s; receivable was debited %s and stands at %s; promotions were debited %s, '
              'promotional grants carry %s', f.unbilled, u.amount, f.receivable, s.receivable, f.promotions, p.consumed)
from ledger.wallet w
join ledger.wallet_state s on s.wallet = w.id
join flow f on f.wallet = w.id and f.complete
cross join lateral (select coalesce(sum(u.amount), 0) as amount from ledger.wallet_use u where u.wallet = w.id) u
cross join lateral (
    select coalesce(sum(b.consumed), 0) as consumed
    from ledger.wallet_booked b join ledger.wallet_grant g on g.id = b.grant_id
    where b.wallet = w.id and g.kind = 'promotional'
) p
where (f.unbilled, f.receivable, f.promotions) <> (u.amount, s.receivable, p.consumed)

union all
select 'two persons act where two are asked for', format('operation %s, a %s', e.id, e.kind),
       format('%s by %s; the wallet asks for a second person from %s on', e.amount, e.who, t.second_person_from)
from ledger.wallet_entry e
join lateral (
    select t.second_person_from from ledger.wallet_terms t
    where t.wallet = e.wallet and t.number < e.number order by t.number desc limit 1
) t on ledger.needs_second_person(e.kind, e.amount, e.body, t.second_person_from)
where not exists (
    select from ledger.wallet_proposal p join ledger.wallet_decision d on d.proposal = p.id
    where p.id = e.id and d.approved and p.body = e.body and p.kind = e.kind and p.wallet = e.wallet
      and not ledger.same_person(p.who, d.who) and d.decided_at <= e.booked_at
)

union all
select 'nobody decides on what is theirs', 'proposal ' || d.proposal,
       case when p.id is null then 'decided, and never made' else format('made by %s, decided by %s', p.who, d.who) end
from ledger.wallet_decision d
left join ledger.wallet_proposal p on p.id = d.proposal
where p.id is null or ledger.same_person(p.who, d.who)

union all
select 'the protection is in place', format('trigger %s on ledger.%s', g.name, g.tab),
       case when t.oid is null then 'missing, or another function' else 'switched off' end
from guard g
left join pg_catalog.pg_trigger t
       on t.tgrelid = to_regclass('ledger.' || g.tab) and t.tgname = g.name
      and t.tgfoid = to_regproc('ledger.' || g.function)
where t.oid is null or t.tgenabled not in ('A', case when g.always then 'A' else 'O' end)

order by law, subject
