-- Posting.

-- Posts a set of transactions inside the caller's database transaction (READ COMMITTED). A row comes back for each that
-- was not posted here: it had been posted before with the same body, or it is refused. A refusal changes nothing, and
-- the id stays free. What could not be posted whatever the ledger holds (an amount of 0, an unknown account …) is an
-- error for the whole set.
--
-- `account`: the numbers of all accounts of the set, ascending; `account_currency`: what each is kept in. The arrays of
-- transactions have one element each, those of transfers likewise; a transfer names its transaction and its accounts by
-- their places (from 1) in the arrays. Lines are numbered in the order given. The transactions of one number in `chain` are applied all or none; it never falls.
--
-- Locks, in this order and sorted within each, the same for every caller, so that no two wait for each other in a
-- circle: holds, new ids, ids of what is reversed, balances. They last until the caller's COMMIT; the caller takes its
-- own locks before, and posts once in a database transaction. What needs no lock of a balance is done before.
--
-- First it is tried as if nothing spoke against any of them, which is quick, with transfers that are written before the
-- balances are locked; once more, under the locks, when another set was booked on one of the accounts in the meantime.
-- When something might speak against one of them, all is taken back, and they are looked at one by one.
create or replace function ledger.post(
    account bigint[], account_currency text[], chain integer[], transaction_id uuid[], transaction_kind text[],
    transaction_effective_at timestamptz[], transaction_description text[], transaction_corrects uuid[],
    transaction_reverses uuid[], transaction_captures uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns table (
    place integer,
    outcome text,       -- repeated or refused; when refused, the others say why
    reason text,        -- conflict, missing, metadata, reversal, hold, limit; chain: another of its chain was refused
    detail text,
    -- With the reason `limit`: the account, what was available, how the transaction would have changed that, the limit.
    at bigint,
    available numeric,
    change numeric,
    credit_limit numeric
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- One plan for every size: accounts and ids are looked up by index, in the order of the arrays.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_hashagg = off
set enable_mergejoin = off
set random_page_cost = 0
set jit = off
as $$
#variable_conflict use_column
declare
    v_size    constant integer := cardinality(transaction_id);
    v_posting constant bigint := nextval('ledger.posting_number_seq');
    -- A single one has little to write ahead, and many who call for one account would overtake each other all the time.
    v_ahead   boolean := v_size > 1;
begin
    perform ledger.refuse_malformed(
        account, account_currency, chain, transaction_id, transaction_kind, transaction_effective_at, transaction_description,
        transaction_corrects, transaction_reverses, transaction_captures, transaction_metadata,
        transfer_transaction, transfer_debit, transfer_credit, transfer_amount);

    -- The triggers let nobody else write. Until the end of the function; an error takes it back as well.
    perform set_config('ledger.posting', 'on', true);

    while num_nonnulls(variadic transaction_reverses || transaction_captures) = 0 and not exists (select from ledger.metadata_field) loop
        begin
            -- Whoever posts an id that another is posting waits for it here.
            insert into ledger.transaction_id (id, posting, place)
            select t.id, v_posting, t.place
            from unnest(transaction_id) with ordinality as t (id, place)
            order by t.id;
            if num_nonnulls(variadic transaction_corrects) > 0 and exists (
                select from unnest(transaction_corrects) with ordinality as t (corrects, place)
                where t.corrects is not null
                  and not exists (select from ledger.transaction_id i where i.id = t.corrects
                                  and (i.posting <> v_posting or chain[i.place] = chain[t.place]))
            ) then
                raise exception 'a transaction corrects what is not there' using errcode = 'HL000';
            end if;
            if ledger.book(
                case when v_ahead then clock_timestamp() else ledger.lock_balances(account) end, v_posting, account, account_currency,
                array(select generate_series(1, v_size)), transaction_id, transaction_kind, transaction_effective_at,
                transaction_description, transaction_corrects, transaction_reverses, transaction_metadata,
                transfer_transaction, transfer_debit, transfer_credit, transfer_amount) <= 0 then
                raise exception 'an account comes near its limit' using errcode = 'HL000';
            end if;
            perform set_config('ledger.posting', 'off', true);
            return;
        exception
            when sqlstate 'HL00B' then
                v_ahead := false;
            when sqlstate 'HL000' or unique_violation or check_violation or not_null_violation or numeric_value_out_of_range then
                exit;
        end;
    end loop;

    return query
        select * from ledger.post_one_by_one(
            v_posting, account, account_currency, chain, transaction_id, transaction_kind, transaction_effective_at,
            transaction_description, transaction_corrects, transaction_reverses, transaction_captures, transaction_metadata,
            transfer_transaction, transfer_debit, transfer_credit, transfer_amount);
    perform set_config('ledger.posting', 'off', true);
end $$;

-- The same for a set of which some may be refused or repeated: `ledger.post` calls it, and has begun the posting.
create or replace function ledger.post_one_by_one(
    posting bigint, account bigint[], account_currency text[], chain integer[], transaction_id uuid[], transaction_kind text[],
    transaction_effective_at timestamptz[], transaction_description text[], transaction_corrects uuid[],
    transaction_reverses uuid[], transaction_captures uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns table (
    place integer, outcome text, reason text, detail text, at bigint, available numeric, change numeric, credit_limit numeric
)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_size constant integer := cardinality(transaction_id);
    v_captures constant boolean := num_nonnulls(variadic transaction_captures) > 0;
    v_rows integer;
    v_case record;
    v_text text;
    v_body ledger.body[];
    -- Of each transaction: whether it is posted here; when it is refused, what is told of it.
    v_take boolean[] := array_fill(true, array[v_size]);
    v_reason text[];
    v_detail text[];
    v_at bigint[];
    v_had numeric[];
    v_change numeric[];
    v_limit numeric[];
    -- The accounts of those that may be posted, under their locks: what is available, and what the rules say.
    v_account bigint[];
    v_available numeric[];
    v_debit_normal boolean[];
    v_account_limit numeric[];
    v_booked timestamptz;
    -- What one transaction does to what is available of one account, in the order of transactions.
    v_step_transaction integer[];
    v_step_account integer[];
    v_step_change numeric[];
    -- What is booked, with places of its own.
    v_places integer[];
    v_owner integer[];
    v_debit bigint[];
    v_credit bigint[];
    v_amount numeric[];
begin
    perform ledger.refuse_unsound(account, account_currency, transaction_id, transfer_transaction, transfer_debit, transfer_credit, transfer_amount);

    -- Holds first. Whoever resolves one that another is resolving waits for it here.
    if v_captures then
        perform from ledger.hold h
        join (select distinct c.hold from unnest(transaction_captures) as c (hold)) c on c.hold = h.id
        order by h.id for update of h;
    end if;

    -- Whoever posts an id that another is posting waits for it here.
    insert into ledger.transaction_id (id, posting, place)
    select t.id, post_one_by_one.posting, t.place
    from unnest(transaction_id) with ordinality as t (id, place)
    order by t.id, t.place
    on conflict (id) do nothing;
    get diagnostics v_rows = row_count;

    if v_rows < v_size then
        -- Some ids are taken: by an earlier set, or by an earlier transaction of this one.
        v_body := array(
            select row(transaction_kind[l.owner], transaction_effective_at[l.owner], transaction_description[l.owner],
                       transaction_corrects[l.owner], transaction_reverses[l.owner], transaction_captures[l.owner],
                       transaction_metadata[l.owner], array_agg(post_one_by_one.account[l.debit] order by l.n), array_agg(post_one_by_one.account[l.credit] order by l.n),
                       array_agg(l.amount order by l.n))::ledger.body
            from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount)
                 with ordinality as l (owner, debit, credit, amount, n)
            group by l.owner order by l.owner);
        for v_case in
            select t.id, t.place::integer as place, i.posting = post_one_by_one.posting as own, i.place as first
            from unnest(transaction_id) with ordinality as t (id, place)
            join ledger.transaction_id i on i.id = t.id
            order by t.place
        loop
            v_take[v_case.place] := v_case.own and v_case.first = v_case.place;
            continue when v_take[v_case.place];
            if not v_case.own then
                v_detail[v_case.place] := ledger.stored_difference(v_case.id, v_body[v_case.place]);
            elsif chain[v_case.first] = chain[v_case.place] then
                v_detail[v_case.place] := ledger.difference(v_body[v_case.first], v_body[v_case.place]);
            else
                raise exception 'transaction % is twice in the set, in different chains', v_case.id
                    using errcode = 'HL001', hint = 'Post them in two sets.';
            end if;
            if v_detail[v_case.place] is not null then
                v_reason[v_case.place] := 'conflict';
            end if;
        end loop;
        v_take := ledger.without_refused(chain, v_take, v_reason);
    end if;

    -- What only the ledger knows, apart from balances.
    if num_nonnulls(variadic transaction_corrects) > 0 then
        for v_case in
            select t.place::integer as place, t.corrects
            from unnest(transaction_corrects) with ordinality as t (corrects, place)
            left join ledger.transaction_id i on i.id = t.corrects
            where t.corrects is not null and v_take[t.place]
              and (i.id is null or i.posting = post_one_by_one.posting and chain[i.place] <> chain[t.place])
        loop
            v_reason[v_case.place] := 'missing';
            v_detail[v_case.place] := format('it corrects %s, which does not exist', v_case.corrects);
        end loop;
    end if;
    if num_nonnulls(variadic transaction_reverses) > 0 then
        perform from ledger.transaction_id i
        join (select distinct r.id from unnest(transaction_reverses) as r (id)) r on r.id = i.id
        order by i.id for no key update of i;
        for v_case in
            select t.place::integer as place, t.reverses, i.posting <> post_one_by_one.posting as there
            from unnest(transaction_reverses) with ordinality as t (reverses, place)
            left join ledger.transaction_id i on i.id = t.reverses
            where t.reverses is not null and v_take[t.place]
            order by t.place
        loop
            if v_case.there then
                v_text := (
                    -- With what reversals before it in this set take.
                    select ledger.reversal_fault(v_case.reverses, array_agg(post_one_by_one.account[l.debit]), array_agg(post_one_by_one.account[l.credit]), array_agg(l.amount))
                    from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount) as l (owner, debit, credit, amount)
                    where l.owner <= v_case.place and transaction_reverses[l.owner] = v_case.reverses
                      and v_take[l.owner] and v_reason[l.owner] is null);
                if v_text is not null then
                    v_reason[v_case.place] := 'reversal';
                    v_detail[v_case.place] := v_text;
                end if;
            else
                v_reason[v_case.place] := 'missing';
                v_detail[v_case.place] := format('it reverses %s, which has not been posted before this set', v_case.reverses);
            end if;
        end loop;
    end if;
    if exists (select from ledger.metadata_field) then
        for v_case in
            select t.place::integer as place, f.fault
            from unnest(transaction_kind, transaction_metadata) with ordinality as t (kind, metadata, place)
            cross join lateral (select ledger.metadata_fault(t.kind, t.metadata) as fault) f
            where f.fault is not null and v_take[t.place]
        loop
            v_reason[v_case.place] := 'metadata';
            v_detail[v_case.place] := v_case.fault;
        end loop;
    end if;
    if v_captures then
        for v_case in
            select t.place::integer as place, ledger.capture_fault(t.hold, array_agg(post_one_by_one.account[l.debit]), array_agg(post_one_by_one.account[l.credit]), array_agg(l.amount)) as fault,
                   exists (select from unnest(transaction_captures) with ordinality as e (hold, place)
                           where e.hold = t.hold and e.place < t.place and v_take[e.place]) as again
            from unnest(transaction_captures) with ordinality as t (hold, place)
            join unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount) as l (owner, debit, credit, amount) on l.owner = t.place
            where t.hold is not null and v_take[t.place]
            group by t.place, t.hold
        loop
            if v_case.again or v_case.fault is not null then
                v_reason[v_case.place] := 'hold';
                v_detail[v_case.place] := coalesce(v_case.fault, 'it is captured before in the same set');
            end if;
        end loop;
    end if;
    if v_reason is not null then
        v_take := ledger.without_refused(chain, v_take, v_reason);
        perform ledger.give_back(post_one_by_one.posting, transaction_id, v_take);
    end if;

    if true = any (v_take) then
        -- Whoever waits here for an account finds its latest balance.
        select array_agg(distinct post_one_by_one.account[s.account]) into v_account
        from unnest(transfer_transaction, transfer_debit, transfer_credit) as l (owner, debit, credit)
        cross join lateral (values (l.debit), (l.credit)) as s (account)
        where v_take[l.owner];
        v_booked := ledger.lock_balances(v_account);
        select array_agg(ledger.available(b) order by n.place), array_agg(b.debit_normal order by n.place),
               array_agg(b.credit_limit order by n.place)
        into v_available, v_debit_normal, v_account_limit
        from unnest(v_account) with ordinality as n (account, place) join ledger.account_balance b on b.account = n.account;
        select array_agg(s.owner), array_agg(s.account), array_agg(s.change)
        into v_step_transaction, v_step_account, v_step_change
        from (
            select s.owner, s.account, sum(case when v_debit_normal[s.account] = s.is_debit then s.amount else s.released - s.amount end) as change
            from (
                select l.owner, s.is_debit, l.amount, array_position(v_account, post_one_by_one.account[s.account]) as account,
                       -- The hold that is captured sets free what it had set aside.
                       case when transaction_captures[l.owner] is null then 0
                            else (select h.amount from ledger.hold h where h.id = transaction_captures[l.owner]) end as released
                from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount) as l (owner, debit, credit, amount)
                cross join lateral (values (l.debit, true), (l.credit, false)) as s (account, is_debit)
                where v_take[l.owner]
            ) s
            group by s.owner, s.account
            order by s.owner, s.account
        ) s;
        for v_case in
            select d.*, v_account[d.account_place] as account, v_account_limit[d.account_place] as credit_limit
            from ledger.decide_limits(chain, v_step_transaction, v_step_account, v_step_change, v_available, v_account_limit) d
        loop
            v_reason[v_case.place] := 'limit';
            v_detail[v_case.place] := format('account %s has %s available, the transaction takes %s, the credit limit is %s',
                (select a.name from ledger.account a where a.id = v_case.account), v_case.available, - v_case.change, v_case.credit_limit);
            v_at[v_case.place] := v_case.account;
            v_had[v_case.place] := v_case.available;
            v_change[v_case.place] := v_case.change;
            v_limit[v_case.place] := v_case.credit_limit;
        end loop;
        if v_at is not null then
            v_take := ledger.without_refused(chain, v_take, v_reason);
            perform ledger.give_back(post_one_by_one.posting, transaction_id, v_take);
        end if;
    end if;

    if true = any (v_take) then
        v_places := array_positions(v_take, true);
        select array_agg(l.owner order by l.place), array_agg(post_one_by_one.account[l.debit] order by l.place),
               array_agg(post_one_by_one.account[l.credit] order by l.place), array_agg(l.amount order by l.place)
        into v_owner, v_debit, v_credit, v_amount
        from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount)
             with ordinality as l (owner, debit, credit, amount, place)
        where v_take[l.owner];
        if v_captures then
            insert into ledger.hold_resolution (hold, outcome, transaction, amount, at)
            select c.hold, 'posted', transaction_id[c.place], l.amount, v_booked
            from unnest(transaction_captures) with ordinality as c (hold, place)
            join unnest(transfer_transaction, transfer_amount) as l (owner, amount) on l.owner = c.place
            where c.hold is not null and v_take[c.place];
            perform ledger.release(array(select c.hold from unnest(transaction_captures) with ordinality as c (hold, place)
                                         where c.hold is not null and v_take[c.place]), v_booked);
        end if;
        perform ledger.book(
            v_booked, post_one_by_one.posting, k.accounts,
            ledger.pick(account_currency, ledger.ranks(k.accounts, post_one_by_one.account)), v_places,
            ledger.pick(transaction_id, v_places), ledger.pick(transaction_kind, v_places),
            ledger.pick(transaction_effective_at, v_places), ledger.pick(transaction_description, v_places),
            ledger.pick(transaction_corrects, v_places), ledger.pick(transaction_reverses, v_places),
            ledger.pick(transaction_metadata, v_places), ledger.ranks(v_owner, v_places),
            ledger.ranks(v_debit, k.accounts), ledger.ranks(v_credit, k.accounts), v_amount)
        from (select array(select distinct a from unnest(v_debit || v_credit) a order by a) as accounts) k;
        perform ledger.tell_limit_reached(b.account, b.last_booked_at, format('posting %s', post_one_by_one.posting), ledger.available(b), b.credit_limit)
        from unnest(v_account, v_available) as k (account, available) join ledger.account_balance b on b.account = k.account
        where b.credit_limit > 0 and k.available + b.credit_limit > 0;
    end if;

    return query
        select c.place::integer, case when c.refused is null then 'repeated' else 'refused' end,
               case when v_reason[c.place] is not null then v_reason[c.place] when c.refused is not null then 'chain' end,
               case when v_reason[c.place] is not null then v_detail[c.place]
                    when c.refused is not null then format('transaction %s of the same chain was refused', c.refused) end,
               v_at[c.place], v_had[c.place], v_change[c.place], v_limit[c.place]
        from (
            select c.place, min(case when v_reason[c.place] is not null then transaction_id[c.place]::text end)
                            over (partition by c.number) as refused
            from unnest(chain) with ordinality as c (number, place)
        ) c
        where not v_take[c.place]
        order by c.place;
end $$;
