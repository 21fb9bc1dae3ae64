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

create table if not exists ledger.account (
    id       bigint generated always as identity primary key,
    -- Control characters separate the fields of the text that is hashed (see body_hash).
    name     text not null unique check (name <> '' and name !~ '[\x01-\x1f\x7f]'),
    type     text not null check (type in ('asset', 'liability', 'income', 'expense', 'equity')),
    party    text not null,
    purpose  text not null,
    currency text not null check (currency ~ '^[A-Z0-9]{3,12}$')
);

-- Updated at every posting, so it is kept apart from what never changes, with room for updates in the page.
create table if not exists ledger.account_balance (
    account bigint primary key,
    debits  numeric(38, 9) not null default 0,
    credits numeric(38, 9) not null default 0
) with (fillfactor = 50);

-- Permanent and never partitioned: an id is taken for ever, and the hash of its body tells a repeat from a conflict.
create table if not exists ledger.transaction (
    id           uuid primary key,
    body_hash    bytea not null,
    kind         text not null check (kind <> '' and kind !~ '[\x01-\x1f\x7f]'),
    effective_at timestamptz not null check (isfinite(effective_at)),
    booked_at    timestamptz not null,
    description  text not null,
    corrects     uuid check (corrects <> id),
    metadata     jsonb not null check (jsonb_typeof(metadata) = 'object')
);

-- No foreign keys: they cost a query a row. The trigger `transfer_sound` checks a whole statement at once.
create table if not exists ledger.transfer (
    transaction    uuid not null,
    line           integer not null,
    debit_account  bigint not null,
    credit_account bigint not null,
    amount         numeric(38, 9) not null check (amount > 0 and amount <> 'NaN'),
    currency       text not null,
    booked_at      timestamptz not null,
    primary key (transaction, line),
    check (debit_account <> credit_account)
);
create index if not exists transfer_debit on ledger.transfer (debit_account, booked_at);
create index if not exists transfer_credit on ledger.transfer (credit_account, booked_at);

-- What a transaction says, as one text. Names, kinds and currencies hold no control characters, and JSON escapes
-- them, so two different bodies never give the same text.
create or replace function ledger.line_text(debit text, credit text, amount numeric, currency text) returns text
language sql stable as $$
    select debit || e'\t' || credit || e'\t' || currency || e'\t' || amount::numeric(38, 9)::text || e'\n'
$$;

create or replace function ledger.body_hash(
    kind text, effective_at timestamptz, description text, corrects uuid, metadata jsonb, lines text
) returns bytea
language sql stable as $$
    select sha256(convert_to(
        'ledger/1' || e'\n' || kind || e'\t' || extract(epoch from effective_at)::text || e'\t' || coalesce(corrects::text, '')
        || e'\t' || to_json(description)::text || e'\t' || metadata::text || e'\n' || lines, 'UTF8'))
$$;

-- Posted means immutable, for everybody.
create or replace function ledger.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'ledger.% is immutable: % is refused', tg_table_name, tg_op
        using errcode = 'HL004',
              detail = 'What has been posted stays; this holds for the owner of the table as well.',
              hint = 'Post a new transaction whose "corrects" names the one that was wrong.';
end $$;

create or replace function ledger.refuse_bypass() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('ledger.posting', true) is distinct from 'on' then
        raise exception '% of ledger.% outside of ledger.post is refused', tg_op, tg_table_name
            using errcode = 'HL005',
                  detail = 'Only ledger.post checks the rules and keeps the balances.',
                  hint = 'Call ledger.post.';
    end if;
    return null;
end $$;

-- A transfer moves one amount from one account to another, so debits equal credits by construction,
-- provided that both accounts are there and are kept in the transfer's currency.
create or replace function ledger.check_transfers() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    bad record;
begin
    select n.transaction, n.line, n.currency, d.name as debit, d.currency as debit_currency,
           c.name as credit, c.currency as credit_currency
    into bad
    from inserted n
    left join ledger.account d on d.id = n.debit_account
    left join ledger.account c on c.id = n.credit_account
    where d.currency is distinct from n.currency or c.currency is distinct from n.currency
    limit 1;
    if found then
        raise exception 'transaction %, line %: debits would not equal credits in %', bad.transaction, bad.line, bad.currency
            using errcode = 'HL001',
                  detail = format('The debit account %s is kept in %s, the credit account %s in %s.',
                                  bad.debit, bad.debit_currency, bad.credit, bad.credit_currency),
                  hint = 'Both accounts of a transfer are kept in its currency; exchange goes through two transfers.';
    end if;
    return null;
end $$;

create or replace trigger immutable before update or delete or truncate on ledger.account
    for each statement execute function ledger.refuse_change();
create or replace trigger immutable before update or delete or truncate on ledger.transaction
    for each statement execute function ledger.refuse_change();
create or replace trigger immutable before update or delete or truncate on ledger.transfer
    for each statement execute function ledger.refuse_change();
create or replace trigger immutable_row before update or delete on ledger.account
    for each row execute function ledger.refuse_change();
create or replace trigger immutable_row before update or delete on ledger.transaction
    for each row execute function ledger.refuse_change();
create or replace trigger immutable_row before update or delete on ledger.transfer
    for each row execute function ledger.refuse_change();
create or replace trigger permanent before delete or truncate on ledger.account_balance
    for each statement execute function ledger.refuse_change();
create or replace trigger by_post before insert on ledger.account
    for each statement execute function ledger.refuse_bypass();
create or replace trigger by_post before insert on ledger.transaction
    for each statement execute function ledger.refuse_bypass();
create or replace trigger by_post before insert on ledger.transfer
    for each statement execute function ledger.refuse_bypass();
create or replace trigger by_post before insert or update on ledger.account_balance
    for each statement execute function ledger.refuse_bypass();
create or replace trigger transfer_sound after insert on ledger.transfer
    referencing new table as inserted for each statement execute function ledger.check_transfers();

-- Also under session_replication_role = replica, which skips ordinary triggers.
alter table ledger.account enable always trigger immutable, enable always trigger immutable_row;
alter table ledger.transaction enable always trigger immutable, enable always trigger immutable_row;
alter table ledger.transfer enable always trigger immutable, enable always trigger immutable_row;
alter table ledger.account_balance enable always trigger permanent;
