-- Triggers, privileges, owners.
with guard (tab, name, function, always) as (
    select t.tab, g.name, g.function, g.name <> 'by_post'
    from (values ('immutable', 'refuse_change'), ('immutable_row', 'refuse_change'), ('by_post', 'refuse_bypass')) as g (name, function)
    cross join (
        select unnest(array['account', 'posting', 'transfer', 'movement', 'metadata_field', 'account_limit', 'hold', 'hold_resolution',
                            'identity', 'link', 'anchor', 'archive', 'archive_balance', 'detached']) as tab
        union all
        select c.relname from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent in (to_regclass('ledger.transfer'), to_regclass('ledger.movement'))
    ) t
    union all
    values ('transaction_id', 'immutable', 'refuse_change', true), ('transaction_id', 'immutable_row', 'refuse_unless_own', true),
           ('transaction_id', 'by_post', 'refuse_bypass', false),
           ('account_balance', 'permanent', 'refuse_change', true), ('account_balance', 'by_post', 'refuse_bypass', false),
           ('outbox', 'immutable', 'refuse_change', true), ('outbox', 'immutable_row', 'refuse_change', true)
)

select 'the protection is in place' as law, format('trigger %s on ledger.%s', g.name, g.tab) as subject,
       case when t.oid is null then 'missing, or another function' else 'switched off' end as detail, null::bigint as account
from guard g
left join pg_catalog.pg_trigger t
       on t.tgrelid = to_regclass('ledger.' || g.tab) and t.tgname = g.name
      and t.tgfoid = to_regproc('ledger.' || g.function)
where t.oid is null or t.tgenabled not in ('A', case when g.always then 'A' else 'O' end)

union all
select 'the protection is in place', 'relation ledger.' || c.relname,
       format('%s is granted to %s', x.privilege_type, coalesce(r.rolname, 'public')), null
from pg_catalog.pg_class c
cross join lateral (
    select * from aclexplode(c.relacl)
    union all
    select x.* from pg_catalog.pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = c.oid
) x
left join pg_catalog.pg_roles r on r.oid = x.grantee
where c.relnamespace = to_regnamespace('ledger') and x.grantee <> c.relowner and x.privilege_type <> 'SELECT'
  and not (c.relname = 'outbox' and x.privilege_type = 'INSERT')

union all
select 'the protection is in place', 'schema ledger', format('CREATE is granted to %s', coalesce(r.rolname, 'public')), null
from pg_catalog.pg_namespace n
cross join lateral aclexplode(n.nspacl) x
left join pg_catalog.pg_roles r on r.oid = x.grantee
where n.nspname = 'ledger' and x.grantee <> n.nspowner and x.privilege_type = 'CREATE'

union all
select 'the protection is in place', 'ledger.' || o.name, format('it belongs to %s and not to the owner of the schema', r.rolname), null
from pg_catalog.pg_namespace n
cross join lateral (
    select c.relname as name, c.relowner as owner from pg_catalog.pg_class c where c.relnamespace = n.oid
    union all
    select f.proname, f.proowner from pg_catalog.pg_proc f where f.pronamespace = n.oid
) o
left join pg_catalog.pg_roles r on r.oid = o.owner
where n.nspname = 'ledger' and o.owner <> n.nspowner

union all
-- Whoever may run a function with the owner's rights may do what it does; it has to look up names where nobody else can put them.
select 'the protection is in place', 'function ledger.' || f.proname, 'it runs with the rights of its owner, and its search_path is not pinned', null
from pg_catalog.pg_proc f
where f.pronamespace = to_regnamespace('ledger') and f.prosecdef
  and not coalesce('search_path=pg_catalog, pg_temp' = any (f.proconfig), false)

union all
-- A month is attached, or detached and on record.
select 'every month is attached or archived', 'ledger.' || c.relname, 'it holds transfers, and is neither attached nor detached by the ledger', null
from pg_catalog.pg_class c
where c.relnamespace = to_regnamespace('ledger') and c.relkind = 'r' and c.relname ~ '^(transfer|movement)_\d{4}_\d{2}$'
  and not exists (select from pg_catalog.pg_inherits i
                  where i.inhrelid = c.oid and i.inhparent in (to_regclass('ledger.transfer'), to_regclass('ledger.movement')))
