-- The double-entry book. Run by the role that owns it, as often as one likes.
-- The application role owns nothing: it reads the tables and posts through ledger.post.

do $$
declare
    app constant name := {app_role_literal};
begin
    if not exists (select from pg_catalog.pg_roles where rolname = app) then
        raise exception 'the application role "%" does not exist', app
            using hint = format('Create it first: CREATE ROLE %I LOGIN', app);
    end if;
    if pg_catalog.pg_has_role(app, current_user, 'member') then
        raise exception 'the application role "%" has the rights of the ledger''s owner "%"', app, current_user
            using detail = 'Whoever owns the ledger can switch its protection off.',
                  hint = 'Use a role of its own for the application, neither a superuser nor a member of the owner.';
    end if;
end $$;

create schema if not exists ledger;
revoke all on schema ledger from public, {app_role};
grant usage on schema ledger to {app_role};

-- Posted means immutable, for everybody.
create or replace function ledger.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'ledger.% is immutable: % is refused', tg_table_name, tg_op
        using errcode = 'HL004',
              detail = 'What has been posted stays; this holds for the owner of the table as well.',
              hint = 'Post a new transaction whose "corrects" names the one that was wrong.';
end $$;

-- The functions of this schema switch `ledger.posting` on while they write.
create or replace function ledger.refuse_bypass() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('ledger.posting', true) is distinct from 'on' then
        raise exception '% of ledger.% outside of ledger.post is refused', tg_op, tg_table_name
            using errcode = 'HL005',
                  detail = 'Only the functions of the ledger check the rules and keep the balances.',
                  hint = 'Call ledger.post, or the function that is made for it.';
    end if;
    return null;
end $$;

-- Guards a table whose rows are written by the ledger's functions and never change: statements are refused whole,
-- rows one by one, also under session_replication_role = replica, which skips ordinary triggers.
create or replace function ledger.make_immutable(target regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('create or replace trigger immutable before update or delete or truncate on %s '
                   'for each statement execute function ledger.refuse_change()', target);
    execute format('create or replace trigger by_post before insert on %s '
                   'for each statement execute function ledger.refuse_bypass()', target);
    execute format('alter table %s enable always trigger immutable', target);
    -- The rows of a partition are guarded by the trigger of its parent.
    if not (select c.relispartition from pg_class c where c.oid = target) then
        execute format('create or replace trigger immutable_row before update or delete on %s '
                       'for each row execute function ledger.refuse_change()', target);
    end if;
    execute format('alter table %s enable always trigger immutable_row', target);
end $$;
