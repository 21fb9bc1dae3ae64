-- Wallets of grants. A wallet pays for what its party uses: `ledger.wallet_book` records each operation as one entry,
-- and what it moves is posted in the same database transaction through ledger.post.
-- Facts (entries, grants, debits, uses, terms, proposals, decisions) are only ever added. What is worked out of them is
-- kept in wallet_state, wallet_interval and wallet_booked, and can be computed again at any time.
-- Locks: the rows of wallet_state, sorted by wallet, before anything that ledger.post locks.

create table if not exists ledger.wallet (
    id        uuid primary key,
    party     text not null check (party <> '' and party !~ '[\x01-\x1f\x7f]'),
    currency  text not null check (currency ~ '^[A-Z0-9]{3,12}$'),
    opened_at timestamptz not null default now(),
    unique (party, currency)
);

-- `clock` is the latest time that an operation told of; `frontier`: all use before it is known, but for late news.
create table if not exists ledger.wallet_state (
    wallet     uuid primary key,
    number     bigint not null,
    clock      timestamptz not null,
    frontier   timestamptz not null,
    receivable numeric(38, 9) not null
) with (fillfactor = 50);

-- One row an operation. Its id is taken for ever, and its body tells a repeat from a conflict.
create table if not exists ledger.wallet_entry (
    wallet       uuid not null,
    number       bigint not null check (number > 0),
    id           uuid not null unique,
    kind         text not null check (kind in ('open', 'terms', 'grant', 'credit', 'debit', 'refund', 'draw', 'advance', 'decline')),
    at           timestamptz not null,
    amount       numeric(38, 9) not null,  -- what it gave to the wallet; below zero, what it took
    balance      numeric(38, 9) not null check (balance >= 0),
    paid         numeric(38, 9) not null check (paid >= 0),
    promotional  numeric(38, 9) not null check (promotional >= 0),
    receivable   numeric(38, 9) not null,
    who          text not null,
    why          text not null,
    transactions uuid[] not null,
    body         jsonb not null check (jsonb_typeof(body) = 'object'),
    booked_at    timestamptz not null default clock_timestamp(),
    recorded_by  text not null default session_user,
    primary key (wallet, number)
);

create table if not exists ledger.wallet_terms (
    wallet             uuid not null,
    number             bigint not null,
    thresholds         numeric(38, 9)[] not null,
    topup_below        numeric(38, 9) check (topup_below > 0),
    topup_amount       numeric(38, 9) check (topup_amount > 0),
    second_person_from numeric(38, 9) check (second_person_from >= 0),
    primary key (wallet, number),
    check ((topup_below is null) = (topup_amount is null))
);

-- A grant that is released by plan has one row a part; `whole` is the id that it was granted under.
create table if not exists ledger.wallet_grant (
    id         uuid primary key,
    wallet     uuid not null,
    number     bigint not null,
    part       integer not null check (part > 0),
    whole      uuid not null,
    kind       text not null check (kind in ('paid', 'promotional')),
    amount     numeric(38, 9) not null check (amount > 0 and amount <> 'NaN'),
    priority   integer not null,
    from_at    timestamptz not null,
    expires_at timestamptz,
    on_expiry  text not null check (on_expiry in ('income', 'back')),
    source     text,                       -- the account that the money came from
    unique (wallet, number, part),
    check (expires_at > from_at),
    check ((kind = 'paid') = (source is not null))
);

-- Of a grant that is to be consumed by plan: how much of it, all together, by when.
create table if not exists ledger.wallet_plan (
    whole  uuid not null,
    by_at  timestamptz not null,
    amount numeric(38, 9) not null check (amount > 0),
    primary key (whole, by_at)
);

create table if not exists ledger.wallet_debit (
    wallet   uuid not null,
    number   bigint not null,
    grant_id uuid not null,
    amount   numeric(38, 9) not null check (amount > 0 and amount <> 'NaN'),
    primary key (wallet, number, grant_id)
);
create index if not exists wallet_debit_grant on ledger.wallet_debit (grant_id);

create table if not exists ledger.wallet_use (
    wallet uuid not null,
    number bigint not null,
    at     timestamptz not null,
    amount numeric(38, 9) not null check (amount <> 'NaN'),
    primary key (wallet, number, at)
);
create index if not exists wallet_use_at on ledger.wallet_use (wallet, at);

-- Use between two neighbouring edges (starts and ends of grants) of a wallet; the row bears the first of them.
create table if not exists ledger.wallet_interval (
    wallet  uuid not null,
    from_at timestamptz not null,
    used    numeric(38, 9) not null,
    primary key (wallet, from_at)
) with (fillfactor = 50);

create table if not exists ledger.wallet_booked (
    grant_id uuid primary key,
    wallet   uuid not null,
    amount   numeric(38, 9) not null,
    debited  numeric(38, 9) not null check (debited >= 0),
    consumed numeric(38, 9) not null check (consumed >= 0),
    expired  numeric(38, 9) not null check (expired >= 0),
    constraint no_grant_below_zero check (debited + consumed + expired <= amount)
) with (fillfactor = 50);
create index if not exists wallet_booked_wallet on ledger.wallet_booked (wallet);
-- Few, however many grants there have been: those that may still start or end.
create index if not exists wallet_booked_left on ledger.wallet_booked (grant_id) where debited + consumed + expired < amount;

-- Requests for an automatic top-up: one is open until it is answered, by a grant or by a refusal.
create table if not exists ledger.wallet_topup (
    id     uuid primary key,
    wallet uuid not null,
    number bigint not null,
    amount numeric(38, 9) not null check (amount > 0)
);
create index if not exists wallet_topup_wallet on ledger.wallet_topup (wallet);
create table if not exists ledger.wallet_topup_answer (
    request uuid primary key,
    wallet  uuid not null,
    number  bigint not null
);

create table if not exists ledger.wallet_proposal (
    id          uuid primary key,
    wallet      uuid not null,
    kind        text not null check (kind in ('credit', 'debit', 'refund', 'terms')),
    body        jsonb not null check (jsonb_typeof(body) = 'object'),
    who         text not null check (btrim(who) <> ''),
    why         text not null check (btrim(why) <> ''),
    proposed_at timestamptz not null default clock_timestamp(),
    recorded_by text not null default session_user
);
create index if not exists wallet_proposal_wallet on ledger.wallet_proposal (wallet);
create table if not exists ledger.wallet_decision (
    proposal    uuid primary key,
    approved    boolean not null,
    who         text not null check (btrim(who) <> ''),
    why         text not null check (btrim(why) <> ''),
    decided_at  timestamptz not null default clock_timestamp(),
    recorded_by text not null default session_user
);

-- Opens a wallet, unless it is there. Its account is kept from falling below zero by a limit.
create or replace function ledger.wallet_open(wallet uuid, party text, currency text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    v_account bigint[];
begin
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.wallet (id, party, currency) values (wallet, party, currency) on conflict (id) do nothing;
    if found then
        insert into ledger.wallet_state (wallet, number, clock, frontier, receivable)
        values (wallet, 0, 'epoch', 'epoch', 0);
        v_account := ledger.open_accounts(array[party || ':wallet:' || currency], array['liability'], array[party],
                                          array['wallet'], array[currency]);
        perform ledger.set_limit(v_account[1], 0, 'ledger', 'a wallet holds no less than nothing');
    end if;
    perform set_config('ledger.posting', 'off', true);
end $$;

-- Locks wallets, sorted, until the caller's COMMIT, and says how they stand.
create or replace function ledger.wallet_lock(wallets uuid[])
returns table (wallet uuid, party text, currency text, number bigint, clock timestamptz, frontier timestamptz, receivable numeric)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    return query
        select s.wallet, w.party, w.currency, s.number, s.clock, s.frontier, s.receivable
        from (select distinct unnest(wallets) as id) k
        join ledger.wallet_state s on s.wallet = k.id
        join ledger.wallet w on w.id = s.wallet
        order by s.wallet
        for no key update of s;
end $$;

create or replace function ledger.differing_fields(one jsonb, other jsonb) returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select string_agg(coalesce(o.key, n.key), ', ' order by coalesce(o.key, n.key))
    from jsonb_each(one) o full join jsonb_each(other) n on n.key = o.key
    where o.value is distinct from n.value
$$;

-- Those of the ids that are taken, and what differs where one stands for something else.
create or replace function ledger.wallet_known(ids uuid[], bodies jsonb[])
returns table (id uuid, wallet uuid, number bigint, balance numeric, paid numeric, promotional numeric, receivable numeric,
               differs text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select e.id, e.wallet, e.number, e.balance, e.paid, e.promotional, e.receivable, ledger.differing_fields(e.body, k.body)
    from unnest(ids, bodies) as k (id, body)
    join ledger.wallet_entry e on e.id = k.id
$$;

create or replace function ledger.same_person(one text, other text) returns boolean
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select lower(btrim(one)) = lower(btrim(other))
$$;

-- Whether an operation needs a second person: at or above the limit that the wallet's terms set, and whatever
-- raises that limit.
create or replace function ledger.needs_second_person(kind text, amount numeric, body jsonb, second_person_from numeric)
returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select second_person_from is not null
       and case when kind in ('credit', 'debit', 'refund') then abs(amount) >= second_person_from
                when kind = 'terms' then coalesce((body ->> 'second_person_from')::numeric > second_person_from, true)
                else false end
$$;

create or replace function ledger.wallet_propose(proposal uuid, wallet uuid, kind text, body jsonb, who text, why text)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
begin
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.wallet_proposal (id, wallet, kind, body, who, why)
    values (proposal, wallet, kind, body, who, why) on conflict (id) do nothing;
    if not exists (select from ledger.wallet_proposal p
                   where p.id = proposal and p.wallet = wallet and p.kind = kind and p.body = body) then
        raise exception 'conflict: proposal % says something else', proposal
            using errcode = 'HL001', hint = 'Nothing was changed; use an id of its own.';
    end if;
    perform set_config('ledger.posting', 'off', true);
end $$;

-- A second person's decision: final, and never the proposer's own.
create or replace function ledger.wallet_decide(proposal uuid, approved boolean, who text, why text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    v_proposed ledger.wallet_proposal;
    v_decided  ledger.wallet_decision;
begin
    select p.* into v_proposed from ledger.wallet_proposal p where p.id = proposal;
    if not found then
        raise exception 'there is no proposal %', proposal using errcode = 'HL001', hint = 'List the open ones.';
    end if;
    if ledger.same_person(v_proposed.who, who) then
        raise exception 'proposal % was made by % and is for another person to decide', proposal, v_proposed.who
            using errcode = 'HL001', hint = 'Nothing was changed; a second person has to approve or reject it.';
    end if;
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.wallet_decision (proposal, approved, who, why) values (proposal, approved, who, why)
    on conflict on constraint wallet_decision_pkey do nothing;
    select d.* into v_decided from ledger.wallet_decision d where d.proposal = proposal;
    if v_decided.approved <> approved or v_decided.who <> who then
        raise exception 'proposal % was % by % at %', proposal,
            case when v_decided.approved then 'approved' else 'rejected' end, v_decided.who, v_decided.decided_at
            using errcode = 'HL001', hint = 'A decision is final; make a new proposal.';
    end if;
    perform set_config('ledger.posting', 'off', true);
end $$;

-- Records operations on wallets that the caller has locked: lists of rows under the names of their tables.
-- `states` bear the entry number that each wallet had before, so whoever did not lock is refused.
create or replace function ledger.wallet_book(doc jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_bad record;
begin
    perform set_config('ledger.posting', 'on', true);

    select coalesce(s.wallet, e.wallet) as wallet into v_bad
    from jsonb_to_recordset(doc -> 'states') as s (wallet uuid, before bigint)
    full join jsonb_to_recordset(doc -> 'entries') as e (wallet uuid) on e.wallet = s.wallet
    left join ledger.wallet_state w on w.wallet = s.wallet
    where s.before is null or w.number is distinct from s.before;
    if found then
        raise exception 'wallet % has moved on', v_bad.wallet
            using errcode = 'HL001', hint = 'Nothing was changed. Lock the wallet with ledger.wallet_lock before.';
    end if;

    select e.id, e.kind, e.amount, t.second_person_from into v_bad
    from jsonb_to_recordset(doc -> 'entries') as e (wallet uuid, number bigint, id uuid, kind text, amount numeric, body jsonb)
    join lateral (
        select t.second_person_from from ledger.wallet_terms t
        where t.wallet = e.wallet and t.number < e.number order by t.number desc limit 1
    ) t on ledger.needs_second_person(e.kind, e.amount, e.body, t.second_person_from)
    where not exists (
        select from ledger.wallet_proposal p join ledger.wallet_decision d on d.proposal = p.id
        where p.id = e.id and d.approved and p.body = e.body and p.kind = e.kind and p.wallet = e.wallet
          and coalesce((p.body ->> 'amount')::numeric, abs(e.amount)) = abs(e.amount)
          and not ledger.same_person(p.who, d.who)
    );
    if found then
        raise exception 'operation %, a %, needs the approval of a second person', v_bad.id, v_bad.kind
            using errcode = 'HL001', detail = format('The wallet asks for one from %s on.', v_bad.second_person_from),
                  hint = 'Propose it, and let another person approve it.';
    end if;

    insert into ledger.wallet_entry (wallet, number, id, kind, at, amount, balance, paid, promotional, receivable,
                                     who, why, transactions, body)
    select e.wallet, e.number, e.id, e.kind, e.at, e.amount, e.balance, e.paid, e.promotional, e.receivable,
           e.who, e.why, coalesce((select array_agg(t::uuid) from jsonb_array_elements_text(e.transactions) t), '{}'), e.body
    from jsonb_to_recordset(doc -> 'entries')
         as e (wallet uuid, number bigint, id uuid, kind text, at timestamptz, amount numeric, balance numeric, paid numeric,
               promotional numeric, receivable numeric, who text, why text, transactions jsonb, body jsonb)
    order by e.id;

    insert into ledger.wallet_terms (wallet, number, thresholds, topup_below, topup_amount, second_person_from)
    select t.wallet, t.number, coalesce((select array_agg(a::numeric) from jsonb_array_elements_text(t.thresholds) a), '{}'),
           t.topup_below, t.topup_amount, t.second_person_from
    from jsonb_to_recordset(doc -> 'terms')
         as t (wallet uuid, number bigint, thresholds jsonb, topup_below numeric, topup_amount numeric, second_person_from numeric);

    insert into ledger.wallet_grant (id, wallet, number, part, whole, kind, amount, priority, from_at, expires_at, on_expiry, source)
    select g.id, g.wallet, g.number, g.part, g.whole, g.kind, g.amount, g.priority, g.from_at, g.expires_at, g.on_expiry, g.source
    from jsonb_to_recordset(doc -> 'grants')
         as g (id uuid, wallet uuid, number bigint, part integer, whole uuid, kind text, amount numeric, priority integer,
               from_at timestamptz, expires_at timestamptz, on_expiry text, source text);

    insert into ledger.wallet_plan (whole, by_at, amount)
    select p.whole, p.by_at, p.amount
    from jsonb_to_recordset(doc -> 'plans') as p (whole uuid, by_at timestamptz, amount numeric);

    insert into ledger.wallet_debit (wallet, number, grant_id, amount)
    select d.wallet, d.number, d.grant_id, d.amount
    from jsonb_to_recordset(doc -> 'debits') as d (wallet uuid, number bigint, grant_id uuid, amount numeric);

    insert into ledger.wallet_use (wallet, number, at, amount)
    select u.wallet, u.number, u.at, u.amount
    from jsonb_to_recordset(doc -> 'uses') as u (wallet uuid, number bigint, at timestamptz, amount numeric);

    insert into ledger.wallet_topup (id, wallet, number, amount)
    select r.id, r.wallet, r.number, r.amount
    from jsonb_to_recordset(doc -> 'requests') as r (id uuid, wallet uuid, number bigint, amount numeric);

    insert into ledger.wallet_topup_answer (request, wallet, number)
    select a.request, a.wallet, a.number
    from jsonb_to_recordset(doc -> 'answers') as a (request uuid, wallet uuid, number bigint);

    insert into ledger.wallet_interval (wallet, from_at, used)
    select i.wallet, i.from_at, i.used
    from jsonb_to_recordset(doc -> 'intervals') as i (wallet uuid, from_at timestamptz, used numeric)
    on conflict (wallet, from_at) do update set used = excluded.used;

    insert into ledger.wallet_booked (grant_id, wallet, amount, debited, consumed, expired)
    select b.grant_id, b.wallet, b.amount, b.debited, b.consumed, b.expired
    from jsonb_to_recordset(doc -> 'booked')
         as b (grant_id uuid, wallet uuid, amount numeric, debited numeric, consumed numeric, expired numeric)
    on conflict (grant_id) do update
    set debited = excluded.debited, consumed = excluded.consumed, expired = excluded.expired;

    update ledger.wallet_state w
    set number = s.number, clock = s.clock, frontier = s.frontier, receivable = s.receivable
    from jsonb_to_recordset(doc -> 'states')
         as s (wallet uuid, number bigint, clock timestamptz, frontier timestamptz, receivable numeric)
    where w.wallet = s.wallet;

    insert into ledger.outbox (id, type, subject, time, data)
    select e.id, e.type, e.subject, clock_timestamp(), e.data
    from jsonb_to_recordset(doc -> 'events') as e (id uuid, type text, subject text, data jsonb);

    perform set_config('ledger.posting', 'off', true);
end $$;

select ledger.make_immutable(t)
from unnest(array['ledger.wallet', 'ledger.wallet_entry', 'ledger.wallet_terms', 'ledger.wallet_grant', 'ledger.wallet_plan',
                  'ledger.wallet_debit', 'ledger.wallet_use', 'ledger.wallet_topup', 'ledger.wallet_topup_answer',
                  'ledger.wallet_proposal', 'ledger.wallet_decision']::regclass[]) as t;

do $$
declare
    v_table regclass;
begin
    foreach v_table in array array['ledger.wallet_state', 'ledger.wallet_interval', 'ledger.wallet_booked']::regclass[] loop
        execute format('create or replace trigger permanent before delete or truncate on %s '
                       'for each statement execute function ledger.refuse_change()', v_table);
        execute format('create or replace trigger by_post before insert or update on %s '
                       'for each statement execute function ledger.refuse_bypass()', v_table);
        execute format('alter table %s enable always trigger permanent', v_table);
    end loop;
end $$;

-- What is held on a wallet's account would be missing when the wallet pays, and use is never refused.
create or replace function ledger.refuse_hold_on_wallet() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from ledger.account a join ledger.wallet w on w.party = a.party and w.currency = a.currency
               where a.id = new.debit_account and a.purpose = 'wallet') then
        raise exception 'hold %: nothing is held on the account of a wallet', new.id
            using errcode = 'HL001', detail = 'The wallet could not pay for use with it, and use is never refused.',
                  hint = 'Debit the wallet by hand instead, and credit it again for what is not needed.';
    end if;
    return new;
end $$;
create or replace trigger not_on_wallet before insert on ledger.hold
    for each row execute function ledger.refuse_hold_on_wallet();
