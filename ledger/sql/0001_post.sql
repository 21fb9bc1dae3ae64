-- Posts a set of transactions, whole or not at all, inside the caller's database transaction.
--
-- Every array of a group has one element an account, transaction or transfer. `transfer_transaction` is the place
-- (from 1) of the transfer's transaction in the arrays of transactions; lines are numbered in the order given.
--
-- Locks, always in this order and sorted within each, so no two callers can wait for each other in a circle:
-- names of accounts to be created, balances, transaction ids. They last until the caller's COMMIT; the caller takes
-- its own locks before, and posts once in a database transaction.
create or replace function ledger.post(
    account_name text[], account_type text[], account_party text[], account_purpose text[], account_currency text[],
    transaction_id uuid[], transaction_kind text[], transaction_effective_at timestamptz[],
    transaction_description text[], transaction_corrects uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit text[], transfer_credit text[],
    transfer_amount numeric[], transfer_currency text[]
) returns table (id uuid, outcome text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- A plan made for the present sizes: one kept from when the tables were empty would scan them for every row.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
    v_line   integer[];  -- of each transfer: its number in its transaction,
    v_debit  bigint[];   -- and its accounts
    v_credit bigint[];
    v_hash   bytea[];    -- of each transaction
    v_new    integer[];  -- places of transactions not seen before
    v_posted integer[];  -- places of those posted here
    v_sound  boolean;
    v_now    timestamptz;
    v_bad    record;
begin
    -- The triggers let nobody else write. Until the end of the function; an error takes it back as well.
    perform set_config('ledger.posting', 'on', true);

    -- Accounts. Whoever creates one that another is creating waits for it here.
    with created as (
        insert into ledger.account (name, type, party, purpose, currency)
        select s.name, s.type, s.party, s.purpose, s.currency
        from unnest(account_name, account_type, account_party, account_purpose, account_currency)
             as s (name, type, party, purpose, currency)
        where not exists (select from ledger.account a where a.name = s.name)
        order by s.name collate "C"
        on conflict (name) do nothing
        returning id
    )
    insert into ledger.account_balance (account) select created.id from created;

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

    -- Transfers.
    select array_agg(l.line), array_agg(l.debit_id), array_agg(l.credit_id), bool_and(coalesce(l.sound, false))
    into v_line, v_debit, v_credit, v_sound
    from (
        select row_number() over (partition by l.owner order by l.place) as line, d.id as debit_id, c.id as credit_id,
               l.owner between 1 and cardinality(transaction_id)
               -- NaN is greater than every number, and numeric(38, 9) would round silently.
               and l.amount > 0 and l.amount < 1e29 and l.amount = round(l.amount, 9)
               and d.id <> c.id and d.currency = l.currency and c.currency = l.currency as sound
        from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount, transfer_currency)
             with ordinality as l (owner, debit, credit, amount, currency, place)
        left join ledger.account d on d.name = l.debit
        left join ledger.account c on c.name = l.credit
        order by l.place
    ) l;

    if not v_sound then
        select transaction_id[l.owner] as id, l.debit, l.credit, l.amount, l.currency,
               case when not coalesce(l.owner between 1 and cardinality(transaction_id), false)
                        then 'a transfer belongs to no transaction of the set'
                    when d.id is null then format('the debit account %s does not exist', l.debit)
                    when c.id is null then format('the credit account %s does not exist', l.credit)
                    when d.id = c.id then 'debit and credit are the same account'
                    when d.currency is distinct from l.currency then format('the debit account is kept in %s', d.currency)
                    when c.currency is distinct from l.currency then format('the credit account is kept in %s', c.currency)
                    else 'the amount is not positive, below 10^29 and of at most 9 decimals' end as reason
        into v_bad
        from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount, transfer_currency)
             with ordinality as l (owner, debit, credit, amount, currency, place)
        left join ledger.account d on d.name = l.debit
        left join ledger.account c on c.name = l.credit
        where not coalesce(l.owner between 1 and cardinality(transaction_id)
                           and l.amount > 0 and l.amount < 1e29 and l.amount = round(l.amount, 9)
                           and d.id <> c.id and d.currency = l.currency and c.currency = l.currency, false)
        order by l.place limit 1;
        raise exception 'transaction %: %', v_bad.id, v_bad.reason
            using errcode = 'HL001',
                  detail = format('debit %s, credit %s, amount %s %s', v_bad.debit, v_bad.credit, v_bad.amount, v_bad.currency),
                  hint = 'Nothing of the set was posted. A negative amount is a positive one with debit and credit swapped.';
    end if;

    -- The hash is computed here and not taken from the caller, who could be wrong about it.
    select array_agg(t.hash) into v_hash
    from (
        select ledger.body_hash(t.kind, t.effective_at, t.description, t.corrects, t.metadata, l.lines) as hash
        from unnest(transaction_kind, transaction_effective_at, transaction_description, transaction_corrects,
                    transaction_metadata)
             with ordinality as t (kind, effective_at, description, corrects, metadata, place)
        left join (
            select l.owner, string_agg(ledger.line_text(l.debit, l.credit, l.amount, l.currency), '' order by l.place) as lines
            from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount, transfer_currency)
                 with ordinality as l (owner, debit, credit, amount, currency, place)
            group by l.owner
        ) l on l.owner = t.place
        order by t.place
    ) t;

    select t.id, t.hash, t.place into v_bad
    from unnest(transaction_id, v_hash) with ordinality as t (id, hash, place)
    where t.id is null or t.hash is null limit 1;
    if found then
        raise exception 'transaction %: %', v_bad.id,
            case when v_bad.place = any (transfer_transaction) then 'a field is missing' else 'it has no transfer' end
            using errcode = 'HL001',
                  detail = format('It is number %s of the set.', v_bad.place),
                  hint = 'A transaction needs an id, kind, effective time, description, metadata and at least one transfer.';
    end if;

    select t.id, t.corrects into v_bad
    from unnest(transaction_id, transaction_corrects) as t (id, corrects)
    where t.corrects is not null
      and not exists (select from ledger.transaction p where p.id = t.corrects)
      and not exists (select from unnest(transaction_id) as o (id) where o.id = t.corrects)
    limit 1;
    if found then
        raise exception 'transaction %: it corrects %, which does not exist', v_bad.id, v_bad.corrects
            using errcode = 'HL001', hint = 'Post the transaction to be corrected first, or in the same set.';
    end if;

    -- Whole repeats, the usual case after a lost reply, take no lock at all.
    select coalesce(array_agg(t.place), '{}') into v_new
    from (
        select distinct on (t.id) t.id, t.place
        from unnest(transaction_id) with ordinality as t (id, place)
        where not exists (select from ledger.transaction p where p.id = t.id)
        order by t.id, t.place
    ) t;

    v_posted := '{}';
    if cardinality(v_new) > 0 then
        perform b.account
        from (select distinct unnest(v_debit || v_credit) as account) k
        join ledger.account_balance b on b.account = k.account
        order by b.account
        for no key update of b;

        -- Taken under the locks: in each account, the order of booking times is the order of commits.
        v_now := clock_timestamp();

        -- Whoever posts an id that another is posting waits for it here.
        with inserted as (
            insert into ledger.transaction (id, body_hash, kind, effective_at, booked_at, description, corrects, metadata)
            select t.id, t.hash, t.kind, t.effective_at, v_now, t.description, t.corrects, t.metadata
            from unnest(transaction_id, v_hash, transaction_kind, transaction_effective_at, transaction_description,
                        transaction_corrects, transaction_metadata)
                 with ordinality as t (id, hash, kind, effective_at, description, corrects, metadata, place)
            join unnest(v_new) as n (place) on n.place = t.place
            order by t.id
            on conflict (id) do nothing
            returning id
        )
        select coalesce(array_agg(n.place), '{}') into v_posted
        from unnest(v_new) as n (place) join inserted i on i.id = transaction_id[n.place];

        insert into ledger.transfer (transaction, line, debit_account, credit_account, amount, currency, booked_at)
        select transaction_id[l.owner], l.line, l.debit, l.credit, l.amount, l.currency, v_now
        from unnest(transfer_transaction, v_line, v_debit, v_credit, transfer_amount, transfer_currency)
             as l (owner, line, debit, credit, amount, currency)
        join unnest(v_posted) as p (place) on p.place = l.owner;

        update ledger.account_balance b
        set debits = b.debits + n.debits, credits = b.credits + n.credits
        from (
            select s.account, sum(s.debit) as debits, sum(s.credit) as credits
            from unnest(transfer_transaction, v_debit, v_credit, transfer_amount) as l (owner, debit, credit, amount)
            join unnest(v_posted) as p (place) on p.place = l.owner
            cross join lateral (values (l.debit, l.amount, 0), (l.credit, 0, l.amount)) as s (account, debit, credit)
            group by s.account
        ) n
        where b.account = n.account;
    end if;

    -- Same id, other body: found before, twice in the set, or posted by another since.
    select t.id, t.place, p.booked_at,
           concat_ws(', ', case when p.kind <> t.kind then 'kind' end,
                     case when p.effective_at <> t.effective_at then 'effective_at' end,
                     case when p.description <> t.description then 'description' end,
                     case when p.corrects is distinct from t.corrects then 'corrects' end,
                     case when p.metadata::text <> t.metadata::text then 'metadata' end) as fields
    into v_bad
    from unnest(transaction_id, v_hash, transaction_kind, transaction_effective_at, transaction_description,
                transaction_corrects, transaction_metadata)
         with ordinality as t (id, hash, kind, effective_at, description, corrects, metadata, place)
    join ledger.transaction p on p.id = t.id
    where p.body_hash <> t.hash
    order by t.place limit 1;
    if found then
        raise exception 'conflict: transaction % was posted with another body', v_bad.id
            using errcode = 'HL002',
                  detail = format('It was booked at %s; what differs: %s.', v_bad.booked_at,
                                  coalesce(nullif(v_bad.fields, ''), 'the transfers')),
                  hint = 'An id stands for one body for ever. Nothing of the set was posted; to change what was posted, '
                      || 'post a correction with an id of its own.';
    end if;

    perform set_config('ledger.posting', 'off', true);
    return query
        select t.id, case when p.place is null then 'repeated' else 'posted' end
        from unnest(transaction_id) with ordinality as t (id, place)
        left join unnest(v_posted) as p (place) on p.place = t.place
        order by t.place;
end $$;

-- Privileges, last, so that they hold for everything above.
revoke all on all tables in schema ledger from public, {app_role};
revoke all on all functions in schema ledger from public, {app_role};
grant select on all tables in schema ledger to {app_role};
grant execute on function ledger.post to {app_role};
-- Pure functions, for whoever verifies.
grant execute on function ledger.line_text, ledger.body_hash to {app_role};
