-- Which keys the metadata of a kind has. A kind that is described is closed: other keys, missing ones and other types
-- refuse the transaction. Kinds without a description are free.

create table if not exists ledger.metadata_field (
    kind     text not null check (kind <> ''),
    name     text not null check (name <> ''),
    type     text not null check (type in ('text', 'number', 'integer', 'boolean', 'object', 'array')),
    required boolean not null,
    primary key (kind, name)
);
select ledger.make_immutable('ledger.metadata_field');

-- Called by the owner. `fields` is an object: {"contract": "text", "note": "text?"}; a question mark makes a key
-- optional. A description can be extended by optional keys, and says the same for ever otherwise.
create or replace function ledger.describe_kind(kind text, fields jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first boolean := not exists (select from ledger.metadata_field f where f.kind = describe_kind.kind);
    v_bad   record;
begin
    perform set_config('ledger.posting', 'on', true);
    insert into ledger.metadata_field (kind, name, type, required)
    select describe_kind.kind, e.key, rtrim(e.value, '?'), e.value not like '%?' from jsonb_each_text(fields) e
    where v_first or e.value like '%?'
    on conflict do nothing;
    perform set_config('ledger.posting', 'off', true);

    select coalesce(e.key, f.name) as name, e.value as stated, f.type || case when f.required then '' else '?' end as present
    into v_bad
    from jsonb_each_text(fields) e
    full join (select * from ledger.metadata_field f where f.kind = describe_kind.kind) f on f.name = e.key
    where e.value is distinct from f.type || case when f.required then '' else '?' end
    order by 1 limit 1;
    if found then
        raise exception 'kind %: the description of % would change', kind, v_bad.name
            using errcode = 'HL001',
                  detail = format('It is %s; stated was %s.', coalesce(v_bad.present, 'not there'), coalesce(v_bad.stated, 'nothing')),
                  hint = 'What was posted was checked against it. Add optional keys only, and repeat the others.';
    end if;
end $$;

-- What is wrong with the metadata of a transaction of this kind; null when nothing is.
create or replace function ledger.metadata_fault(kind text, metadata jsonb) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when f.name is null then format('%s is not a key of its kind', m.key)
                when m.key is null then format('%s is missing', f.name)
                else format('%s is not of type %s', f.name, f.type) end
    from (select * from ledger.metadata_field f where f.kind = metadata_fault.kind) f
    full join jsonb_each(metadata) m on m.key = f.name
    where exists (select from ledger.metadata_field f where f.kind = metadata_fault.kind)
      and (f.name is null
           or m.key is null and f.required
           or case f.type when 'text' then jsonb_typeof(m.value) <> 'string'
                          when 'integer' then jsonb_typeof(m.value) <> 'number' or m.value::numeric <> trunc(m.value::numeric)
                          else jsonb_typeof(m.value) <> f.type end)
    order by 1 limit 1
$$;
