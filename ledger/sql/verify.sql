-- Every invariant, in one statement and so on one snapshot. A row is a violation: the law, the row, what is wrong.
with side as (
    select debit_account as account, amount as debit, 0::numeric as credit from ledger.transfer
    union all
    select credit_account, 0, amount from ledger.transfer
),
entries as (
    select account, sum(debit) as debits, sum(credit) as credits from side group by account
),
body as (
    select t.transaction, count(*) as lines, min(t.line) as first, max(t.line) as last,
           string_agg(ledger.line_text(d.name, c.name, t.amount, t.currency), '' order by t.line) as text
    from ledger.transfer t
    left join ledger.account d on d.id = t.debit_account
    left join ledger.account c on c.id = t.credit_account
    group by t.transaction
),
guard (tab, name, function, always) as (
    values ('account', 'immutable', 'refuse_change', true), ('account', 'immutable_row', 'refuse_change', true),
           ('transaction', 'immutable', 'refuse_change', true), ('transaction', 'immutable_row', 'refuse_change', true),
           ('transfer', 'immutable', 'refuse_change', true), ('transfer', 'immutable_row', 'refuse_change', true),
           ('account_balance', 'permanent', 'refuse_change', true),
           ('account', 'by_post', 'refuse_bypass', false), ('transaction', 'by_post', 'refuse_bypass', false),
           ('transfer', 'by_post', 'refuse_bypass', false), ('account_balance', 'by_post', 'refuse_bypass', false),
           ('transfer', 'transfer_sound', 'check_transfers', false)
)

select 'debits equal credits' as law, 'currency ' || s.currency as subject,
       format('debits %s, credits %s', s.debits, s.credits) as detail
from (
    select a.currency, sum(b.debits) as debits, sum(b.credits) as credits
    from ledger.account_balance b join ledger.account a on a.id = b.account group by a.currency
) s
where s.debits <> s.credits

union all
select 'a balance is the sum of its entries', 'account ' || coalesce(a.name, 'number ' || coalesce(b.account, e.account)),
       format('balance: debits %s, credits %s; entries: debits %s, credits %s', coalesce(b.debits::text, 'missing'),
              coalesce(b.credits::text, 'missing'), coalesce(e.debits, 0), coalesce(e.credits, 0))
from ledger.account_balance b
full join entries e on e.account = b.account
full join ledger.account a on a.id = coalesce(b.account, e.account)
where a.id is null or b.account is null
   or b.debits <> coalesce(e.debits, 0) or b.credits <> coalesce(e.credits, 0)

union all
select 'both sides of a transfer are in its currency', format('transaction %s, line %s', t.transaction, t.line),
       format('transfer in %s, debit account %s in %s, credit account %s in %s', t.currency,
              coalesce(d.name, t.debit_account || ' (missing)'), coalesce(d.currency, '?'),
              coalesce(c.name, t.credit_account || ' (missing)'), coalesce(c.currency, '?'))
from ledger.transfer t
left join ledger.account d on d.id = t.debit_account
left join ledger.account c on c.id = t.credit_account
where d.currency is distinct from t.currency or c.currency is distinct from t.currency

union all
select 'amounts are positive and move', format('transaction %s, line %s', t.transaction, t.line),
       format('amount %s from account %s to %s', t.amount, t.debit_account, t.credit_account)
from ledger.transfer t
where t.amount <= 0 or t.amount = 'NaN' or t.debit_account = t.credit_account

union all
select 'a transaction has its transfers', 'transaction ' || coalesce(p.id, b.transaction),
       case when p.id is null then format('%s transfers without a transaction', b.lines)
            when b.transaction is null then 'no transfer'
            else format('%s transfers, numbered from %s to %s', b.lines, b.first, b.last) end
from ledger.transaction p
full join body b on b.transaction = p.id
where p.id is null or b.transaction is null or b.first <> 1 or b.last <> b.lines

union all
select 'a body never changes', 'transaction ' || p.id,
       format('its hash was %s when it was posted and is %s for what it says now (%s of %s, %s transfers)',
              encode(p.body_hash, 'hex'), encode(h.hash, 'hex'), p.kind, p.effective_at, b.lines)
from ledger.transaction p
join body b on b.transaction = p.id
cross join lateral (
    select ledger.body_hash(p.kind, p.effective_at, p.description, p.corrects, p.metadata, coalesce(b.text, '')) as hash
) h
where p.body_hash is distinct from h.hash

union all
select 'a correction names what it corrects', 'transaction ' || p.id, format('it corrects %s, which does not exist', p.corrects)
from ledger.transaction p
where p.corrects is not null and not exists (select from ledger.transaction o where o.id = p.corrects)

union all
select 'a transaction is booked at one time', format('transaction %s, line %s', t.transaction, t.line),
       format('the transfer was booked at %s, the transaction at %s', t.booked_at, p.booked_at)
from ledger.transfer t join ledger.transaction p on p.id = t.transaction
where t.booked_at <> p.booked_at

union all
select 'the protection is in place', format('trigger %s on ledger.%s', g.name, g.tab),
       case when t.oid is null then 'missing, or another function' else 'switched off' end
from guard g
left join pg_catalog.pg_trigger t
       on t.tgrelid = to_regclass('ledger.' || g.tab) and t.tgname = g.name
      and t.tgfoid = to_regproc('ledger.' || g.function)
where t.oid is null or t.tgenabled not in ('A', case when g.always then 'A' else 'O' end)

union all
select 'the protection is in place', 'relation ledger.' || c.relname,
       format('%s is granted to %s', x.privilege_type, coalesce(r.rolname, 'public'))
from pg_catalog.pg_class c
cross join lateral (
    select * from aclexplode(c.relacl)
    union all
    select x.* from pg_catalog.pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = c.oid
) x
left join pg_catalog.pg_roles r on r.oid = x.grantee
where c.relnamespace = to_regnamespace('ledger') and x.grantee <> c.relowner and x.privilege_type <> 'SELECT'

union all
select 'the protection is in place', 'schema ledger',
       format('CREATE is granted to %s', coalesce(r.rolname, 'public'))
from pg_catalog.pg_namespace n
cross join lateral aclexplode(n.nspacl) x
left join pg_catalog.pg_roles r on r.oid = x.grantee
where n.nspname = 'ledger' and x.grantee <> n.nspowner and x.privilege_type = 'CREATE'

union all
select 'the protection is in place', 'ledger.' || o.name, format('it belongs to %s and not to the owner of the schema', r.rolname)
from pg_catalog.pg_namespace n
cross join lateral (
    select c.relname as name, c.relowner as owner from pg_catalog.pg_class c where c.relnamespace = n.oid
    union all
    select f.proname, f.proowner from pg_catalog.pg_proc f where f.pronamespace = n.oid
) o
left join pg_catalog.pg_roles r on r.oid = o.owner
where n.nspname = 'ledger' and o.owner <> n.nspowner

union all
select 'the protection is in place', 'function ledger.post', 'it is missing, not SECURITY DEFINER, or its search_path is not pinned'
where not exists (
    select from pg_catalog.pg_proc f
    where f.oid = to_regproc('ledger.post') and f.prosecdef and 'search_path=pg_catalog, pg_temp' = any (f.proconfig)
)

order by law, subject
