//! The assignment's copy on each volume: what a recorder begins with where nobody can tell it what to do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use framekeeper_crds::Recorder;
use tracing::warn;

use crate::assignment::write_copy;

/// All of them, by the volumes' folders.
#[derive(Debug, Default)]
pub(super) struct Copies {
    known: HashMap<PathBuf, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// It is of the assignment that is in effect, or is being written so.
    is_newest: bool,
    writing: Option<JoinHandle<()>>,
}

impl Copies {
    /// Another assignment is in effect.
    pub(super) fn outdate(&mut self) {
        for copy in self.known.values_mut() {
            copy.is_newest = false;
        }
    }

    /// Writes the assignment to those of these volumes that lack it, each on a thread of its own: a disk may hang. Where the last one is still being
    /// written that comes first, so this is to be called again and again.
    pub(super) fn keep<'v>(&mut self, volumes: impl Iterator<Item = &'v Path>, object: &Recorder) {
        let volumes: Vec<&Path> = volumes.collect();
        for (folder, copy) in &mut self.known {
            // What is on a volume that was away is not known any more.
            copy.is_newest &= volumes.contains(&folder.as_path());
            if copy.writing.as_ref().is_some_and(JoinHandle::is_finished) {
                copy.writing = None;
            }
        }
        self.known.retain(|_, copy| copy.is_newest || copy.writing.is_some());
        for folder in volumes {
            let copy = self.known.entry(folder.to_owned()).or_default();
            if copy.is_newest || copy.writing.is_some() {
                continue;
            }
            // Also where it fails: that is said once for each assignment.
            copy.is_newest = true;
            let (to, object) = (folder.to_owned(), object.clone());
            let write = move || {
                if let Err(error) = write_copy(&to, &object) {
                    warn!("the assignment's copy could not be written: {error}");
                }
            };
            match std::thread::Builder::new().name("assignment-copy".to_owned()).spawn(write) {
                Ok(writing) => copy.writing = Some(writing),
                Err(error) => warn!(%error, "the assignment's copy could not be written"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::{COPY_NAME, read_copy, tests::object};
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    /// Far more than writing takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn of_generation(generation: i64) -> Recorder {
        let mut object = object();
        object.metadata.generation = Some(generation);
        object
    }

    /// Looks until nothing is being written any more.
    fn settle(copies: &mut Copies, volumes: &[&Path], object: &Recorder) {
        let until = Instant::now() + PATIENCE;
        copies.keep(volumes.iter().copied(), object);
        while copies.known.values().any(|copy| copy.writing.is_some()) {
            assert!(Instant::now() < until, "it is not written");
            std::thread::sleep(Duration::from_millis(2));
            copies.keep(volumes.iter().copied(), object);
        }
    }

    #[test]
    fn an_assignment_that_comes_while_a_copy_is_written_is_written_behind_it() {
        let volume = tempfile::tempdir().unwrap();
        let (release, gate) = channel::<()>();
        let slow = std::thread::spawn(move || {
            let _ = gate.recv();
        });
        let mut copies = Copies::default();
        copies.known.insert(volume.path().to_owned(), Known { is_newest: true, writing: Some(slow) });
        copies.outdate();
        copies.keep([volume.path()].into_iter(), &of_generation(8));
        assert_eq!(read_copy(volume.path()).unwrap(), None, "the disk is busy with the one before");
        drop(release);
        settle(&mut copies, &[volume.path()], &of_generation(8));
        assert_eq!(read_copy(volume.path()).unwrap(), Some(of_generation(8)));
    }

    #[test]
    fn a_volume_that_comes_later_or_again_gets_a_copy_and_no_volume_gets_it_twice() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (first.path(), second.path());
        let (mut copies, object) = (Copies::default(), object());
        settle(&mut copies, &[first], &object);
        assert_eq!(read_copy(first).unwrap().as_ref(), Some(&object));
        assert_eq!(read_copy(second).unwrap(), None);
        settle(&mut copies, &[first, second], &object);
        assert_eq!(read_copy(second).unwrap().as_ref(), Some(&object));
        // That it was written is remembered, and not looked for on the disk.
        std::fs::remove_file(first.join(COPY_NAME)).unwrap();
        settle(&mut copies, &[first, second], &object);
        assert_eq!(read_copy(first).unwrap(), None);
        // Another disk may be in its place when it is back.
        settle(&mut copies, &[second], &object);
        settle(&mut copies, &[first, second], &object);
        assert_eq!(read_copy(first).unwrap().as_ref(), Some(&object));
    }
}
