//! Maps names to numbers, for millions of names that are looked up at random.
//!
//! In:  names, each with two numbers.
//! Out: the numbers of a name.
//!
//! ```text
//! slot:    first number (4) | place of the record (4) | length of the name (1)      12 bytes
//! record:  second number (4) | name                                                end to end in one arena
//! ```
//!
//! In a table larger than any cache, the cost of a look-up is the number of cache misses. The hash table has one byte
//! per name that rules out most absent names, and those bytes do fit in cache. For a name that is present, the number
//! the path needs is in the slot, so the CPU can continue with it while the record, which only confirms the match, is
//! still being fetched. (Tried, and slower: the length or both numbers in the record, and buckets that hold 32 bits of
//! the hash.)

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Names of 1 to 255 bytes, each once.
#[derive(Debug)]
pub(super) struct NameMap {
    slots: HashTable<Slot>,
    records: Vec<u8>,
    hasher: FixedState,
}

/// The first number of a name, and where its record is.
#[derive(Debug)]
pub(super) struct Slot {
    pub first: u32,
    place: u32,
    bytes: u8,
}

impl NameMap {
    /// Makes an empty map with capacity for `count` names of `name_bytes` bytes in total.
    pub(super) fn with_room_for(count: usize, name_bytes: usize) -> Self {
        Self {
            slots: HashTable::with_capacity(count),
            records: Vec::with_capacity(count * SECOND_BYTES + name_bytes),
            hasher: FixedState::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Slot> {
        // With no pattern of this kind at all, skip the hash.
        if self.slots.is_empty() {
            return None;
        }
        self.slots.find(hash(&self.hasher, name), |slot| slot.name(&self.records) == name)
    }

    /// Calls `see` for every name, in no particular order.
    pub(super) fn each<'m>(&'m self, mut see: impl FnMut(&'m [u8], &'m Slot)) {
        self.slots.iter().for_each(|slot| see(slot.name(&self.records), slot));
    }

    /// The second number, read from the record.
    pub(super) fn second(&self, slot: &Slot) -> u32 {
        let bytes = &self.records[slot.place as usize..];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Sets the numbers of `name`.
    ///
    /// # Panics
    /// If the name is longer than 255 bytes, or the records exceed 4 GiB.
    pub(super) fn set(&mut self, name: &[u8], first: u32, second: u32) {
        let Self { slots, records, hasher } = self;
        let key = hash(hasher, name);
        if let Some(slot) = slots.find_mut(key, |slot| slot.name(records) == name) {
            slot.first = first;
            records[slot.place as usize..][..SECOND_BYTES].copy_from_slice(&second.to_le_bytes());
            return;
        }
        let place = u32::try_from(records.len()).expect("records of less than 4 GiB");
        let bytes = u8::try_from(name.len()).expect("a name of at most 255 bytes");
        records.extend_from_slice(&second.to_le_bytes());
        records.extend_from_slice(name);
        slots.insert_unique(key, Slot { first, place, bytes }, |slot| hash(hasher, slot.name(records)));
    }
}

impl Slot {
    fn name<'r>(&self, records: &'r [u8]) -> &'r [u8] {
        let start = self.place as usize + SECOND_BYTES;
        &records[start..start + usize::from(self.bytes)]
    }
}

/// The names are the operator's own, so a client cannot make them collide; a fixed seed keeps builds reproducible.
fn hash(hasher: &FixedState, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(name);
    state.finish()
}

const SECOND_BYTES: usize = size_of::<u32>();

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 1000] {
            let name = |number: u32| format!("name-{number}.example").into_bytes();
            let mut map = NameMap::with_room_for(count as usize, (0..count).map(|number| name(number).len()).sum());
            (0..count).for_each(|number| map.set(&name(number), number, !number));
            for number in 0..2 * count + 1 {
                assert_eq!(get(&map, &name(number)), (number < count).then_some((number, !number)));
            }
            assert_eq!(map.is_empty(), count == 0);
        }
    }

    fn get(map: &NameMap, name: &[u8]) -> Option<(u32, u32)> {
        map.get(name).map(|slot| (slot.first, map.second(slot)))
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_hash_map(names in proptest::collection::vec(("[ab.]{1,4}", any::<(u32, u32)>()), 0..200)) {
            let bytes = names.iter().map(|(name, _)| name.len()).sum();
            let (mut map, mut model) = (NameMap::with_room_for(names.len(), bytes), HashMap::new());
            for (name, numbers) in &names {
                prop_assert_eq!(get(&map, name.as_bytes()), model.insert(name, *numbers));
                map.set(name.as_bytes(), numbers.0, numbers.1);
            }
            for (name, numbers) in &model {
                prop_assert_eq!(get(&map, name.as_bytes()), Some(*numbers));
            }
            prop_assert_eq!(get(&map, b"c"), None);
        }
    }
}
