-- Booking: what has been decided is written.

-- What a set does to one account; the places are those of the transactions that move it.
do $$ begin
    if to_regtype('ledger.move') is null then
        create type ledger.move as (account bigint, entries bigint, debits numeric, credits numeric, places integer[]);
    end if;
end $$;

-- Writes transactions whose ids are taken: transfers, balances, movements, and the row of the set. Gives the least room
-- that an account with a limit may have on the way, were all that lowers it booked first: above 0, every order of them
-- keeps every limit. Null: no account with a limit.
--
-- `account` is sorted, each account once and each used; transfers name accounts and transactions by their places (from 1)
-- in the arrays. `place` is that of the transaction in the set. One statement locks and changes the balances, in the
-- order of `account`, when the transfers are written already. It raises HL00B when `booked_at` cannot be the time: another
-- set was booked on one of the accounts as late, or something was set free there later; or its month has no partition.
create or replace function ledger.book(
    booked_at timestamptz, posting bigint, account bigint[], account_currency text[], place integer[], transaction_id uuid[],
    transaction_kind text[], transaction_effective_at timestamptz[], transaction_description text[],
    transaction_corrects uuid[], transaction_reverses uuid[], transaction_metadata jsonb[],
    transfer_transaction integer[], transfer_debit integer[], transfer_credit integer[], transfer_amount numeric[]
) returns numeric
language plpgsql
as $$
#variable_conflict use_column
declare
    v_size     constant integer := cardinality(transaction_id);
    v_count    constant integer := cardinality(transfer_amount);
    v_moves    ledger.move[];
    v_decimals integer;
    -- Of each transfer, its line.
    v_line     integer[];
    v_locked   bigint[];
    v_kept     boolean;
    v_late     boolean;
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
       or v_line is not null and cardinality(array_positions(v_line, 1)) <> v_size
       or account_currency[1] <> any (account_currency)
          and exists (select from unnest(transfer_debit, transfer_credit) as l (debit, credit)
                      where account_currency[l.debit] <> account_currency[l.credit]) then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;

    if to_regclass('ledger.transfer_' || to_char(book.booked_at at time zone 'UTC', 'YYYY_MM')) is null then
        raise exception 'there is no such month' using errcode = 'HL00B';
    end if;
    insert into ledger.transfer (
        posting, place, line, debit_account, credit_account, effective_at, booked_at,
        transaction, amount, currency, kind, description, corrects, reverses, metadata)
    select book.posting, book.place[l.owner], coalesce(v_line[l.place], 1), book.account[l.debit], book.account[l.credit],
           transaction_effective_at[l.owner], book.booked_at, transaction_id[l.owner], l.amount, account_currency[l.debit],
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

    -- Whoever waits here for an account finds its latest balance.
    with changed as (
        update ledger.account_balance b
        set debits = b.debits + n.debits, credits = b.credits + n.credits, entries = b.entries + n.entries,
            last_booked_at = book.booked_at, booked_before = b.last_booked_at
        from unnest(v_moves, account_currency) as n (account, entries, debits, credits, places, currency)
        where b.account = n.account
        returning b.account, b.booked_before, b.freed_at, b.entries, b.debits - b.credits as net, n.places,
                  b.currency is not distinct from n.currency as kept,
                  b.credit_limit + case when b.debit_normal then b.debits - n.debits - b.credits - b.pending_credits
                                        else b.credits - n.credits - b.debits - b.pending_debits end as room
    ), moved as (
        insert into ledger.movement (account, booked_at, previous_at, posting, entries, balance, places)
        select c.account, book.booked_at, c.booked_before, book.posting, c.entries, c.net, c.places from changed c
    )
    select array_agg(c.account), bool_and(c.kept), bool_or(c.booked_before >= book.booked_at or c.freed_at > book.booked_at), min(c.room)
    into v_locked, v_kept, v_late, v_room
    from changed c;
    if v_locked is distinct from book.account or v_kept is not true then
        raise exception 'the set is not sound' using errcode = 'HL000';
    end if;
    if v_late then
        raise exception 'the set was overtaken' using errcode = 'HL00B';
    end if;
    insert into ledger.posting (number, booked_at, transactions, transfers)
    values (book.posting, book.booked_at, v_size, v_count);
    return v_room;
end $$;

-- Locks the balances of accounts, in the order of their numbers; gives a time at which they can be booked on.
create or replace function ledger.lock_balances(account bigint[]) returns timestamptz
language plpgsql
as $$
declare
    v_time timestamptz;
begin
    select greatest(max(b.last_booked_at) + interval '1 microsecond', max(b.freed_at)) into v_time
    from (
        select b.last_booked_at, b.freed_at
        from unnest(lock_balances.account) as n (account) join ledger.account_balance b on b.account = n.account
        order by b.account for no key update of b
    ) b;
    v_time := greatest(v_time, clock_timestamp());
    if to_regclass('ledger.transfer_' || to_char(v_time at time zone 'UTC', 'YYYY_MM')) is null then
        perform ledger.ensure_partitions(v_time);
    end if;
    return v_time;
end $$;
