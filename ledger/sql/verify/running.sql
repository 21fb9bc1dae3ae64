-- The entries of the accounts $1 that do not follow the one before.
with opening as (
    {opening}
),
entry as (
    select t.debit_account as account, t.debit_entry as number, t.amount as net, t.debit_balance as balance, t.transaction, t.line
    from ledger.transfer t where t.debit_account = any ($1)
    union all
    select t.credit_account, t.credit_entry, - t.amount, t.credit_balance, t.transaction, t.line
    from ledger.transfer t where t.credit_account = any ($1)
),
followed as (
    select e.*, coalesce(lag(e.number) over w, o.entries, 0) as number_before,
           coalesce(lag(e.balance) over w, o.debits - o.credits, 0) as balance_before
    from entry e left join opening o on o.account = e.account
    window w as (partition by e.account order by e.number, e.transaction, e.line)
)
select 'running balances and numbers of entries follow each other' as law, format('transaction %s, line %s', f.transaction, f.line) as subject,
       format('account %s: entry %s after %s; balance %s after %s and %s', coalesce(a.name, 'number ' || f.account),
              f.number, f.number_before, f.balance, f.balance_before, f.net) as detail, null::bigint as account
from followed f left join ledger.account a on a.id = f.account
where f.number <> f.number_before + 1 or f.balance <> f.balance_before + f.net
