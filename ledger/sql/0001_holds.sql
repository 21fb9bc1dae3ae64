-- Holds: amounts set aside. A hold is placed against the limits at once, and resolved once: captured (whole or in part,
-- the rest is set free), voided, or expired.

create table if not exists ledger.hold (
    id             uuid primary key,
    debit_account  bigint not null,
    credit_account bigint not null,
    amount         numeric(38, 9) not null check (amount > 0 and amount <> 'NaN'),
    currency       text not null,
    effective_at   timestamptz not null check (isfinite(effective_at)),
    expires_at     timestamptz not null check (isfinite(expires_at)),
    description    text not null,
    metadata       jsonb not null check (jsonb_typeof(metadata) = 'object'),
    booked_at      timestamptz not null,
    placed_by      text not null default session_user,
    check (debit_account <> credit_account)
);
create table if not exists ledger.hold_resolution (
    hold        uuid primary key,
    outcome     text not null check (outcome in ('posted', 'voided', 'expired')),
    transaction uuid check ((transaction is not null) = (outcome = 'posted')),
    amount      numeric(38, 9) not null check (amount >= 0 and amount <> 'NaN'),
    at          timestamptz not null
);
create unique index if not exists hold_resolution_transaction on ledger.hold_resolution (transaction) where transaction is not null;
create index if not exists hold_debit on ledger.hold (debit_account);
create index if not exists hold_credit on ledger.hold (credit_account);

-- The holds that are not resolved, for the sweeper; what it says follows from the two tables above.
create table if not exists ledger.open_hold (
    hold       uuid primary key,
    expires_at timestamptz not null
);
create index if not exists open_hold_expires on ledger.open_hold (expires_at);

select ledger.make_immutable('ledger.hold');
select ledger.make_immutable('ledger.hold_resolution');
create or replace trigger by_post before insert or update or delete or truncate on ledger.open_hold
    for each statement execute function ledger.refuse_bypass();

-- Why a hold can be neither captured nor voided now; null when it can. The caller has locked it.
create or replace function ledger.resolution_fault(hold uuid) returns text
language sql
as $$
    select case when h.id is null then format('there is no hold %s', k.hold)
                when r.hold is not null then format('hold %s is %s since %s', h.id, r.outcome, r.at)
                when h.expires_at <= clock_timestamp() then format('hold %s is expired since %s', h.id, h.expires_at) end
    from (values (resolution_fault.hold)) as k (hold)
    left join ledger.hold h on h.id = k.hold
    left join ledger.hold_resolution r on r.hold = h.id
$$;

-- What is wrong with capturing a hold by these transfers; null when nothing is. The caller has locked the hold.
create or replace function ledger.capture_fault(hold uuid, debit bigint[], credit bigint[], amount numeric[]) returns text
language sql
as $$
    select coalesce(
        ledger.resolution_fault(capture_fault.hold),
        (select case when cardinality(capture_fault.amount) <> 1 or (debit[1], credit[1]) <> (h.debit_account, h.credit_account)
                         then format('hold %s is captured by one transfer between its own accounts', h.id)
                     when capture_fault.amount[1] > h.amount
                         then format('hold %s is of %s, captured would be %s', h.id, h.amount, capture_fault.amount[1]) end
         from ledger.hold h where h.id = capture_fault.hold))
$$;

-- Sets free what these holds set aside, at the time of their resolution. Locks their balances, sorted.
create or replace function ledger.release(holds uuid[], at timestamptz) returns void
language plpgsql
as $$
begin
    perform from ledger.account_balance b
    where b.account in (select a from ledger.hold h, unnest(array[h.debit_account, h.credit_account]) a where h.id = any (holds))
    order by b.account for no key update;
    update ledger.account_balance b
    set pending_debits = b.pending_debits - p.debits, pending_credits = b.pending_credits - p.credits,
        freed_at = greatest(b.freed_at, release.at)
    from (
        select s.account, sum(s.debit) as debits, sum(s.credit) as credits
        from ledger.hold h
        cross join lateral (values (h.debit_account, h.amount, 0), (h.credit_account, 0, h.amount)) as s (account, debit, credit)
        where h.id = any (holds)
        group by s.account
    ) p
    where b.account = p.account;
    delete from ledger.open_hold o where o.hold = any (holds);
end $$;

-- Sets an amount aside for a transfer that may follow, until `expires_at`. One row comes back: placed, repeated (it was
-- placed before and says the same), or refused, with the reason `limit` or `conflict` as from ledger.post.
-- Locks: the hold, then balances.
create or replace function ledger.place_hold(
    id uuid, debit bigint, credit bigint, amount numeric, effective_at timestamptz, expires_at timestamptz, description text, metadata jsonb
) returns table (
    outcome text, reason text, detail text, at bigint, available numeric, change numeric, credit_limit numeric
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_stored ledger.hold;
    v_balance ledger.account_balance;
    v_currency text[];
begin
    select array_agg(b.currency) into v_currency from ledger.account_balance b where b.account in (debit, credit);
    -- A repeat may come when the hold has long expired.
    if not coalesce(amount > 0 and amount < 1e29 and amount = round(amount, 9)
                    and (expires_at > clock_timestamp() or exists (select from ledger.hold h where h.id = place_hold.id))
                    and cardinality(v_currency) = 2 and v_currency[1] = v_currency[2], false) then
        raise exception 'hold %: it cannot be placed', id
            using errcode = 'HL001',
                  detail = format('debit account %s, credit account %s, amount %s, expires at %s', debit, credit, amount, expires_at),
                  hint = 'It needs two accounts of one currency, a positive amount below 10^29 of at most 9 decimals, and a time to come.';
    end if;
    perform set_config('ledger.posting', 'on', true);
    begin
        insert into ledger.hold (id, debit_account, credit_account, amount, currency, effective_at, expires_at, description, metadata, booked_at)
        values (place_hold.id, debit, credit, amount, v_currency[1], effective_at, expires_at, description, metadata, clock_timestamp())
        on conflict (id) do nothing;
        if not found then
            select * into v_stored from ledger.hold h where h.id = place_hold.id;
            detail := case when v_stored.debit_account <> debit then 'debit' when v_stored.credit_account <> credit then 'credit'
                           when v_stored.amount <> amount then 'amount' when v_stored.effective_at <> effective_at then 'effective_at'
                           when v_stored.expires_at <> expires_at then 'expires_at' when v_stored.description <> description then 'description'
                           when v_stored.metadata::text <> metadata::text then 'metadata' end;
            outcome := case when detail is null then 'repeated' else 'refused' end;
            reason := case when detail is not null then 'conflict' end;
            perform set_config('ledger.posting', 'off', true);
            return next;
            return;
        end if;
        insert into ledger.open_hold (hold, expires_at) values (place_hold.id, expires_at);
        for v_balance in
            select b.* from ledger.account_balance b where b.account in (debit, credit) order by b.account for no key update
        loop
            -- On the side on which its balance falls, a hold takes of what is available.
            if v_balance.debit_normal = (v_balance.account = credit) and v_balance.credit_limit is not null
               and ledger.available(v_balance) - amount < - v_balance.credit_limit then
                at := v_balance.account;
                available := ledger.available(v_balance);
                change := - amount;
                credit_limit := v_balance.credit_limit;
                raise exception 'beyond the limit' using errcode = 'HL007';
            end if;
            update ledger.account_balance b
            set pending_debits = b.pending_debits + case when b.account = debit then amount else 0 end,
                pending_credits = b.pending_credits + case when b.account = credit then amount else 0 end
            where b.account = v_balance.account;
        end loop;
        outcome := 'placed';
    -- A state that ends in 000 would stand for its whole class, and hide every other refusal.
    exception when sqlstate 'HL007' then
        outcome := 'refused';
        reason := 'limit';
        detail := format('account %s has %s available, the hold takes %s, the credit limit is %s',
                         (select a.name from ledger.account a where a.id = at), available, amount, credit_limit);
    end;
    perform set_config('ledger.posting', 'off', true);
    return next;
end $$;

-- Resolves a hold without a transfer. One row comes back: voided, repeated (it had been voided), or refused with the
-- reason `hold`. A hold that expired is not voided any more.
create or replace function ledger.void_hold(hold uuid) returns table (outcome text, detail text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz;
begin
    perform from ledger.hold h where h.id = void_hold.hold for update;
    detail := ledger.resolution_fault(void_hold.hold);
    if detail is not null then
        outcome := case when exists (select from ledger.hold_resolution r where r.hold = void_hold.hold and r.outcome = 'voided')
                        then 'repeated' else 'refused' end;
        return next;
        return;
    end if;
    perform set_config('ledger.posting', 'on', true);
    v_now := clock_timestamp();
    insert into ledger.hold_resolution (hold, outcome, amount, at) values (void_hold.hold, 'voided', 0, v_now);
    perform ledger.release(array[void_hold.hold], v_now);
    perform set_config('ledger.posting', 'off', true);
    outcome := 'voided';
    return next;
end $$;

-- Resolves holds whose time has passed, by the database's clock: the oldest first, at most so many, without those that
-- another is resolving. Gives how many; each leaves the event `hold.expired`.
create or replace function ledger.expire_holds(at_most integer default 1000) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_holds uuid[];
    v_now   constant timestamptz := clock_timestamp();
begin
    v_holds := array(
        select h.id from ledger.hold h
        where h.id in (select o.hold from ledger.open_hold o where o.expires_at <= v_now order by o.expires_at limit at_most)
          and not exists (select from ledger.hold_resolution r where r.hold = h.id)
        order by h.id for update of h skip locked);
    -- One that was resolved while its lock was waited for is not open any more.
    v_holds := array(select o.hold from ledger.open_hold o where o.hold = any (v_holds) order by o.hold);
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.hold_resolution (hold, outcome, amount, at) select h, 'expired', 0, v_now from unnest(v_holds) h;
    perform ledger.release(v_holds, v_now);
    perform set_config('ledger.posting', 'off', true);
    insert into ledger.outbox (id, type, subject, time, data)
    select md5('hold.expired ' || h.id)::uuid, 'hold.expired', d.name, v_now,
           jsonb_build_object('hold', h.id, 'debit', d.name, 'credit', c.name, 'amount', h.amount::text, 'currency', h.currency,
                              'expires_at', h.expires_at)
    from ledger.hold h
    join ledger.account d on d.id = h.debit_account
    join ledger.account c on c.id = h.credit_account
    where h.id = any (v_holds);
    return cardinality(v_holds);
end $$;
