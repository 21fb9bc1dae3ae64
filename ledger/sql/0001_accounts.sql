-- Accounts and their balances.

create table if not exists ledger.account (
    id       bigint generated always as identity primary key,
    name     text not null unique check (name <> '' and name !~ '[\x01-\x1f\x7f]'),
    type     text not null check (type in ('asset', 'liability', 'income', 'expense', 'equity')),
    party    text not null,
    purpose  text not null,
    currency text not null check (currency ~ '^[A-Z0-9]{3,12}$')
);

-- Updated at every posting, so it is kept apart from what never changes, with room for updates in the page. It repeats
-- what posting needs of the account, so that posting reads no other table.
create table if not exists ledger.account_balance (
    account         bigint primary key,
    debits          numeric(38, 9) not null default 0,
    credits         numeric(38, 9) not null default 0,
    -- What holds would debit and credit, were they all captured whole.
    pending_debits  numeric(38, 9) not null default 0,
    pending_credits numeric(38, 9) not null default 0,
    -- How many entries there are; each has its number, without gaps.
    entries         bigint not null default 0,
    -- Of the last movement, and of the one before.
    last_booked_at  timestamptz not null default '-infinity',
    booked_before   timestamptz not null default '-infinity',
    -- Of the last change of its limit, and of the last hold that was set free: what they let through is booked after them.
    freed_at        timestamptz not null default '-infinity',
    -- What is available may fall to minus this; without one there is no limit.
    credit_limit    numeric(38, 9) check (credit_limit >= 0 and credit_limit <> 'NaN'),
    currency        text not null,
    -- Whether debits make the balance grow.
    debit_normal    boolean not null
) with (fillfactor = 50);

-- What can go out of an account: its balance on the side on which it grows, less what holds would take of it.
create or replace function ledger.available(b ledger.account_balance) returns numeric
language sql immutable as $$
    select case when b.debit_normal then b.debits - b.credits - b.pending_credits
                else b.credits - b.debits - b.pending_debits end
$$;

-- The ids of accounts, in the order of the names. Those that are missing are created, sorted by name; whoever creates
-- one that another is creating waits for it here. An account that is another one than stated is an error.
create or replace function ledger.open_accounts(
    account_name text[], account_type text[], account_party text[], account_purpose text[], account_currency text[]
) returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_bad record;
begin
    if exists (
        select from unnest(account_name) as s (name)
        where not exists (select from ledger.account a where a.name = s.name)
    ) then
        perform set_config('ledger.posting', 'on', true);
        with created as (
            insert into ledger.account (name, type, party, purpose, currency)
            select s.name, s.type, s.party, s.purpose, s.currency
            from unnest(account_name, account_type, account_party, account_purpose, account_currency)
                 as s (name, type, party, purpose, currency)
            where not exists (select from ledger.account a where a.name = s.name)
            order by s.name collate "C"
            on conflict (name) do nothing
            returning id, currency, type
        )
        insert into ledger.account_balance (account, currency, debit_normal)
        select created.id, created.currency, created.type in ('asset', 'expense') from created;
        perform set_config('ledger.posting', 'off', true);
    end if;

    select a.name, a.type, a.party, a.purpose, a.currency, s.type as s_type, s.party as s_party,
           s.purpose as s_purpose, s.currency as s_currency
    into v_bad
    from unnest(account_name, account_type, account_party, account_purpose, account_currency)
         as s (name, type, party, purpose, currency)
    join ledger.account a on a.name = s.name
    where (a.type, a.party, a.purpose, a.currency) is distinct from (s.type, s.party, s.purpose, s.currency)
    limit 1;
    if found then
        raise exception 'the account % is another one than stated', v_bad.name
            using errcode = 'HL003',
                  detail = format('It is of type %s, party %s, purpose %s, currency %s; stated was %s, %s, %s, %s.',
                                  v_bad.type, v_bad.party, v_bad.purpose, v_bad.currency,
                                  v_bad.s_type, v_bad.s_party, v_bad.s_purpose, v_bad.s_currency),
                  hint = 'An account never changes; use another name.';
    end if;

    select array_agg(a.id order by s.place) into v_ids
    from unnest(account_name) with ordinality as s (name, place)
    join ledger.account a on a.name = s.name;
    return coalesce(v_ids, '{}');
end $$;

select ledger.make_immutable('ledger.account');
create or replace trigger permanent before delete or truncate on ledger.account_balance
    for each statement execute function ledger.refuse_change();
create or replace trigger by_post before insert or update on ledger.account_balance
    for each statement execute function ledger.refuse_bypass();
alter table ledger.account_balance enable always trigger permanent;
