//! What is kept of what was read, bounded in bytes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::segment::fetch::Checked;
use crate::types::SegmentInfo;

/// Checked fragments kept for whoever takes them in small pieces, in bytes; never more than a quarter of what readers may keep.
pub(super) const FRAGMENT_BYTES: usize = 8 << 20;

/// Of one use of a file.
pub(super) type Key = (Uuid, u64, u64);

pub(super) fn key(segment: &SegmentInfo) -> Key {
    (segment.volume, segment.file_number, segment.nonce)
}

/// What was read, by segment, bounded in bytes: the least recently used goes first.
pub(super) struct Lru<T> {
    /// With the bytes that each takes.
    pub(super) entries: VecDeque<(Key, T, usize)>,
    pub(super) bytes: usize,
}

impl<T> Default for Lru<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0 }
    }
}

impl<T: Clone> Lru<T> {
    pub(super) fn get(&mut self, key: &Key) -> Option<T> {
        let at = self.entries.iter().position(|(k, ..)| k == key)?;
        let entry = self.entries.remove(at)?;
        let value = entry.1.clone();
        self.entries.push_back(entry);
        Some(value)
    }

    /// Keeps a value that takes so many bytes, if `most` allow that at all.
    pub(super) fn put(&mut self, key: Key, value: T, bytes: usize, most: usize) {
        self.remove(&key);
        self.entries.push_back((key, value, bytes));
        self.bytes += bytes;
        while self.bytes > most {
            let Some((.., freed)) = self.entries.pop_front() else { break };
            self.bytes -= freed;
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(at) = self.entries.iter().position(|(k, ..)| k == key)
            && let Some((.., freed)) = self.entries.remove(at)
        {
            self.bytes -= freed;
        }
    }
}

/// Fragments that checked, never more than [`FRAGMENT_BYTES`] of them.
#[derive(Default)]
pub(super) struct Fragments {
    entries: VecDeque<(Key, Arc<Checked>)>,
    pub(super) bytes: usize,
}

impl Fragments {
    pub(super) fn copy(&mut self, key: &Key, range: &Range<u64>, into: &mut [u8]) -> bool {
        let holds = |(of, fragment): &(Key, Arc<Checked>)| of == key && fragment.get(range.clone()).is_some();
        let Some(entry) = self.entries.iter().position(holds).and_then(|at| self.entries.remove(at)) else {
            return false;
        };
        let copied = entry.1.get(range.clone()).filter(|bytes| bytes.len() == into.len());
        copied.inspect(|bytes| into.copy_from_slice(bytes));
        let copied = copied.is_some();
        self.entries.push_back(entry);
        copied
    }

    pub(super) fn put(&mut self, key: Key, fragment: Arc<Checked>, most: usize) {
        if fragment.len() > most / 2 {
            return;
        }
        self.bytes += fragment.len();
        self.entries.push_back((key, fragment));
        while self.bytes > most
            && let Some((_, oldest)) = self.entries.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.entries.retain(|(k, _)| k != key);
        self.bytes = self.entries.iter().map(|(_, fragment)| fragment.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        (Uuid::nil(), number, 1)
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_the_least_used_goes_first() {
        let mut kept = Lru::default();
        for number in 0..4 {
            kept.put(key(number), number, 25, 100);
        }
        assert_eq!(kept.get(&key(0)), Some(0));
        kept.put(key(4), 4, 30, 100);
        // 1 and 2 had to go for it; 0 was asked for since.
        assert_eq!([0, 1, 2, 3, 4].map(|number| kept.get(&key(number))), [Some(0), None, None, Some(3), Some(4)]);
        assert_eq!(kept.bytes, 80);
        kept.put(key(4), 5, 10, 100);
        kept.remove(&key(3));
        assert_eq!((kept.bytes, kept.get(&key(4))), (35, Some(5)));
        kept.put(key(5), 6, 101, 100);
        assert_eq!((kept.bytes, kept.entries.len()), (0, 0), "more than may be kept at all");
    }
}
