//! What a loss of power leaves of a volume that no kill of a process does: some writes are there and earlier ones are not.
//! Each of these was found on images of a real disk; the proof on such images is in `e2e/tests/e2e/power.rs`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::common::*;
use framekeeper_store::env::{Disk, Fault, FaultDisk, MemDisk, Operation, Trouble};

/// Big frames, so that few of them fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) }
}

/// A name in `streams/` may be durable before anything in its file is.
#[test]
fn a_file_that_never_got_its_head_makes_room_again() {
    for reopened in [false, true] {
        let (disk, site) = Site::mem(12);
        let store = site.open();
        let mut camera = big("door");
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 6);
        if reopened {
            // With a catalogue that has seen all files, only the newest are looked at.
            writer.finish();
            store.close();
            drop(store);
            let store = site.open();
            let mut writer = store.stream(camera.ident.clone()).unwrap();
            writer.begin_run(camera.run());
            record(&site, &store, &mut writer, &mut camera, 2);
        }
        let killed = disk.snapshot();
        let (newest, bytes) = segment_files(&killed).pop().unwrap();
        let empty = newest.with_file_name("29991231T235959.000Z.mp4");
        let torn = newest.with_file_name("29991231T235959.001Z.mp4");
        killed.put(&empty, vec![0; bytes.len()]);
        killed.put(&torn, [vec![0; 512], bytes[512..].to_vec()].concat());
        // What is none of ours is left alone.
        let foreign = newest.with_file_name("29991231T235959.002Z.mp4");
        killed.put(&foreign, vec![7; bytes.len()]);
        let site = site.on(&killed);
        let store = site.open();
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        let there = |path: &PathBuf| killed.files().contains(path);
        assert_eq!((there(&empty), there(&torn), there(&foreign)), (false, false, true));
        assert_eq!(frames_of(&reader, &camera), (0..camera.next_frame).collect::<Vec<_>>());
        let files = || killed.files().iter().filter(|path| path.extension().is_some_and(|e| e == "mp4")).count();
        eventually("as many files as the budget allows", || files() == 12);
        assert_eq!(store.volumes()[0].files_made, 12);
    }
}

/// A file may be in `retired/` while the manifest does not say so.
#[test]
fn a_segment_whose_retirement_was_half_done_is_not_there() {
    let (disk, site) = Site::mem(12);
    let store = site.open();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 12);
    let reader = store.reader();
    eventually("segments are sealed", || reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap()[0].sealed);
    let oldest = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().remove(0);
    eventually("the manifest has it", || disk.bytes(Path::new("/v/manifest.log")).unwrap().len() > 100);
    let killed = disk.snapshot();
    let retired = PathBuf::from(format!("retired/{:08}.mp4", oldest.file_number));
    killed.open(Path::new("/v")).unwrap().rename(&oldest.path, &retired).unwrap();
    let site = site.on(&killed);
    let store = site.open();
    let reader = store.reader();
    let listed = || {
        let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
        segments.iter().any(|segment| segment.file_number == oldest.file_number)
    };
    eventually("the catalogue is complete", || reader.is_complete());
    eventually("it is not listed any more", || !listed());
    // Its file is of use again.
    eventually("its file is empty", || {
        killed.files().contains(&PathBuf::from(format!("/v/pool/{:08}.mp4", oldest.file_number)))
    });
    store.close();
    drop((reader, store));
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let first = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().remove(0);
    assert_ne!(first.file_number, oldest.file_number, "a record of the retirement is in the manifest");
}

/// What the watcher of a disk that is synced as a whole counts.
#[derive(Default)]
struct Counts {
    manifest_writes: usize,
    renamed: usize,
    /// As of the last sync.
    sealed_durable: usize,
    renamed_durable: usize,
    emptied: usize,
    early: Vec<String>,
}

/// The manifest never names a seal that its file lacks, and no file is emptied while a loss of power could bring its name back.
#[test]
fn the_manifest_and_the_pool_follow_what_is_durable() {
    let mem = MemDisk::new().synced_as_a_whole();
    mem.make_folder(Path::new("/v"));
    let faults = FaultDisk::new(Arc::new(mem.clone()));
    // Time for the wrong order to show.
    let slow = Trouble::Delay(std::time::Duration::from_millis(20));
    faults.inject(Fault::always(Operation::Sync, slow));
    let counts = Arc::new(Mutex::new(Counts::default()));
    let (watched, seen) = (mem.clone(), counts.clone());
    faults.observe(move |operation, path| {
        let mut seen = seen.lock().unwrap();
        let below = |folder: &str| path.starts_with(folder);
        match operation {
            Operation::Write if below("manifest.log") => {
                seen.manifest_writes += 1;
                // The first one is the header; from the first retirement on, there are other records.
                if seen.renamed == 0 && seen.manifest_writes - 1 > seen.sealed_durable {
                    let what =
                        format!("{} records, {} seals are durable", seen.manifest_writes - 1, seen.sealed_durable);
                    seen.early.push(what);
                }
            }
            Operation::Rename if below("streams") => seen.renamed += 1,
            Operation::Zero if below("retired") => {
                seen.emptied += 1;
                if seen.emptied > seen.renamed_durable {
                    let what =
                        format!("{} files emptied, {} retirements are durable", seen.emptied, seen.renamed_durable);
                    seen.early.push(what);
                }
            }
            Operation::Sync if path.as_os_str().is_empty() => {
                let sealed =
                    segment_files(&watched).iter().filter(|(_, bytes)| look(bytes).is_ok_and(|l| l.sealed)).count();
                seen.sealed_durable = if seen.renamed == 0 { sealed } else { seen.sealed_durable };
                seen.renamed_durable = seen.renamed;
            }
            _ => {}
        }
    });
    let site = Site::new(Arc::new(faults), &[Path::new("/v")], 6);
    let store = site.open();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    for _ in 0..60 {
        record(&site, &store, &mut writer, &mut camera, 1);
    }
    writer.finish();
    store.close();
    let seen = counts.lock().unwrap();
    assert!(seen.manifest_writes > 4 && seen.emptied > 2, "{} records, {} emptied", seen.manifest_writes, seen.emptied);
    assert!(seen.early.is_empty(), "{:?}", seen.early);
}

/// The catalogue of a volume that lost power lacks the last minute. A full volume opens all the same, and gets no file too many.
#[test]
fn a_full_volume_opens_with_a_catalogue_that_is_out_of_date() {
    const FILES: u64 = 16;
    let disk = MemDisk::with_capacity((FILES + 3) * SEGMENT_BYTES);
    disk.make_folder(Path::new("/v"));
    let site = Site::new(Arc::new(disk.clone()), &[Path::new("/v")], FILES);
    let store = site.open();
    eventually("all files are made", || store.volumes()[0].files_made == FILES);
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    store.close();
    drop((reader, store));
    let store = site.open();
    let mut camera = big("door");
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    // Most of the files are full, and none of them is in the catalogue's file.
    record(&site, &store, &mut writer, &mut camera, 40);
    let killed = disk.snapshot();
    let site = site.on(&killed);
    let store = site.open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let volume = store.volumes().remove(0);
    assert_eq!((volume.files_made, volume.stuck), (FILES, None));
    let files = killed.files().iter().filter(|path| path.extension().is_some_and(|e| e == "mp4")).count();
    assert_eq!(files as u64, FILES);
    assert_eq!(frames_of(&reader, &camera).last(), Some(&(camera.next_frame - 1)));
}

/// A file that was being taken may have its old start, all zeros, and new bytes behind it.
#[test]
fn what_lies_behind_a_start_that_is_zero_is_never_in_a_file_that_is_used() {
    const LEFT: &[u8] = b"left over";
    // Footage may have any bytes, but not these.
    let is_dirty = |bytes: &[u8]| bytes.windows(LEFT.len()).any(|window| window == LEFT);
    for closed_at_once in [false, true] {
        let (disk, site) = Site::mem(12);
        let store = site.open();
        eventually("all files are made", || store.volumes()[0].files_made == 12);
        let killed = disk.snapshot();
        for path in killed.files().into_iter().filter(|path| path.starts_with("/v/pool")) {
            killed.change(&path, |bytes| {
                for at in (8..bytes.len() - LEFT.len()).step_by(64 << 10) {
                    bytes[at..at + LEFT.len()].copy_from_slice(LEFT);
                }
            });
        }
        let site = site.on(&killed);
        let mut store = site.open();
        if closed_at_once {
            // Whatever there was no time to look through; the next opening is one in order.
            store.close();
            drop(store);
            store = site.open();
        }
        let mut camera = big("door");
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        record(&site, &store, &mut writer, &mut camera, 12);
        let segments = segment_files(&killed);
        assert!(segments.len() > 1);
        for (path, bytes) in segments {
            assert!(!is_dirty(&bytes), "{} was taken as it was", path.display());
        }
        let files = || killed.files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "mp4"));
        eventually("all files are empty", || !files().any(|path| is_dirty(&killed.bytes(&path).unwrap_or_default())));
        assert_eq!((files().count(), store.volumes()[0].files_made), (12, 12));
    }
}
