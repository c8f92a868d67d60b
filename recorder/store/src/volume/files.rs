//! Empty files: taken, made on the spot, and set aside where they are not empty.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Volume, is_full, pool};
use crate::env::File;
use crate::names;
use crate::segment::live::LiveSegment;

impl Volume {
    /// An empty file, made on the spot when there is none and the budget allows one.
    pub(crate) fn take_file(&self) -> io::Result<Option<(u64, Arc<dyn File>)>> {
        loop {
            let ready = crate::lock(&self.pool).pop();
            let Some((number, doubted)) = ready else { break };
            if let Some(file) = pool::open(self.folder.as_ref(), number, self.segment_bytes, doubted)? {
                return Ok(Some((number, file)));
            }
            self.not_empty(number)?;
        }
        let number = crate::lock(&self.pool).next_new();
        let Some(number) = number else { return Ok(None) };
        self.counters.awaited.add(1);
        match pool::make(self.folder.as_ref(), number, self.segment_bytes) {
            Ok(file) => Ok(Some((number, file))),
            Err(e) => {
                crate::lock(&self.pool).not_made(number);
                if is_full(&e) {
                    self.note_room(Some(&e));
                    return Ok(None);
                }
                Err(e)
            }
        }
    }

    /// A file of the pool is not empty (a crash between filling and moving it), or not whole: it is emptied, or removed.
    pub(in crate::volume) fn not_empty(&self, number: u64) -> io::Result<()> {
        let path = names::numbered(names::POOL, number);
        let whole = self.folder.open(&path, false)?.size()? == self.segment_bytes;
        if whole {
            self.with_room(|| self.folder.rename(&path, &names::numbered(names::RETIRED, number)))?;
            self.retired(number);
        } else {
            self.folder.remove(&path)?;
            crate::lock(&self.pool).not_made(number);
        }
        Ok(())
    }

    /// Files that nobody looked through when the volume is closed: the next opening empties them, and need not doubt the others.
    pub(crate) fn set_doubted_aside(&self) -> io::Result<()> {
        let doubted = crate::lock(&self.pool).take_doubted();
        for number in &doubted {
            let (pool, retired) = (names::numbered(names::POOL, *number), names::numbered(names::RETIRED, *number));
            self.with_room(|| self.folder.rename(&pool, &retired))?;
        }
        if !doubted.is_empty() {
            // Before the volume says that it was closed in order.
            self.folder.sync_folder(Path::new(names::RETIRED))?;
            self.folder.sync_folder(Path::new(names::POOL))?;
        }
        Ok(())
    }

    /// The index box of a segment was written: the next sync makes it sealed.
    pub(crate) fn sealing(&self, live: Arc<LiveSegment>) {
        let (number, file) = (live.fixed.file_number, live.fixed.file.clone());
        self.wrote(|dirty| {
            dirty.files.insert(number, file);
            dirty.seals.push(live);
        });
    }

    /// Whether frames of a stream that is here were not written yet.
    pub(crate) fn is_waited_for(&self) -> bool {
        let streams = crate::lock(&self.streams);
        streams.iter().any(|s| s.volume() == Some(self.at) && s.memory().waiting_bytes > 0)
    }

    /// Counts the streams that have a handle.
    pub(crate) fn count_recording(&self) {
        let streams = crate::lock(&self.streams);
        let recording = streams.iter().filter(|s| s.is_taken() && s.volume() == Some(self.at)).count();
        self.recording.store(recording, Ordering::Relaxed);
    }
}
