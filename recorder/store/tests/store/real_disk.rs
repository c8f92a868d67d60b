//! A real disk, written past the page cache and through it, while others read the same files through it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::*;
use framekeeper_store::env::{RealDisk, WritesWanted};
use framekeeper_store::*;

fn segment_paths(reader: &Reader, camera: &Camera) -> Vec<std::path::PathBuf> {
    reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap().into_iter().map(|s| s.path).collect()
}

fn valid(dir: &Path, path: &Path) -> Look {
    look(&std::fs::read(dir.join(path)).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A half-filled segment is filled on, whichever way it was written before, and nothing of it changes.
#[test]
fn both_ways_of_writing_take_turns_in_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut camera = Camera::new("door").with_audio();
    let mut recorded = Vec::new();
    let mut site = Site::new(Arc::new(RealDisk), &[dir.path()], 30);
    for round in 0..8 {
        site.writes = [WritesWanted::Direct, WritesWanted::Buffered][round % 2];
        site.durables = Durables::default();
        let store = site.open();
        let mut writer = store.stream(camera.ident.clone()).unwrap();
        let skipped = camera.next_frame.next_multiple_of(camera.gop) - camera.next_frame;
        camera.next_frame += skipped;
        camera.next_audio = camera.next_frame * 640 / 1024 + 1;
        let first = camera.next_frame;
        writer.begin_run(camera.run());
        // A little more each time, so that each restart is at another place in its block; some of them roll over.
        record(&site, &store, &mut writer, &mut camera, 5 + round * 2);
        recorded.extend(first..camera.next_frame);
        let reader = store.reader();
        eventually("the catalogue is complete", || reader.is_complete());
        assert_eq!(frames_of(&reader, &camera), recorded, "round {round}");
        for path in segment_paths(&reader, &camera) {
            valid(dir.path(), &path);
        }
        // Half of them as if killed.
        if round % 4 < 2 {
            writer.finish();
            store.close();
        }
    }
    let store = site.open();
    eventually("the catalogue is complete", || store.reader().is_complete());
    let (reader, looks) = (store.reader(), |p: &std::path::PathBuf| valid(dir.path(), p));
    let paths = segment_paths(&reader, &camera);
    assert!(paths.len() < 8 && paths.iter().map(looks).any(|l| l.runs.len() > 2), "segments are filled on");
}

/// `cp`, a player or a backup reads the file that is being written, through the page cache: what it gets is a valid file each time.
#[test]
fn copies_taken_while_it_is_written_past_the_page_cache_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site { writes: WritesWanted::Direct, ..Site::new(Arc::new(RealDisk), &[dir.path()], 60) };
    let store = site.open();
    let mut camera = Camera::new("door").with_audio();
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(&site, &store, &mut writer, &mut camera, 1);
    let (reader, done) = (store.reader(), AtomicBool::new(false));
    let (copies, different) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let watched = camera.clone();
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let newest = segment_paths(&reader, &watched).pop().unwrap();
                let frames = valid(dir.path(), &newest).frames.len();
                different.fetch_add(usize::from(frames != last), Ordering::Relaxed);
                last = frames;
                copies.fetch_add(1, Ordering::Relaxed);
            }
        });
        let enough = || copies.load(Ordering::Relaxed) > 100 && different.load(Ordering::Relaxed) > 50;
        let mut rounds = 0;
        // On a busy machine the copier has few turns: recorded on for it, but not more than the volume has room for.
        while rounds < 150 || (rounds < 1_500 && !enough() && !copier.is_finished()) {
            record(&site, &store, &mut writer, &mut camera, 1);
            rounds += 1;
        }
        done.store(true, Ordering::Release);
        copier.join().unwrap();
    });
    let (copies, different) = (copies.into_inner(), different.into_inner());
    assert!(copies > 100 && different > 50, "{copies} copies, {different} unlike the one before");
    assert_eq!(frames_of(&store.reader(), &camera), (0..camera.next_frame).collect::<Vec<_>>());
}
