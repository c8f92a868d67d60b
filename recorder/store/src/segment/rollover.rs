//! When to go on in the next segment: a pure decision.

use std::collections::VecDeque;

/// GOPs that are remembered; the biggest of them is what the next one is expected to take.
const REMEMBERED_GOPS: usize = 8;

/// What the GOPs of a stream took lately, in bytes of a file: fragments and their share of the index.
#[derive(Clone, Debug, Default)]
pub(crate) struct GopCosts {
    ended: VecDeque<u64>,
    current: u64,
}

impl GopCosts {
    /// A fragment is to be placed.
    pub(crate) fn add(&mut self, bytes: u64, begins_gop: bool) {
        if begins_gop {
            self.ended.push_back(self.current);
            if self.ended.len() > REMEMBERED_GOPS {
                self.ended.pop_front();
            }
            self.current = 0;
        }
        self.current = self.current.saturating_add(bytes);
    }

    /// What the next GOP is expected to take.
    pub(crate) fn expected(&self) -> u64 {
        self.ended.iter().copied().fold(self.current, u64::max)
    }
}

/// What is known when a fragment is to be placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes left in the file, less what its index takes now.
    pub(crate) left: u64,
    /// Bytes that an empty file has for fragments.
    pub(crate) empty_file: u64,
    /// Bytes that the fragment (with its run box and share of the index) takes at most.
    pub(crate) fragment: u64,
    /// Bytes that the GOP which begins here is expected to take; 0 where none begins.
    pub(crate) gop: u64,
    /// Whether the file has frames already.
    pub(crate) has_frames: bool,
}

/// Where a fragment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into this file.
    Here,
    /// Into the next; this one is sealed.
    Next,
    /// Nowhere: no file is big enough.
    Nowhere,
}

/// Decides where a fragment goes.
pub(crate) fn place(room: Room) -> Place {
    if room.fragment > room.empty_file {
        return Place::Nowhere;
    }
    if room.fragment > room.left {
        return if room.has_frames { Place::Next } else { Place::Nowhere };
    }
    // A GOP bigger than a whole file is split anyway: sealing early would only waste room.
    if room.has_frames && room.gop > room.left && room.gop <= room.empty_file {
        return Place::Next;
    }
    Place::Here
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { left: 500, empty_file: 1000, fragment: 100, gop: 0, has_frames: true };

    #[test]
    fn a_fragment_stays_while_it_fits() {
        assert_eq!(place(ROOM), Place::Here);
        assert_eq!(place(Room { fragment: 501, ..ROOM }), Place::Next);
        assert_eq!(place(Room { fragment: 1001, ..ROOM }), Place::Nowhere);
        assert_eq!(place(Room { fragment: 501, has_frames: false, ..ROOM }), Place::Nowhere);
    }

    #[test]
    fn a_gop_begins_in_the_next_file_when_it_is_not_expected_to_fit() {
        assert_eq!(place(Room { gop: 500, ..ROOM }), Place::Here);
        assert_eq!(place(Room { gop: 501, ..ROOM }), Place::Next);
        assert_eq!(place(Room { gop: 501, has_frames: false, ..ROOM }), Place::Here);
        assert_eq!(place(Room { gop: 1001, ..ROOM }), Place::Here);
    }

    #[test]
    fn the_biggest_gop_of_late_is_what_is_expected() {
        let mut costs = GopCosts::default();
        costs.add(900, true);
        for _ in 0..REMEMBERED_GOPS {
            assert_eq!(costs.expected(), 900);
            costs.add(10, true);
            costs.add(10, false);
        }
        costs.add(10, true);
        assert_eq!(costs.expected(), 20);
    }
}
