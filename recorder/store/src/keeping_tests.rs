//! Recording goes on, and nothing is given up, where something comes between: a manifest that is read late, a disk that gives no head, a file that
//! is only on its way, a catalogue that fails, a handle that is gone, a volume that is left. The workers are stepped by hand, so that it comes just
//! there.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use crate::catalogue::Catalogue;
use crate::env::{Fault, FaultDisk, MemDisk, Operation, Trouble};
use crate::failing_tests::common::{ALWAYS, Camera, Site};
use crate::store::{Workers, change_holds};
use crate::stream::StreamState;
use crate::volume::Volume;
use crate::{DropReason, Hold, HoldError, Placement, Store, StreamWriter, lock};

/// More than any of these needs to fill a volume, or to build a catalogue.
const ENOUGH: usize = 100;

/// A volume that knows all that is on it, and a camera of which a few fragments fill a file.
struct ByHand {
    faults: FaultDisk,
    store: Store,
    workers: Workers,
    volume: Arc<Volume>,
    camera: Camera,
    writer: Option<StreamWriter>,
}

impl ByHand {
    fn new(files: u64) -> Self {
        let disk = MemDisk::new();
        disk.make_folder(Path::new("/v"));
        let faults = FaultDisk::new(Arc::new(disk));
        let site = Site::new(Arc::new(faults.clone()), &[Path::new("/v")], files);
        let (store, mut workers) = Store::assemble(&site.config(), site.env.clone()).unwrap();
        let mut workers = workers.remove(0);
        let volume = workers.volume.clone();
        while !volume.catalogue_complete.load(Ordering::Acquire) {
            workers.keeper.round(false);
        }
        let mut this = Self { faults, store, workers, volume, camera: Camera::new(""), writer: None };
        this.go_on_with("door");
        this
    }

    /// Another camera; the handle of the one before is gone.
    fn go_on_with(&mut self, name: &str) {
        self.camera = Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) };
        let mut writer = self.store.stream(self.camera.ident.clone()).unwrap();
        writer.begin_run(self.camera.run());
        self.writer = Some(writer);
    }

    fn stream(&self) -> Arc<StreamState> {
        self.store.inner().stream(self.camera.ident.uid).unwrap()
    }

    fn waits(&self) -> bool {
        self.stream().memory().waiting_bytes > 0
    }

    /// A fragment, and a tick.
    fn record(&mut self) {
        self.writer.as_mut().unwrap().append(self.camera.fragment());
        self.workers.writer.tick();
    }

    /// Records until there is no file for more. All files are sealed then, and all of that is in the manifest.
    fn fill(&mut self) {
        for _ in 0..ENOUGH {
            self.record();
            if self.waits() {
                self.sync();
                return;
            }
        }
        panic!("there is always a file: {:?}", self.volume.stats());
    }

    fn sync(&self) {
        while self.workers.syncer.once() {}
    }

    fn keep(&mut self) {
        self.workers.keeper.round(false);
    }

    /// Segments that the catalogue has.
    fn sealed(&self) -> u64 {
        self.volume.catalogue.read().unwrap().view().unwrap().count().unwrap()
    }

    fn retired(&self) -> u64 {
        self.volume.counters.retired.get()
    }

    /// Whether the writer was told of something since this was asked last.
    fn is_woken(&self) -> bool {
        self.volume.wake_writer.wait(Some(Duration::ZERO)).notified
    }
}

#[test]
fn the_writer_of_a_failed_volume_does_not_wake_itself() {
    let mut site = ByHand::new(5);
    site.record();
    site.volume.fail("write", &"broken on purpose");
    // For that, and because its stream has gone.
    for _ in 0..2 {
        assert!(site.is_woken());
        site.workers.writer.tick();
    }
    assert!(!site.is_woken());
}

#[test]
fn a_manifest_that_is_read_late_is_no_failure_of_its_volume() {
    let (_, site) = Site::mem(5);
    let (_store, workers) = Store::assemble(&site.config(), site.env.clone()).unwrap();
    let hold = Hold { hold: Uuid::new_v4(), stream: Uuid::new_v4(), from: ALWAYS.0, to: ALWAYS.1 };
    let late = change_holds(&workers[0].volume, &[hold], &[], Duration::ZERO);
    assert!(matches!(&late, Err(HoldError::Io { source, .. }) if source.kind() == ErrorKind::TimedOut), "{late:?}");
    assert_eq!(workers[0].volume.failure(), None);
}

#[test]
fn a_segment_whose_head_the_disk_does_not_give_makes_a_file_free() {
    let mut site = ByHand::new(5);
    site.fill();
    site.faults.inject(Fault::always(Operation::Read, Trouble::Eio).below("streams"));
    site.keep();
    assert_eq!((site.volume.failure(), site.retired(), site.sealed()), (None, 2, 3));
}

#[test]
fn segments_that_cannot_be_opened_are_not_taken_for_gone() {
    let mut site = ByHand::new(5);
    site.fill();
    site.faults.inject(Fault::always(Operation::Open, Trouble::Eio).below("streams"));
    site.keep();
    assert_eq!((site.volume.has_failed(), site.retired(), site.sealed()), (true, 0, 5));
}

#[test]
fn no_frame_is_dropped_while_a_file_is_on_its_way() {
    let mut site = ByHand::new(6);
    site.fill();
    let uid = site.camera.ident.uid;
    let oldest = site.store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap().remove(0);
    // All but that one.
    lock(&site.volume.holds).push(Hold { hold: Uuid::new_v4(), stream: uid, from: oldest.end, to: ALWAYS.1 });
    site.keep();
    assert_eq!((site.retired(), site.volume.is_stuck()), (1, false));
    site.workers.writer.tick();
    assert!(site.waits());
    site.sync();
    site.keep();
    site.workers.writer.tick();
    assert!(!site.waits());
    let dropped = site.store.stream_stats(uid).unwrap().dropped_frames;
    assert!(dropped.contains(&(DropReason::NoFreeFile, 0)), "{dropped:?}");
    // Where none is, that is said.
    site.fill();
    site.keep();
    assert!(site.volume.is_stuck());
}

#[test]
fn a_file_that_is_sealed_first_is_on_its_way() {
    let mut site = ByHand::new(5);
    site.record();
    site.go_on_with("yard");
    site.fill();
    site.volume.note_retirement(Some("all was held"));
    site.keep();
    assert_eq!((site.retired(), site.volume.is_stuck()), (0, false));
}

#[test]
fn what_a_catalogue_was_not_given_before_it_failed_is_given_to_the_next() {
    let mut site = ByHand::new(5);
    site.fill();
    let volume = site.volume.clone();
    let failing = std::thread::spawn::<_, ()>(move || {
        let _held = volume.catalogue.write().unwrap();
        panic!("broken on purpose");
    });
    assert!(failing.join().is_err());
    site.keep();
    site.volume.catalogue.clear_poison();
    site.keep();
    assert_eq!((lock(&site.volume.live).len(), site.retired()), (0, 2));
}

#[test]
fn a_catalogue_that_does_not_tell_the_oldest_segment_is_built_anew() {
    let mut site = ByHand::new(5);
    site.fill();
    site.workers.keeper.apply_jobs();
    *site.volume.catalogue.write().unwrap() = Catalogue::broken().unwrap();
    for _ in 0..ENOUGH {
        site.keep();
    }
    assert_eq!((site.volume.failure(), site.retired(), site.sealed()), (None, 2, 3));
}

#[test]
fn a_stream_without_a_handle_gets_the_file_that_it_waits_for() {
    let mut site = ByHand::new(5);
    site.fill();
    site.writer = None;
    site.keep();
    site.sync();
    site.is_woken();
    site.keep();
    assert!(site.is_woken());
    site.workers.writer.tick();
    assert!(!site.waits());
}

#[test]
fn a_stream_that_comes_while_others_leave_is_written() {
    let mut site = ByHand::new(5);
    let stream = site.stream();
    let at = site.store.inner().place(&stream).unwrap();
    site.store.inner().leave(&site.volume);
    stream.arrive(at);
    site.record();
    assert!(!site.waits());
}

#[test]
fn what_a_stopped_volume_had_and_did_not_make_durable_goes_on_elsewhere() {
    let disk = MemDisk::new();
    let dirs = ["/v", "/w"].map(Path::new);
    dirs.iter().for_each(|dir| disk.make_folder(dir));
    let site = Site::new(Arc::new(disk), &dirs, 5);
    let (store, mut workers) = Store::assemble(&site.config(), site.env.clone()).unwrap();
    store.set_placement(Placement::RoundRobin);
    let mut camera = Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new("door") };
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    let stream = store.inner().stream(uid).unwrap();
    for _ in 0..ENOUGH {
        writer.append(camera.fragment());
        workers.iter_mut().for_each(|workers| workers.writer.tick());
        if stream.volume() == Some(1) {
            break;
        }
    }
    assert_eq!(stream.volume(), Some(1), "its turn has come");
    store.stop_volume(workers[0].volume.uuid).unwrap();
    workers[1].writer.tick();
    while workers[1].syncer.once() {}
    assert_eq!(store.durable(uid).map(|durable| durable.frames), Some(camera.next_frame));
}

#[test]
fn what_is_durable_is_told_although_the_volume_fails_right_behind() {
    let mut site = ByHand::new(5);
    // Up to a tick that seals a segment.
    for _ in 0..ENOUGH {
        site.record();
        if !lock(&site.volume.dirty).seals.is_empty() {
            break;
        }
    }
    let latch = site.stream().push_finish().unwrap();
    site.workers.writer.tick();
    site.faults.inject(Fault::always(Operation::Write, Trouble::Eio).below("pool"));
    site.workers.syncer.once();
    assert_eq!((site.volume.has_failed(), latch.is_open()), (true, true));
}
