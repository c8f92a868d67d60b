//! Bits that flip: whatever is served is what was recorded, and what is not served is known to be damaged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::*;
use framekeeper_media::WallTime;
use framekeeper_store::damage::{Hole, whole};
use framekeeper_store::env::MemDisk;
use framekeeper_store::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Frames of a GOP, and those that lead the next one: what one flip may cost.
const LOST_AT_MOST: usize = 2 * 25;

/// Flips to try: some in `cargo test`, all that were promised in a soak.
fn flips() -> usize {
    if std::env::var_os("FRAMEKEEPER_SOAK").is_some() { 1_000 } else { 15 }
}

/// A volume with sealed segments of several runs and one that is not sealed, as a killed recorder leaves it.
struct Recorded {
    site: Site,
    disk: MemDisk,
    camera: Camera,
    frames: u64,
}

impl Recorded {
    fn new() -> Self {
        Self::of(Camera::new("door").with_audio())
    }

    fn of(mut camera: Camera) -> Self {
        let (disk, site) = Site::mem(10);
        let store = site.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        for _ in 0..3 {
            writer.begin_run(camera.run());
            record(&site, &store, &mut writer, &mut camera, 38);
            // A run begins at a key frame.
            camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        }
        let sealed = || store.reader().segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        eventually("some are sealed", || sealed().iter().filter(|s| s.sealed).count() >= 2);
        let frames = camera.next_frame;
        let disk = disk.snapshot();
        drop(writer);
        store.close();
        Self { site, disk, camera, frames }
    }

    /// The same again, on a disk of its own.
    fn copy(&self) -> (MemDisk, Site) {
        let disk = self.disk.snapshot();
        let site = self.site.on(&disk);
        (disk, site)
    }

    fn files(&self) -> Vec<PathBuf> {
        segment_files(&self.disk).into_iter().map(|(path, _)| path).collect()
    }
}

fn flip(disk: &MemDisk, path: &Path, byte: usize, bit: u8) {
    disk.change(path, |bytes| bytes[byte] ^= 1 << bit);
}

/// What a reader gets of a stream.
#[derive(Debug, Default)]
struct Served {
    frames: BTreeSet<u64>,
    errors: Vec<String>,
}

/// Everything that is not known to be damaged, read. Every byte that comes must be right.
fn read_all(reader: &Reader, camera: &Camera) -> Served {
    let mut served = Served::default();
    for segment in reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap() {
        let index = match reader.index(&segment) {
            Ok(index) => index,
            Err(error) => {
                served.errors.push(error.to_string());
                continue;
            }
        };
        reader.run_boxes(&segment).unwrap();
        reader.init(&segment).unwrap();
        let damage = reader.damage(camera.ident.uid).holes;
        let mut ranges: Vec<_> =
            damage.iter().filter(|d| d.nonce == segment.nonce).map(|d| d.hole.bytes.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        for (number, run) in index.runs.iter().enumerate() {
            let entries = &index.entries[run.first_entry as usize..(run.first_entry + run.entries) as usize];
            let until = index.runs.get(number + 1).map_or(u64::MAX, |next| next.offset);
            for at in whole(entries, run, until, &ranges).stretches.concat() {
                let entry = &entries[at];
                let mut data = vec![0; entry.data_length as usize];
                if let Err(error) = reader.read_at(&segment, entry.data_offset.into(), &mut data) {
                    assert!(data.iter().all(|byte| *byte == 0), "bytes come with an error");
                    served.errors.push(error.to_string());
                    continue;
                }
                match entry.kind {
                    EntryKind::Video { .. } => {
                        let number: u64 = std::str::from_utf8(&data[10..18]).unwrap().parse().unwrap();
                        assert!(data == camera.video_data(number), "frame {number} is another");
                        assert_eq!(entry.wall, camera.wall_of(number), "wall time of frame {number}");
                        assert!(served.frames.insert(number), "frame {number} is served twice");
                    }
                    EntryKind::Audio { .. } => {
                        let mut at = 0;
                        for size in index.sizes_of(entry) {
                            let one = &data[at..at + usize::from(*size)];
                            let number: u64 = std::str::from_utf8(&one[5..13]).unwrap().parse().unwrap();
                            assert!(one == camera.audio_data(number), "sound {number} is another");
                            at += usize::from(*size);
                        }
                    }
                }
            }
        }
    }
    served
}

fn holes(reader: &Reader, camera: &Camera) -> Vec<Hole> {
    reader.damage(camera.ident.uid).holes.iter().map(|damage| damage.hole.clone()).collect()
}

/// Reads everything twice: what turns out to be damaged is left out the second time, all else comes. Gives how many frames are lost.
fn check(reader: &Reader, recorded: &Recorded, expected: &BTreeSet<u64>, what: &str) -> usize {
    let camera = &recorded.camera;
    let first = read_all(reader, camera);
    let known = holes(reader, camera);
    assert!(first.errors.is_empty() || !known.is_empty(), "{what}: damage is not remembered: {:?}", first.errors);
    let second = read_all(reader, camera);
    assert!(second.errors.is_empty(), "{what}: still not left out: {:?}", second.errors);
    let lost: Vec<u64> = expected.difference(&second.frames).copied().collect();
    for number in &lost {
        let wall = camera.wall_of(*number);
        assert!(
            known.iter().any(|hole| hole.from <= wall && wall < hole.to),
            "{what}: frame {number} is not served, and nothing says why: {known:?}"
        );
    }
    assert!(second.frames.is_subset(expected), "{what}: frames that were never recorded");
    lost.len()
}

fn all(recorded: &Recorded) -> BTreeSet<u64> {
    let (_, site) = recorded.copy();
    let store = site.open();
    eventually("the catalogue is complete", || store.reader().is_complete());
    let served = read_all(&store.reader(), &recorded.camera);
    assert!(served.errors.is_empty(), "{:?}", served.errors);
    store.close();
    assert!(served.frames.len() as u64 > recorded.frames - 75);
    served.frames
}

#[test]
fn every_flip_under_a_running_store_is_found_or_means_nothing() {
    let recorded = Recorded::new();
    let expected = all(&recorded);
    let files = recorded.files();
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut costly, mut most) = (0, 0);
    for _ in 0..flips() {
        let (disk, site) = recorded.copy();
        let store = site.open();
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        let path = &files[random.random_range(0..files.len())];
        let (byte, bit) = (random.random_range(0..SEGMENT_BYTES as usize), random.random_range(0..8));
        flip(&disk, path, byte, bit);
        let what = format!("seed {seed}, {} byte {byte} bit {bit}", path.display());
        let lost = check(&reader, &recorded, &expected, &what);
        assert!(lost <= LOST_AT_MOST, "{what}: {lost} frames are lost");
        costly += usize::from(lost > 0);
        most = most.max(lost);
        // Remembered over a restart, as far as it was in a sealed segment.
        let before = holes(&reader, &recorded.camera);
        let sealed = reader.segments(recorded.camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        let in_sealed = sealed.iter().any(|s| s.sealed && path.ends_with(&s.path)) && lost > 0;
        drop(reader);
        store.close();
        drop(store);
        if in_sealed {
            let again = site.open();
            eventually("the catalogue is complete", || again.reader().is_complete());
            assert_eq!(holes(&again.reader(), &recorded.camera), before, "{what}: forgotten");
            again.close();
        }
    }
    assert!(costly > 0, "no flip hit a frame: this test shows nothing");
    assert!(most <= LOST_AT_MOST);
}

#[test]
fn no_byte_of_a_sealed_segment_may_flip_unseen() {
    let recorded = Recorded::new();
    let expected = all(&recorded);
    // Of each kind of byte one: head, run box, moof, mdat's header, frame, index, mfra.
    let (path, bytes) = segment_files(&recorded.disk).remove(0);
    assert!(look(&bytes).unwrap().sealed);
    let find = |kind: &[u8], nth: usize| {
        let found = bytes.windows(4).enumerate().filter(|(at, word)| *word == kind && (at + 4) % 4 == 0);
        found.map(|(at, _)| at - 4).nth(nth).unwrap()
    };
    let index = bytes.windows(16).position(|w| w == uuid::uuid!("9988df71-ce20-4ffb-8e5d-9a80c1eb7fd2").as_bytes());
    let index = index.unwrap() - 8;
    let segment_box = find(b"uuid", 0);
    let places = [
        ("ftyp", 5, 0),
        ("moov", 300, 0),
        ("nonce of the segment box", segment_box + 33, 0),
        ("stream of the segment box", segment_box + 66, 0),
        ("nonce of the seal", segment_box + 460, 0),
        ("run box", segment_box + 512 + 100, 0),
        ("length of a moof", find(b"moof", 3) + 2, 1),
        ("nonce of a fragment", find(b"moof", 3) + 400, 1),
        ("kind of a mdat", find(b"mdat", 4) + 5, 1),
        ("a frame", find(b"mdat", 5) + 3_000, 1),
        ("index", index + 300, 0),
        ("length of the index", index + 1, 0),
        ("mfra", find(b"mfra", 0) + 20, 0),
    ];
    for running in [true, false] {
        for (what, byte, costs) in places {
            let (disk, site) = recorded.copy();
            if !running {
                flip(&disk, &path, byte, 3);
            }
            let store = site.open();
            let reader = store.reader();
            eventually("the catalogue is complete", || reader.is_complete());
            if running {
                flip(&disk, &path, byte, 3);
            }
            let what = format!("{what} (while running: {running})");
            let lost = check(&reader, &recorded, &expected, &what);
            assert_eq!(usize::from(lost > 0), costs, "{what}: {lost} frames are lost");
            assert!(lost <= LOST_AT_MOST, "{what}: {lost} frames are lost");
            store.close();
        }
    }
}

#[test]
fn what_is_not_this_uses_is_not_served() {
    let recorded = Recorded::new();
    let expected = all(&recorded);
    let files = segment_files(&recorded.disk);
    let (from, to) = (&files[0].1, &files[1]);
    // A write that went to the same place of another file: everything in it checks but for whose it is.
    let range = 200 << 10..232 << 10;
    let (disk, site) = recorded.copy();
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    disk.change(&to.0, |bytes| bytes[range.clone()].copy_from_slice(&from[range]));
    let lost = check(&reader, &recorded, &expected, "a misdirected write");
    assert!((1..=3 * 25).contains(&lost), "{lost} frames are lost");
    store.close();

    // The whole file is another segment: nothing of it is served as this one.
    let (disk, site) = recorded.copy();
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    disk.change(&to.0, |bytes| bytes.clone_from(from));
    let served = read_all(&reader, &recorded.camera);
    let again = read_all(&reader, &recorded.camera);
    assert!(again.errors.is_empty() && served.frames.is_superset(&again.frames), "{:?}", again.errors);
    assert!(again.frames.len() < expected.len());
    store.close();
}

#[test]
fn damage_that_is_found_is_summed_up_and_goes_with_its_segment() {
    let recorded = Recorded::new();
    let (disk, site) = recorded.copy();
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    assert_eq!(store.volumes()[0].damage, DamageSummary::default());
    let (path, bytes) = segment_files(&disk).remove(0);
    let mdat = bytes.windows(4).enumerate().filter(|(_, word)| *word == b"mdat").nth(5).unwrap().0;
    flip(&disk, &path, mdat + 2_000, 0);
    read_all(&reader, &recorded.camera);
    let damage = store.volumes()[0].damage.clone();
    assert_eq!((damage.holes, damage.places.len()), (1, 1));
    assert!(damage.bytes > 2_000 && damage.video_frames > 0);
    assert_eq!(damage.places[0].stream, "default/door");
    assert!(path.ends_with(&damage.places[0].path), "{damage:?}");

    let mut other = Camera::new("other");
    other.start_wall += 1_000_000_000;
    other.frame_bytes = 30_000;
    let mut writer = store.stream(other.ident.clone()).unwrap();
    writer.begin_run(other.run());
    for _ in 0..200 {
        record(&site, &store, &mut writer, &mut other, 2);
        if store.volumes()[0].damage.holes == 0 {
            return;
        }
    }
    panic!("the damage outlives its segment: {:?}", store.volumes()[0].damage);
}

#[test]
fn all_footage_is_read_again_and_what_rotted_is_found_before_anybody_asks() {
    let recorded = Recorded::new();
    let (disk, site) = recorded.copy();
    // A round that ends at once.
    let config = StoreConfig { scrub_round: Duration::ZERO, ..site.config() };
    let store = Store::open(config, site.env.clone()).unwrap();
    eventually("the catalogue is complete", || store.reader().is_complete());
    let sealed = store.reader().segments(recorded.camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    let sealed = sealed.iter().filter(|segment| segment.sealed).count() as u64;
    eventually("all are found whole, twice", || store.volumes()[0].scrub.whole >= 2 * sealed);
    assert_eq!(store.volumes()[0].damage.holes, 0);
    assert!(store.volumes()[0].scrub.bytes >= 2 * sealed * SEGMENT_BYTES);
    let (path, bytes) = segment_files(&disk).remove(0);
    let mdat = bytes.windows(4).enumerate().filter(|(_, word)| *word == b"mdat").nth(7).unwrap().0;
    flip(&disk, &path, mdat + 1_000, 5);
    eventually("it is found", || store.volumes()[0].damage.holes == 1);
    let frames = store.volumes()[0].damage.video_frames;
    assert!((1..=25).contains(&frames), "{frames}");
    let served = read_all(&store.reader(), &recorded.camera);
    assert!(served.errors.is_empty(), "{:?}", served.errors);
    // Bytes that mean nothing may be anything.
    let (path, _) = segment_files(&disk).remove(1);
    flip(&disk, &path, SEGMENT_BYTES as usize - 9, 5);
    let whole = store.volumes()[0].scrub.whole;
    eventually("a round goes by", || store.volumes()[0].scrub.whole >= whole + 2 * sealed);
    assert_eq!(store.volumes()[0].damage.holes, 1);
    store.close();
}

#[test]
fn a_hash_is_remembered_so_that_a_round_goes_on_after_a_restart() {
    let recorded = Recorded::new();
    let (_, site) = recorded.copy();
    let config = StoreConfig { scrub_round: Duration::ZERO, ..site.config() };
    let store = Store::open(config, site.env.clone()).unwrap();
    let sealed = |store: &Store| {
        let segments = store.reader().segments(recorded.camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        segments.iter().filter(|segment| segment.sealed).count() as u64
    };
    eventually("the catalogue is complete", || store.reader().is_complete());
    let count = sealed(&store);
    eventually("all are found whole", || store.volumes()[0].scrub.whole >= count);
    store.close();
    drop(store);
    // Nothing is due for a day: a pass reads nothing.
    let config = StoreConfig { scrub_round: Duration::from_secs(86_400), ..site.config() };
    let store = Store::open(config, site.env.clone()).unwrap();
    eventually("the catalogue is complete", || store.reader().is_complete());
    assert_eq!(store.volumes()[0].scrub.bytes, 0);
    assert_eq!(sealed(&store), count);
    store.close();
}

#[test]
fn a_wall_time_in_a_hole_is_in_no_segments_frames() {
    // The judge of these tests is the same rule as that of readers: here it is held against plain numbers.
    let recorded = Recorded::new();
    let (disk, site) = recorded.copy();
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let (path, bytes) = segment_files(&disk).remove(0);
    let moof = bytes.windows(4).enumerate().filter(|(_, word)| *word == b"moof").nth(2).unwrap().0;
    flip(&disk, &path, moof + 20, 1);
    let served = read_all(&reader, &recorded.camera);
    assert!(!served.errors.is_empty());
    let known = holes(&reader, &recorded.camera);
    // The third fragment is the second half of the second GOP... or the first: twelve and one frames make fragments of 12, 12 and 1.
    let [hole] = known.as_slice() else { panic!("{known:?}") };
    let (first, end) = (24, 25);
    assert_eq!((hole.from, hole.to), (recorded.camera.wall_of(first), recorded.camera.wall_of(end)));
    assert_eq!(hole.video_frames, 1);
    let second = read_all(&reader, &recorded.camera);
    assert!(!second.frames.contains(&first) && second.frames.contains(&end));
    assert_eq!(WallTime(recorded.camera.start_wall), recorded.camera.wall_of(0));
    store.close();
}

#[test]
fn damage_at_the_end_of_a_segment_reaches_to_the_first_key_frame_of_the_next_one() {
    // A GOP takes more than a file, so that most files end inside one.
    let mut camera = Camera::new("door").with_audio();
    camera.gop = 400;
    let recorded = Recorded::of(camera);
    let (disk, site) = recorded.copy();
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let camera = &recorded.camera;
    let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    let first_frame = |segment: &SegmentInfo| {
        let index = reader.index(segment).unwrap();
        (0..).find(|number| camera.wall_of(*number) == index.entries[0].wall).unwrap()
    };
    let inside = segments.windows(2).find(|pair| {
        let same_run = reader.run_boxes(&pair[0]).unwrap().last().map(|run| run.run)
            == reader.run_boxes(&pair[1]).unwrap().first().map(|run| run.run);
        pair[0].sealed && same_run && !first_frame(&pair[1]).is_multiple_of(camera.gop)
    });
    let [before, next] = inside.expect("no segment ends inside a GOP: this test shows nothing") else { panic!() };
    let next_first = first_frame(next);
    let index = reader.index(before).unwrap();
    let last = index.entries.iter().rfind(|entry| matches!(entry.kind, EntryKind::Video { .. })).unwrap();
    let path = recorded.files().into_iter().find(|path| path.ends_with(&before.path)).unwrap();
    flip(&disk, &path, last.data_offset as usize + 30, 2);
    read_all(&reader, camera);
    let known = holes(&reader, camera);
    let [hole] = known.as_slice() else { panic!("{known:?}") };
    let key = next_first.next_multiple_of(camera.gop);
    assert_eq!(hole.to, camera.wall_of(key), "{known:?}, the next segment begins with frame {next_first}");
    assert!(hole.from < camera.wall_of(next_first) && hole.video_frames > (key - next_first) as u32, "{known:?}");
    store.close();
}
