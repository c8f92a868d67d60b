//! Empty files: made as far as the budget goes, and made of retired ones that no reader needs any more.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::Keeper;
use crate::names;
use crate::volume::open::BOOKKEEPING_BYTES_A_FILE;
use crate::volume::{is_full, pool};

impl Keeper {
    /// Makes empty files: the few that the next roll-overs need, or (`all`) as many as the budget allows, some a round.
    pub(super) fn make_files(&mut self, all: bool) -> io::Result<()> {
        const A_ROUND: usize = 64;
        if let Err(e) = self.has_room() {
            self.volume.note_room(Some(&e));
            return Ok(());
        }
        for _ in 0..if all { A_ROUND } else { 4 } {
            // By another thread, meanwhile.
            if self.volume.has_failed() {
                return Ok(());
            }
            let number = crate::lock(&self.volume.pool).next_new();
            let Some(number) = number else { break };
            match pool::make(self.volume.folder.as_ref(), number, self.volume.segment_bytes) {
                Ok(_) => {
                    crate::lock(&self.volume.pool).give(number);
                    self.volume.note_room(None);
                }
                Err(e) => {
                    crate::lock(&self.volume.pool).not_made(number);
                    if is_full(&e) {
                        self.volume.note_room(Some(&e));
                        return Ok(());
                    }
                    return Err(e);
                }
            }
            self.volume.wrote(|dirty| {
                dirty.folders.insert(PathBuf::from(names::POOL));
            });
            self.volume.wake_keeper.notify();
        }
        let surplus = crate::lock(&self.volume.pool).pop_surplus();
        if let Some(number) = surplus {
            self.volume.folder.remove(&names::numbered(names::POOL, number))?;
        }
        Ok(())
    }

    /// Whether there is room for another file where one is wanted, beside what manifest and catalogue will take.
    fn has_room(&self) -> io::Result<()> {
        let (total, made, ..) = crate::lock(&self.volume.pool).numbers();
        if made >= total {
            return Ok(());
        }
        let kept_bytes = total.saturating_mul(BOOKKEEPING_BYTES_A_FILE);
        let needed_bytes = self.volume.segment_bytes.saturating_add(kept_bytes);
        let free_bytes = self.volume.folder.space().map_or(u64::MAX, |space| space.free_bytes);
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        let what = format!(
            "{free_bytes} bytes are free, another file takes {}, and {kept_bytes} are kept for manifest and catalogue",
            self.volume.segment_bytes
        );
        Err(io::Error::new(io::ErrorKind::StorageFull, what))
    }

    /// Looks through some of the files that a loss of power may have left something in, so that the writer need not.
    pub(super) fn look_through(&mut self) -> io::Result<()> {
        // Where the file system does not tell what was written, all of it is read.
        const A_ROUND: usize = 4;
        for _ in 0..A_ROUND {
            let number = crate::lock(&self.volume.pool).pop_doubted();
            let Some(number) = number else { return Ok(()) };
            if pool::open(self.volume.folder.as_ref(), number, self.volume.segment_bytes, true)?.is_some() {
                crate::lock(&self.volume.pool).give(number);
            } else {
                self.volume.not_empty(number)?;
            }
        }
        self.volume.wake_keeper.notify();
        Ok(())
    }

    /// Empties the files that no reader needs any more.
    pub(super) fn reclaim(&mut self) -> io::Result<()> {
        if !self.volume.catalogue_replayed.load(Ordering::Acquire) {
            // The manifest may still list what was in them.
            return Ok(());
        }
        let now = self.volume.env.clock.monotonic_us();
        let synced = self.volume.synced_us.load(Ordering::Acquire);
        let retired = crate::lock(&self.volume.pool).retired();
        for (number, since) in retired {
            if self.volume.has_failed() {
                return Ok(());
            }
            if self.volume.keeps(number, since, now) || since > synced {
                continue;
            }
            self.volume.reclaim(number)?;
            crate::lock(&self.volume.pool).reclaimed(number);
            // A stream may wait for it, and nobody else tell the writer: there are no ticks while the store is being closed.
            self.volume.wake_writer.notify();
            self.volume.wrote(|dirty| {
                dirty.folders.extend([PathBuf::from(names::POOL), PathBuf::from(names::RETIRED)]);
            });
        }
        Ok(())
    }
}
