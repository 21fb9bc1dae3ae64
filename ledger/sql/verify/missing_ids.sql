-- Ids without a transaction, and the other way round.
select 'a transaction has its transfers' as law, 'transaction ' || coalesce(i.id, t.transaction) as subject,
       case when i.id is null then format('set %s, place %s: its id is not taken there', t.posting, t.place)
            else format('set %s, place %s: no transfer', i.posting, i.place) end as detail, null::bigint as account
from (select i.* from ledger.transaction_id i {attached}) i
full join (select t.transaction, t.posting, t.place from ledger.transfer t where t.line = 1) t
       on t.transaction = i.id and t.posting = i.posting and t.place = i.place
where i.id is null or t.transaction is null
