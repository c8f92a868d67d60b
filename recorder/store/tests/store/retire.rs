//! Reuse of files: the oldest goes first, what is held or read stays, and nothing of a former stream is ever seen again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::common::*;
use framekeeper_media::WallTime;
use framekeeper_store::env::{Clock, Env};
use framekeeper_store::*;
use uuid::Uuid;

fn contains(bytes: &[u8], marker: &[u8]) -> bool {
    bytes.windows(marker.len()).any(|w| w == marker)
}

/// Big frames, so that few of them fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) }
}

#[test]
fn a_reused_file_holds_no_byte_of_its_former_stream() {
    let (disk, site) = Site::mem(5);
    let store = site.open();
    let mut first = big("first");
    let mut writer = store.stream(first.ident.clone()).unwrap();
    writer.begin_run(first.run());
    record(&site, &store, &mut writer, &mut first, 8);
    writer.finish();
    let reader = store.reader();
    let old = reader.segments(first.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert!(old.len() >= 2);
    // One of them is open in the reader from before.
    let index = reader.index(&old[0]).unwrap();

    let mut second = big("second");
    let mut writer = store.stream(second.ident.clone()).unwrap();
    second.start_wall = first.start_wall + 100_000_000;
    writer.begin_run(second.run());
    let is_there = || reader.streams().unwrap().iter().any(|s| s.ident.uid == first.ident.uid);
    for _ in 0..200 {
        record(&site, &store, &mut writer, &mut second, 2);
        if !is_there() {
            break;
        }
    }
    assert!(!is_there(), "the first stream's segments were not retired: {:?}", store.volumes());
    record(&site, &store, &mut writer, &mut second, 40);
    assert!(reader.coverage(first.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().is_empty());
    for segment in &old {
        let entry = &index.entries[0];
        let mut bytes = vec![1; entry.data_length as usize];
        let result = reader.read_at(segment, entry.data_offset.into(), &mut bytes);
        assert!(matches!(result, Err(ReadError::Gone)), "{result:?}");
        assert!(!contains(&bytes, &first.marker()));
        assert!(matches!(reader.index(segment), Err(ReadError::Gone)));
    }
    let reused = disk.files().len();
    writer.finish();
    store.close();
    let mut seen_second = false;
    for path in disk.files() {
        let bytes = disk.bytes(&path).unwrap();
        if path.extension().is_some_and(|e| e == "mp4") {
            assert!(!contains(&bytes, &first.marker()), "{} still holds the first stream", path.display());
            seen_second |= contains(&bytes, &second.marker());
            if path.starts_with("/v/pool") {
                assert!(bytes.iter().all(|b| *b == 0), "{} is not empty", path.display());
            }
        }
    }
    assert!(seen_second && reused > 0);
    assert_eq!(disk.files().iter().filter(|p| p.extension().is_some_and(|e| e == "mp4")).count(), 5);
}

#[test]
fn what_is_held_stays_and_goes_when_released() {
    let (disk, site) = Site::mem(6);
    let store = site.open();
    let mut first = big("first");
    let mut writer = store.stream(first.ident.clone()).unwrap();
    writer.begin_run(first.run());
    record(&site, &store, &mut writer, &mut first, 8);
    writer.finish();
    let (hold, uid) = (Uuid::new_v4(), first.ident.uid);
    let held_until = WallTime(first.start_wall + 1_000_000);
    store.hold(hold, uid, WallTime(first.start_wall), held_until).unwrap();
    let reader = store.reader();
    let held = reader.segments(uid, ALWAYS.0, held_until).unwrap();
    assert!(!held.is_empty());

    let mut second = big("second");
    second.start_wall += 100_000_000;
    let mut writer = store.stream(second.ident.clone()).unwrap();
    writer.begin_run(second.run());
    record(&site, &store, &mut writer, &mut second, 120);
    let still: Vec<_> = reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap().iter().map(|s| s.nonce).collect();
    for segment in &held {
        assert!(still.contains(&segment.nonce), "a held segment was retired");
        let index = reader.index(segment).unwrap();
        let mut bytes = vec![0; index.entries[0].data_length as usize];
        reader.read_at(segment, index.entries[0].data_offset.into(), &mut bytes).unwrap();
        assert_eq!(bytes, first.video_data(0));
    }
    // Holds outlive a crash.
    let killed = site.on(&disk.snapshot());
    let again = killed.open();
    let mut third = big("third");
    third.start_wall += 200_000_000;
    let mut other = again.stream(third.ident.clone()).unwrap();
    other.begin_run(third.run());
    record(&killed, &again, &mut other, &mut third, 120);
    let after = again.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert!(
        held.iter().all(|h| after.iter().any(|s| s.nonce == h.nonce)),
        "a held segment was retired after a restart"
    );
    drop(other);
    again.close();

    store.release(hold).unwrap();
    for _ in 0..100 {
        record(&site, &store, &mut writer, &mut second, 2);
        if reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap().is_empty() {
            return;
        }
    }
    panic!("the released segments were not retired");
}

/// Time that goes when it is told to.
#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn monotonic_us(&self) -> u64 {
        self.0.fetch_add(10, Ordering::Relaxed)
    }
    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

#[test]
fn a_leased_file_is_not_emptied_before_the_lease_ends_or_a_minute_has_passed() {
    for drop_it in [true, false] {
        let (_, site) = Site::mem(5);
        let clock = Arc::new(HandClock::default());
        let site = Site { env: Env { clock: clock.clone(), ..site.env.clone() }, ..site };
        // The hand clock goes on only as it is looked at: a sync is always due.
        let store = Store::open(
            StoreConfig { sync_interval: Some(std::time::Duration::from_micros(1)), ..site.config() },
            site.env.clone(),
        )
        .unwrap();
        let mut camera = big("first");
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 8);
        let reader = store.reader();
        let leased = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().remove(0);
        let lease = reader.lease(std::slice::from_ref(&leased));
        let frame = reader.index(&leased).unwrap().entries[0];
        let mut first = vec![0; frame.data_length as usize];
        let mut read = || reader.read_at(&leased, frame.data_offset.into(), &mut first);
        read().unwrap();
        let is_listed = || {
            let now = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
            now.iter().any(|s| s.nonce == leased.nonce)
        };
        let mut more = camera.clone();
        while is_listed() {
            record(&site, &store, &mut writer, &mut more, 2);
        }
        eventually("it waits among the retired", || store.volumes()[0].files_retired > 0);
        // Whoever has it may go on reading it.
        read().unwrap();
        if drop_it {
            drop(lease);
        } else {
            clock.0.fetch_add(61_000_000, Ordering::Relaxed);
        }
        eventually("it is emptied", || store.volumes()[0].files_retired == 0);
        assert!(matches!(read(), Err(ReadError::Gone)));
    }
}

#[test]
fn recording_goes_on_as_long_as_there_are_files_and_says_when_there_are_none() {
    let (_, site) = Site::mem(4);
    let store = site.open();
    let mut camera = big("first");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    store.hold(Uuid::new_v4(), uid, ALWAYS.0, ALWAYS.1).unwrap();
    for _ in 0..40 {
        writer.append(camera.fragment());
        store.flush_tick();
        eventually("it is written", || store.stream_stats(uid).unwrap().queue_bytes == 0);
    }
    let stats = || store.stream_stats(uid).unwrap();
    let dropped = |reason| stats().dropped_frames.iter().find(|(r, _)| *r == reason).unwrap().1;
    eventually("frames are dropped", || dropped(DropReason::NoFreeFile) > 0);
    eventually("and the volume says why", || store.volumes()[0].stuck.is_some());
    assert!(store.volumes()[0].failed.is_none());
    let kept = store.reader().segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(kept.len(), 4, "every file was used before that");
}
