//! How long footage is kept: by age and by bytes of a stream, over all volumes, also of streams that nobody records any more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::common::*;
use framekeeper_media::WallTime;
use framekeeper_store::env::{Clock, Env, MemDisk, RealClock};
use framekeeper_store::*;
use uuid::Uuid;

const VOLUMES: [&str; 2] = ["/v", "/w"];

fn site(files: u64) -> (MemDisk, Site) {
    let disk = mem_disk();
    VOLUMES.iter().for_each(|folder| disk.make_folder(Path::new(folder)));
    (disk.clone(), Site::new(Arc::new(disk), &VOLUMES.map(Path::new), files))
}

/// Big frames: two GOPs fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 100_000, frame_bytes: 12_000, ..Camera::new(name) }
}

fn bytes(max_bytes: u64) -> Limits {
    Limits { max_age: None, max_bytes: Some(max_bytes) }
}

fn age(max_age: Duration) -> Limits {
    Limits { max_age: Some(max_age), max_bytes: None }
}

fn of(streams: impl IntoIterator<Item = (Uuid, Limits)>) -> Retention {
    Retention { streams: streams.into_iter().collect(), others: Limits::default() }
}

fn nonces(store: &Store, stream: Uuid) -> Vec<u64> {
    store.reader().segments(stream, ALWAYS.0, ALWAYS.1).unwrap().iter().map(|segment| segment.nonce).collect()
}

/// Records a stream on one volume and the other in turn, by draining one after the other; some segments stay unfilled that way.
fn to_and_fro(site: &Site, store: &Store, writer: &mut StreamWriter, camera: &mut Camera, turns: usize) {
    for turn in 0..turns {
        let volumes = store.volumes();
        let (here, there) = (volumes[turn % 2].volume, volumes[1 - turn % 2].volume);
        store.undrain_volume(here).unwrap();
        store.drain_volume(there).unwrap();
        eventually("it moves", || store.stream_stats(camera.ident.uid).unwrap().volume != Some(there));
        record(site, store, writer, camera, 10);
    }
}

#[test]
fn of_a_stream_on_two_volumes_the_newest_segments_stay_and_no_others() {
    let (_, site) = site(30);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    to_and_fro(&site, &store, &mut writer, &mut camera, 5);
    writer.finish();
    let all = nonces(&store, uid);
    assert!(all.len() >= 10, "{}", all.len());
    let volumes: BTreeSet<Uuid> =
        store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap().iter().map(|segment| segment.volume).collect();
    assert_eq!(volumes.len(), 2);
    // Nobody records it any more, and its last segment is not sealed: each counts with its file.
    for keep in [6, 3, 1] {
        store.set_retention(of([(uid, bytes(keep as u64 * SEGMENT_BYTES))]));
        eventually("older ones go", || nonces(&store, uid).len() <= keep);
        assert_eq!(nonces(&store, uid), all[all.len() - keep..], "of {} the newest {keep} stay", all.len());
    }
    store.close();
}

#[test]
fn while_it_is_recorded_a_stream_never_has_less_than_its_limit() {
    let (_, site) = site(30);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    let limit = 3 * SEGMENT_BYTES;
    store.set_retention(of([(uid, bytes(limit))]));
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    let mut all = Vec::new();
    for _ in 0..60 {
        record(&site, &store, &mut writer, &mut camera, 1);
        let now = nonces(&store, uid);
        all.extend(now.iter().filter(|nonce| !all.contains(*nonce)).copied().collect::<Vec<_>>());
        assert_eq!(now, all[all.len() - now.len()..], "oldest first, and none out of their middle");
        assert!(now.len() >= all.len().min(4), "three full ones and the one being written");
    }
    eventually("no more than that stays", || nonces(&store, uid).len() == 4);
    assert!(all.len() > 6);
    let kept = store.stream_stats(uid).unwrap().kept_bytes.unwrap();
    assert!(kept >= limit, "{kept}");
    drop(writer);
    store.close();
}

#[test]
fn what_is_held_stays_beyond_the_limit() {
    let (_, site) = site(30);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 40);
    writer.finish();
    let all = store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    let (hold, held) = (Uuid::new_v4(), &all[1]);
    store.hold(hold, uid, held.first, WallTime(held.end.0 - 1)).unwrap();
    store.set_retention(of([(uid, bytes(2 * SEGMENT_BYTES))]));
    let newest = || all[all.len() - 2..].iter().map(|segment| segment.nonce);
    eventually("the others go", || nonces(&store, uid).len() == 3);
    assert_eq!(nonces(&store, uid), std::iter::once(held.nonce).chain(newest()).collect::<Vec<_>>());
    store.release(hold).unwrap();
    eventually("it goes when it is released", || nonces(&store, uid).len() == 2);
    assert_eq!(nonces(&store, uid), newest().collect::<Vec<_>>());
    store.close();
}

/// The real clock, and somebody who sets it.
#[derive(Default)]
struct SetClock {
    real: RealClock,
    ahead_us: AtomicI64,
}

impl Clock for SetClock {
    fn monotonic_us(&self) -> u64 {
        self.real.monotonic_us()
    }
    fn wall(&self) -> WallTime {
        self.real.wall().saturating_add_us(self.ahead_us.load(Ordering::Relaxed))
    }
}

/// A camera whose first frame was `ago` before now.
fn since(name: &str, now: WallTime, ago: Duration) -> Camera {
    Camera { start_wall: now.0 - i64::try_from(ago.as_micros()).unwrap(), ..big(name) }
}

#[test]
fn by_age_segments_go_when_all_of_them_is_older() {
    let (_, site) = site(30);
    let store = site.open();
    let now = RealClock::default().wall();
    // From 60 s ago, 40 s long: then it ended.
    let mut camera = since("door", now, Duration::from_secs(60));
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 80 * 25 / 24);
    writer.finish();
    let all = store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    let max_age = Duration::from_secs(45);
    store.set_retention(of([(uid, age(max_age))]));
    eventually("older ones go", || nonces(&store, uid).len() < all.len());
    let cutoff = now.0 - i64::try_from(max_age.as_micros()).unwrap();
    // Looked at until nothing more goes for a moment: exactly those stay that were not all older then.
    eventually("the rest stays", || {
        let oldest = store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap().first().map(|segment| segment.end);
        oldest.is_some_and(|end| end.0 >= cutoff)
    });
    let after = RealClock::default().wall().0 - i64::try_from(max_age.as_micros()).unwrap();
    let kept = nonces(&store, uid);
    for segment in &all {
        let (is, must, may) = (kept.contains(&segment.nonce), segment.end.0 >= after, segment.end.0 >= cutoff);
        assert!(is || !must, "{segment:?} is younger and gone");
        assert!(!is || may, "{segment:?} is older and there");
    }
    // The last one was never sealed: its turn comes too.
    store.set_retention(of([(uid, age(Duration::from_secs(10)))]));
    eventually("all go", || nonces(&store, uid).is_empty());
    assert!(store.reader().streams().unwrap().is_empty());
    store.close();
}

#[test]
fn a_clock_set_forward_by_a_day_takes_no_day_of_footage_and_a_restart_changes_nothing_about_that() {
    let (_, site) = site(30);
    let clock = Arc::new(SetClock::default());
    let site = Site { env: Env { clock: clock.clone(), ..site.env.clone() }, ..site };
    let mut camera = since("door", clock.wall(), Duration::from_secs(30));
    let uid = camera.ident.uid;
    let mut config = site.config();
    config.retention = of([(uid, age(Duration::from_secs(3600)))]);
    let store = Store::open(config.clone(), site.env.clone()).unwrap();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 20);
    // Something else tells when the limits were looked at.
    let mut other = since("other", clock.wall(), Duration::from_secs(7200));
    let looked = |site: &Site, store: &Store, other: &mut Camera, config: &StoreConfig| {
        let mut writer = store.stream(other.ident.clone()).unwrap();
        writer.begin_run(other.run());
        other.next_frame = other.next_frame.next_multiple_of(other.gop);
        record(site, store, &mut writer, other, 8);
        writer.finish();
        let mut retention = config.retention.clone();
        retention.streams.insert(other.ident.uid, age(Duration::from_secs(3600)));
        store.set_retention(retention);
        eventually("what is two hours old goes", || nonces(store, other.ident.uid).is_empty());
    };
    looked(&site, &store, &mut other, &config);
    let all = nonces(&store, uid);
    clock.ahead_us.store(86_400_000_000, Ordering::Relaxed);
    other.start_wall += 10_000_000;
    looked(&site, &store, &mut other, &config);
    assert_eq!(nonces(&store, uid), all);
    drop(writer);
    store.close();
    drop(store);
    let again = Store::open(config.clone(), site.env.clone()).unwrap();
    other.start_wall += 10_000_000;
    looked(&site, &again, &mut other, &config);
    assert_eq!(nonces(&again, uid), all);
    again.close();
}

#[test]
fn limits_of_a_stream_that_is_gone_hold_after_a_restart() {
    let (disk, site) = site(30);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    store.set_retention(of([(uid, bytes(8 * SEGMENT_BYTES))]));
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 60);
    writer.finish();
    let all = nonces(&store, uid);
    assert!(all.len() >= 8);
    eventually("it is written down", || disk.bytes(Path::new("/v/retention.json")).is_some());
    store.set_retention(of([(uid, bytes(3 * SEGMENT_BYTES))]));
    eventually("older ones go", || nonces(&store, uid).len() == 3);
    store.close();
    drop(store);
    // The stream is gone, and of all others there is to be nothing.
    let others = Retention { others: bytes(0), ..Retention::default() };
    let again = Store::open(StoreConfig { retention: others, ..site.config() }, site.env.clone()).unwrap();
    let mut stranger = big("stranger");
    let mut writer = again.stream(stranger.ident.clone()).unwrap();
    writer.begin_run(stranger.run());
    record(&site, &again, &mut writer, &mut stranger, 20);
    let strangers = nonces(&again, stranger.ident.uid).len();
    eventually("what nobody knows keeps the newest", || nonces(&again, stranger.ident.uid).len() == 1);
    assert!(strangers > 1);
    assert_eq!(nonces(&again, uid), all[all.len() - 3..]);
    drop(writer);
    again.close();
}

#[test]
fn without_limits_nothing_is_written_down() {
    let (disk, site) = site(10);
    let store = site.open();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 4);
    drop(writer);
    store.close();
    assert!(disk.files().iter().all(|path| !path.ends_with("retention.json")));
}
