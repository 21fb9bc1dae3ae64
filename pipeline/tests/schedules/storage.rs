//! The object store and the manifest's view of it: staged objects, and files with frozen lists of them.

use super::world::{HOURS, Masks, NO_BITS, SERVERS, TICKS, TICKS_PER_HOUR, hour_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Usage,
    Late,
    Away,
    Rated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Usage,
    Rated,
}

/// A rated record: what a window's quantity changed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rated {
    pub server: u8,
    pub from: u8,
    pub to: u8,
    pub revision: u8,
    pub quantity: i32,
}

/// A staged object: its name (attempt, partition, epoch, kind, hour), what it holds, and what Postgres says about it.
#[derive(Debug, Clone)]
pub struct Object {
    pub attempt: u32,
    pub partition: usize,
    pub epoch: i64,
    pub kind: Kind,
    pub hour: Option<usize>,
    pub masks: Masks,
    pub rated: Vec<Rated>,
    /// Whether the store has it.
    pub stored: bool,
    /// Whether the manifest names it.
    pub named: bool,
    pub retired: bool,
}

impl Object {
    pub fn same_name(&self, other: &Object) -> bool {
        (self.attempt, self.partition, self.epoch, self.kind, self.hour)
            == (other.attempt, other.partition, other.epoch, other.kind, other.hour)
    }

    /// The ticks that it holds: `[from, to)`.
    pub fn span(&self) -> (usize, usize) {
        let holds = |tick: &usize| self.masks.iter().any(|server| server[*tick] != 0);
        let from = (0..TICKS).find(holds).unwrap_or(0);
        let to = (0..TICKS).rev().find(holds).map_or(0, |tick| tick + 1);
        (from, to)
    }
}

/// A file that is owed or published.
#[derive(Debug, Clone)]
pub struct File {
    pub table: Table,
    pub partition: usize,
    pub hour: usize,
    pub revision: i32,
    pub objects: Vec<usize>,
    pub published: bool,
    pub content: Option<Content>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub masks: [[u8; TICKS_PER_HOUR]; SERVERS],
    pub rated: Vec<Rated>,
}

impl File {
    pub fn is(&self, other: &File) -> bool {
        (self.table, self.partition, self.hour, self.revision)
            == (other.table, other.partition, other.hour, other.revision)
    }

    /// A pure function of the frozen objects.
    pub fn content_of(hour: usize, objects: &[usize], store: &[Object]) -> Content {
        let mut content = Content { masks: [[0; TICKS_PER_HOUR]; SERVERS], rated: Vec::new() };
        for object in objects.iter().map(|index| &store[*index]) {
            for (server, masks) in content.masks.iter_mut().enumerate() {
                for (offset, mask) in masks.iter_mut().enumerate() {
                    *mask |= object.masks[server][hour * TICKS_PER_HOUR + offset];
                }
            }
            content.rated.extend(&object.rated);
        }
        content.rated.sort_by_key(|row| (row.server, row.from, row.revision, row.quantity));
        content
    }
}

/// Bits of one hour only.
pub fn in_hour(masks: &Masks, hour: usize) -> Masks {
    let mut within = NO_BITS;
    for server in 0..SERVERS {
        for tick in (0..TICKS).filter(|tick| hour_of(*tick) == hour.min(HOURS)) {
            within[server][tick] = masks[server][tick];
        }
    }
    within
}
