//! Opening: whose volume it is, what is refused, and that refusing changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::common::*;
use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_store::env::{Fault, FaultDisk, MemDisk, Operation, RealDisk, Trouble};
use framekeeper_store::*;
use uuid::Uuid;

fn error(site: &Site, change: impl FnOnce(&mut StoreConfig)) -> String {
    let mut config = site.config();
    change(&mut config);
    match Store::open(config, site.env.clone()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

/// All files but the catalogue, whose bytes change by themselves.
fn content(disk: &MemDisk) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter().filter(|p| !p.ends_with("catalogue.redb"));
    files.map(|p| (p.clone(), disk.bytes(&p).unwrap())).collect()
}

#[test]
fn a_fresh_folder_is_formatted_and_known_again() {
    let (disk, site) = Site::mem(8);
    site.open().close();
    let identity: serde_json::Value =
        serde_json::from_slice(&disk.bytes(Path::new("/v/framekeeper.json")).unwrap()).unwrap();
    assert_eq!(identity["format"], 1);
    assert_eq!(identity["pool"], "default/main");
    assert_eq!(identity["segmentBytes"], SEGMENT_BYTES);
    assert_eq!(identity["opens"], 1);
    assert_eq!(identity["closed"], true);
    let volume: Uuid = identity["volume"].as_str().unwrap().parse().unwrap();
    let mut config = site.config();
    config.volumes[0].uuid = Some(volume);
    let store = Store::open(config, site.env.clone()).unwrap();
    assert_eq!(store.volumes()[0].volume, volume);
    let identity: serde_json::Value =
        serde_json::from_slice(&disk.bytes(Path::new("/v/framekeeper.json")).unwrap()).unwrap();
    assert_eq!((&identity["opens"], &identity["closed"]), (&2.into(), &false.into()));
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let (disk, site) = Site::mem(8);
    disk.put(Path::new("/v/holiday.jpg"), vec![1, 2, 3]);
    let before = content(&disk);
    let text = error(&site, |_| {});
    assert!(text.contains("holiday.jpg") && text.contains("framekeeper.json"), "{text}");
    assert_eq!(content(&disk), before);

    let (disk, site) = Site::mem(8);
    disk.make_folder(Path::new("/v/lost+found"));
    site.open().close();
    let before = content(&disk);
    let text = error(&site, |c| c.pool = "default/other".to_owned());
    assert!(text.contains("pool") && text.contains("default/main") && text.contains("default/other"), "{text}");
    let text = error(&site, |c| c.volumes[0].uuid = Some(Uuid::nil()));
    assert!(text.contains("volume") && text.contains(&Uuid::nil().to_string()), "{text}");
    let text = error(&site, |c| c.volumes[0].segment_bytes = 2 << 20);
    assert!(text.contains("segmentBytes") && text.contains("1048576") && text.contains("2097152"), "{text}");
    assert_eq!(content(&disk), before);
    disk.put(Path::new("/v/framekeeper.json"), b"{".to_vec());
    let text = error(&site, |_| {});
    assert!(text.contains("damaged"), "{text}");
}

#[test]
fn impossible_sizes_are_refused_with_what_would_be_right() {
    let (_, site) = Site::mem(8);
    for (segment, budget, word) in
        [(5000, 1 << 30, "multiple of 4096"), (2 << 30, 1 << 40, "1073741824"), (1 << 20, 3 << 20, "4194304")]
    {
        let text = error(&site, |c| {
            c.volumes[0].segment_bytes = segment;
            c.volumes[0].budget_bytes = budget;
        });
        assert!(text.contains(word), "{text}");
    }
    let text = error(&site, |c| c.volumes.clear());
    assert!(text.contains("volumes"), "{text}");
}

#[test]
fn two_recorders_cannot_have_one_volume() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(Arc::new(RealDisk), &[dir.path()], 8);
    let store = site.open();
    let text = error(&site, |_| {});
    assert!(text.contains("in use"), "{text}");
    drop(store);
    site.open().close();
}

#[test]
fn a_folder_that_cannot_be_written_says_so() {
    let (disk, site) = Site::mem(8);
    disk.set_read_only(true);
    let text = error(&site, |_| {});
    assert!(text.contains("not writable"), "{text}");
    let missing = Site { dirs: vec!["/nowhere".into()], ..site };
    let text = error(&missing, |_| {});
    assert!(text.contains("/nowhere"), "{text}");
}

#[test]
fn too_little_room_is_told_in_numbers() {
    let disk = MemDisk::with_capacity(5 << 20);
    disk.make_folder(Path::new("/v"));
    let site = Site::new(Arc::new(disk), &[Path::new("/v")], 8);
    let text = error(&site, |_| {});
    for number in ["8 files", "1048576", "8421376"] {
        assert!(text.contains(number), "{number} is not in: {text}");
    }
    // The file system lies, or somebody else fills it: no room turns up when files are made.
    let (disk, site) = Site::mem(40);
    let faults = FaultDisk::new(Arc::new(disk));
    faults.inject(Fault::always(Operation::Create, Trouble::Enospc).after(20));
    let site = Site { env: framekeeper_store::env::Env { disk: Arc::new(faults), ..site.env.clone() }, ..site };
    let store = site.open();
    eventually("it says so", || store.volumes()[0].stuck.as_ref().is_some_and(|s| s.contains("20 of 40")));
    assert!(store.volumes()[0].failed.is_none());
}

#[test]
fn all_files_are_made_in_the_background_and_none_too_many() {
    let (disk, site) = Site::mem(50);
    let count = |disk: &MemDisk| disk.files().iter().filter(|p| p.extension().is_some_and(|e| e == "mp4")).count();
    let store = site.open();
    eventually("all are made", || store.volumes()[0].files_made == 50);
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 60);
    let killed = disk.snapshot();
    for _ in 0..3 {
        let site = site.on(&killed);
        let store = site.open();
        eventually("the catalogue is complete", || store.reader().is_complete());
        eventually("all are made", || store.volumes()[0].files_made == 50);
        assert_eq!(count(&killed), 50);
    }
}

#[test]
fn half_used_files_of_the_pool_are_emptied_before_they_are_used() {
    let (disk, site) = Site::mem(8);
    site.open().close();
    // Killed between filling a file and moving it; while emptying one; while making one.
    let in_pool = disk.files().into_iter().filter(|p| p.starts_with("/v/pool")).collect::<Vec<_>>();
    disk.put(&in_pool[0], vec![9; SEGMENT_BYTES as usize]);
    disk.put(Path::new("/v/retired/00000099.mp4"), vec![8; SEGMENT_BYTES as usize]);
    disk.put(&in_pool[1], vec![0; 5]);
    let store = site.open();
    let mut camera = Camera { key_bytes: 300_000, ..Camera::new("door") };
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 60);
    writer.finish();
    store.close();
    for path in disk.files().iter().filter(|p| p.extension().is_some_and(|e| e == "mp4")) {
        let bytes = disk.bytes(path).unwrap();
        assert_eq!(bytes.len() as u64, SEGMENT_BYTES, "{}", path.display());
        assert!(!bytes.windows(16).any(|w| w == [9; 16] || w == [8; 16]), "{} has old bytes", path.display());
    }
}

#[test]
fn one_bad_volume_does_not_stop_the_others() {
    let disk = mem_disk();
    disk.make_folder(Path::new("/v"));
    disk.make_folder(Path::new("/w"));
    disk.put(Path::new("/v/holiday.jpg"), vec![1]);
    let site = Site::new(Arc::new(disk), &[Path::new("/v"), Path::new("/w")], 8);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 3);
    let volumes = store.volumes();
    assert_eq!(volumes.len(), 2);
    assert!(
        volumes
            .iter()
            .any(|v| v.dir == Path::new("/v") && v.failed.as_ref().is_some_and(|f| f.contains("holiday.jpg")))
    );
}

#[test]
fn a_stream_has_one_writer_and_a_name_that_can_be_a_folder() {
    let (_, site) = Site::mem(8);
    let store = site.open();
    let camera = Camera::new("door");
    let writer = store.stream(camera.ident.clone()).unwrap();
    assert!(matches!(store.stream(camera.ident.clone()), Err(StreamError::Taken(_))));
    writer.finish();
    drop(store.stream(camera.ident.clone()).unwrap());
    let bad = StreamIdent { name: "../x".into(), ..camera.ident.clone() };
    assert!(matches!(store.stream(bad), Err(StreamError::Name { .. })));
    store.close();
    assert!(matches!(store.stream(camera.ident), Err(StreamError::Closed)));
}

#[test]
fn a_run_given_a_reason_keeps_it() {
    let (_, site) = Site::mem(8);
    let store = site.open();
    let mut camera = Camera::new("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    assert_eq!(writer.previous(), None);
    for gap in [None, Some(GapReason::CameraUnreachable), Some(GapReason::Silence)] {
        writer.begin_run(RunStart { gap, ..camera.run() });
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        record(&site, &store, &mut writer, &mut camera, 1);
    }
    let runs = store.reader().coverage(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    let gaps: Vec<_> = runs.iter().map(|r| r.gap).collect();
    assert_eq!(gaps, [GapReason::FirstRun, GapReason::CameraUnreachable, GapReason::Silence]);
    assert_eq!(runs[2].previous_end, Some(runs[1].to));
    assert_eq!(runs[1].from, WallTime(camera.start_wall + 1_000_000));
    assert_eq!(store.reader().segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().len(), 1);
}
