-- Whether ids and transactions are the same, by fingerprints under the random number $1.
select (select (count(*), coalesce(bit_xor(uuid_hash_extended(i.id, hashint8extended(i.posting, hashint4extended(i.place, $1)))), 0))
        from ledger.transaction_id i {attached})
       = (select (count(*), coalesce(bit_xor(uuid_hash_extended(t.transaction, hashint8extended(t.posting, hashint4extended(t.place, $1)))), 0))
          from ledger.transfer t where t.line = 1)
