//! Reserved slots that takeovers share: streams of class `Ready` have none of their own, and one is taken with the first recorded frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The slots that are left beside those that channels have of their own.
#[derive(Debug, Default)]
pub(crate) struct SharedSlots {
    room: AtomicU32,
    taken: AtomicU32,
}

impl SharedSlots {
    /// So many there are from now on. Who has one keeps it.
    pub(crate) fn set_room(&self, room: u32) {
        self.room.store(room, Ordering::Relaxed);
    }

    fn room(&self) -> u32 {
        self.room.load(Ordering::Relaxed)
    }

    /// So many are taken.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// So many are free.
    pub(crate) fn left(&self) -> u32 {
        self.room().saturating_sub(self.taken())
    }

    /// One of them, if one is left. It is free again when that is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let more = |taken: u32| (taken < self.room()).then(|| taken.saturating_add(1));
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

/// A slot that is taken.
#[derive(Debug)]
pub(crate) struct Slot(Arc<SharedSlots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_each_comes_back() {
        let slots = Arc::new(SharedSlots::default());
        assert!(slots.take().is_none());
        slots.set_room(2);
        let (first, second) = (slots.take(), slots.take());
        assert!(first.is_some() && second.is_some() && slots.take().is_none() && slots.left() == 0);
        drop(first);
        assert_eq!(slots.left(), 1);
        // Fewer than are taken: nobody loses one.
        slots.set_room(0);
        assert_eq!((slots.taken(), slots.left()), (1, 0));
        drop(second);
        assert_eq!(slots.taken(), 0);
    }
}
