-- Balances against entries. $1: a random number, so that nobody can prepare for the fingerprints.
--
-- Each entry leads from (number before, balance before) to (number, balance). Their fingerprints, all taken together by
-- XOR, leave those of the beginning and of the end if and only if the entries are one path from the one to the other:
-- numbered without a gap, each balance the one before and the amount. So nothing needs to be sorted.
with opening as (
    {opening}
),
sums as (
    select account, sum(debits) as debits, sum(credits) as credits, sum(entries)::bigint as entries, bit_xor(print) as print
    from (
        select t.debit_account as account, sum(t.amount) as debits, 0 as credits, count(*) as entries,
               bit_xor(hash_numeric_extended(t.debit_balance, hashint8extended(t.debit_entry, $1))
                       # hash_numeric_extended(t.debit_balance - t.amount, hashint8extended(t.debit_entry - 1, $1))) as print
        from ledger.transfer t group by t.debit_account
        union all
        select t.credit_account, 0, sum(t.amount), count(*),
               bit_xor(hash_numeric_extended(t.credit_balance, hashint8extended(t.credit_entry, $1))
                       # hash_numeric_extended(t.credit_balance + t.amount, hashint8extended(t.credit_entry - 1, $1)))
        from ledger.transfer t group by t.credit_account
        union all
        select o.account, o.debits, o.credits, o.entries,
               hash_numeric_extended(o.debits - o.credits, hashint8extended(o.entries, $1))
               # hash_numeric_extended(0, hashint8extended(0, $1))
        from opening o
    ) s
    group by account
),
state as (
    select coalesce(b.account, s.account, a.id) as account, coalesce(a.name, 'number ' || coalesce(b.account, s.account)) as name,
           a.id is null as unknown, b.account is null as missing, a.type, a.currency as account_currency, b.currency, b.debit_normal,
           b.debits, b.credits, b.entries, b.last_booked_at,
           coalesce(s.debits, 0) as sum_debits, coalesce(s.credits, 0) as sum_credits, coalesce(s.entries, 0) as count,
           coalesce(s.print, 0) as print,
           hash_numeric_extended(coalesce(s.debits, 0) - coalesce(s.credits, 0), hashint8extended(coalesce(s.entries, 0), $1))
           # hash_numeric_extended(0, hashint8extended(0, $1)) as path
    from ledger.account_balance b
    full join sums s on s.account = b.account
    full join ledger.account a on a.id = coalesce(b.account, s.account)
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
select 'running balances and numbers of entries follow each other', 'account ' || name, '', account
from state where print <> path

union all
select 'a balance is that of its account', 'account ' || name,
       case when unknown then 'there is no such account'
            else format('a %s account in %s; the balance is in %s, and %s', type, account_currency, currency,
                        case when debit_normal then 'grows by debits' else 'grows by credits' end) end, null
from state
where not missing and (unknown or (account_currency, type in ('asset', 'expense')) is distinct from (currency, debit_normal))
