-- Shifts all that was posted into the month {month}, a day for each set, as if it had been posted then: a superuser's doing, before
-- anything is chained. What stands for it in a test of months, since time cannot be turned back.
begin;
set local timezone = 'UTC';
do $$
declare
    v_table name;
    v_owner name := (select r.rolname from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = 'ledger');
begin
    foreach v_table in array array['transfer', 'movement'] loop
        execute format('create table ledger.%I (like ledger.%I including defaults including constraints)', v_table || '{partition}', v_table);
        execute format('alter table ledger.%I owner to %I', v_table || '{partition}', v_owner);
        execute format('alter table ledger.%I attach partition ledger.%I for values from (%L) to (%L)', v_table, v_table || '{partition}',
                       date '{month}'::timestamptz, (date '{month}' + interval '1 month')::timestamptz);
        perform ledger.make_immutable(format('ledger.%I', v_table || '{partition}')::regclass);
        execute format('grant select on ledger.%I to {app_role}', v_table || '{partition}');
    end loop;
end $$;

create temp table guarded on commit drop as
select c.oid::regclass as rel, t.tgname, t.tgenabled
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'ledger'::regnamespace and not t.tgisinternal
  and c.relname ~ '^(posting|account_balance|transfer.*|movement.*)$';
do $$
declare
    g record;
begin
    for g in select distinct rel from guarded loop
        execute format('alter table %s disable trigger user', g.rel);
    end loop;
end $$;

update ledger.posting p set booked_at = date '{month}'::timestamptz + s.n * interval '1 hour'
from (select number, row_number() over (order by booked_at, number) as n from ledger.posting) s where s.number = p.number;
update ledger.transfer t set booked_at = p.booked_at from ledger.posting p where p.number = t.posting;
update ledger.movement m set booked_at = p.booked_at, previous_at = '-infinity' from ledger.posting p where p.number = m.posting;
update ledger.movement m set previous_at = s.before
from (select account, booked_at, lag(booked_at) over (partition by account order by booked_at) as before from ledger.movement) s
where s.account = m.account and s.booked_at = m.booked_at and s.before is not null;
update ledger.account_balance b set (last_booked_at, booked_before) =
    (select m.booked_at, m.previous_at from ledger.movement m where m.account = b.account order by m.booked_at desc limit 1)
where exists (select from ledger.movement m where m.account = b.account);

do $$
declare
    g record;
begin
    for g in select * from guarded loop
        execute format('alter table %s enable %s trigger %I', g.rel, case g.tgenabled when 'A' then 'always' else '' end, g.tgname);
    end loop;
end $$;
commit;
