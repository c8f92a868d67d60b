//! Disks that fail, fill, hang and are slow; GOPs too long; frames too many.

use std::path::Path;
use std::sync::Arc;

use super::common::*;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_store::env::{Fault, FaultDisk, MemDisk, Operation, Trouble};
use framekeeper_store::*;

/// Two volumes on one disk, on which things can go wrong.
fn two_volumes() -> (MemDisk, [FaultDisk; 2], Site) {
    let disk = mem_disk();
    let faults = [FaultDisk::new(Arc::new(disk.clone())), FaultDisk::new(Arc::new(disk.clone()))];
    struct Switch([FaultDisk; 2]);
    impl framekeeper_store::env::Disk for Switch {
        fn open(&self, path: &Path) -> std::io::Result<Arc<dyn framekeeper_store::env::Folder>> {
            let [v, w] = &self.0;
            if path.ends_with("v") { v.open(path) } else { w.open(path) }
        }
    }
    disk.make_folder(Path::new("/v"));
    disk.make_folder(Path::new("/w"));
    let site = Site::new(Arc::new(Switch(faults.clone())), &[Path::new("/v"), Path::new("/w")], 20);
    (disk, faults, site)
}

/// Opens, and waits until nothing of that is left to do behind recording: what goes wrong then does so for what the test records, and not
/// for the catalogue, whose trouble fails no volume.
fn open_settled(site: &Site) -> Store {
    let store = site.open();
    eventually("opening is over", || {
        let settled =
            |v: &VolumeStats| v.catalogue_progress.stage == CatalogueStage::Complete && v.files_made == v.files_total;
        store.volumes().iter().all(settled)
    });
    store
}

fn failed(store: &Store) -> Vec<bool> {
    store.volumes().iter().map(|v| v.failed.is_some()).collect()
}

#[test]
fn a_failed_volume_is_left_at_once_and_nothing_is_missing() {
    for fault in [
        Fault::next(Operation::Write, Trouble::Eio),
        Fault::next(Operation::Sync, Trouble::Eio),
        Fault::next(Operation::Write, Trouble::Enospc),
        Fault::next(Operation::Rename, Trouble::Eio),
    ] {
        let rename = fault.operation == Operation::Rename;
        let (disk, faults, site) = two_volumes();
        let store = open_settled(&site);
        let mut camera = Camera::new("door");
        let uid = camera.ident.uid;
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        if !rename {
            record(&site, &store, &mut writer, &mut camera, 4);
            assert_eq!(store.stream_stats(uid).unwrap().volume, Some(store.volumes()[0].volume));
        }
        let durable = store.durable(uid).map_or(0, |d| d.frames);
        faults[0].inject(fault.clone());
        let mut appended = 0;
        while failed(&store) != [true, false] {
            assert_eq!(writer.append(camera.fragment()), Appended::Queued);
            store.flush_tick();
            appended += 1;
            eventually("it is taken", || {
                store.flush_tick();
                store.stream_stats(uid).unwrap().queue_bytes == 0
            });
            assert!(appended < 1000);
        }
        for _ in 0..6 {
            assert_eq!(writer.append(camera.fragment()), Appended::Queued);
            store.flush_tick();
        }
        site.durables.wait(uid, camera.next_frame);
        assert_eq!(store.stream_stats(uid).unwrap().volume, Some(store.volumes()[1].volume));
        let reader = store.reader();
        let frames = frames_of(&reader, &camera);
        assert!((0..camera.next_frame).all(|n| frames.contains(&n)), "{fault:?}");
        let run = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap().pop().unwrap();
        let expected = if rename { GapReason::FirstRun } else { GapReason::NoGap };
        assert_eq!((run.gap, run.epoch), (expected, 1));
        assert!(run.from <= camera.wall_of(durable), "{run:?}");
        let stats = store.stream_stats(uid).unwrap();
        assert_eq!(stats.video_frames, camera.next_frame, "none is counted twice");
        assert!(stats.dropped_frames.iter().all(|(_, frames)| *frames == 0), "{stats:?}");
        writer.finish();
        store.close();
        // Files of both are valid.
        for (path, bytes) in segment_files(&disk) {
            look(&bytes).unwrap_or_else(|e| panic!("{fault:?} {}: {e}", path.display()));
        }
    }
}

#[test]
fn nothing_is_written_to_a_failed_volume_any_more() {
    let (disk, faults, site) = two_volumes();
    let store = open_settled(&site);
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 4);
    faults[0].inject(Fault::next(Operation::Sync, Trouble::Eio));
    writer.append(camera.fragment());
    store.flush_tick();
    eventually("the volume has failed", || failed(&store) == [true, false]);
    let content = |disk: &MemDisk| -> Vec<_> {
        let on_v = disk.files().into_iter().filter(|p| p.starts_with("/v") && !p.ends_with("catalogue.redb"));
        on_v.map(|p| (p.clone(), disk.bytes(&p).unwrap())).collect()
    };
    let before = content(&disk);
    camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
    record(&site, &store, &mut writer, &mut camera, 20);
    writer.finish();
    store.close();
    assert!(content(&disk) == before, "something was written to the failed volume");
}

#[test]
fn without_another_volume_frames_are_dropped_and_counted() {
    let (disk, site) = Site::mem(20);
    let faults = FaultDisk::new(Arc::new(disk));
    let site = Site { env: framekeeper_store::env::Env { disk: Arc::new(faults.clone()), ..site.env.clone() }, ..site };
    let store = open_settled(&site);
    let mut camera = Camera::new("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 4);
    faults.inject(Fault::next(Operation::Write, Trouble::Eio));
    writer.append(camera.fragment());
    store.flush_tick();
    eventually("the volume has failed", || failed(&store) == [true]);
    eventually("the stream knows", || store.stream_stats(uid).unwrap().volume.is_none());
    for _ in 0..30 {
        assert!(matches!(writer.append(camera.fragment()), Appended::Dropped(DropReason::NoVolume)));
    }
    assert_eq!(store.stream_stats(uid).unwrap().queue_bytes, 0);
    assert!(store.volumes()[0].failed.as_ref().unwrap().contains("write"));
    // What is there can be read, and closing does not wait for ever.
    assert!(!frames_of(&store.reader(), &camera).is_empty());
    writer.finish();
    store.close();
}

#[test]
fn a_disk_that_hangs_costs_whole_gops_and_no_memory() {
    let (disk, site) = Site::mem(20);
    let faults = FaultDisk::new(Arc::new(disk));
    let env = framekeeper_store::env::Env { disk: Arc::new(faults.clone()), ..site.env.clone() };
    let site = Site { env, stream_queue_bytes: 150_000, ..site };
    let store = site.open();
    let mut camera = Camera::new("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 3);
    faults.inject(Fault::always(Operation::Write, Trouble::Hang).below("pool"));
    let mut dropped = 0;
    for _ in 0..60 {
        if writer.append(camera.fragment()) != Appended::Queued {
            dropped += 1;
        }
        store.flush_tick();
        assert!(store.stream_stats(uid).unwrap().memory_bytes <= 150_000);
    }
    assert!(dropped > 20);
    faults.release();
    eventually("the queue drains", || {
        store.flush_tick();
        store.stream_stats(uid).unwrap().memory_bytes < 100_000
    });
    camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
    let first = camera.next_frame;
    record(&site, &store, &mut writer, &mut camera, 3);
    let reader = store.reader();
    let runs = reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1].gap, GapReason::Overload);
    assert_eq!(runs[1].from, camera.wall_of(first));
    let frames = frames_of(&reader, &camera);
    assert!((first..camera.next_frame).all(|n| frames.contains(&n)));
}

#[test]
fn a_gop_longer_than_a_segment_goes_on_in_the_next() {
    let (disk, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera { gop: 300, frame_bytes: 10_000, ..Camera::new("door") };
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 50);
    writer.finish();
    let reader = store.reader();
    assert_eq!(frames_of(&reader, &camera), (0..camera.next_frame).collect::<Vec<_>>());
    assert_eq!(reader.coverage(uid, ALWAYS.0, ALWAYS.1).unwrap().len(), 1);
    let looks: Vec<_> = segment_files(&disk).iter().map(|(_, bytes)| look(bytes).unwrap()).collect();
    assert!(looks.len() > 3);
    assert!(!looks[0].begins_inside_gop && !looks[0].continues_gop);
    assert!(looks[1].begins_inside_gop && looks[1].continues_gop);
    assert_eq!(looks[1].runs, [(GapReason::NoGap, true)]);
}

#[test]
fn a_fragment_bigger_than_a_segment_is_dropped_and_the_next_gop_recorded() {
    let (_, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera { key_bytes: 2 << 20, ..Camera::new("door") };
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    for _ in 0..3 {
        writer.append(camera.fragment());
    }
    store.flush_tick();
    let dropped = || {
        let all = store.stream_stats(uid).unwrap().dropped_frames;
        all.iter().find(|(r, _)| *r == DropReason::TooBig).unwrap().1
    };
    eventually("they are dropped", || dropped() == 25);
    camera.key_bytes = 20_000;
    record(&site, &store, &mut writer, &mut camera, 2);
    assert_eq!(frames_of(&store.reader(), &camera), (25..49).collect::<Vec<_>>());
}

#[test]
fn new_codec_parameters_begin_a_new_segment() {
    let (disk, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 3);
    camera.audio = true;
    camera.next_audio = 1000;
    writer.begin_run(RunStart { gap: Some(GapReason::ParametersChanged), ..camera.run() });
    record(&site, &store, &mut writer, &mut camera, 3);
    let reader = store.reader();
    eventually("the first is sealed", || reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap()[0].sealed);
    let segments = reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(segments.len(), 2);
    assert_ne!(segments[0].init_hash, segments[1].init_hash);
    writer.finish();
    let looks: Vec<_> = segment_files(&disk).iter().map(|(_, bytes)| look(bytes).unwrap()).collect();
    assert_eq!(looks.iter().map(|l| l.sealed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn frames_before_the_first_random_access_point_are_dropped() {
    let (_, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    assert_eq!(writer.append(camera.fragment()), Appended::Dropped(DropReason::Malformed), "no run was begun");
    writer.begin_run(camera.run());
    assert_eq!(writer.append(camera.fragment()), Appended::Dropped(DropReason::NotRandomAccess));
    assert_eq!(writer.append(camera.fragment()), Appended::Dropped(DropReason::NotRandomAccess));
    record(&site, &store, &mut writer, &mut camera, 3);
    assert_eq!(frames_of(&store.reader(), &camera), (25..50).collect::<Vec<_>>());
    let stats = store.stream_stats(uid).unwrap();
    assert_eq!(stats.video_frames, 25);
}

/// The catalogue is a cache: when its file cannot be written any more, recording and finding go on.
#[test]
fn a_catalogue_that_cannot_grow_is_kept_in_memory() {
    let (disk, site) = Site::mem(12);
    let faults = FaultDisk::new(Arc::new(disk));
    let site = Site { env: framekeeper_store::env::Env { disk: Arc::new(faults.clone()), ..site.env.clone() }, ..site };
    let store = site.open();
    let mut camera = Camera::new("door");
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 60);
    faults.inject(Fault::always(Operation::Write, Trouble::Enospc).below("catalogue.redb"));
    faults.inject(Fault::always(Operation::Read, Trouble::Eio).below("catalogue.redb"));
    // More than the volume holds: without a catalogue nothing could be retired.
    record(&site, &store, &mut writer, &mut camera, 600);
    let reader = store.reader();
    let segments = reader.segments(uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert!(segments.len() > 5 && segments[0].number > 0, "{segments:?}");
    let frames = frames_of(&reader, &camera);
    assert_eq!(frames, (frames[0]..camera.next_frame).collect::<Vec<_>>());
    assert!(store.volumes()[0].failed.is_none());
}

#[test]
fn a_gop_too_long_for_memory_is_told_and_its_frames_go_on_all_the_same() {
    let (_, faults, site) = two_volumes();
    let site = Site { stream_queue_bytes: 200_000, ..site };
    let store = open_settled(&site);
    let mut camera = Camera { gop: 1000, ..Camera::new("door") };
    let uid = camera.ident.uid;
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 1);
    assert!(!store.stream_stats(uid).unwrap().gop_too_long);
    for _ in 0..40 {
        record(&site, &store, &mut writer, &mut camera, 1);
        assert!(store.stream_stats(uid).unwrap().memory_bytes <= 200_000);
    }
    assert!(store.stream_stats(uid).unwrap().gop_too_long);
    faults[0].inject(Fault::next(Operation::Sync, Trouble::Eio));
    writer.append(camera.fragment());
    store.flush_tick();
    eventually("the volume has failed", || failed(&store) == [true, false]);
    record(&site, &store, &mut writer, &mut camera, 3);
    let frames = frames_of(&store.reader(), &camera);
    assert!((0..camera.next_frame).all(|n| frames.contains(&n)));
    // Told until a whole GOP has fitted.
    camera.next_frame = 1000;
    camera.gop = 25;
    record(&site, &store, &mut writer, &mut camera, 1);
    assert!(store.stream_stats(uid).unwrap().gop_too_long);
    // One after the other: more than a GOP that waits for the disk would be too much as well.
    for _ in 0..8 {
        record(&site, &store, &mut writer, &mut camera, 1);
    }
    assert!(!store.stream_stats(uid).unwrap().gop_too_long);
}

/// Whoever waits for a disk that hangs for ever waits until it is left, which takes more than three seconds, or until it answers.
const NO_DISK_IN_THE_WAY: std::time::Duration = std::time::Duration::from_secs(2);

fn go_on(store: &Store, writer: &mut StreamWriter, camera: &mut Camera) {
    let start = std::time::Instant::now();
    assert_eq!(writer.append(camera.fragment()), Appended::Queued);
    store.flush_tick();
    assert!(start.elapsed() < NO_DISK_IN_THE_WAY, "a disk is in the way");
}

/// Waits until all is durable, and looks for it.
fn all_there(site: &Site, store: &Store, camera: &Camera) {
    site.durables.wait(camera.ident.uid, camera.next_frame);
    let frames = frames_of(&store.reader(), camera);
    let missing: Vec<u64> = (0..camera.next_frame).filter(|n| !frames.contains(n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Two cameras, the first on the first volume and the second on the second.
fn two_cameras(site: &Site, store: &Store) -> [(StreamWriter, Camera); 2] {
    ["door", "yard"].map(|name| {
        let mut camera = Camera::new(name);
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(site, store, &mut writer, &mut camera, 4);
        (writer, camera)
    })
}

fn volume_of(store: &Store, camera: &Camera) -> Option<usize> {
    let volume = store.stream_stats(camera.ident.uid).unwrap().volume?;
    store.volumes().iter().position(|v| v.volume == volume)
}

#[test]
fn a_disk_that_hangs_is_left_and_used_again_when_it_answers() {
    for operation in [Operation::Sync, Operation::Write] {
        let (_, faults, site) = two_volumes();
        let store = site.open();
        let [(mut door_writer, mut door), (mut yard_writer, mut yard)] = two_cameras(&site, &store);
        assert_eq!((volume_of(&store, &door), volume_of(&store, &yard)), (Some(0), Some(1)));
        faults[0].inject(Fault::always(operation, Trouble::Hang));
        let start = std::time::Instant::now();
        while volume_of(&store, &door) == Some(0) {
            go_on(&store, &mut door_writer, &mut door);
            go_on(&store, &mut yard_writer, &mut yard);
            site.durables.wait(yard.ident.uid, yard.next_frame);
            assert!(start.elapsed() < std::time::Duration::from_secs(5), "its stream stays on the disk that hangs");
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        let stats = store.volumes().swap_remove(0);
        assert!(stats.stalled && stats.failed.is_none() && stats.unsynced_us > 3_000_000, "{stats:?}");
        // All of it is on the other volume before the first one answers, and what can be read is answered at once.
        site.durables.wait(door.ident.uid, door.next_frame);
        let asked = std::time::Instant::now();
        assert!(!store.reader().coverage(door.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().is_empty());
        assert!(asked.elapsed() < NO_DISK_IN_THE_WAY);
        faults[0].release();
        eventually("the volume is used again", || !store.volumes()[0].stalled);
        let mut third = Camera::new("gate");
        let mut writer = store.stream(third.ident.clone()).unwrap();
        writer.begin_run(third.run());
        record(&site, &store, &mut writer, &mut third, 3);
        assert_eq!(volume_of(&store, &third), Some(0));
        record(&site, &store, &mut door_writer, &mut door, 3);
        for camera in [&door, &yard, &third] {
            all_there(&site, &store, camera);
            let stats = store.stream_stats(camera.ident.uid).unwrap();
            assert!(stats.dropped_frames.iter().all(|(_, frames)| *frames == 0), "{stats:?}");
            assert_eq!(stats.video_frames, camera.next_frame);
        }
        store.close();
    }
}

#[test]
fn closing_does_not_wait_for_a_disk_that_hangs() {
    let (disk, faults, site) = two_volumes();
    let store = site.open();
    let [(mut door_writer, mut door), (mut yard_writer, mut yard)] = two_cameras(&site, &store);
    faults[0].inject(Fault::always(Operation::Sync, Trouble::Hang));
    go_on(&store, &mut door_writer, &mut door);
    go_on(&store, &mut yard_writer, &mut yard);
    let start = std::time::Instant::now();
    store.close();
    assert!(start.elapsed() < std::time::Duration::from_secs(9), "{:?}", start.elapsed());
    let closed = |volume: &str| {
        let identity = disk.bytes(&Path::new(volume).join("framekeeper.json")).unwrap();
        String::from_utf8(identity).unwrap().contains("\"closed\":true")
    };
    assert_eq!((closed("/v"), closed("/w")), (false, true));
    all_there(&site, &store, &yard);
    faults[0].release();
}

#[test]
fn volumes_come_and_go_while_the_others_record() {
    let (_, _, site) = two_volumes();
    let store = site.open();
    let [(mut door_writer, mut door), (mut yard_writer, mut yard)] = two_cameras(&site, &store);
    let first = store.volumes()[0].volume;
    // Drained: its stream goes on elsewhere, its footage stays readable, and its segment is sealed.
    store.drain_volume(first).unwrap();
    record(&site, &store, &mut door_writer, &mut door, 4);
    assert_eq!(volume_of(&store, &door), Some(1));
    all_there(&site, &store, &door);
    let sealed = || store.reader().segments(door.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().iter().any(|s| s.sealed);
    eventually("what it leaves behind is sealed", || {
        store.flush_tick();
        sealed()
    });
    // Stopped: another store may have it. Started again: its footage is back.
    store.stop_volume(first).unwrap();
    assert!(matches!(store.stop_volume(first), Err(VolumeError::Unknown { .. })));
    assert_eq!(store.volumes().len(), 1);
    let config = site.config().volumes.swap_remove(0);
    drop(Store::open(StoreConfig { volumes: vec![config.clone()], ..site.config() }, site.env.clone()).unwrap());
    go_on(&store, &mut door_writer, &mut door);
    store.start_volume(&config).unwrap();
    go_on(&store, &mut yard_writer, &mut yard);
    assert!(matches!(store.start_volume(&config), Err(OpenError::InUse { .. })));
    // Both are drained: nobody takes the streams, so they stay where they are, and nothing is lost.
    let volumes: Vec<_> = store.volumes().iter().map(|v| v.volume).collect();
    volumes.iter().for_each(|volume| store.drain_volume(*volume).unwrap());
    record(&site, &store, &mut door_writer, &mut door, 3);
    store.undrain_volume(first).unwrap();
    eventually("all go to the one that takes them", || {
        let at = store.volumes().iter().position(|v| v.volume == first);
        volume_of(&store, &door) == at && volume_of(&store, &yard) == at
    });
    record(&site, &store, &mut door_writer, &mut door, 3);
    record(&site, &store, &mut yard_writer, &mut yard, 3);
    eventually("the catalogue is complete", || store.reader().is_complete());
    for camera in [&door, &yard] {
        all_there(&site, &store, camera);
        assert!(
            store.reader().coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().iter().all(|run| run.epoch == 1)
        );
    }
    store.close();
}

#[test]
fn a_lone_volume_is_started_again_and_nothing_is_missing() {
    let (_, site) = Site::mem(20);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 4);
    let (volume, mut config) = (store.volumes()[0].volume, site.config().volumes.swap_remove(0));
    config.budget_bytes += 4 * SEGMENT_BYTES;
    let restarting = {
        let store = store.clone();
        std::thread::spawn(move || store.restart_volume(volume, &config))
    };
    while !restarting.is_finished() {
        go_on(&store, &mut writer, &mut camera);
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    restarting.join().unwrap().unwrap();
    record(&site, &store, &mut writer, &mut camera, 4);
    assert_eq!(store.volumes()[0].files_total, 24);
    all_there(&site, &store, &camera);
    let stats = store.stream_stats(camera.ident.uid).unwrap();
    assert!(stats.dropped_frames.iter().all(|(_, frames)| *frames == 0), "{stats:?}");
    store.close();
}
