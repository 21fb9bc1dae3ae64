-- Each line by itself.
select f.law, format('transaction %s, line %s', t.transaction, t.line) as subject,
       case f.law
           when 'both sides of a transfer are in its currency'
               then format('transfer in %s, debit account %s in %s, credit account %s in %s', t.currency,
                           coalesce(d.name, t.debit_account || ' (missing)'), coalesce(d.currency, '?'),
                           coalesce(c.name, t.credit_account || ' (missing)'), coalesce(c.currency, '?'))
           when 'amounts are positive and move' then format('amount %s from account %s to %s', t.amount, t.debit_account, t.credit_account)
           when 'a set is booked at one time'
               then format('the transfer was booked at %s, the set %s at %s', t.booked_at, t.posting, coalesce(p.booked_at::text, 'no time'))
           else format('kind %L, metadata %s, effective at %s', t.kind, coalesce(t.metadata::text, 'missing'), t.effective_at) end as detail,
       null::bigint as account
from ledger.transfer t
left join ledger.account d on d.id = t.debit_account
left join ledger.account c on c.id = t.credit_account
left join ledger.posting p on p.number = t.posting
cross join lateral (
    select case when d.currency is distinct from t.currency or c.currency is distinct from t.currency
                    then 'both sides of a transfer are in its currency'
                when t.amount <= 0 or t.amount = 'NaN' or t.debit_account = t.credit_account then 'amounts are positive and move'
                when t.booked_at is distinct from p.booked_at then 'a set is booked at one time'
                when not isfinite(t.effective_at)
                     or case when t.line = 1
                             then t.kind is null or t.kind = '' or t.kind ~ '[\x01-\x1f\x7f]' or t.description is null
                                  or t.metadata is null or jsonb_typeof(t.metadata) <> 'object'
                             else num_nonnulls(t.kind, t.description, t.corrects, t.reverses, t.metadata) > 0 end
                    then 'what belongs to a transaction stands on its first line' end as law
) f
where f.law is not null
