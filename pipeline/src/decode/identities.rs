//! The GPUs seen in a partition, as dense numbers in order of appearance. The window's folds look a GPU's group up by this number.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

/// (server, GPU)
pub type Name = (Arc<str>, Arc<str>);

/// Every name is interned once; looking it up again allocates nothing. The bytes of all names lie in one arena in order of
/// appearance, because readings tend to come in the order of the second before: the next one is looked for right behind the last
/// (a server's GPUs always are), and only when it is not there through the hash table.
pub struct Identities {
    table: HashTable<u32>,
    hasher: hashbrown::DefaultHashBuilder,
    spans: Vec<Span>,
    arena: Vec<u8>,
    names: Vec<Name>,
    servers: HashTable<Arc<str>>,
    last: u32,
    limit: usize,
}

/// Where a GPU's name lies in the arena: the server's bytes, then the GPU's.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    server: u8,
    gpu: u8,
}

impl Identities {
    pub fn new(limit: usize) -> Identities {
        Identities {
            table: HashTable::new(),
            hasher: hashbrown::DefaultHashBuilder::default(),
            spans: Vec::new(),
            arena: Vec::new(),
            names: Vec::new(),
            servers: HashTable::new(),
            last: 0,
            limit,
        }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn name(&self, identity: u32) -> &Name {
        &self.names[identity as usize]
    }

    /// The number of a GPU; `None` when the bound is reached. Names have at most [`hydrometer_schemas::IDENTITY_BYTES_MAX`] bytes.
    pub(super) fn intern(&mut self, server: &str, gpu: &str) -> Option<u32> {
        let next = self.last.wrapping_add(1);
        let guessed = self.spans.get(next as usize).is_some_and(|span| is(&self.arena, *span, server, gpu));
        let identity = if guessed { next } else { self.look_up(server, gpu)? };
        self.last = identity;
        Some(identity)
    }

    fn look_up(&mut self, server: &str, gpu: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((server, gpu));
        let (spans, arena) = (&self.spans, &self.arena);
        if let Some(known) = self.table.find(hash, |&id| is(arena, spans[id as usize], server, gpu)) {
            return Some(*known);
        }
        if self.names.len() >= self.limit {
            return None;
        }
        let id = self.names.len() as u32;
        let span = Span {
            start: u32::try_from(self.arena.len()).ok()?,
            server: u8::try_from(server.len()).ok()?,
            gpu: u8::try_from(gpu.len()).ok()?,
        };
        self.arena.extend_from_slice(server.as_bytes());
        self.arena.extend_from_slice(gpu.as_bytes());
        self.spans.push(span);
        let server = self.intern_server(server);
        self.names.push((server, Arc::from(gpu)));
        let (hasher, names) = (&self.hasher, &self.names);
        self.table.insert_unique(hash, id, |&id| {
            let (server, gpu) = &names[id as usize];
            hasher.hash_one((&**server, &**gpu))
        });
        Some(id)
    }

    fn intern_server(&mut self, server: &str) -> Arc<str> {
        let hash = self.hasher.hash_one(server);
        if let Some(known) = self.servers.find(hash, |s| **s == *server) {
            return known.clone();
        }
        let name: Arc<str> = Arc::from(server);
        let hasher = &self.hasher;
        self.servers.insert_unique(hash, name.clone(), |s| hasher.hash_one(&**s));
        name
    }
}

fn is(arena: &[u8], span: Span, server: &str, gpu: &str) -> bool {
    let (start, middle) = (span.start as usize, span.start as usize + usize::from(span.server));
    usize::from(span.server) == server.len()
        && usize::from(span.gpu) == gpu.len()
        && arena[start..middle] == *server.as_bytes()
        && arena[middle..middle + gpu.len()] == *gpu.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_in_whatever_order_it_comes() {
        let names: Vec<(String, String)> =
            (0..40).flat_map(|s| (0..5).map(move |g| (format!("s{s}"), format!("{s}g{g}")))).collect();
        let mut identities = Identities::new(1_000);
        for (number, (server, gpu)) in names.iter().enumerate() {
            assert_eq!(identities.intern(server, gpu), Some(number as u32));
        }
        for step in [1, 3, 7, 199] {
            for i in 0..names.len() {
                let number = i * step % names.len();
                let (server, gpu) = &names[number];
                assert_eq!(identities.intern(server, gpu), Some(number as u32));
            }
        }
        assert_eq!(identities.len(), names.len());
        // The same bytes, cut elsewhere, are another GPU.
        assert_eq!(identities.intern("s", "00g0"), Some(200));
        assert_eq!(identities.intern("s0", "0g0"), Some(0));
    }
}
