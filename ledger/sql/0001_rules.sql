-- What posting asks of a transaction before it looks at balances.

-- The lines of a transaction as they are stored; none when the month in which it was booked is detached.
create or replace function ledger.stored_body(id uuid) returns setof ledger.transfer
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select t.*
    from ledger.transaction_id i
    join ledger.transfer t on t.posting = i.posting and t.place = i.place and t.transaction = i.id
    where i.id = stored_body.id
    order by t.line;
end;

-- What a transaction says.
do $$ begin
    if to_regtype('ledger.body') is null then
        create type ledger.body as (
            kind text, effective_at timestamptz, description text, corrects uuid, reverses uuid, captures uuid, metadata jsonb,
            debit bigint[], credit bigint[], amount numeric[]
        );
    end if;
end $$;

-- In which field two bodies differ; null when they say the same.
create or replace function ledger.difference(stored ledger.body, stated ledger.body) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when stored.kind <> stated.kind then format('kind (stored: %s)', stored.kind)
        when stored.effective_at <> stated.effective_at then format('effective_at (stored: %s)', stored.effective_at)
        when stored.description <> stated.description then format('description (stored: %s)', stored.description)
        when stored.corrects is distinct from stated.corrects then format('corrects (stored: %s)', coalesce(stored.corrects::text, 'none'))
        when stored.reverses is distinct from stated.reverses then format('reverses (stored: %s)', coalesce(stored.reverses::text, 'none'))
        when stored.captures is distinct from stated.captures then format('captures (stored: %s)', coalesce(stored.captures::text, 'none'))
        -- As text: 1 and 1.0 are equal numbers and different texts.
        when stored.metadata::text <> stated.metadata::text then format('metadata (stored: %s)', stored.metadata)
        when cardinality(stored.amount) <> cardinality(stated.amount)
            then format('number of transfers (stored: %s)', cardinality(stored.amount))
        else (
            select case when o.debit <> n.debit then format('line %s: debit (stored: %s)', line, (select a.name from ledger.account a where a.id = o.debit))
                        when o.credit <> n.credit then format('line %s: credit (stored: %s)', line, (select a.name from ledger.account a where a.id = o.credit))
                        else format('line %s: amount (stored: %s)', line, o.amount) end
            from unnest(stored.debit, stored.credit, stored.amount) with ordinality o (debit, credit, amount, line)
            join unnest(stated.debit, stated.credit, stated.amount) with ordinality n (debit, credit, amount, line) using (line)
            where (o.debit, o.credit, o.amount) <> (n.debit, n.credit, n.amount)
            order by line limit 1)
        end
$$;

-- In which field the stored transaction of this id differs from a stated one; null when it says the same.
create or replace function ledger.stored_difference(id uuid, stated ledger.body) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stored ledger.body;
begin
    select (array_agg(t.kind order by t.line))[1], (array_agg(t.effective_at order by t.line))[1],
           (array_agg(t.description order by t.line))[1], (array_agg(t.corrects order by t.line))[1],
           (array_agg(t.reverses order by t.line))[1],
           (select r.hold from ledger.hold_resolution r where r.transaction = stored_difference.id),
           (array_agg(t.metadata order by t.line))[1],
           array_agg(t.debit_account order by t.line), array_agg(t.credit_account order by t.line), array_agg(t.amount order by t.line)
    into v_stored
    from ledger.stored_body(stored_difference.id) t;
    if v_stored.amount is null then
        return ledger.archived_difference(stored_difference.id, stated);
    end if;
    return ledger.difference(v_stored, stated);
end $$;

-- Whether it is a list of so many elements, the first of which is number 1.
create or replace function ledger.is_list(elements anyarray, size integer) returns boolean
language sql immutable as $$
    select elements is not null and cardinality(elements) = size and (size = 0 or array_ndims(elements) = 1 and array_lower(elements, 1) = 1)
$$;

-- Refuses what is not a set as `ledger.post` describes it.
create or replace function ledger.refuse_malformed(
    account bigint[], account_currency text[], chain integer[], transaction_id uuid[], transaction_kind text[],
    transaction_effective_at timestamptz[], transaction_description text[], transaction_corrects uuid[],
    transaction_reverses uuid[], transaction_captures uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns void
language plpgsql
as $$
#variable_conflict use_variable
declare
    v_size      constant integer := cardinality(transaction_id);
    v_accounts  constant integer := cardinality(account);
    v_transfers constant integer := cardinality(transfer_amount);
begin
    if (ledger.is_list(account, v_accounts) and ledger.is_list(account_currency, v_accounts)) is not true then
        raise exception 'the accounts and their currencies are not lists of one length' using errcode = 'HL001',
            hint = 'A list is a one-dimensional array whose first element has the number 1.';
    end if;
    if account <> array(select distinct a from unnest(account) a order by a) then
        raise exception 'the accounts of the set are not in ascending order, each once' using errcode = 'HL001',
            hint = 'Balances are locked in this order, so that no two sets wait for each other in a circle.';
    end if;
    if (ledger.is_list(transfer_transaction, v_transfers) and ledger.is_list(transfer_debit, v_transfers)
        and ledger.is_list(transfer_credit, v_transfers) and ledger.is_list(transfer_amount, v_transfers)) is not true then
        raise exception 'the fields of the transfers are not lists of one length' using errcode = 'HL001',
            hint = 'A list is a one-dimensional array whose first element has the number 1.';
    end if;
    if (ledger.is_list(chain, v_size) and ledger.is_list(transaction_id, v_size) and ledger.is_list(transaction_kind, v_size)
        and ledger.is_list(transaction_effective_at, v_size) and ledger.is_list(transaction_description, v_size)
        and ledger.is_list(transaction_corrects, v_size) and ledger.is_list(transaction_reverses, v_size)
        and ledger.is_list(transaction_captures, v_size) and ledger.is_list(transaction_metadata, v_size)) is not true
       or coalesce(array_position(chain, null), array_position(transaction_id, null), array_position(transaction_kind, null),
                   array_position(transaction_effective_at, null), array_position(transaction_description, null),
                   array_position(transaction_metadata, null)) is not null then
        raise exception 'a field of a transaction is missing'
            using errcode = 'HL001',
                  detail = format('The set has %s ids.', v_size),
                  hint = 'A transaction needs a chain, an id, kind, effective time, description and metadata; the others may be null. '
                         'A list is a one-dimensional array whose first element has the number 1.';
    end if;
    if chain <> array(select c from unnest(chain) c order by c) then
        raise exception 'the chain of a transaction is lower than that of the one before' using errcode = 'HL001',
            hint = 'The transactions of a chain stand together.';
    end if;
    if array_to_string(transaction_kind, '') ~ '[\x01-\x1f\x7f]' then
        raise exception 'a kind holds a control character' using errcode = 'HL001', hint = 'A kind is a word, such as usage.';
    end if;
end $$;

-- Refuses a set that cannot be posted whatever the ledger holds, and says what is wrong with it.
create or replace function ledger.refuse_unsound(
    account bigint[], account_currency text[], transaction_id uuid[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns void
language plpgsql
as $$
#variable_conflict use_column
declare
    v_currency text[];
    v_bad record;
begin
    select array_agg(b.currency order by k.place) into v_currency
    from unnest(account) with ordinality as k (account, place) left join ledger.account_balance b on b.account = k.account;
    if account_currency is distinct from v_currency then
        select k.account, k.stated, v_currency[k.place] as kept into v_bad
        from unnest(account, account_currency) with ordinality as k (account, stated, place)
        where v_currency[k.place] is distinct from k.stated and v_currency[k.place] is not null limit 1;
        if found then
            raise exception 'account % is kept in %, not in %', v_bad.account, v_bad.kept, coalesce(v_bad.stated, 'none')
                using errcode = 'HL001', hint = 'Nothing of the set was posted. State of each account what it is kept in.';
        end if;
    end if;

    select transaction_id[l.owner] as id, account[l.debit] as debit, account[l.credit] as credit, l.amount, l.fault into v_bad
    from (
        select l.*, case
            when not coalesce(l.owner between 1 and cardinality(transaction_id), false) then 'a transfer belongs to no transaction of the set'
            when v_currency[l.debit] is null then 'the debit account does not exist'
            when v_currency[l.credit] is null then 'the credit account does not exist'
            when l.debit = l.credit then 'debit and credit are the same account'
            when v_currency[l.debit] <> v_currency[l.credit]
                then format('the debit account is kept in %s and the credit account in %s', v_currency[l.debit], v_currency[l.credit])
            when not coalesce(l.amount > 0 and l.amount < 1e29 and scale(l.amount) <= 9, false)
                then 'the amount is not positive, below 10^29 and of at most 9 decimals' end as fault
        from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount)
             with ordinality as l (owner, debit, credit, amount, place)
    ) l
    where l.fault is not null order by l.place limit 1;
    if not found then
        select t.id, null::bigint as debit, null::bigint as credit, null::numeric as amount, 'it has no transfer' as fault into v_bad
        from unnest(transaction_id) with ordinality as t (id, place)
        where cardinality(transfer_amount) = 0 or t.place not in (select unnest(transfer_transaction)) limit 1;
    end if;
    if found then
        raise exception 'transaction %: %', v_bad.id, v_bad.fault
            using errcode = 'HL001',
                  detail = format('debit account %s, credit account %s, amount %s', v_bad.debit, v_bad.credit, v_bad.amount),
                  hint = 'Nothing of the set was posted. A negative amount is a positive one with debit and credit swapped.';
    end if;
end $$;

-- What is wrong with reversing a transaction by these transfers: nothing is reversed for more than it was, pair of
-- accounts by pair. Null when nothing is wrong.
create or replace function ledger.reversal_fault(
    original uuid, debit bigint[], credit bigint[], amount numeric[]
) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('of %s, debit %s and credit %s, %s was posted; reversed would be %s', original,
                  (select a.name from ledger.account a where a.id = p.debit), (select a.name from ledger.account a where a.id = p.credit),
                  coalesce(o.amount, 0), p.amount + coalesce(r.amount, 0))
    from (
        -- A reversal swaps the sides.
        select n.credit as debit, n.debit as credit, sum(n.amount) as amount
        from unnest(debit, credit, amount) as n (debit, credit, amount) group by 1, 2
    ) p
    left join lateral (
        select sum(t.amount) as amount from ledger.stored_body(original) t
        where (t.debit_account, t.credit_account) = (p.debit, p.credit)
    ) o on true
    left join lateral (
        select sum(t.amount) as amount
        from ledger.transfer f join ledger.transfer t on t.posting = f.posting and t.place = f.place
        where f.reverses = original and (t.credit_account, t.debit_account) = (p.debit, p.credit)
    ) r on true
    where p.amount + coalesce(r.amount, 0) > coalesce(o.amount, 0)
    limit 1
$$;

-- Which transactions are still to be posted when those with a reason are refused, each with its whole chain.
create or replace function ledger.without_refused(chain integer[], take boolean[], reason text[]) returns boolean[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    with refused as (
        select coalesce(array_agg(c.chain), '{}') as chains
        from unnest(chain) with ordinality as c (chain, place) where reason[c.place] is not null
    )
    select array_agg((take is null or take[c.place]) and c.chain <> all (refused.chains) order by c.place)
    from unnest(chain) with ordinality as c (chain, place), refused
$$;

-- The ids of what is refused stay free.
create or replace function ledger.give_back(posting bigint, transaction_id uuid[], take boolean[]) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from ledger.transaction_id i
    using unnest(transaction_id) with ordinality as t (id, place)
    where i.id = t.id and i.posting = give_back.posting and i.place = t.place and not take[t.place]
$$;

-- The elements at these places.
create or replace function ledger.pick(elements anyarray, places integer[]) returns anyarray
language sql immutable as $$
    select coalesce(array_agg(elements[p.place] order by p.n), elements[1:0]) from unnest(places) with ordinality as p (place, n)
$$;

-- The places of these elements in a sorted array.
create or replace function ledger.ranks(elements anyarray, sorted anyarray) returns integer[]
language sql immutable as $$
    select array_agg(array_position(sorted, e.element) order by e.n) from unnest(elements) with ordinality as e (element, n)
$$;
