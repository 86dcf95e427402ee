//! Finds the most frequent names in a stream of any length, in bounded memory.
//!
//! In:  names, one at a time.
//! Out: those that were seen most, each with a count that is at most too large by a known amount.
//! Source: Metwally, Agrawal, El Abbadi: Efficient computation of frequent and top-k elements in data streams (2005),
//!         algorithm Space-Saving: a name that is more than a 64th of the stream is always among them.

use std::collections::HashMap;

/// At most [`MOST_NAMES`] names.
#[derive(Debug, Default)]
pub(crate) struct TopNames(HashMap<Box<str>, Seen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    count: u64,
    /// Of these, how many may have been other names.
    inherited: u64,
}

/// A frequent name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frequent {
    pub name: Box<str>,
    pub count: u64,
    /// The count may be too large by this much.
    pub at_most_too_many: u64,
}

impl TopNames {
    pub(crate) fn add(&mut self, name: Box<str>) {
        if let Some(seen) = self.0.get_mut(&name) {
            seen.count += 1;
            return;
        }
        let mut inherited = 0;
        if self.0.len() >= MOST_NAMES {
            // A walk over 64 names; there are at most a few thousand calls a second.
            let least = self.0.iter().min_by_key(|(_, seen)| seen.count).map(|(name, seen)| (name.clone(), seen.count));
            if let Some((least, count)) = least {
                self.0.remove(&least);
                inherited = count;
            }
        }
        self.0.insert(name, Seen { count: inherited + 1, inherited });
    }

    /// Most frequent first.
    pub(crate) fn list(&self) -> Vec<Frequent> {
        let frequent = self.0.iter().map(|(name, seen)| Frequent {
            name: name.clone(),
            count: seen.count,
            at_most_too_many: seen.inherited,
        });
        let mut all: Vec<_> = frequent.collect();
        // What is certain comes first.
        all.sort_by(|a, b| {
            let certain = |of: &Frequent| of.count - of.at_most_too_many;
            certain(b).cmp(&certain(a)).then_with(|| b.count.cmp(&a.count)).then_with(|| a.name.cmp(&b.name))
        });
        all
    }
}

const MOST_NAMES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_names_take_no_more_room_and_hide_no_frequent_one() {
        let mut top = TopNames::default();
        for number in 0..100_000 {
            top.add(format!("n{number}.test").into());
            if number % 20 == 0 {
                top.add("frequent.test".into());
            }
            if number % 25 == 0 {
                top.add("often.test".into());
            }
        }
        let list = top.list();
        assert_eq!(list.len(), 64);
        assert_eq!([&*list[0].name, &*list[1].name], ["frequent.test", "often.test"], "{list:?}");
        for (found, is) in list.iter().zip([5000, 4000]) {
            assert!((found.count - found.at_most_too_many..=found.count).contains(&is), "{found:?}");
        }
    }

    #[test]
    fn few_names_are_counted_exactly() {
        let mut top = TopNames::default();
        ["a", "b", "a", "c", "a", "b"].iter().for_each(|name| top.add((*name).into()));
        let list: Vec<_> = top.list().into_iter().map(|f| (f.name, f.count, f.at_most_too_many)).collect();
        assert_eq!(list, [("a".into(), 3, 0), ("b".into(), 2, 0), ("c".into(), 1, 0)]);
    }
}
