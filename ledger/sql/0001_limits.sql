-- Limits: what is available on an account never falls below minus its credit limit.

create table if not exists ledger.account_limit (
    account      bigint not null,
    number       integer not null,  -- of this account, from 1
    credit_limit numeric(38, 9) check (credit_limit >= 0 and credit_limit <> 'NaN'),
    set_at       timestamptz not null,
    set_by       text not null check (set_by <> ''),
    reason       text not null check (reason <> ''),
    role         text not null default session_user,
    primary key (account, number)
);
select ledger.make_immutable('ledger.account_limit');

-- Sets the credit limit of an account from now on; null: no limit; 0: it cannot be overdrawn. Nothing is refused when
-- less is available already: that is a fact which then shows, and nothing more goes out until something came in.
-- The same limit again is a no-op. `who` and `reason` are kept.
create or replace function ledger.set_limit(account bigint, credit_limit numeric, who text, reason text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_balance ledger.account_balance;
    v_now     timestamptz;
    v_number  integer;
begin
    if not coalesce(credit_limit >= 0 and credit_limit < 1e29 and credit_limit = round(credit_limit, 9), credit_limit is null)
       or coalesce(who, '') = '' or coalesce(reason, '') = '' then
        raise exception 'the limit of account % cannot be set', account
            using errcode = 'HL001', detail = format('limit %s, by %s, reason %s', credit_limit, who, reason),
                  hint = 'A limit is null, or 0 and more, below 10^29 and of at most 9 decimals; who and why are needed.';
    end if;
    select b.* into v_balance from ledger.account_balance b where b.account = set_limit.account for no key update;
    if not found then
        raise exception 'account % does not exist', account using errcode = 'HL001', hint = 'Open it first.';
    end if;
    select coalesce(max(l.number), 0) + 1 into v_number from ledger.account_limit l where l.account = set_limit.account;
    if v_balance.credit_limit is not distinct from set_limit.credit_limit then
        return;
    end if;
    -- Never before what is booked already, so that verify can tell what was available at this moment.
    v_now := greatest(clock_timestamp(), v_balance.last_booked_at);
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.account_limit (account, number, credit_limit, set_at, set_by, reason)
    values (account, v_number, set_limit.credit_limit, v_now, who, set_limit.reason);
    update ledger.account_balance b set credit_limit = set_limit.credit_limit, freed_at = v_now where b.account = set_limit.account;
    perform set_config('ledger.posting', 'off', true);
    perform ledger.tell_limit_reached(account, v_now, format('limit %s', v_number), ledger.available(v_balance), set_limit.credit_limit)
    where v_balance.credit_limit is null or ledger.available(v_balance) + v_balance.credit_limit > 0;
end $$;

-- The event `credit_limit.reached`: an account with a credit limit above 0 has just come to where nothing more may go
-- out (available = -limit, or below when the limit was lowered). Once each time it comes there.
create or replace function ledger.tell_limit_reached(account bigint, at timestamptz, cause text, available numeric, credit_limit numeric)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into ledger.outbox (id, type, subject, time, data)
    select md5(format('credit_limit.reached %s %s', a.id, cause))::uuid, 'credit_limit.reached', a.name, at,
           jsonb_build_object('account', a.name, 'currency', a.currency, 'cause', cause,
                              'available', tell_limit_reached.available::text, 'credit_limit', tell_limit_reached.credit_limit::text)
    from ledger.account a
    where a.id = tell_limit_reached.account and tell_limit_reached.credit_limit > 0
      and tell_limit_reached.available <= - tell_limit_reached.credit_limit
$$;

-- Decides one transaction after the other which of them keep the limits. A step is what one transaction does to what is
-- available of one account: the transaction's place, the account's place, the change; in the order of transactions. What
-- makes more available is never refused. With one transaction its whole chain is refused. Gives those that were at
-- fault.
create or replace function ledger.decide_limits(
    chain integer[], step_transaction integer[], step_account integer[], step_change numeric[],
    account_available numeric[], account_limit numeric[]
) returns table (place integer, account_place integer, available numeric, change numeric)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_available numeric[] := account_available;
    v_chain     integer;
    v_refused   boolean := false;
    -- What the present chain changed, to be taken back.
    v_undo_account integer[];
    v_undo_value   numeric[];
begin
    for n in 1 .. cardinality(step_transaction) loop
        if chain[step_transaction[n]] is distinct from v_chain then
            v_chain := chain[step_transaction[n]];
            v_refused := false;
            v_undo_account := '{}';
            v_undo_value := '{}';
        end if;
        continue when v_refused;
        account_place := step_account[n];
        available := v_available[account_place];
        change := step_change[n];
        if change < 0 and available + change < - account_limit[account_place] then
            place := step_transaction[n];
            return next;
            v_refused := true;
            for u in reverse cardinality(v_undo_account) .. 1 loop
                v_available[v_undo_account[u]] := v_undo_value[u];
            end loop;
        else
            v_undo_account := v_undo_account || account_place;
            v_undo_value := v_undo_value || available;
            v_available[account_place] := available + change;
        end if;
    end loop;
end $$;
