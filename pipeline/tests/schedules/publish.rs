//! Publishing what is owed, retiring what nothing waits for, and sweeping what nothing needs.

use hydrometer_pipeline::protocol::may_sweep;

use super::database::Scope;
use super::rules::{Law, Rule};
use super::storage::{File, Kind};
use super::worker::Task;
use super::world::{PARTITIONS, TICKS_PER_HOUR, World, hour_of, tick_of};

/// One file after the other; looking, writing and marking are steps of their own.
#[derive(Debug, Clone)]
pub struct Publishing {
    partitions: Vec<usize>,
    owed: Option<Vec<usize>>,
    /// The first of the owed files is written, and not marked yet.
    written: bool,
}

impl Publishing {
    pub fn of(partitions: Vec<usize>) -> Publishing {
        Publishing { partitions, owed: None, written: false }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Sweeping {
    listed: Option<Vec<usize>>,
    epochs: Option<[i64; PARTITIONS]>,
    /// What the manifest said: (named, retired).
    names: Option<Vec<(bool, bool)>>,
}

impl World {
    /// One step; what is left to do, or an error that ends the worker.
    pub fn step_publishing(&mut self, worker: usize, mut publishing: Publishing) -> Result<Option<Publishing>, ()> {
        let Some(owed) = &mut publishing.owed else {
            let is_owed = |f: &File| !f.published && publishing.partitions.contains(&f.partition);
            let mut owed: Vec<usize> =
                (0..self.database.files.len()).filter(|i| is_owed(&self.database.files[*i])).collect();
            owed.sort_by_key(|i| (self.database.files[*i].hour, self.database.files[*i].revision));
            let none = owed.is_empty();
            publishing.owed = Some(owed);
            return Ok((!none).then_some(publishing));
        };
        let Some(&file) = owed.first() else { return Ok(None) };
        if publishing.written {
            self.mark_published(file);
            owed.remove(0);
            publishing.written = false;
            let none = owed.is_empty();
            return Ok((!none).then_some(publishing));
        }
        publishing.written = true;
        self.write_file(worker, file)?;
        Ok(Some(publishing))
    }

    fn write_file(&mut self, worker: usize, index: usize) -> Result<(), ()> {
        let file = self.database.files[index].clone();
        let objects = if self.rules.has(Rule::FreezeAtCommit) || file.revision > 0 {
            file.objects
        } else {
            self.objects_of_hour(file.partition, file.hour, file.table, &[])
        };
        if let Some(gone) = objects.iter().find(|o| !self.store[**o].stored) {
            // A publisher that was overtaken finds them gone, and stops; nothing is lost.
            if !self.database.files[index].published {
                self.breaks(Law::ObjectGone, || {
                    format!("worker {worker} publishes hour {}: object {gone} is gone", file.hour)
                });
            }
            return Err(());
        }
        let content = File::content_of(file.hour, &objects, &self.store);
        match &self.database.files[index].content {
            Some(before) if *before != content => {
                self.breaks(Law::FileChanged, || {
                    format!("hour {} of partition {} is written with other bytes", file.hour, file.partition)
                });
            }
            _ => self.database.files[index].content = Some(content),
        }
        Ok(())
    }

    fn mark_published(&mut self, index: usize) {
        self.database.files[index].published = true;
        for &object in &self.database.files[index].objects {
            let object = &mut self.store[object];
            object.retired |= matches!(object.kind, Kind::Usage | Kind::Rated);
        }
    }

    /// Late and away objects whose hours are frozen and published, and about which every request is done.
    pub fn retirable(&self, worker: usize) -> Vec<usize> {
        let may = |index: usize| {
            let object = &self.store[index];
            let Some(stream) = &self.workers[worker].streams[object.partition] else { return false };
            let frozen = hour_of(tick_of(stream.lease.frontier)) * TICKS_PER_HOUR;
            let late = object.named && !object.retired && matches!(object.kind, Kind::Late | Kind::Away);
            let asked = self.database.requests.iter().any(|r| !r.done && r.scope == Scope::Object(index));
            let owed = self.database.files.iter().any(|f| !f.published && f.objects.contains(&index));
            late && object.span().1 <= frozen && (!self.rules.has(Rule::RetireWaits) || !asked && !owed)
        };
        (0..self.store.len()).filter(|o| self.store[*o].partition < PARTITIONS - 1 && may(*o)).collect()
    }

    pub fn retire(&mut self, worker: usize) {
        for object in self.retirable(worker) {
            self.store[object].retired = true;
        }
    }

    pub fn begin_sweep(&mut self, worker: usize) {
        self.workers[worker].task = Task::Sweep(Sweeping::default());
    }

    /// Lists, reads the epochs, reads the names: each a look at another moment. Then removes.
    pub fn step_sweep(&mut self, worker: usize, mut sweeping: Sweeping) {
        let order: [usize; 3] = match (self.rules.has(Rule::SweepListsFirst), self.rules.has(Rule::SweepEpochsFirst)) {
            (true, true) => [0, 1, 2],
            (true, false) => [0, 2, 1],
            (false, _) => [2, 0, 1],
        };
        let done = [sweeping.listed.is_some(), sweeping.epochs.is_some(), sweeping.names.is_some()];
        match order.into_iter().find(|look| !done[*look]) {
            Some(0) => sweeping.listed = Some((0..self.store.len()).filter(|o| self.store[*o].stored).collect()),
            Some(1) => sweeping.epochs = Some(self.database.leases.each_ref().map(|l| l.epoch)),
            Some(_) => sweeping.names = Some(self.store.iter().map(|o| (o.named, o.retired)).collect()),
            None => {
                self.remove(worker, &sweeping);
                self.workers[worker].finished.clear();
                return;
            }
        }
        self.workers[worker].task = Task::Sweep(sweeping);
    }

    fn remove(&mut self, worker: usize, sweeping: &Sweeping) {
        let (Some(listed), Some(epochs), Some(names)) = (&sweeping.listed, &sweeping.epochs, &sweeping.names) else {
            return;
        };
        for &index in listed {
            let object = &self.store[index];
            let (named, retired) = names.get(index).copied().unwrap_or_default();
            let own = self.workers[worker].finished.contains(&object.attempt);
            let may = may_sweep(object.epoch, epochs[object.partition], own) || !self.rules.has(Rule::SweepEpoch);
            let remove = if named { retired } else { may };
            if !remove || !object.stored {
                continue;
            }
            if object.named && !object.retired {
                self.breaks(Law::ObjectGone, || {
                    format!("worker {worker} sweeps object {index}, which the manifest names")
                });
            }
            self.store[index].stored = false;
            self.tell(|| format!("      removes object {index}"));
        }
    }
}
