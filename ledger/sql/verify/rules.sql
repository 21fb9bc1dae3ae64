-- Corrections, reversals, metadata, holds and limits.
with resolved as (
    select h.id, h.debit_account, h.credit_account, h.amount, r.hold is null as open
    from ledger.hold h left join ledger.hold_resolution r on r.hold = h.id
),
pending as (
    select account, sum(debits) as debits, sum(credits) as credits
    from (
        select debit_account as account, amount as debits, 0 as credits from resolved where open
        union all
        select credit_account, 0, amount from resolved where open
    ) p
    group by account
),
latest as (
    select distinct on (l.account) l.* from ledger.account_limit l order by l.account, l.number desc
),
reversed as (
    -- By pair of accounts of the original; a reversal swaps the sides.
    select f.reverses, t.credit_account as debit, t.debit_account as credit, sum(t.amount) as amount
    from ledger.transfer f join ledger.transfer t on t.posting = f.posting and t.place = f.place
    where f.reverses is not null
    group by 1, 2, 3
),
described as (select distinct kind from ledger.metadata_field),
-- Accounts that are beyond their limit now, and how they stood when it was set.
settled as (
    select distinct on (m.account) m.account, m.balance, m.entries
    from ledger.account_balance b
    join latest l on l.account = b.account
    join ledger.movement m on m.account = b.account and m.booked_at <= l.set_at
    where case when b.debit_normal then b.debits - b.credits - b.pending_credits
               else b.credits - b.debits - b.pending_debits end < - b.credit_limit
    order by m.account, m.booked_at desc
)

select 'a correction names what it corrects' as law, 'transaction ' || t.transaction as subject,
       format('it corrects %s, which does not exist', t.corrects) as detail, null::bigint as account
from ledger.transfer t
where t.corrects is not null and not exists (select from ledger.transaction_id o where o.id = t.corrects)

union all
select 'nothing is reversed for more than it was', 'transaction ' || r.reverses,
       case when i.id is null then 'it is reversed, and does not exist'
            else format('from account %s to account %s: posted %s, reversed %s',
                        coalesce(d.name, r.debit::text), coalesce(c.name, r.credit::text), coalesce(o.amount, 0), r.amount) end, null
from reversed r
left join ledger.transaction_id i on i.id = r.reverses
left join lateral (
    select sum(t.amount) as amount from ledger.transfer t
    where t.posting = i.posting and t.place = i.place and (t.debit_account, t.credit_account) = (r.debit, r.credit)
) o on true
left join ledger.account d on d.id = r.debit
left join ledger.account c on c.id = r.credit
where r.amount > coalesce(o.amount, 0)
  and not exists (select from ledger.posting p where p.number = i.posting and ({detached}))

union all
select 'metadata fits the description of its kind', format('transaction %s', t.transaction), x.fault, null
from ledger.transfer t
cross join lateral (
    select case when f.name is null then format('%s is not a key of its kind', m.key)
                when m.key is null then format('%s is missing', f.name)
                else format('%s is not of type %s', f.name, f.type) end as fault
    from (select * from ledger.metadata_field f where f.kind = t.kind) f
    full join jsonb_each(t.metadata) m on m.key = f.name
    where f.name is null or m.key is null and f.required
       or case f.type when 'text' then jsonb_typeof(m.value) <> 'string'
                      when 'integer' then jsonb_typeof(m.value) <> 'number' or m.value::numeric <> trunc(m.value::numeric)
                      else jsonb_typeof(m.value) <> f.type end
    limit 1
) x
where t.line = 1 and t.kind in (select kind from described)

union all
select 'a hold is resolved once, and captured for no more than it is', 'hold ' || r.hold,
       case when h.id is null then 'it is resolved, and does not exist'
            when r.outcome <> 'posted' then format('%s, of %s: %s is released', r.outcome, h.amount, r.amount)
            when r.amount > h.amount then format('captured %s of %s', r.amount, h.amount)
            when i.id is null then format('captured by transaction %s, which does not exist', r.transaction)
            else format('captured by transaction %s, which posts something else', r.transaction) end, null
from ledger.hold_resolution r
left join ledger.hold h on h.id = r.hold
left join ledger.transaction_id i on i.id = r.transaction
left join lateral (
    select count(*) as lines, min(t.debit_account) as debit, min(t.credit_account) as credit, min(t.amount) as amount
    from ledger.transfer t where t.posting = i.posting and t.place = i.place
) t on true
where h.id is null
   or case when r.outcome = 'posted'
           then r.amount > h.amount or r.amount <= 0 or i.id is null
                or (t.lines, t.debit, t.credit, t.amount) is distinct from (1, h.debit_account, h.credit_account, r.amount)
                   and not exists (select from ledger.posting p where p.number = i.posting and ({detached}))
           else r.amount not in (0, h.amount) or r.transaction is not null end

union all
select 'a hold is resolved once, and captured for no more than it is', 'hold ' || r.hold, format('it is resolved %s times', count(*)), null
from ledger.hold_resolution r group by r.hold having count(*) > 1

union all
select 'both sides of a hold are in its currency', 'hold ' || h.id,
       format('hold in %s, debit account %s in %s, credit account %s in %s', h.currency, coalesce(d.name, h.debit_account || ' (missing)'),
              coalesce(d.currency, '?'), coalesce(c.name, h.credit_account || ' (missing)'), coalesce(c.currency, '?')), null
from ledger.hold h
left join ledger.account d on d.id = h.debit_account
left join ledger.account c on c.id = h.credit_account
where d.currency is distinct from h.currency or c.currency is distinct from h.currency or h.amount <= 0 or h.amount = 'NaN'

union all
select 'what is pending is what open holds set aside', 'account ' || coalesce(a.name, 'number ' || coalesce(b.account, p.account)),
       format('pending: debits %s, credits %s; open holds: debits %s, credits %s', b.pending_debits, b.pending_credits,
              coalesce(p.debits, 0), coalesce(p.credits, 0)), null
from ledger.account_balance b
full join pending p on p.account = b.account
left join ledger.account a on a.id = coalesce(b.account, p.account)
where (b.pending_debits, b.pending_credits) is distinct from (coalesce(p.debits, 0), coalesce(p.credits, 0))

union all
select 'a limit is the last one that was set', 'account ' || coalesce(a.name, 'number ' || coalesce(b.account, l.account)),
       format('it is %s, set was %s', coalesce(b.credit_limit::text, 'none'), coalesce(l.credit_limit::text, 'none')), null
from ledger.account_balance b
full join latest l on l.account = b.account
left join ledger.account a on a.id = coalesce(b.account, l.account)
where b.credit_limit is distinct from l.credit_limit

union all
-- Where a limit was set below what was available already, that is a fact; but nothing may have gone out since.
select case when n.available < f.available then 'what is available keeps the limit' else 'note' end, 'account ' || a.name,
       case when n.available < f.available
            then format('available %s, the credit limit is %s; at its setting at %s, available was %s', n.available, b.credit_limit, l.set_at, f.available)
            else format('available %s is below minus the credit limit of %s, which was set so at %s by %s (%s)',
                        n.available, b.credit_limit, l.set_at, l.set_by, l.reason) end, null
from ledger.account_balance b
join ledger.account a on a.id = b.account
cross join lateral (select case when b.debit_normal then b.debits - b.credits - b.pending_credits
                                else b.credits - b.debits - b.pending_debits end as available) n
left join latest l on l.account = b.account
cross join lateral (
    -- What was available when the limit was set; no less than minus the limit in a ledger that kept it until then.
    select least(- b.credit_limit,
                 coalesce((select case when b.debit_normal then e.balance else - e.balance end
                           from (
                               (select s.balance, s.entries from settled s where s.account = b.account)
                               union all
                               select o.debits - o.credits, o.entries from ({opening}) o where o.account = b.account
                           ) e order by e.entries desc limit 1), 0)
                 - coalesce((select sum(h.amount) from ledger.hold h left join ledger.hold_resolution r on r.hold = h.id
                             where case when b.debit_normal then h.credit_account else h.debit_account end = b.account
                               and h.booked_at <= l.set_at and (r.at is null or r.at > l.set_at)), 0)) as available
) f
where n.available < - b.credit_limit
