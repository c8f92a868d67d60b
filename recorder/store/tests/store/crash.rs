//! A recorder is killed at any moment: files stay valid, nothing that was written is lost, and recording goes on in the same files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::common::*;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_store::env::{Disk, Fault, FaultDisk, Folder, MemDisk, Operation, Trouble};
use framekeeper_store::*;

/// Records some GOPs on a disk that writes in little pieces, and gives a copy of each changed segment file after every piece.
fn record_in_pieces(at_each_write: impl Fn(&MemDisk, &Path) + Send + Sync + 'static) -> u64 {
    let disk = mem_disk();
    disk.make_folder(Path::new("/v"));
    let faults = FaultDisk::new(Arc::new(disk.clone()));
    // Each write is cut into pieces: a first one of some bytes, and so on for what is left.
    for piece in [8, 4096, 1, 700, 12_000] {
        faults.inject(Fault { times: 3, ..Fault::next(Operation::Write, Trouble::Short(piece)) }.below("pool"));
    }
    faults.inject(Fault::always(Operation::Write, Trouble::Short(3_000)).below("pool"));
    let watched = disk.clone();
    faults.observe(move |operation, path| {
        if operation == Operation::Write && path.starts_with("pool") {
            at_each_write(&watched, path);
        }
    });
    let site = Site::new(Arc::new(faults), &[Path::new("/v")], 20);
    let store = site.open();
    let mut camera = Camera::new("door").with_audio();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 60);
    writer.finish();
    store.close();
    camera.next_frame
}

#[test]
fn a_copy_taken_at_any_moment_is_a_valid_file() {
    let seen = Arc::new(Mutex::new((0, 0)));
    // A writer that comes late writes more at once, and gives fewer moments: then another recording adds its own.
    for _ in 0..10 {
        let counts = seen.clone();
        record_in_pieces(move |disk, _| {
            for (path, bytes) in segment_files(disk) {
                let found = look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert!(!found.frames.is_empty());
                let mut counts = counts.lock().unwrap();
                counts.0 += 1;
                counts.1 += usize::from(found.sealed);
            }
        });
        if seen.lock().unwrap().0 > 200 {
            break;
        }
    }
    let (copies, sealed) = *seen.lock().unwrap();
    assert!(copies > 200 && sealed > 20, "{copies} copies, {sealed} of them sealed");
}

/// What a killed recorder left is opened: all frames of the copy come back, and it is filled on.
#[test]
fn a_recorder_killed_at_any_moment_goes_on_where_it_was() {
    let snapshots: Arc<Mutex<Vec<MemDisk>>> = Arc::default();
    let taken = snapshots.clone();
    let writes = Mutex::new(0_u32);
    record_in_pieces(move |disk, _| {
        let mut writes = writes.lock().unwrap();
        *writes += 1;
        // Some writes lie between two of these, so that all kinds of moments come up.
        if writes.is_multiple_of(15) {
            taken.lock().unwrap().push(disk.snapshot());
        }
    });
    let snapshots = std::mem::take(&mut *snapshots.lock().unwrap());
    assert!(snapshots.len() >= 20, "{} snapshots", snapshots.len());
    for disk in snapshots {
        let before: usize = segment_files(&disk).iter().map(|(_, bytes)| look(bytes).unwrap().frames.len()).sum();
        let site = Site::new(Arc::new(disk.clone()), &[Path::new("/v")], 20);
        let store = site.open();
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        let Some(info) = reader.streams().unwrap().pop() else {
            assert_eq!(before, 0);
            continue;
        };
        let mut camera = Camera::new("door").with_audio();
        camera.ident = info.ident;
        assert_eq!(frames_of(&reader, &camera), (0..before as u64).collect::<Vec<_>>());
        camera.next_frame = (before as u64).next_multiple_of(camera.gop);
        camera.next_audio = camera.next_frame * 640 / 1024 + 1;
        let first = camera.next_frame;
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 3);
        writer.finish();
        let expected: Vec<_> = (0..before as u64).chain(first..camera.next_frame).collect();
        assert_eq!(frames_of(&reader, &camera), expected);
        let runs = reader.coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[1].gap, GapReason::RecorderCrashed);
        assert_eq!((runs[1].previous_run, runs[1].previous_end), (runs[0].run, Some(runs[0].to)));
        store.close();
        for (path, bytes) in segment_files(&disk) {
            look(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

/// A disk that turns each unit round: the last 8 bytes go first. The mistake that the order of writing is there to prevent.
mod wrong_order {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use framekeeper_store::env::*;

    /// Keeps the bodies back until the headers were written.
    pub(crate) struct Swapped {
        pub(crate) inner: Arc<dyn Folder>,
    }

    pub(crate) struct SwappedBatch {
        inner: Box<dyn Batch>,
        held: Vec<(Target, u64, Vec<u8>)>,
    }

    impl Batch for SwappedBatch {
        fn path(&self) -> WritePath {
            self.inner.path()
        }
        fn block_bytes(&self) -> usize {
            self.inner.block_bytes()
        }
        fn open(&mut self, path: &Path) -> io::Result<Target> {
            self.inner.open(path)
        }
        fn close(&mut self, target: Target) {
            self.inner.close(target);
        }
        fn send(&mut self, write: &Write<'_>) -> io::Result<()> {
            if write.len() > self.block_bytes().max(8) {
                self.held.push((write.target, write.offset, write.parts.concat()));
                return Ok(());
            }
            self.inner.send(write)?;
            for (target, offset, bytes) in std::mem::take(&mut self.held) {
                self.inner.send(&Write { target, offset, parts: vec![&bytes] })?;
            }
            Ok(())
        }
        fn finish(&mut self) -> io::Result<()> {
            self.inner.finish()
        }
    }

    impl Folder for Swapped {
        fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
            self.inner.open(path, write)
        }
        fn create_preallocated(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
            self.inner.create_preallocated(path, bytes)
        }
        fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
            self.inner.open_or_create(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.inner.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.inner.remove(path)
        }
        fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
            self.inner.list(path)
        }
        fn make_folders(&self, path: &Path) -> io::Result<()> {
            self.inner.make_folders(path)
        }
        fn remove_folder(&self, path: &Path) -> io::Result<()> {
            self.inner.remove_folder(path)
        }
        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.inner.sync_folder(path)
        }
        fn sync_all(&self) -> io::Result<bool> {
            self.inner.sync_all()
        }
        fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
            self.inner.lock(path)
        }
        fn space(&self) -> io::Result<Space> {
            self.inner.space()
        }
        fn batch(&self, wanted: WritesWanted) -> io::Result<Box<dyn Batch>> {
            Ok(Box::new(SwappedBatch { inner: self.inner.batch(wanted)?, held: Vec::new() }))
        }
    }
}

struct WrongOrder(FaultDisk);

impl Disk for WrongOrder {
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn Folder>> {
        let inner = Disk::open(&self.0, path)?;
        Ok(Arc::new(wrong_order::Swapped { inner }))
    }
}

/// The test above can fail: with the order turned round, broken copies are seen.
#[test]
fn the_wrong_order_of_writing_is_noticed() {
    let disk = mem_disk();
    disk.make_folder(Path::new("/v"));
    let broken: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
    // The decorator below the swap sees the writes as they reach the disk.
    let faults = FaultDisk::new(Arc::new(disk.clone()));
    let (watched, found) = (disk.clone(), broken.clone());
    faults.observe(move |operation, _| {
        if operation == Operation::Write {
            let bad = segment_files(&watched).into_iter().filter(|(_, bytes)| look(bytes).is_err());
            found.lock().unwrap().extend(bad.map(|(path, _)| path));
        }
    });
    let site = Site::new(Arc::new(WrongOrder(faults)), &[Path::new("/v")], 20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    // One by one: a file is seen from its first unit on, and all in one unit would be in order however it is written.
    for _ in 0..10 {
        record(&site, &store, &mut writer, &mut camera, 1);
    }
    writer.finish();
    assert!(!broken.lock().unwrap().is_empty(), "the wrong order was not noticed");
}

#[test]
fn torn_bytes_end_an_unsealed_segment_and_nothing_else() {
    let (disk, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 6);
    let killed = disk.snapshot();
    let (path, bytes) = segment_files(&killed).pop().unwrap();
    let reader = store.reader();
    let segment = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().pop().unwrap();
    let index = reader.index(&segment).unwrap();
    // One bit in the last fragment but one: it and what is behind it are gone, what is before it is there.
    let firsts: Vec<_> = index.entries.iter().enumerate().filter(|(_, e)| e.first_of_fragment).collect();
    let (before, torn) = firsts[firsts.len() - 2];
    let mut bytes = bytes;
    bytes[torn.data_offset as usize + 100] ^= 1;
    killed.put(&path, bytes);
    let site = site.on(&killed);
    let store = site.open();
    let reader = store.reader();
    assert_eq!(frames_of(&reader, &camera), (0..before as u64).collect::<Vec<_>>());
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    camera.next_frame = camera.gop * 3;
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 2);
    writer.finish();
    assert_eq!(frames_of(&reader, &camera).len(), before + 24);
    look(&segment_files(&killed).pop().unwrap().1).unwrap();
}

/// The catalogue is a cache: without it, or with garbage in its place, the same is found.
#[test]
fn the_catalogue_is_rebuilt_when_missing_or_damaged() {
    let (disk, site) = Site::mem(60);
    let store = site.open();
    let mut camera = Camera::new("door").with_audio();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    // What is sealed before the manifest is open is not in the catalogue when the store closes, and called unsealed.
    eventually("the catalogue is complete", || store.reader().is_complete());
    record(&site, &store, &mut writer, &mut camera, 160);
    writer.finish();
    store.close();
    let uid = camera.ident.uid;
    let reader = store.reader();
    let (runs, segments) =
        (reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap(), reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap());
    assert!(segments.len() > 3);
    drop((reader, store));
    let manifest = disk.bytes(Path::new("/v/manifest.log")).unwrap();
    type Damage<'a> = (&'a str, Box<dyn Fn(&MemDisk)>);
    let catalogue = Path::new("/v/catalogue.redb");
    let damages: Vec<Damage<'_>> = vec![
        ("no catalogue", Box::new(|disk| disk.put(Path::new("/v/catalogue.redb"), Vec::new()))),
        ("garbage", Box::new(|disk| disk.put(Path::new("/v/catalogue.redb"), vec![7; 100_000]))),
        ("no manifest", Box::new(|disk| disk.put(Path::new("/v/manifest.log"), Vec::new()))),
        ("half a manifest", {
            let half = manifest[..manifest.len() / 2].to_vec();
            Box::new(move |disk| {
                disk.put(Path::new("/v/catalogue.redb"), Vec::new());
                disk.put(Path::new("/v/manifest.log"), half.clone());
            })
        }),
    ];
    assert!(disk.bytes(catalogue).is_some());
    for (what, damage) in damages {
        let disk = disk.snapshot();
        damage(&disk);
        let store = site.on(&disk).open();
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        eventually(what, || reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap() == segments);
        let mut found = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
        found.iter_mut().for_each(|run| run.active = runs[0].active);
        assert_eq!(found, runs, "{what}");
        assert_eq!(frames_of(&reader, &camera), (0..camera.next_frame).collect::<Vec<_>>(), "{what}");
    }
}

/// A stream that had no time to be walked gets a fresh file at once, and what it had is sealed later.
#[test]
fn where_the_walk_is_too_slow_recording_goes_into_a_fresh_file() {
    let (disk, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 6);
    let before = camera.next_frame;
    let killed = disk.snapshot();
    let site = site.on(&killed);
    let config = StoreConfig { recovery_budget: std::time::Duration::ZERO, ..site.config() };
    let store = Store::open(config, site.env.clone()).unwrap();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    camera.next_frame = before.next_multiple_of(camera.gop);
    let first = camera.next_frame;
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 2);
    let reader = store.reader();
    eventually("both segments are found", || reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().len() == 2);
    eventually("the old one is sealed", || reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap()[0].sealed);
    let expected: Vec<_> = (0..before).chain(first..camera.next_frame).collect();
    assert_eq!(frames_of(&reader, &camera), expected);
    let runs = reader.coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(runs[1].gap, GapReason::RecorderCrashed);
}
