//! What goes in comes out: frames, audio, runs, over roll-overs, restarts and kinds of disks.

use std::path::Path;
use std::sync::Arc;

use crate::common::*;
use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_store::env::{Disk, FaultDisk, MemDisk, RealDisk, WritePath, WritesWanted};
use framekeeper_store::*;

/// Everything that holds on every kind of disk and volume.
fn conformance(disk: Arc<dyn Disk>, dirs: &[&Path], bytes_of: &dyn Fn(&Path) -> Vec<u8>) {
    conformance_of(&Site::new(disk, dirs, 60), bytes_of);
}

fn conformance_of(site: &Site, bytes_of: &dyn Fn(&Path) -> Vec<u8>) {
    let mut cameras =
        [Camera::new("plain"), Camera::new("audio").with_audio(), Camera::new("b").with_audio().with_b_frames()];
    let store = site.open();
    let mut writers: Vec<_> = cameras.iter().map(|c| store.stream(c.ident.clone()).unwrap()).collect();
    let starts: Vec<_> = cameras.iter().map(Camera::run).collect();
    for (writer, start) in writers.iter_mut().zip(&starts) {
        writer.begin_run(start.clone());
    }
    for _ in 0..30 {
        for (writer, camera) in writers.iter_mut().zip(&mut cameras) {
            record(site, &store, writer, camera, 2);
        }
    }
    let reader = store.reader();
    check_all(&store, &reader, &cameras, &starts, 1);
    for writer in writers {
        writer.finish();
    }
    store.close();
    drop((reader, store));

    // The same from the disk alone, and on from there.
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    check_all(&store, &reader, &cameras, &starts, 1);
    let mut second = Vec::new();
    for camera in &mut cameras {
        let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        // A second later.
        camera.start_wall += 1_000_000;
        let start = camera.run();
        writer.begin_run(start.clone());
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        record(site, &store, &mut writer, camera, 1);
        writer.finish();
        let after = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert_eq!(after.len(), segments.len(), "the unfilled segment is filled on");
        let runs = reader.coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[1].run, start.run);
        assert_eq!(runs[1].gap, GapReason::RecorderStopped);
        assert_eq!((runs[1].previous_run, runs[1].previous_end), (runs[0].run, Some(runs[0].to)));
        second.push(start);
    }
    store.close();
    for segment in cameras.iter().flat_map(|c| reader.segments(c.ident.uid, ALWAYS.0, ALWAYS.1).unwrap()) {
        let bytes = bytes_of(&segment.path);
        assert_eq!(bytes.len() as u64, SEGMENT_BYTES);
        let found = look(&bytes).unwrap();
        assert_eq!(found.sealed, segment.sealed);
        assert_eq!(found.frames.len(), segment.counts.video_frames as usize);
        assert_eq!(found.audio_frames, segment.counts.audio_frames as usize);
    }
}

fn check_all(store: &Store, reader: &Reader, cameras: &[Camera], starts: &[RunStart], runs: usize) {
    assert_eq!(reader.streams().unwrap().len(), cameras.len());
    for (camera, start) in cameras.iter().zip(starts) {
        let uid = camera.ident.uid;
        assert_eq!(reader.find("default", &camera.ident.name).unwrap(), Some(camera.ident.clone()));
        assert_eq!(frames_of(reader, camera), (0..camera.next_frame).collect::<Vec<_>>());
        let found = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert_eq!(found.len(), runs);
        let run = &found[0];
        assert_eq!((run.run, run.frames, run.gap), (start.run, camera.next_frame, GapReason::FirstRun));
        assert_eq!((run.from, run.epoch, run.previous_end), (camera.wall_of(0), 1, None));
        assert_eq!(run.to, WallTime(camera.start_wall + camera.next_frame as i64 * 40_000));
        let segments = reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
        assert!(segments.len() > 1, "the test must see a roll-over");
        for pair in segments.windows(2) {
            assert!(pair[0].sealed && pair[0].end == pair[1].first && pair[0].number + 1 == pair[1].number);
            assert_eq!(pair[0].init_hash, start.init.hash);
        }
        let audio: u32 = segments.iter().map(|s| s.counts.audio_frames).sum();
        assert_eq!(u64::from(audio), camera.next_audio);
        let init = reader.init(&segments[0]).unwrap();
        assert_eq!((init.init.hash, init.audio.is_some()), (start.init.hash, camera.audio));
        for segment in &segments {
            let index = reader.index(segment).unwrap();
            let counts = segment.counts;
            assert_eq!(index.totals.video_frames, counts.video_frames);
            assert_eq!(index.totals.fragments, counts.fragments);
            assert_eq!(index.totals.random_access_points, counts.random_access_points);
            assert_eq!((index.totals.video_bytes, index.totals.audio_bytes), (counts.video_bytes, counts.audio_bytes));
        }
        // A part of it.
        let (from, to) = (camera.wall_of(camera.gop), camera.wall_of(camera.gop * 2));
        let part = reader.segments(uid, from, to).unwrap();
        assert!(!part.is_empty() && part.len() < segments.len());
        assert!(reader.coverage(uid, WallTime(0), camera.wall_of(0)).unwrap().is_empty());
        assert!(reader.segments(uid, run.to, ALWAYS.1).unwrap().is_empty());
    }
    assert!(store.volumes().iter().all(|v| v.failed.is_none() && v.stuck.is_none()));
}

#[test]
fn conformance_in_memory() {
    for disk in [
        MemDisk::new(),
        MemDisk::new().synced_as_a_whole(),
        MemDisk::new().written_in_blocks(4096),
        MemDisk::new().written_in_blocks(16_384),
    ] {
        disk.make_folder(Path::new("/v"));
        let bytes = disk.clone();
        conformance(Arc::new(disk), &[Path::new("/v")], &|p| bytes.bytes(&Path::new("/v").join(p)).unwrap());
    }
}

#[test]
fn conformance_on_two_volumes() {
    let disk = MemDisk::new();
    disk.make_folder(Path::new("/v"));
    disk.make_folder(Path::new("/w"));
    let bytes = disk.clone();
    let of = |p: &Path| bytes.bytes(&Path::new("/v").join(p)).or(bytes.bytes(&Path::new("/w").join(p))).unwrap();
    conformance(Arc::new(disk), &[Path::new("/v"), Path::new("/w")], &of);
}

fn on_a_real_disk(writes: WritesWanted) -> WritePath {
    let dir = tempfile::tempdir().unwrap();
    let site = Site { writes, ..Site::new(Arc::new(RealDisk), &[dir.path()], 60) };
    conformance_of(&site, &|p| std::fs::read(dir.path().join(p)).unwrap());
    site.open().volumes()[0].write_path.clone().unwrap()
}

#[test]
fn conformance_on_a_real_disk_through_the_page_cache() {
    assert!(matches!(on_a_real_disk(WritesWanted::Buffered), WritePath::Buffered { .. }));
}

/// Needs io_uring and a folder for temporary files on a file system with `O_DIRECT`.
#[test]
fn conformance_on_a_real_disk_past_the_page_cache() {
    assert_eq!(on_a_real_disk(WritesWanted::Direct), WritePath::Direct);
}

#[test]
fn a_run_whose_times_go_back_is_found_by_its_own_times() {
    let (_disk, site) = Site::mem(20);
    let mut camera = Camera::new("plain");
    let store = site.open();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    let mut begins = Vec::new();
    // Forward by an hour, back by two, forward by one: the last one leads into times that are there already.
    for step_s in [0, 3_600, -7_200, 3_595] {
        camera.start_wall += step_s * 1_000_000;
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        begins.push(camera.wall_of(camera.next_frame));
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 2);
    }
    writer.finish();
    let reader = store.reader();
    let uid = camera.ident.uid;
    for begin in begins {
        let end = begin.saturating_add_us(1);
        assert!(reader.coverage(uid, begin, end).unwrap().iter().any(|run| run.from == begin));
        let segments = reader.segments(uid, begin, end).unwrap();
        let holds = |segment: &SegmentInfo| reader.index(segment).unwrap().entries.iter().any(|e| e.wall == begin);
        assert!(segments.iter().any(holds), "no segment for {begin:?}: {segments:?}");
    }
    store.close();
}

#[test]
fn pictures_of_many_runs_in_one_file_are_whole_pictures_apart() {
    let (_disk, site) = Site::mem(20);
    let mut camera = Camera::new("sound").with_audio();
    let store = site.open();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    for _ in 0..5 {
        camera.start_wall += 1_000_000;
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        writer.begin_run(camera.run());
        let mut fragment = camera.fragment();
        // Sound that goes on behind the last picture.
        let mut longer = fragment.audio.last().unwrap().clone();
        longer.pts.0 += i64::from(longer.duration);
        fragment.audio.push(longer);
        assert_eq!(writer.append(fragment), Appended::Queued);
        store.flush_tick();
    }
    writer.finish();
    let reader = store.reader();
    let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!((segments.len(), reader.coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().len()), (1, 5));
    let index = reader.index(&segments[0]).unwrap();
    let times: Vec<u64> = index
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind, framekeeper_media::boxes::index::EntryKind::Video { .. }))
        .map(|entry| entry.decode_time)
        .collect();
    assert!(times.len() > 10 && index.runs.len() == 5);
    for pair in times.windows(2) {
        assert_eq!((pair[1] - pair[0]) % 3_600, 0, "{times:?}");
    }
    store.close();
}

#[test]
fn conformance_with_short_writes_and_delays() {
    use framekeeper_store::env::{Fault, Operation, Trouble};
    for disk in [MemDisk::new(), MemDisk::new().written_in_blocks(4096)] {
        disk.make_folder(Path::new("/v"));
        let bytes = disk.clone();
        let faults = FaultDisk::new(Arc::new(disk));
        for after in (0..4000).step_by(3) {
            let trouble = Trouble::Short(1 + after * 37 % 5000);
            faults.inject(Fault::next(Operation::Write, trouble).below("pool").after(after as u64));
        }
        faults.inject(Fault::always(Operation::Sync, Trouble::Delay(std::time::Duration::from_micros(200))));
        conformance(Arc::new(faults), &[Path::new("/v")], &|p| bytes.bytes(&Path::new("/v").join(p)).unwrap());
    }
}
