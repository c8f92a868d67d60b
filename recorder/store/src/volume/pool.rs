//! The files of a volume that hold nothing: making, taking, and giving back.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::env::{File, Folder, read_exact, write_all};
use crate::names;

/// What is at the start of a file goes first, so that a reader sees that the use has ended.
const HEAD_BYTES: usize = 64 << 10;
/// Read at once where a file is looked through.
const LOOK_BYTES: usize = 64 << 10;

/// Counts and numbers of the files. Pure; the doing is in the functions below.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    ready: VecDeque<u64>,
    /// Of those in `ready`: a loss of power may have left something in them behind a start that is zero.
    doubted: HashSet<u64>,
    /// File number, and since when (monotonic µs).
    retired: Vec<(u64, u64)>,
    /// Files that exist, in use or not.
    made: u64,
    /// Files that the budget allows.
    total: u64,
    /// Numbers from here to `numbers_end` may be given out.
    next_number: u64,
    numbers_end: u64,
    /// Numbers of files that could not be made, or were removed while empty: nothing was ever told of them.
    unused: Vec<u64>,
    /// The last attempt to make a file found no room.
    full: bool,
    /// `made` is no guess.
    is_counted: bool,
}

impl Pool {
    pub(crate) fn new(ready: Vec<u64>, made: u64, total: u64, numbers: std::ops::Range<u64>) -> Self {
        Self {
            ready: ready.into(),
            doubted: HashSet::new(),
            retired: Vec::new(),
            made,
            total,
            next_number: numbers.start,
            numbers_end: numbers.end,
            unused: Vec::new(),
            full: false,
            is_counted: false,
        }
    }

    /// Total, made, free, retired.
    pub(crate) fn numbers(&self) -> (u64, u64, u64, u64) {
        (self.total, self.made, self.ready.len() as u64, self.retired.len() as u64)
    }

    /// Files that are empty, will be, or may be made.
    pub(crate) fn usable(&self) -> u64 {
        self.ready.len() as u64 + self.retired.len() as u64 + self.unmade()
    }

    fn unmade(&self) -> u64 {
        if self.full { 0 } else { self.total.saturating_sub(self.made) }
    }

    /// The number of a file to be made, where the budget allows one.
    pub(crate) fn next_new(&mut self) -> Option<u64> {
        if self.made >= self.total {
            return None;
        }
        if let Some(number) = self.unused.pop() {
            self.made += 1;
            return Some(number);
        }
        if self.next_number >= self.numbers_end {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.made += 1;
        Some(number)
    }

    /// The file that [`Self::next_new`] named could not be made, or is not there any more.
    pub(crate) fn not_made(&mut self, file_number: u64) {
        self.unused.push(file_number);
        self.made = self.made.saturating_sub(1);
    }

    /// Whether there was room for the last file that was tried.
    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// The highest number that was given out, and how many files exist.
    pub(crate) fn for_identity(&self) -> (u64, Option<u64>) {
        (self.next_number - 1, self.is_counted.then_some(self.made))
    }

    /// The numbers that the budget can still need, from the next one on. Gives the highest.
    pub(crate) fn reserve_numbers(&mut self) -> u64 {
        self.numbers_end = self.next_number + self.total.saturating_sub(self.made);
        self.numbers_end - 1
    }

    /// Where `counted` files were counted when the volume was opened, there were `really`.
    pub(crate) fn recount(&mut self, counted: u64, really: u64) {
        self.is_counted = true;
        self.made = self.made.saturating_add(really).saturating_sub(counted);
    }

    pub(crate) fn give(&mut self, file_number: u64) {
        self.ready.push_back(file_number);
    }

    /// Nobody knows what the files that are ready hold: the volume was not closed in order.
    pub(crate) fn doubt(&mut self) {
        self.doubted = self.ready.iter().copied().collect();
    }

    /// A file to be used, and whether it must be looked through before: one that need not be if there is one.
    pub(crate) fn pop(&mut self) -> Option<(u64, bool)> {
        let at = self.ready.iter().position(|number| !self.doubted.contains(number)).unwrap_or(0);
        let number = self.ready.remove(at)?;
        Some((number, self.doubted.remove(&number)))
    }

    /// A file to be looked through while nobody waits for it; [`Self::give`] puts it back. The last one is left to whoever needs it now.
    pub(crate) fn pop_doubted(&mut self) -> Option<u64> {
        let at = self.ready.iter().position(|number| self.doubted.contains(number)).filter(|_| self.ready.len() > 1)?;
        let number = self.ready.remove(at)?;
        self.doubted.remove(&number);
        Some(number)
    }

    /// All that nobody looked through, when the volume is closed.
    pub(crate) fn take_doubted(&mut self) -> Vec<u64> {
        let doubted = std::mem::take(&mut self.doubted);
        self.ready.retain(|number| !doubted.contains(number));
        doubted.into_iter().collect()
    }

    /// A file beyond the budget (it was made smaller), to be removed.
    pub(crate) fn pop_surplus(&mut self) -> Option<u64> {
        if self.made <= self.total {
            return None;
        }
        let number = self.ready.pop_back()?;
        self.doubted.remove(&number);
        self.made -= 1;
        Some(number)
    }

    /// An empty file to be removed, so that what must be written finds room. Another one is made when there is room again: of this number only
    /// behind [`Self::not_made`], or whoever makes it might find it there.
    pub(crate) fn give_up_one(&mut self) -> Option<u64> {
        let number = self.ready.pop_back()?;
        self.doubted.remove(&number);
        self.full = true;
        Some(number)
    }

    pub(crate) fn retire(&mut self, file_number: u64, now_us: u64) {
        self.retired.push((file_number, now_us));
    }

    /// Something more belongs to the retirement of a file.
    pub(crate) fn retired_again(&mut self, file_number: u64, now_us: u64) {
        self.retired.iter_mut().filter(|(number, _)| *number == file_number).for_each(|(_, since)| *since = now_us);
    }

    pub(crate) fn retired(&self) -> Vec<(u64, u64)> {
        self.retired.clone()
    }

    /// A retired file is empty again.
    pub(crate) fn reclaimed(&mut self, file_number: u64) {
        self.retired.retain(|(number, _)| *number != file_number);
        self.ready.push_back(file_number);
    }

    /// How many more files should be on their way to being free, when so many streams record, shall find `ahead` files ready, and readers keep so
    /// many of the retired files from being emptied.
    pub(crate) fn wanted(&self, recording: u64, ahead: u64, leased: u64) -> u64 {
        if recording == 0 {
            return 0;
        }
        // Readers may take their time; where no file is free, one that they keep is not waited for.
        let kept = if self.ready.is_empty() { leased } else { 0 };
        let coming = self.usable().saturating_sub(kept);
        // One for each stream at least, should all roll over at once, but never more than half of what is not being written.
        let usable = if self.full { self.made } else { self.total };
        let bound = (usable.saturating_sub(recording) / 2).max(1);
        (recording + 1).max(ahead).max(2).min(bound).saturating_sub(coming)
    }
}

/// Makes an empty file.
pub(crate) fn make(folder: &dyn Folder, file_number: u64, bytes: u64) -> io::Result<Arc<dyn File>> {
    folder.create_preallocated(&names::numbered(names::POOL, file_number), bytes)
}

/// Opens a file of the pool to be used; `None` when it is not empty or not of the right size. `doubted`: all of it is looked at, and not only its
/// start.
pub(crate) fn open(
    folder: &dyn Folder,
    file_number: u64,
    bytes: u64,
    doubted: bool,
) -> io::Result<Option<Arc<dyn File>>> {
    let file = folder.open(&names::numbered(names::POOL, file_number), true)?;
    if file.size()? != bytes {
        return Ok(None);
    }
    let mut first = [0; 8];
    read_exact(file.as_ref(), &mut first, 0)?;
    let empty = first == [0; 8] && (!doubted || is_zero(file.as_ref())?);
    Ok(empty.then_some(file))
}

/// Whether all of a file reads as zero. What was never written is not read where the file system tells.
fn is_zero(file: &dyn File) -> io::Result<bool> {
    let mut piece = vec![0; LOOK_BYTES];
    let mut at = 0;
    while let Some(from) = file.data_from(at)? {
        // What cannot be read is written anew like what is not zero.
        let Ok(n) = file.read_at(&mut piece, from) else { return Ok(false) };
        if n == 0 {
            break;
        }
        if piece.get(..n).is_some_and(|read| read.iter().any(|byte| *byte != 0)) {
            return Ok(false);
        }
        at = from + n as u64;
    }
    Ok(true)
}

/// What is at the start of a retired file is gone.
pub(crate) fn clear_head(file: &dyn File, bytes: u64) -> io::Result<()> {
    let head = usize::try_from(bytes).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    write_all(file, &vec![0; head], 0)
}

/// File numbers of the files in `pool/` or `retired/`.
pub(crate) fn list(folder: &dyn Folder, name: &str) -> io::Result<Vec<u64>> {
    Ok(folder.list(Path::new(name))?.iter().filter_map(|e| names::number_of(&e.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_up_to_the_budget() {
        let mut pool = Pool::new(vec![1, 2], 3, 5, 10..100);
        assert_eq!(pool.next_new(), Some(10));
        assert_eq!(pool.next_new(), Some(11));
        assert_eq!(pool.next_new(), None);
        // However often there is no room, no number is used up.
        for _ in 0..100 {
            pool.not_made(11);
            assert_eq!(pool.next_new(), Some(11));
        }
        assert_eq!((pool.give_up_one(), pool.next_new()), (Some(2), None), "its file is still there");
        pool.not_made(2);
        assert_eq!((pool.next_new(), pool.next_new()), (Some(2), None));
    }

    #[test]
    fn retirement_begins_when_free_files_get_few() {
        let mut pool = Pool::new(vec![1, 2], 20, 20, 21..21);
        assert_eq!((pool.wanted(0, 0, 0), pool.wanted(1, 1, 0)), (0, 0));
        assert_eq!(pool.wanted(3, 3, 0), 2);
        pool.retire(7, 0);
        assert_eq!(pool.wanted(3, 3, 0), 1);
        pool.reclaimed(7);
        assert_eq!(pool.wanted(3, 3, 0), 1);
        // Fast streams want more.
        assert_eq!(pool.wanted(3, 7, 0), 4);
        // Half of what is not being written, at most.
        assert_eq!((pool.wanted(3, 100, 0), pool.wanted(18, 18, 0)), (5, 0));
        assert_eq!(Pool::new(vec![], 4, 4, 5..5).wanted(4, 4, 0), 1);
        // One that is being read does not count where there is no other.
        let mut pool = Pool::new(vec![], 20, 20, 21..21);
        pool.retire(7, 0);
        assert_eq!((pool.wanted(1, 1, 0), pool.wanted(1, 1, 1)), (1, 2));
        pool.give(8);
        assert_eq!(pool.wanted(1, 1, 1), 0);
        // Files that were not made yet count.
        assert_eq!(Pool::new(vec![], 0, 10, 1..11).wanted(3, 3, 0), 0);
    }

    #[test]
    fn files_that_nobody_looked_through_are_taken_last() {
        let mut pool = Pool::new(vec![1, 2, 3], 3, 6, 4..7);
        pool.doubt();
        pool.give(4);
        assert_eq!((pool.pop(), pool.pop_doubted()), (Some((4, false)), Some(1)));
        pool.give(1);
        assert_eq!((pool.pop(), pool.pop()), (Some((1, false)), Some((2, true))));
        // The last one is not kept from whoever needs a file.
        assert_eq!(pool.pop_doubted(), None);
        pool.give(5);
        assert_eq!((pool.take_doubted(), pool.pop(), pool.pop()), (vec![3], Some((5, false)), None));
    }

    #[test]
    fn a_smaller_budget_removes_free_files_only() {
        let mut pool = Pool::new(vec![1, 2, 3], 5, 4, 6..6);
        assert_eq!(pool.pop_surplus(), Some(3));
        assert_eq!(pool.pop_surplus(), None);
    }
}
