-- Booking: what has been decided is written.

-- Writes transactions whose ids are taken: transfers with the numbers and balances of their entries, the balances, and
-- the row of the set. Gives the least room that an account with a limit may have on the way, were all that lowers it
-- booked first: above 0, every order of them keeps every limit. Null: no account with a limit.
--
-- `account` is sorted, each account once and each used; transfers name accounts and transactions by their places (from 1)
-- in the arrays. `place` is that of the transaction in the set. One statement locks and changes the balances, in the
-- order of `account`.
create or replace function ledger.book(
    posting bigint, account bigint[], place integer[], transaction_id uuid[], transaction_kind text[],
    transaction_effective_at timestamptz[], transaction_description text[], transaction_corrects uuid[],
    transaction_reverses uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns numeric
language plpgsql
as $$
#variable_conflict use_column
declare
    v_size     constant integer := cardinality(transaction_id);
    v_count    constant integer := cardinality(transfer_amount);
    -- Of each account: how many entries it gets, and their sums.
    v_number   bigint[];
    v_debits   numeric[];
    v_credits  numeric[];
    v_decimals integer;
    -- Of each transfer, its line. Of each entry, debit and credit of a transfer in turn: its number, and the net sum of
    -- its account after it, both counted from the beginning of the set.
    v_line     integer[];
    v_entry    bigint[];
    v_run      numeric[];
    -- Of each account, under its lock: what it had before.
    v_locked   bigint[];
    v_entries  bigint[];
    v_net      numeric[];
    v_currency text[];
    v_one      boolean;
    v_first    timestamptz;
    v_last     timestamptz;
    v_room     numeric;
begin
    with entry as materialized (
        select e.place, e.account, e.net, e.side, row_number() over w as number, sum(e.net) over w as run
        from (
            select l.place, l.debit as account, l.amount as net, 1 as side
            from unnest(transfer_debit, transfer_amount) with ordinality as l (debit, amount, place)
            union all
            select l.place, l.credit, - l.amount, 2
            from unnest(transfer_credit, transfer_amount) with ordinality as l (credit, amount, place)
        ) e
        window w as (partition by e.account order by e.place rows unbounded preceding)
    )
    select a.*, e.* into v_number, v_debits, v_credits, v_decimals, v_entry, v_run
    from (
        select array_agg(a.number), array_agg(a.debits), array_agg(a.credits), max(a.decimals)
        from (
            select count(*) as number, coalesce(sum(e.net) filter (where e.side = 1), 0) as debits,
                   coalesce(- sum(e.net) filter (where e.side = 2), 0) as credits, max(scale(e.net)) as decimals
            from entry e group by e.account order by e.account
        ) a
    ) a
    cross join (
        select array_agg(e.number), array_agg(e.run) from (select e.number, e.run from entry e order by e.place, e.side) e
    ) e;

    -- Mostly every transaction has one transfer.
    if transfer_transaction <> array(select generate_series(1, v_size)) then
        select array_agg(l.line order by l.place) into v_line
        from (
            select l.place, row_number() over (partition by l.owner order by l.place)::integer as line
            from unnest(transfer_transaction) with ordinality as l (owner, place)
        ) l;
    end if;
    if cardinality(v_number) <> cardinality(book.account) or v_decimals > 9
       or v_line is not null and cardinality(array_positions(v_line, 1)) <> v_size then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;

    -- Whoever waits here for an account finds its latest balance. In each account the order of booking times is the order
    -- of commits, so a clock that is behind is put forward.
    v_last := clock_timestamp();
    with changed as (
        update ledger.account_balance b
        set debits = b.debits + n.debits, credits = b.credits + n.credits, entries = b.entries + n.number,
            last_booked_at = greatest(v_last, b.last_booked_at + interval '1 microsecond')
        from unnest(book.account, v_debits, v_credits, v_number) as n (account, debits, credits, number)
        where b.account = n.account
        returning b.account, b.entries - n.number as entries, b.debits - n.debits - b.credits + n.credits as net,
                  b.currency, b.last_booked_at,
                  b.credit_limit + case when b.debit_normal then b.debits - n.debits - b.credits - b.pending_credits
                                        else b.credits - n.credits - b.debits - b.pending_debits end as room
    )
    select array_agg(c.account), array_agg(c.entries), array_agg(c.net), array_agg(c.currency),
           min(c.currency) = max(c.currency), min(c.last_booked_at), max(c.last_booked_at), min(c.room)
    into v_locked, v_entries, v_net, v_currency, v_one, v_first, v_last, v_room
    from changed c;
    if v_locked is distinct from book.account
       or not v_one and exists (select from unnest(transfer_debit, transfer_credit) as l (debit, credit)
                                where v_currency[l.debit] <> v_currency[l.credit]) then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;
    if v_first < v_last then
        update ledger.account_balance b set last_booked_at = v_last
        from unnest(book.account) as n (account) where b.account = n.account and b.last_booked_at < v_last;
    end if;
    if to_regclass('ledger.transfer_' || to_char(v_last at time zone 'UTC', 'YYYY_MM')) is null then
        perform ledger.ensure_partitions(v_last);
    end if;

    insert into ledger.transfer (
        posting, place, line, debit_account, credit_account, debit_entry, credit_entry, effective_at, booked_at,
        transaction, amount, debit_balance, credit_balance, currency, kind, description, corrects, reverses, metadata)
    select book.posting, book.place[l.owner], coalesce(v_line[l.place], 1), book.account[l.debit], book.account[l.credit],
           v_entries[l.debit] + v_entry[2 * l.place - 1], v_entries[l.credit] + v_entry[2 * l.place],
           transaction_effective_at[l.owner], v_last, transaction_id[l.owner], l.amount,
           v_net[l.debit] + v_run[2 * l.place - 1], v_net[l.credit] + v_run[2 * l.place], v_currency[l.debit],
           case when l.line > 1 then null else transaction_kind[l.owner] end,
           case when l.line > 1 then null else transaction_description[l.owner] end,
           case when l.line > 1 then null else transaction_corrects[l.owner] end,
           case when l.line > 1 then null else transaction_reverses[l.owner] end,
           case when l.line > 1 then null else transaction_metadata[l.owner] end
    from (
        select l.*, v_line[l.place] as line
        from unnest(transfer_transaction, transfer_debit, transfer_credit, transfer_amount)
             with ordinality as l (owner, debit, credit, amount, place)
    ) l;
    insert into ledger.posting (number, booked_at, transactions, transfers) values (book.posting, v_last, v_size, v_count);
    return v_room;
end $$;
