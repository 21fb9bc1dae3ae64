-- Privileges, last, so that they hold for everything above.
revoke all on all tables in schema ledger from public, {app_role};
revoke all on all functions in schema ledger from public, {app_role};
grant select on all tables in schema ledger to {app_role};
-- All but xid: a reader would miss what claims an older transaction than its own.
grant insert (id, type, subject, time, data) on ledger.outbox to {app_role};
grant execute on function ledger.claim_outbox, ledger.advance_outbox to {app_role};
grant execute on function ledger.open_accounts, ledger.post, ledger.ensure_partitions, ledger.available, ledger.set_limit,
    ledger.place_hold, ledger.void_hold, ledger.expire_holds to {app_role};
grant execute on function ledger.chain, ledger.make_anchor to {app_role};
grant execute on function ledger.wallet_open, ledger.wallet_lock, ledger.wallet_known, ledger.wallet_propose,
    ledger.wallet_decide, ledger.wallet_book to {app_role};
-- Reading.
grant execute on function ledger.movements, ledger.entries_of, ledger.entries, ledger.landmark_after, ledger.landmark_before to {app_role};
-- Pure functions, for whoever verifies.
grant execute on function ledger.same_person, ledger.needs_second_person, ledger.differing_fields to {app_role};
