//! Spreads keys over backends so that all instances with the same backends agree, and few keys move when one is added
//! or removed.
//!
//! In:  backends by name and weight; a key.
//! Out: a backend's index for each attempt.
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// A look-up table that depends only on names and weights, not on their order, the process or the time.
#[derive(Debug)]
pub(super) struct Maglev {
    /// The index of a backend in each slot.
    slots: Vec<u32>,
}

impl Maglev {
    /// Fills the table: backends take turns in proportion to their weights, each taking the next free slot of its own
    /// permutation.
    pub(super) fn new(backends: &[(&str, u32)]) -> Self {
        let size = if backends.len() > MOST_IN_SMALL { LARGE } else { SMALL };
        // One with a weight of 0 would never take a slot.
        let mut order: Vec<u32> =
            (0..).zip(backends).filter(|(_, (_, weight))| *weight > 0).map(|(at, _)| at).collect();
        order.sort_unstable_by_key(|&number| backends[number as usize].0);
        let heaviest = backends.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
        let mut walks: Vec<Walk> = (order.iter())
            .map(|&number| {
                let (name, weight) = backends[number as usize];
                Walk::new(name, size, number, f64::from(weight) / f64::from(heaviest))
            })
            .collect();
        let mut slots = vec![FREE; size];
        let mut taken = 0;
        let mut round = 0.0;
        while taken < size && !walks.is_empty() {
            round += 1.0;
            for walk in &mut walks {
                while walk.taken < round * walk.share && taken < size {
                    let slot = walk.next_free(&slots);
                    slots[slot] = walk.number;
                    walk.taken += 1.0;
                    taken += 1;
                }
            }
        }
        if walks.is_empty() {
            slots.clear();
        }
        Self { slots }
    }

    /// The index of the backend for `key` at its `attempt`-th try. Each try uses a different slot, so the keys of a
    /// backend that is down are spread over all others.
    pub(super) fn get(&self, key: u64, attempt: u64) -> Option<usize> {
        let place = if attempt == 0 { key } else { key_of(&[&key.to_le_bytes(), &attempt.to_le_bytes()]) };
        let slot = place % (self.slots.len().max(1) as u64);
        self.slots.get(slot as usize).map(|&number| number as usize)
    }
}

/// Iterates over the slots in one backend's order of preference.
struct Walk {
    number: u32,
    share: f64,
    taken: f64,
    next: usize,
    skip: usize,
}

impl Walk {
    fn new(name: &str, size: usize, number: u32, share: f64) -> Self {
        let start = key_of(&[b"start", name.as_bytes()]) % size as u64;
        let skip = key_of(&[b"skip", name.as_bytes()]) % (size as u64 - 1) + 1;
        Self { number, share, taken: 0.0, next: start as usize, skip: skip as usize }
    }

    fn next_free(&mut self, slots: &[u32]) -> usize {
        loop {
            let slot = self.next;
            // The size is prime, so each walk visits every slot.
            self.next = (self.next + self.skip) % slots.len();
            if slots[slot] == FREE {
                return slot;
            }
        }
    }
}

/// The key of a client: its address, or its /64 for IPv6, since clients change the remaining bits.
pub(super) fn key_of_client(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => key_of(&[&address.octets()]),
        IpAddr::V6(address) => key_of(&[&address.octets()[..8]]),
    }
}

/// Stable across processes and versions: SipHash-1-3 with a zero key. It does not resist a client that looks for
/// collisions, since all that client could gain is to choose its backend.
pub(super) fn key_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    for part in parts {
        hasher.write(part);
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

const FREE: u32 = u32::MAX;
/// Prime. 256 KiB; the shares of a hundred backends differ by about a percent.
const SMALL: usize = 65_537;
/// Prime. 4 MiB, for many backends.
const LARGE: usize = 1_048_573;
const MOST_IN_SMALL: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("10.0.{}.{}:443", number / 250, number % 250)).collect()
    }

    fn table(names: &[String], weight: impl Fn(usize) -> u32) -> Maglev {
        let backends: Vec<(&str, u32)> =
            names.iter().enumerate().map(|(number, name)| (&**name, weight(number))).collect();
        Maglev::new(&backends)
    }

    fn share(table: &Maglev, number: usize) -> f64 {
        let count = table.slots.iter().filter(|&&slot| slot as usize == number).count();
        count as f64 / table.slots.len() as f64
    }

    #[test]
    fn every_backend_has_its_share() {
        let table = table(&names(10), |_| 1);
        for number in 0..10 {
            assert!((share(&table, number) - 0.1).abs() < 0.001, "{}", share(&table, number));
        }
    }

    #[test]
    fn weights_count() {
        let table = table(&names(3), |number| [1, 2, 5][number]);
        for (number, wanted) in [0.125, 0.25, 0.625].into_iter().enumerate() {
            assert!((share(&table, number) - wanted).abs() < 0.01, "{number}: {}", share(&table, number));
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let names = names(7);
        let reversed: Vec<String> = names.iter().rev().cloned().collect();
        let (one, other) = (table(&names, |_| 1), table(&reversed, |_| 1));
        for key in 0..10_000 {
            let (a, b) = (one.get(key, 0).unwrap(), other.get(key, 0).unwrap());
            assert_eq!(names[a], reversed[b]);
        }
    }

    #[test]
    fn few_keys_move_when_a_backend_goes() {
        let names = names(20);
        let (before, after) = (table(&names, |_| 1), table(&names[..19], |_| 1));
        let stayed = |key: &u64| {
            let was = before.get(*key, 0).unwrap();
            was == 19 || after.get(*key, 0) == Some(was)
        };
        let moved = (0..SMALL as u64).filter(|key| !stayed(key)).count();
        // The paper reports a few percent of needless movement at this size.
        assert!(moved < SMALL / 50, "{moved} of {SMALL} moved that had no need to");
    }

    #[test]
    fn keys_of_one_that_is_down_go_to_all_others() {
        let table = table(&names(10), |_| 1);
        let mut hits = [0_u32; 10];
        for client in 0..50_000_u64 {
            let key = key_of(&[&client.to_le_bytes()]);
            if table.get(key, 0) == Some(3) {
                let second = (1..).find_map(|attempt| table.get(key, attempt).filter(|&number| number != 3));
                hits[second.unwrap()] += 1;
            }
        }
        assert_eq!(hits[3], 0);
        assert!(hits.iter().enumerate().all(|(number, &hits)| number == 3 || hits > 300), "{hits:?}");
    }

    /// A fleet must agree across versions: a change here would move every client of every user.
    #[test]
    fn the_table_is_the_same_for_ever() {
        let table = table(&names(5), |_| 1);
        let picks: Vec<usize> = (1..=8)
            .map(|last| table.get(key_of_client(IpAddr::from([192, 0, 2, last])), 0).expect("not empty"))
            .collect();
        assert_eq!(picks, [2, 4, 0, 3, 4, 1, 4, 0]);
        let v6 = |text: &str| key_of_client(text.parse().expect("an address"));
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2:3:4:5"));
        assert_eq!(v6("::ffff:192.0.2.1"), key_of_client(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn no_backend_no_pick() {
        assert_eq!(Maglev::new(&[]).get(1, 0), None);
    }
}
