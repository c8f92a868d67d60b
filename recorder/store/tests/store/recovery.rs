//! What is found again when a volume's books are damaged or lost, and that a volume that is refused is left as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::common::*;
use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::boxes::segment::SegmentBox;
use framekeeper_store::env::{FaultDisk, MemDisk, RealDisk};
use framekeeper_store::*;
use uuid::Uuid;

const CATALOGUE: &str = "/v/catalogue.redb";
const MANIFEST: &str = "/v/manifest.log";

/// The full count in `make soak`.
fn count(small: usize, full: usize) -> usize {
    if std::env::var_os("FRAMEKEEPER_SOAK").is_some() { full } else { small }
}

/// SplitMix64, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// A few frames fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) }
}

/// All that a reader finds of a stream.
fn all_of(reader: &Reader, stream: Uuid) -> (Vec<RunInfo>, Vec<SegmentInfo>) {
    let mut runs = reader.coverage(stream, ALWAYS.0, ALWAYS.1).unwrap();
    runs.iter_mut().for_each(|run| run.active = false);
    (runs, reader.segments(stream, ALWAYS.0, ALWAYS.1).unwrap())
}

/// A volume with some sealed segments and one that is not, as a kill leaves it; the camera, and what is to be found.
struct Killed {
    site: Site,
    disk: MemDisk,
    camera: Camera,
    runs: Vec<RunInfo>,
    segments: Vec<SegmentInfo>,
}

fn killed(rounds: usize) -> Killed {
    let (disk, site) = Site::mem(12);
    let mut camera = big("door");
    let store = site.open();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    for _ in 0..rounds {
        writer.begin_run(camera.run());
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        record(&site, &store, &mut writer, &mut camera, 3);
    }
    writer.finish();
    // In order, so that the catalogue on the disk knows what it can know; then some more, and the kill.
    store.close();
    drop(store);
    let site = site.on(&disk);
    let store = site.open();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
    record(&site, &store, &mut writer, &mut camera, 4);
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let sealed = |segments: &[SegmentInfo]| segments.iter().filter(|s| s.sealed).count() as u64;
    eventually("all seals are known", || {
        let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        segments.len() as u64 - sealed(&segments) == 1
    });
    let (runs, segments) = all_of(&reader, camera.ident.uid);
    assert!(segments.len() >= 4, "{} segments", segments.len());
    Killed { disk: disk.snapshot(), site, camera, runs, segments }
}

impl Killed {
    /// Opens the volume after `damage`: all is found, can be read, and recording goes on.
    fn check(&self, what: &str, damage: impl FnOnce(&MemDisk)) {
        let disk = self.disk.snapshot();
        damage(&disk);
        let site = self.site.on(&disk);
        let store = site.open();
        let reader = store.reader();
        let mut camera = self.camera.clone();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        record(&site, &store, &mut writer, &mut camera, 1);
        eventually(&format!("{what}: the catalogue is complete"), || reader.is_complete());
        let (runs, segments) = all_of(&reader, camera.ident.uid);
        let told = |segments: &[SegmentInfo]| segments.iter().map(|s| (s.nonce, s.first)).collect::<Vec<_>>();
        assert_eq!(told(&segments), told(&self.segments), "{what}");
        let (last, sealed) = self.segments.split_last().unwrap();
        assert_eq!(&segments[..sealed.len()], sealed, "{what}");
        assert!(segments.last().unwrap().end > last.end, "{what}: the unsealed segment is filled on");
        assert_eq!(runs[..self.runs.len()], self.runs[..], "{what}");
        // First and last picture of each segment.
        for segment in &segments {
            let index = reader.index(segment).unwrap();
            for entry in [index.entries.first().unwrap(), index.entries.last().unwrap()] {
                let mut data = vec![0; entry.data_length as usize];
                reader.read_at(segment, entry.data_offset.into(), &mut data).unwrap();
                let number: u64 = std::str::from_utf8(&data[10..18]).unwrap().parse().unwrap();
                assert_eq!(data, camera.video_data(number), "{what}");
            }
        }
        assert!(store.volumes()[0].failed.is_none(), "{what}: {:?}", store.volumes()[0].failed);
        store.close();
    }
}

fn flip(disk: &MemDisk, path: &str, dice: &mut Dice) {
    let mut bytes = disk.bytes(Path::new(path)).unwrap();
    let bit = dice.below(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    disk.put(Path::new(path), bytes);
}

#[test]
fn a_bit_flipped_anywhere_in_the_catalogue_hides_nothing() {
    let killed = killed(3);
    for seed in 0..count(40, 1_000) as u64 {
        killed.check(&format!("catalogue, seed {seed}"), |disk| flip(disk, CATALOGUE, &mut Dice(seed)));
    }
}

#[test]
fn a_bit_flipped_anywhere_in_the_manifest_hides_nothing() {
    let killed = killed(3);
    for seed in 0..count(40, 1_000) as u64 {
        killed.check(&format!("manifest, seed {seed}"), |disk| {
            flip(disk, MANIFEST, &mut Dice(seed));
            // With the catalogue it is not even read.
            if seed % 4 > 0 {
                disk.put(Path::new(CATALOGUE), Vec::new());
            }
        });
    }
}

#[test]
fn catalogue_and_manifest_may_be_cut_anywhere() {
    let killed = killed(3);
    for seed in 0..count(20, 500) as u64 {
        let mut dice = Dice(seed);
        killed.check(&format!("cut, seed {seed}"), |disk| {
            for (path, damaged) in [(CATALOGUE, seed % 3 != 1), (MANIFEST, seed % 3 != 0)] {
                let bytes = disk.bytes(Path::new(path)).unwrap();
                let cut = dice.below(bytes.len() + 1);
                if damaged {
                    disk.put(Path::new(path), bytes[..cut].to_vec());
                }
            }
        });
    }
}

#[test]
fn catalogue_and_manifest_of_another_version_are_made_again() {
    let killed = killed(3);
    let manifest = killed.disk.bytes(Path::new(MANIFEST)).unwrap();
    let mut newer = manifest.clone();
    newer[7] = b'2';
    // Each record of a version that is not known, with the checksum that it would have.
    let mut records = manifest[..16].to_vec();
    let mut at = 16;
    while at < manifest.len() {
        let length = u32::from_be_bytes(manifest[at..at + 4].try_into().unwrap()) as usize;
        let mut payload = manifest[at + 8..at + 8 + length].to_vec();
        payload[1] = 9;
        records.extend_from_slice(&(length as u32).to_be_bytes());
        records.extend_from_slice(&crc32c(&payload).to_be_bytes());
        records.extend_from_slice(&payload);
        records.resize(records.len().next_multiple_of(8), 0);
        at += 8 + length.next_multiple_of(8);
    }
    assert_eq!(records.len(), manifest.len());
    // The first bytes of a file of redb's are its magic number, then comes the version of its format in the headers.
    for what in
        ["catalogue of no format", "manifest of a newer format", "records of a newer version", "neither is there"]
    {
        killed.check(what, |disk| match what {
            "catalogue of no format" => {
                let mut bytes = disk.bytes(Path::new(CATALOGUE)).unwrap();
                bytes[..512].iter_mut().for_each(|byte| *byte ^= 0x55);
                disk.put(Path::new(CATALOGUE), bytes);
            }
            "manifest of a newer format" => disk.put(Path::new(MANIFEST), newer.clone()),
            "records of a newer version" => {
                disk.put(Path::new(MANIFEST), records.clone());
                disk.put(Path::new(CATALOGUE), Vec::new());
            }
            _ => {
                disk.remove(Path::new(CATALOGUE));
                disk.remove(Path::new(MANIFEST));
            }
        });
    }
}

/// CRC32C, bit by bit: the judge does not use the code that it judges.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn what_was_retired_does_not_come_back_when_the_record_of_that_is_lost() {
    let (disk, site) = Site::mem(6);
    let store = site.open();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    let retired = || store.volumes()[0].retired;
    while retired() < 3 {
        record(&site, &store, &mut writer, &mut camera, 3);
    }
    writer.finish();
    store.close();
    let before = all_of(&store.reader(), camera.ident.uid);
    drop(store);
    // The manifest of a moment when nothing had been retired: only what is sealed is in it.
    let manifest = disk.bytes(Path::new(MANIFEST)).unwrap();
    let mut sealed_only = manifest[..16].to_vec();
    let mut at = 16;
    while at < manifest.len() {
        let length = u32::from_be_bytes(manifest[at..at + 4].try_into().unwrap()) as usize;
        let end = at + 8 + length.next_multiple_of(8);
        if manifest[at + 8] == 1 {
            sealed_only.extend_from_slice(&manifest[at..end]);
        }
        at = end;
    }
    assert!(sealed_only.len() < manifest.len());
    for again in 0..2 {
        if again == 0 {
            disk.put(Path::new(MANIFEST), sealed_only.clone());
        }
        disk.put(Path::new(CATALOGUE), Vec::new());
        let store = site.on(&disk).open();
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        assert_eq!(all_of(&reader, camera.ident.uid), before, "opened {again} times before");
        store.close();
    }
}

#[test]
fn a_hold_outlives_the_manifest() {
    let killed = killed(3);
    let disk = killed.disk.snapshot();
    let site = killed.site.on(&disk);
    let uid = killed.camera.ident.uid;
    let (kept, released) = (Uuid::new_v4(), Uuid::new_v4());
    let store = site.open();
    store.hold(kept, uid, ALWAYS.0, ALWAYS.1).unwrap();
    store.hold(released, uid, ALWAYS.0, ALWAYS.1).unwrap();
    store.release(released).unwrap();
    eventually("the catalogue is complete", || store.reader().is_complete());
    store.close();
    drop(store);
    // First the manifest goes, then what was learned of it must be in the new one.
    for lost in [MANIFEST, CATALOGUE] {
        disk.remove(Path::new(lost));
        let store = site.on(&disk).open();
        eventually("the catalogue is complete", || store.reader().is_complete());
        let mut other = big("other");
        other.start_wall += 3_600_000_000;
        let mut writer = store.stream(other.ident.clone()).unwrap();
        writer.begin_run(other.run());
        for _ in 0..40 {
            writer.append(other.fragment());
            store.flush_tick();
            eventually("it is written", || store.stream_stats(other.ident.uid).unwrap().queue_bytes == 0);
        }
        let there = store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert_eq!(there.len(), killed.segments.len(), "without {lost}: what is held was given up");
        drop(writer);
        store.close();
    }
}

/// A recorder whose clock is set back and that is opened again finds its newest segments among the oldest: none of their numbers is given
/// twice, and they tell in which order the segments were written.
#[test]
fn segments_keep_their_order_when_the_clock_is_set_back() {
    const DAY_US: i64 = 86_400_000_000;
    let (disk, site) = Site::mem(40);
    let mut camera = big("door");
    for set_back_us in [0, DAY_US, 60_000_000, 0] {
        camera.start_wall -= set_back_us;
        let store = site.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 12);
        drop(writer);
        store.close();
    }
    let segments = segment_files(&disk);
    let written = |(_, bytes): &(PathBuf, Vec<u8>)| {
        let head = framekeeper_media::boxes::walk::boxes(bytes)
            .map(|header| header.unwrap().0)
            .find(|header| header.kind == *b"uuid")
            .unwrap();
        let number = SegmentBox::decode(&bytes[head.offset as usize..]).unwrap().segment_number;
        (number, look(bytes).unwrap().frames[0])
    };
    let mut written: Vec<_> = segments.iter().map(written).collect();
    written.sort_by_key(|(number, _)| *number);
    assert!(written.len() >= 8, "two segments from each opening are needed: {written:?}");
    let first: Vec<_> = (0..1_000).map(|number| camera.identity(number)).collect();
    let order: Vec<_> = written.iter().map(|(_, frame)| first.iter().position(|f| f == frame).unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(written.windows(2).all(|pair| pair[0].0 < pair[1].0), "a number was given twice: {written:?}");
}

/// Formatting is cut short at any operation: the next opening goes on with it.
#[test]
fn formatting_cut_short_leaves_a_volume_that_opens() {
    let disk = mem_disk();
    disk.make_folder(Path::new("/v"));
    disk.make_folder(Path::new("/v/lost+found"));
    let faults = FaultDisk::new(Arc::new(disk.clone()));
    let cuts: Arc<Mutex<Vec<MemDisk>>> = Arc::default();
    let (taken, watched) = (cuts.clone(), disk.clone());
    faults.observe(move |_, _| {
        let mut taken = taken.lock().unwrap();
        // Later ones are cuts in the middle of recording.
        if taken.len() < 60 {
            taken.push(watched.snapshot());
        }
    });
    let site = Site::new(Arc::new(faults), &[Path::new("/v")], 6);
    site.open().close();
    let cuts = std::mem::take(&mut *cuts.lock().unwrap());
    assert!(cuts.len() >= 20, "{} cuts", cuts.len());
    for (at, cut) in cuts.iter().enumerate() {
        let site = site.on(cut);
        let store = Store::open(site.config(), site.env.clone()).unwrap_or_else(|e| panic!("cut {at}: {e}"));
        let mut camera = Camera::new("door");
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 2);
        eventually("all files are made", || store.volumes()[0].files_made == 6);
        writer.finish();
        store.close();
        let files = cut.files().iter().filter(|p| p.extension().is_some_and(|e| e == "mp4")).count();
        assert_eq!(files, 6, "cut {at}");
    }
}

#[test]
fn a_folder_without_room_is_refused_and_left_empty_until_there_is_some() {
    let disk = MemDisk::with_capacity(5 << 20);
    disk.make_folder(Path::new("/v"));
    let site = Site::new(Arc::new(disk.clone()), &[Path::new("/v")], 8);
    let error = Store::open(site.config(), site.env.clone()).err().unwrap();
    assert!(matches!(error, OpenError::NoSpace { .. }), "{error}");
    assert_eq!(disk.files(), Vec::<PathBuf>::new());
    let smaller = Site { budget_files: 4, ..site };
    smaller.open().close();
}

/// Every name below a folder with what is in it and when it was changed.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let (path, meta) = {
                let e = entry.unwrap();
                (e.path(), e.metadata().unwrap())
            };
            let bytes = if meta.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (bytes, meta.modified().unwrap()));
        }
    }
    found
}

#[test]
fn a_volume_that_is_not_the_right_one_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(Arc::new(RealDisk), &[dir.path()], 6);
    let mut camera = big("door");
    let store = site.open();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 6);
    writer.finish();
    let volume = store.volumes()[0].volume;
    store.close();
    drop(store);
    let refused = |what: &str, words: &[&str], change: &dyn Fn(&mut StoreConfig)| {
        let before = everything(dir.path());
        let mut config = site.config();
        change(&mut config);
        let error = match Store::open(config, site.env.clone()) {
            Ok(_) => panic!("{what}: it was opened"),
            Err(error) => error.to_string(),
        };
        assert!(words.iter().all(|word| error.contains(word)), "{what}: {error}");
        assert!(everything(dir.path()) == before, "{what}: something was written");
    };
    refused("wrong pool", &["pool", "default/main", "default/other"], &|c| c.pool = "default/other".to_owned());
    let other = Uuid::from_u128(7);
    refused("wrong volume", &["volume", &volume.to_string(), &other.to_string()], &|c| c.volumes[0].uuid = Some(other));
    refused("other segments", &["segmentBytes"], &|c| {
        (c.volumes[0].segment_bytes, c.volumes[0].budget_bytes) = (2 << 20, 16 << 20);
    });
    let newest = site.open();
    let opens = newest.volumes()[0].opens;
    // It is idle behind that.
    eventually("all is made and known", || newest.reader().is_complete() && newest.volumes()[0].files_made == 6);
    // What opening left to do writes too: the catalogue when it is complete, files until all are made.
    eventually("opening is over and nothing waits for a sync", || {
        let volume = &newest.volumes()[0];
        volume.catalogue_progress.stage == CatalogueStage::Complete
            && volume.files_made == volume.files_total
            && volume.unsynced_us == 0
    });
    refused("two recorders", &["in use"], &|_| {});
    newest.close();
    drop(newest);
    // Somebody remembers a later opening than this volume does.
    refused("a restored backup", &["older copy", &opens.to_string(), &(opens + 1).to_string()], &|c| {
        c.known_opens = KnownOpens::of([(volume, opens + 1)]);
    });
    let identity = dir.path().join("framekeeper.json");
    let saved = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    refused("no identity", &["framekeeper.json"], &|_| {});
    std::fs::write(&identity, b"{\"format\":1").unwrap();
    refused("half an identity", &["damaged"], &|_| {});
    std::fs::write(&identity, saved).unwrap();
    // With what is remembered truly it is opened, and counts on.
    let known = KnownOpens::of([(volume, opens)]);
    let store = Store::open(StoreConfig { known_opens: known.clone(), ..site.config() }, site.env.clone()).unwrap();
    assert_eq!(known.all(), [(volume, opens + 1)]);
    assert!(
        !store.reader().segments(camera.ident.uid, ALWAYS.0, WallTime(i64::MAX)).unwrap().is_empty()
            || !store.reader().is_complete()
    );
}

/// Bytes that a segment file still has room for behind its last fragment.
fn unused(bytes: &[u8]) -> u64 {
    let last = framekeeper_media::boxes::walk::boxes(bytes).map(|b| b.unwrap().0).last().unwrap();
    if last.kind == *b"free" { last.length } else { 0 }
}

/// Every file but a stream's newest is full: what is left in it would not have held another GOP and the index.
fn only_the_newest_has_room(disk: &MemDisk, gop_bytes: u64, what: &str) {
    let mut files = segment_files(disk);
    files.sort();
    let newest = files.pop();
    assert!(newest.is_some(), "{what}: no segment");
    for (path, bytes) in files {
        let unused = unused(&bytes);
        assert!(unused <= gop_bytes, "{what}: {} has {unused} bytes left", path.display());
    }
}

#[test]
fn however_often_it_is_killed_only_the_newest_file_of_a_stream_has_room() {
    let kills = count(12, 200);
    let mut dice = Dice(42);
    let (mut disk, site) = Site::mem(2 * kills as u64 + 20);
    let mut camera = Camera { key_bytes: 30_000, frame_bytes: 3_000, ..Camera::new("door") };
    let mut durable = Vec::new();
    for kill in 0..kills {
        let faults = FaultDisk::new(Arc::new(disk.clone()));
        let (moment, at) = (dice.below(120), Mutex::new(0));
        let image: Arc<Mutex<Option<MemDisk>>> = Arc::default();
        let (taken, watched) = (image.clone(), disk.clone());
        // The kill comes in the middle of whatever is going on then.
        faults.observe(move |_, _| {
            let mut at = at.lock().unwrap();
            *at += 1;
            if *at == moment + 20 {
                *taken.lock().unwrap() = Some(watched.snapshot());
            }
        });
        let here =
            Site { env: framekeeper_store::env::Env { disk: Arc::new(faults), ..site.env.clone() }, ..site.on(&disk) };
        let store = here.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        let mut given = Vec::new();
        while image.lock().unwrap().is_none() {
            let first = camera.next_frame;
            record(&here, &store, &mut writer, &mut camera, 1);
            if image.lock().unwrap().is_none() {
                given.extend(first..camera.next_frame);
            }
        }
        // What was durable before the kill must be there for ever.
        durable.extend(given);
        drop(writer);
        disk = image.lock().unwrap().take().unwrap();
        if !segment_files(&disk).is_empty() {
            only_the_newest_has_room(&disk, 110_000, &format!("kill {kill}"));
        }
    }
    let store = site.on(&disk).open();
    eventually("the catalogue is complete", || store.reader().is_complete());
    let there: std::collections::BTreeSet<u64> = frames_of(&store.reader(), &camera).into_iter().collect();
    let lost: Vec<_> = durable.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "{lost:?} were durable");
}

#[test]
fn a_hundred_short_runs_fill_one_file_after_the_other() {
    let (disk, site) = Site::mem(30);
    let mut camera = Camera { key_bytes: 30_000, frame_bytes: 3_000, ..Camera::new("door") };
    for run in 0..100 {
        let store = site.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        let gap = if run == 0 { None } else { Some(GapReason::Takeover) };
        writer.begin_run(RunStart { epoch: run, gap, ..camera.run() });
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        record(&site, &store, &mut writer, &mut camera, 2);
        writer.finish();
        store.close();
        only_the_newest_has_room(&disk, 110_000, &format!("run {run}"));
    }
    let store = site.open();
    let runs = store.reader().coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1);
    eventually("the catalogue is complete", || store.reader().is_complete());
    drop(runs);
    assert_eq!(store.reader().coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().len(), 100);
}
