//! Keeps entries in numbered slots that are reused lowest first, so that memory can be released after a peak.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::LiveConnection;
use super::load::Load;

pub(super) struct Slots {
    entries: Vec<Option<LiveConnection>>,
    /// Empty slots below the length.
    free: BinaryHeap<Reverse<u32>>,
    /// Removals since shrinking was last considered.
    removals: usize,
    /// Where their number is shown to other threads.
    load: Option<Arc<Load>>,
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), free: BinaryHeap::new(), removals: 0, load: None }
    }

    pub(super) fn show_in(&mut self, load: Arc<Load>) {
        self.load = Some(load);
    }

    pub(super) fn load(&self) -> Option<&Arc<Load>> {
        self.load.as_ref()
    }

    pub(super) fn insert(&mut self, entry: LiveConnection) -> u32 {
        let number = self.place(entry);
        if let Some(load) = &self.load {
            load.entered(self.live());
        }
        number
    }

    fn place(&mut self, entry: LiveConnection) -> u32 {
        if let Some(Reverse(number)) = self.free.pop() {
            self.entries[number as usize] = Some(entry);
            return number;
        }
        let number = u32::try_from(self.entries.len()).expect("far fewer connections than ports");
        self.entries.push(Some(entry));
        number
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut LiveConnection> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<LiveConnection> {
        let entry = self.entries.get_mut(number as usize)?.take()?;
        self.free.push(Reverse(number));
        self.removals += 1;
        let (len, live) = (self.entries.len(), self.live());
        if let Some(load) = &self.load {
            load.left(live);
        }
        // Considered when the last slot becomes free, and otherwise at intervals.
        let is_time = number as usize + 1 == len || self.removals > live + KEPT;
        if len > KEPT && live < len / 4 && is_time {
            self.give_room_back();
        }
        Some(entry)
    }

    fn live(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The number of slots, including empty ones.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries in a range of slots.
    pub(super) fn some(&mut self, range: std::ops::Range<usize>) -> impl Iterator<Item = &mut LiveConnection> {
        let end = range.end.min(self.entries.len());
        self.entries[range.start.min(end)..end].iter_mut().flatten()
    }

    fn give_room_back(&mut self) {
        self.removals = 0;
        let used = self.entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if used > self.entries.len() / 2 {
            return;
        }
        self.entries.truncate(used.max(KEPT));
        self.entries.shrink_to_fit();
        self.free = (0..).zip(&self.entries).filter(|(_, entry)| entry.is_none()).map(|(n, _)| Reverse(n)).collect();
    }
}

/// Slots that are never released.
const KEPT: usize = 256;
