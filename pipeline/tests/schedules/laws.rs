//! What must be true when all is drained: the files, the quantities and the amounts are what the logs say, worked out by brute force.

use super::rules::Law;
use super::storage::Table;
use super::world::{
    CONTRACTS, SERVERS, TELEMETRY, TICKS, TICKS_PER_HOUR, World, contract_of, hour_of, price, quantity, seconds, terms,
};

impl World {
    pub fn check_drained(&mut self) {
        self.check_nothing_left();
        self.check_files();
        self.check_totals();
    }

    fn check_nothing_left(&mut self) {
        for partition in 0..TELEMETRY {
            let lease = &self.database.leases[partition];
            if lease.frontier != seconds(TICKS) || lease.position.next != self.telemetry[partition].len() as i64 {
                let (frontier, next) = (lease.frontier, lease.position.next);
                self.breaks(Law::LeftOver, || {
                    format!("partition {partition} stands at offset {next}, frontier {frontier}")
                });
            }
        }
        if let Some(request) = self.database.requests.iter().find(|r| !r.done).copied() {
            self.breaks(Law::LeftOver, || format!("never answered: {request:?}"));
        }
        if let Some(file) = self.database.files.iter().find(|f| !f.published) {
            let text = format!("a file of hour {} is still owed", file.hour);
            self.breaks(Law::LeftOver, || text);
        }
        if let Some(object) = self.store.iter().find(|o| o.stored) {
            let text = format!("still staged: {:?} of attempt {}", object.kind, object.attempt);
            self.breaks(Law::LeftOver, || text);
        }
    }

    /// Every reading is in exactly one file, and in the one of its server's home.
    fn check_files(&mut self) {
        let truth = self.truth();
        let mut filed = [[0_u8; TICKS]; SERVERS];
        let mut twice = None;
        for file in self.database.files.iter().filter(|f| f.table == Table::Usage) {
            let Some(content) = &file.content else { continue };
            for (server, bits) in content.masks.iter().enumerate() {
                for (offset, bits) in bits.iter().enumerate() {
                    let tick = file.hour * TICKS_PER_HOUR + offset;
                    if filed[server][tick] & bits != 0 {
                        twice = Some((server, tick));
                    }
                    filed[server][tick] |= bits;
                }
            }
        }
        if let Some((server, tick)) = twice {
            self.breaks(Law::CountedTwice, || format!("a reading of server {server} in tick {tick} is in two files"));
        }
        for (server, tick) in (0..SERVERS).flat_map(|s| (0..TICKS).map(move |t| (s, t))) {
            let (filed, truth) = (filed[server][tick], truth[server][tick]);
            if filed != truth {
                self.breaks(Law::WrongTotal, || {
                    format!(
                        "server {server}, tick {tick} (hour {}): files say {filed:08b}, the logs {truth:08b}",
                        hour_of(tick)
                    )
                });
            }
        }
    }

    /// Quantities and amounts per contract.
    fn check_totals(&mut self) {
        let (truth, terms) = (self.truth(), terms(&self.lifecycle, (1 << self.lifecycle.len()) - 1));
        let mut expected = [0; CONTRACTS];
        for server in 0..SERVERS {
            expected[contract_of(server)] += quantity(&terms[server], &truth[server], 0, TICKS);
        }
        let mut recorded = [0; CONTRACTS];
        for row in self.database.files.iter().filter_map(|f| f.content.as_ref()).flat_map(|c| &c.rated) {
            recorded[contract_of(usize::from(row.server))] += row.quantity;
        }
        for contract in 0..CONTRACTS {
            let posted: i32 =
                self.database.postings.iter().filter(|(id, _)| id.contract == contract).map(|p| p.1).sum();
            let (total, expected, recorded) = (self.database.totals[contract], expected[contract], recorded[contract]);
            if total != expected || recorded != expected {
                self.breaks(Law::WrongTotal, || {
                    format!("contract {contract}: the state says {total}, the records {recorded}, the logs {expected}")
                });
            }
            if posted != price(expected) {
                self.breaks(Law::WrongTotal, || {
                    format!("contract {contract}: {posted} was posted, {expected} cost {}", price(expected))
                });
            }
        }
    }
}
