//! What is recorded behind a clock that was set back is not among the newest files of its stream, and is found again all the same.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use framekeeper_store::env::{Fault, FaultDisk, Operation, Trouble};
use framekeeper_store::*;

/// A few frames fill a segment.
fn big(name: &str) -> Camera {
    Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new(name) }
}

/// What was recorded since a clock was set back is not among the newest files of its stream: it is found all the same, also where it was not sealed.
#[test]
fn footage_behind_a_clock_that_was_set_back_is_found_again() {
    for (in_order, back_us) in [(false, 86_400_000_000), (true, 86_400_000_000), (false, 60_000_000)] {
        let (mut disk, mut site) = Site::mem(60);
        let mut camera = big("door");
        let mut recorded = Vec::new();
        // Ahead for a while; back; killed twice more, the second time with the clock as it was first. Each time also a moment after all was found: what
        // was not sealed is not in the manifest yet.
        for moved_us in [0, -back_us, 0, back_us] {
            camera.start_wall += moved_us;
            let store = site.open();
            eventually("the catalogue is complete", || store.reader().is_complete());
            let mut writer = store.stream(camera.ident.clone()).unwrap();
            writer.begin_run(camera.run());
            camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
            let from = camera.next_frame;
            // More than one segment, and the last one is not sealed.
            record(&site, &store, &mut writer, &mut camera, 7);
            recorded.extend(from..camera.next_frame);
            if in_order {
                drop(writer);
                store.close();
            }
            disk = disk.snapshot();
            site = site.on(&disk);
            let store = site.open();
            eventually("the catalogue is complete", || store.reader().is_complete());
            let missing = missing(&store, &camera, &recorded);
            assert!(missing.is_empty(), "{missing:?} after {moved_us} us, in order: {in_order}");
            disk = disk.snapshot();
            site = site.on(&disk);
        }
    }
}

/// All that was recorded of a camera and is not found.
fn missing(store: &Store, camera: &Camera, recorded: &[u64]) -> Vec<u64> {
    let reader = store.reader();
    let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    let entries = segments.iter().flat_map(|segment| reader.index(segment).unwrap().entries.clone());
    let identity = |entry: IndexEntry| match entry.kind {
        EntryKind::Video { identity, .. } => Some(identity),
        EntryKind::Audio { .. } => None,
    };
    let found: Vec<_> = entries.filter_map(identity).collect();
    recorded.iter().copied().filter(|number| !found.contains(&camera.identity(*number))).collect()
}

/// The mark that all files are to be looked at is there until the manifest knows all of them: who is killed a moment after the files were looked at finds
/// them again.
#[test]
fn what_was_found_behind_a_clock_is_found_again_until_the_manifest_has_it() {
    let mark = Path::new("/v/unordered");
    let (mut disk, site) = Site::mem(60);
    let mut camera = big("door");
    let mut recorded = Vec::new();
    // More segments than are looked at without the mark; then one behind them that is not sealed.
    for (moved_us, seconds) in [(0, 30), (-86_400_000_000, 2)] {
        let site = site.on(&disk);
        camera.start_wall += moved_us;
        let store = site.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        let from = camera.next_frame;
        record(&site, &store, &mut writer, &mut camera, seconds);
        recorded.extend(from..camera.next_frame);
        disk = disk.snapshot();
    }
    assert!(segment_files(&disk).len() > 6 && disk.bytes(mark).is_some());
    // Opened until the mark is gone, and killed as soon as all was looked at: syncs take their time, and records of the manifest wait for them.
    for opening in 1.. {
        let faults = FaultDisk::new(Arc::new(disk.clone()));
        faults.inject(Fault::always(Operation::Sync, Trouble::Delay(Duration::from_millis(300))));
        let mut slow = site.on(&disk);
        slow.env.disk = Arc::new(faults.clone());
        let store = slow.open();
        eventually("the catalogue is complete", || store.reader().is_complete());
        disk = disk.snapshot();
        faults.release();
        assert_eq!(missing(&store, &camera, &recorded), Vec::<u64>::new(), "at opening {opening}");
        if opening > 1 && disk.bytes(mark).is_none() {
            return;
        }
        assert!(opening < 4, "the mark stays for ever");
        if opening > 1 {
            // This time there is time for everything.
            let store = site.on(&disk).open();
            eventually("the catalogue is complete", || store.reader().is_complete());
            store.close();
        }
    }
}
