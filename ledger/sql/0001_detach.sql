-- Recording and detaching months.

-- The first moments of a month and of the next one.
create or replace function ledger.month_range(month date, out since timestamptz, out until timestamptz)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$ select month::timestamp at time zone 'UTC', (month + interval '1 month') at time zone 'UTC' $$;

-- The transactions whose lines are in the files of detached months.
create or replace view ledger.detached_transaction as
select i.id
from ledger.posting p
join ledger.transaction_id i on i.posting = p.number
where p.booked_at < (select max(d.month) + interval '1 month' from ledger.detached d) at time zone 'UTC';

-- Refuses a month that is not over, not the earliest, or not wholly under an anchor. Whoever still posts into it is
-- waited for.
create or replace function ledger.check_month(month date) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name  name := 'transfer_' || to_char(month, 'YYYY_MM');
    v_since timestamptz;
    v_until timestamptz;
    v_bad   text;
begin
    select since, until into v_since, v_until from ledger.month_range(month);
    if not exists (select from pg_inherits where inhparent = 'ledger.transfer'::regclass and inhrelid = to_regclass('ledger.' || v_name)) then
        raise exception 'there is no month % that is attached', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', hint = 'Months that can be detached are those with a partition of ledger.transfer.';
    end if;
    if v_until > clock_timestamp() then
        raise exception 'the month % is not over', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', detail = format('It ends at %s.', v_until), hint = 'Wait until then.';
    end if;
    execute format('lock table ledger.%I in share mode', v_name);
    select to_char(min(t.booked_at) at time zone 'UTC', 'YYYY-MM') into v_bad from ledger.transfer t where t.booked_at < v_since;
    if v_bad is not null then
        raise exception 'the month % is not the earliest', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', detail = format('There are transfers of %s.', v_bad), hint = 'Detach the months in their order.';
    end if;
    select format('Set %s of it is %s.', p.number, case when l.posting is null then 'not chained' else 'chained after the last anchor' end)
    into v_bad
    from ledger.posting p
    left join ledger.link l on l.posting = p.number
    where p.booked_at >= v_since and p.booked_at < v_until
      and not coalesce(l.position <= (select a.positions[l.shard + 1] from ledger.anchor a order by a.number desc limit 1), false)
    order by p.number limit 1;
    if v_bad is not null then
        raise exception 'the month % is not wholly under an anchor', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', detail = v_bad, hint = 'Make an anchor (it chains what is left), and keep it elsewhere.';
    end if;
end $$;

-- Records what a month adds up to, and the file that holds it. `account`, `debits`, `credits`: what the file adds up to,
-- account by account by name; the month has to be the same.
create or replace function ledger.record_archive(
    month date, name text, row_count bigint, sha256 bytea, account text[], debits numeric[], credits numeric[]
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    v_since timestamptz;
    v_until timestamptz;
    v_rows  bigint;
    v_last  timestamptz;
    v_bad   record;
begin
    perform ledger.check_month(month);
    select r.since, r.until into v_since, v_until from ledger.month_range(month) r;
    select count(*), coalesce(max(t.effective_at), v_until) into v_rows, v_last
    from ledger.transfer t where t.booked_at >= v_since and t.booked_at < v_until;
    if v_rows <> row_count then
        raise exception 'the file of the month % is not whole', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', detail = format('It has %s rows, the month %s.', row_count, v_rows), hint = 'Write it again.';
    end if;
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.archive_balance (month, account, debits, credits, entries)
    select month, s.account, sum(s.debits), sum(s.credits), sum(s.entries)
    from (
        select t.debit_account as account, t.amount as debits, 0 as credits, 1 as entries
        from ledger.transfer t where t.booked_at >= v_since and t.booked_at < v_until
        union all
        select t.credit_account, 0, t.amount, 1 from ledger.transfer t where t.booked_at >= v_since and t.booked_at < v_until
        union all
        select b.account, b.debits, b.credits, b.entries
        from ledger.archive_balance b where b.month = (select max(d.month) from ledger.detached d)
    ) s
    group by s.account;

    select coalesce(m.name, f.name) as name, m.debits, m.credits, f.debits as file_debits, f.credits as file_credits into v_bad
    from (
        select a.name, b.debits - coalesce(o.debits, 0) as debits, b.credits - coalesce(o.credits, 0) as credits
        from ledger.archive_balance b
        join ledger.account a on a.id = b.account
        left join ledger.archive_balance o on o.account = b.account and o.month = (select max(d.month) from ledger.detached d)
        where b.month = record_archive.month
    ) m
    full join unnest(account, debits, credits) as f (name, debits, credits) on f.name = m.name
    where (coalesce(m.debits, 0), coalesce(m.credits, 0)) is distinct from (coalesce(f.debits, 0), coalesce(f.credits, 0))
    order by 1 limit 1;
    if found then
        raise exception 'the file of the month % adds up to something else', to_char(month, 'YYYY-MM')
            using errcode = 'HL008',
                  detail = format('Account %s: in the file debits %s, credits %s; in the ledger %s and %s.', v_bad.name,
                                  v_bad.file_debits, v_bad.file_credits, v_bad.debits, v_bad.credits),
                  hint = 'Write it again.';
    end if;
    insert into ledger.archive (month, name, rows, sha256, effective_until, recorded_at)
    values (month, name, row_count, sha256, v_last, clock_timestamp());
    perform set_config('ledger.posting', 'off', true);
end $$;

-- Takes a month that is recorded out of the ledger. Its file is what is left of it, apart from ids, sets and the chain.
create or replace function ledger.detach(month date) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    v_table name;
    v_since timestamptz;
    v_until timestamptz;
begin
    -- Before the check, so that it waits for nobody who waits for it.
    lock table ledger.transfer, ledger.movement in access exclusive mode;
    perform ledger.check_month(month);
    if not exists (select from ledger.archive a where a.month = detach.month) then
        raise exception 'the month % is not recorded', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', hint = 'Write its rows to a file, check them, and record the file first.';
    end if;
    select r.since, r.until into v_since, v_until from ledger.month_range(month) r;
    if (select a.rows from ledger.archive a where a.month = detach.month)
       <> (select count(*) from ledger.transfer t where t.booked_at >= v_since and t.booked_at < v_until) then
        raise exception 'the month % is not what was recorded', to_char(month, 'YYYY-MM')
            using errcode = 'HL008', detail = 'It has other rows than its file: a set came in late.',
                  hint = 'Nothing was taken out. The month stays attached; report it.';
    end if;
    foreach v_table in array array['transfer', 'movement'] loop
        execute format('alter table ledger.%I detach partition ledger.%I', v_table, v_table || to_char(month, '_YYYY_MM'));
        execute format('drop table ledger.%I', v_table || to_char(month, '_YYYY_MM'));
    end loop;
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.detached (month, detached_at) values (month, clock_timestamp());
    perform set_config('ledger.posting', 'off', true);
end $$;

-- Whether a transaction of a detached month said the same as a stated one: its digest is in the chain.
create or replace function ledger.archived_difference(id uuid, stated ledger.body) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with line as (
        select sha256(convert_to({line_text}, 'UTF8')) as hash
        from (
            select archived_difference.id as transaction, l.line, l.debit, l.credit, l.amount::numeric(38, 9) as amount, b.currency,
                   stated.effective_at, stated.kind, stated.corrects, stated.reverses, stated.metadata, stated.description
            from unnest(stated.debit, stated.credit, stated.amount) with ordinality as l (debit, credit, amount, line)
            join ledger.account b on b.id = l.debit
        ) t
        join ledger.account d on d.id = t.debit
        join ledger.account c on c.id = t.credit
        order by t.line
    ),
    body as (select substr(case count(*) when 1 then string_agg(hash, '') else sha256(string_agg(hash, '')) end, 1, 16) as digest from line)
    select case
        when (select r.hold from ledger.hold_resolution r where r.transaction = archived_difference.id) is distinct from stated.captures
            then 'captures'
        when not exists (
            select from ledger.transaction_id i
            join ledger.link l on l.posting = i.posting
            cross join generate_series(0, length(l.digests) / 16 - 1) as n
            cross join body b
            where i.id = archived_difference.id and substr(l.digests, n * 16 + 1, 16) = b.digest
        ) then 'its body (stored in the file of a detached month)' end
$$;
