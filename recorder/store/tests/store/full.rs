//! Full volumes: what is held stays, what may go goes, and a disk that others have filled is recorded to all the same.

use std::path::Path;
use std::sync::Arc;

use crate::common::*;
use framekeeper_media::WallTime;
use framekeeper_store::env::{Env, Fault, FaultDisk, MemDisk, Operation, Trouble};
use framekeeper_store::*;
use uuid::Uuid;

/// Big frames, so that few of them fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) }
}

fn hold(camera: &Camera, from: i64, to: i64) -> Hold {
    Hold { hold: Uuid::new_v4(), stream: camera.ident.uid, from: WallTime(from), to: WallTime(to) }
}

fn faulty(disk: MemDisk, site: Site) -> (FaultDisk, Site) {
    let faults = FaultDisk::new(Arc::new(disk));
    let env = Env { disk: Arc::new(faults.clone()), ..site.env.clone() };
    (faults, Site { env, ..site })
}

/// What is retired may be emptied only when that is durable. A stream that waits for it does not wait for the next sync that is due.
#[test]
fn a_stream_that_needs_a_file_makes_the_sync_come() {
    let (_, site) = Site::mem(5);
    let config = StoreConfig { sync_interval: Some(std::time::Duration::from_secs(600)), ..site.config() };
    let store = Store::open(config, site.env.clone()).unwrap();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    for _ in 0..60 {
        writer.append(camera.fragment());
    }
    // Each tick it is tried again.
    eventually("all is written, three times round", || {
        store.flush_tick();
        store.stream_stats(camera.ident.uid).is_some_and(|stream| stream.video_frames == camera.next_frame)
    });
    let volume = store.volumes().remove(0);
    assert!(volume.retired >= 10, "{volume:?}");
    assert!(volume.syncs < 200, "{volume:?}");
}

#[test]
fn what_went_behind_held_footage_is_a_gap() {
    let (_, site) = Site::mem(8);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 8);
    let volume = store.volumes()[0].volume;
    let held = hold(&camera, camera.start_wall, camera.start_wall + 1_000_000);
    store.change_holds(volume, &[held], &[]).unwrap();
    let reader = store.reader();
    assert_eq!(reader.holds(uid), [(held.from, held.to)]);
    assert_eq!(reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap().len(), 1, "nothing is missing yet");
    for _ in 0..200 {
        record(&site, &store, &mut writer, &mut camera, 2);
        if reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap().len() > 1 {
            break;
        }
    }
    let runs = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!(
        (runs[0].gap, runs[1].gap, runs[1].previous_end),
        (GapReason::FirstRun, GapReason::Retired, Some(runs[0].to))
    );
    assert_eq!((runs[0].run, runs[0].active, runs[1].active), (runs[1].run, false, true));
    assert!(runs[0].to < runs[1].from);
    // What is said to be there is there, and nothing else; once nothing goes any more.
    writer.finish();
    eventually("coverage and segments say the same", || {
        let runs = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
        let segments = reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
        let inside = |s: &SegmentInfo| runs.iter().any(|run| run.from <= s.first && s.end <= run.to);
        let frames: u64 = segments.iter().map(|s| u64::from(s.counts.video_frames)).sum();
        segments.iter().all(inside) && runs.iter().map(|run| run.frames).sum::<u64>() == frames
    });
}

#[test]
fn a_volume_that_is_held_as_a_whole_says_so_before_and_records_on_when_released() {
    let (_, site) = Site::mem(8);
    let store = site.open();
    let mut camera = big("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 2);
    let volume = store.volumes()[0].volume;
    let ever = hold(&camera, i64::MIN, i64::MAX);
    store.change_holds(volume, &[ever], &[]).unwrap();
    let dropped = |store: &Store| {
        let stats = store.stream_stats(uid).unwrap();
        stats.dropped_frames.iter().find(|(reason, _)| *reason == DropReason::NoFreeFile).map_or(0, |(_, n)| *n)
    };
    let mut waits = false;
    for _ in 0..400 {
        waits |= writer.append(camera.fragment()) == Appended::Waits(DropReason::NoFreeFile);
        store.flush_tick();
        // One after the other: what is dropped shall be dropped for want of a file alone.
        eventually("it is written or dropped", || store.stream_stats(uid).unwrap().queue_bytes == 0);
        if dropped(&store) > 100 && waits {
            break;
        }
    }
    assert!(waits && dropped(&store) > 100);
    eventually("it is told", || store.volumes()[0].outlook == Outlook::Exhausted);
    let stats = &store.volumes()[0];
    assert_eq!((stats.retired, stats.files_usable, stats.holds), (0, 0, 1));
    assert!(stats.failed.is_none() && stats.files_held >= 6, "{stats:?}");

    store.change_holds(volume, &[], &[ever.hold]).unwrap();
    eventually("a file is free", || store.volumes()[0].files_free > 0);
    while !camera.next_frame.is_multiple_of(camera.gop) {
        writer.append(camera.fragment());
    }
    let first = camera.next_frame;
    record(&site, &store, &mut writer, &mut camera, 3);
    assert!(matches!(writer.append(camera.fragment()), Appended::Queued));
    let runs = store.reader().coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
    let last = runs.last().unwrap();
    assert_eq!((last.gap, last.from), (GapReason::NoSpace, camera.wall_of(first)));
    eventually("that is over", || matches!(store.volumes()[0].outlook, Outlook::Lasting { .. }));
}

#[test]
fn books_find_room_on_a_disk_that_others_have_filled() {
    let (disk, site) = Site::mem(12);
    let (faults, site) = faulty(disk, site);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    eventually("all files are made", || store.volumes()[0].files_made == 12);
    faults.inject(Fault { times: 2, ..Fault::next(Operation::Write, Trouble::Enospc).below("manifest.log") });
    faults.inject(Fault::next(Operation::Rename, Trouble::Enospc).below("pool"));
    faults.inject(Fault::always(Operation::Create, Trouble::Enospc));
    record(&site, &store, &mut writer, &mut camera, 400);
    eventually("three empty files make room", || store.volumes()[0].files_made == 9);
    let stats = &store.volumes()[0];
    assert!(stats.failed.is_none(), "{:?}", stats.failed);
    let frames = frames_of(&store.reader(), &camera);
    assert_eq!(frames, (frames[0]..camera.next_frame).collect::<Vec<_>>());
    // There is room again.
    faults.release();
    eventually("the files are made anew", || store.volumes()[0].files_made == 12);
}

#[test]
fn a_formatted_volume_opens_on_a_full_disk() {
    let disk = MemDisk::with_capacity(20 << 20);
    disk.make_folder(Path::new("/v"));
    let site = Site::new(Arc::new(disk.clone()), &[Path::new("/v")], 12);
    let store = site.open();
    eventually("all files are made", || store.volumes()[0].files_made == 12);
    store.close();
    drop(store);
    // Others take all that is left, and two files are lost.
    let lost: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with("/v/pool")).take(2).collect();
    let folder = framekeeper_store::env::Disk::open(&disk, Path::new("/v")).unwrap();
    lost.iter().for_each(|path| folder.remove(path.strip_prefix("/v").unwrap()).unwrap());
    let free = folder.space().unwrap().free_bytes;
    folder.create_preallocated(Path::new("foreign"), free).unwrap();
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 400);
    let frames = frames_of(&store.reader(), &camera);
    assert_eq!(frames, (frames[0]..camera.next_frame).collect::<Vec<_>>());
    eventually("it is told", || store.volumes()[0].foreign.crowding == Crowding::Short);
    let stats = &store.volumes()[0];
    assert!(stats.failed.is_none() && stats.files_made < 12, "{stats:?}");
    assert!(stats.foreign.bytes >= free - (1 << 20), "{:?}", stats.foreign);
}
