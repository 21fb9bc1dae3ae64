-- Booking: what has been decided is written.

-- What a set does to one account; the places are those of the transactions that move it.
do $$ begin
    if to_regtype('ledger.move') is null then
        create type ledger.move as (account bigint, entries bigint, debits numeric, credits numeric, places integer[]);
    end if;
end $$;

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
    -- Of each account, what the set does to it.
    v_moves    ledger.move[];
    v_decimals integer;
    -- Of each transfer, its line.
    v_line     integer[];
    -- Of each account, under its lock: when it was moved before, and what it has with the set.
    v_locked   bigint[];
    v_before   timestamptz[];
    v_entries  bigint[];
    v_net      numeric[];
    -- Of each account, or one of all of them.
    v_currency text[];
    v_first    timestamptz;
    v_last     timestamptz;
    v_room     numeric;
begin
    select array_agg(row(book.account[m.account], m.entries, m.debits, m.credits, m.places)::ledger.move), max(m.decimals)
    into v_moves, v_decimals
    from (
        select e.account, count(*) as entries, sum(e.debit) as debits, sum(e.credit) as credits, max(scale(e.debit)) as decimals,
               array_agg(book.place[e.owner]) as places
        from (
            select l.owner, l.debit as account, l.amount as debit, 0 as credit
            from unnest(transfer_transaction, transfer_debit, transfer_amount) as l (owner, debit, amount)
            union all
            select l.owner, l.credit, 0, l.amount
            from unnest(transfer_transaction, transfer_credit, transfer_amount) as l (owner, credit, amount)
            order by account, owner
        ) e
        group by e.account
    ) m;

    -- Mostly every transaction has one transfer.
    if transfer_transaction <> array(select generate_series(1, v_size)) then
        select array_agg(l.line order by l.place) into v_line
        from (
            select l.place, row_number() over (partition by l.owner order by l.place)::integer as line
            from unnest(transfer_transaction) with ordinality as l (owner, place)
        ) l;
    end if;
    if cardinality(v_moves) <> cardinality(book.account) or v_decimals > 9
       or v_line is not null and cardinality(array_positions(v_line, 1)) <> v_size then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;

    -- Whoever waits here for an account finds its latest balance. In each account the order of booking times is the order
    -- of commits, so a clock that is behind is put forward.
    v_last := clock_timestamp();
    with changed as (
        update ledger.account_balance b
        set debits = b.debits + n.debits, credits = b.credits + n.credits, entries = b.entries + n.entries,
            last_booked_at = greatest(v_last, b.last_booked_at + interval '1 microsecond'), booked_before = b.last_booked_at
        from unnest(v_moves) as n
        where b.account = n.account
        returning b.account, b.booked_before, b.entries, b.debits - b.credits as net, b.currency, b.last_booked_at,
                  b.credit_limit + case when b.debit_normal then b.debits - n.debits - b.credits - b.pending_credits
                                        else b.credits - n.credits - b.debits - b.pending_debits end as room
    )
    select array_agg(c.account), array_agg(c.booked_before), array_agg(c.entries), array_agg(c.net),
           case when min(c.currency) = max(c.currency) then array[min(c.currency)] end,
           min(c.last_booked_at), max(c.last_booked_at), min(c.room)
    into v_locked, v_before, v_entries, v_net, v_currency, v_first, v_last, v_room
    from changed c;
    if v_locked is distinct from book.account then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;
    if v_currency is null then
        select array_agg(b.currency order by n.place) into v_currency
        from unnest(book.account) with ordinality as n (account, place) join ledger.account_balance b on b.account = n.account;
        if exists (select from unnest(transfer_debit, transfer_credit) as l (debit, credit)
                   where v_currency[l.debit] <> v_currency[l.credit]) then
            raise exception 'the set is not sound' using errcode = 'HL000';
        end if;
    end if;
    if v_first < v_last then
        update ledger.account_balance b set last_booked_at = v_last
        from unnest(book.account) as n (account) where b.account = n.account and b.last_booked_at < v_last;
    end if;
    if to_regclass('ledger.transfer_' || to_char(v_last at time zone 'UTC', 'YYYY_MM')) is null then
        perform ledger.ensure_partitions(v_last);
    end if;

    insert into ledger.transfer (
        posting, place, line, debit_account, credit_account, effective_at, booked_at,
        transaction, amount, currency, kind, description, corrects, reverses, metadata)
    select book.posting, book.place[l.owner], coalesce(v_line[l.place], 1), book.account[l.debit], book.account[l.credit],
           transaction_effective_at[l.owner], v_last, transaction_id[l.owner], l.amount,
           coalesce(v_currency[l.debit], v_currency[1]),
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
    insert into ledger.movement (account, booked_at, previous_at, posting, entries, balance, places)
    select m.account, v_last, v_before[m.n], book.posting, v_entries[m.n], v_net[m.n], m.places
    from unnest(v_moves) with ordinality as m (account, entries, debits, credits, places, n);
    insert into ledger.posting (number, booked_at, transactions, transfers) values (book.posting, v_last, v_size, v_count);
    return v_room;
end $$;
