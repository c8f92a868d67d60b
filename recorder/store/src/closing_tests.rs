//! A store that is closed in order before it knows all that is on its volume, mostly behind a kill: the next start finds everything all
//! the same. The workers are stepped by hand, so that it is closed exactly there.

use std::path::Path;

use crate::env::MemDisk;
use crate::failing_tests::common::{ALWAYS, Camera, Site, eventually, frames_of, record, segment_files};
use crate::store::{Workers, close};
use crate::{CatalogueStage, Store};

const MANIFEST: &str = "/v/manifest.log";
const CATALOGUE: &str = "/v/catalogue.redb";
/// Of a camera's, fill some segments.
const FRAGMENTS: usize = 100;

/// A store whose workers run when told.
struct ByHand {
    store: Store,
    workers: Workers,
}

impl ByHand {
    fn open(site: &Site) -> Self {
        let (store, mut workers) = Store::assemble(&site.config(), site.env.clone()).unwrap();
        Self { store, workers: workers.remove(0) }
    }

    /// Records as much, and seals what gets full.
    fn record(&mut self, camera: &mut Camera) {
        camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
        let mut writer = self.store.stream(camera.ident.clone()).unwrap();
        writer.begin_run(camera.run());
        for _ in 0..FRAGMENTS {
            writer.append(camera.fragment());
            self.store.flush_tick();
            self.workers.writer.tick();
        }
        drop(writer);
        self.workers.writer.tick();
        self.sync();
    }

    fn sync(&self) {
        while self.workers.syncer.once() {}
    }

    /// What was begun is done, but the keeper goes no further.
    fn close(mut self) {
        self.sync();
        self.workers.keeper.round(true);
        close(&self.workers.volume);
    }
}

/// A volume with footage, closed in order, and the camera to go on with.
fn recorded() -> (MemDisk, Site, Camera) {
    let (disk, site) = Site::mem(40);
    let mut camera = Camera::new("door");
    let store = site.open();
    eventually("the catalogue is complete", || store.reader().is_complete());
    record_some(&site, &store, &mut camera);
    store.close();
    (disk, site, camera)
}

fn record_some(site: &Site, store: &Store, camera: &mut Camera) {
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    record(site, store, &mut writer, camera, FRAGMENTS);
    writer.finish();
}

/// All that was recorded is found by a recorder that is started again.
fn assert_whole(site: &Site, disk: &MemDisk, camera: &Camera, frames: &[u64]) {
    let store = site.on(disk).open();
    let reader = store.reader();
    eventually("the catalogue is complete", || reader.is_complete());
    let found = frames_of(&reader, camera);
    let first_that_differs = frames.iter().zip(&found).find(|(given, found)| given != found);
    assert_eq!((first_that_differs, found.len()), (None, frames.len()));
    let segments = reader.segments(camera.ident.uid, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(segments.len(), segment_files(disk).len());
    store.close();
}

#[test]
fn what_was_sealed_before_the_manifest_was_open_is_found() {
    let (disk, site, mut camera) = recorded();
    let mut frames: Vec<u64> = (0..camera.next_frame).collect();
    let mut early = ByHand::open(&site);
    let files = segment_files(&disk).len();
    let first = camera.next_frame.next_multiple_of(camera.gop);
    early.record(&mut camera);
    frames.extend(first..camera.next_frame);
    assert!(segment_files(&disk).len() > files + 1, "a segment was sealed that is not the newest");
    early.close();
    assert_whole(&site, &disk, &camera, &frames);
}

#[test]
fn what_a_kill_left_is_found_although_newer_segments_are_known() {
    let (disk, site, mut camera) = recorded();
    let known = [MANIFEST, CATALOGUE].map(|path| disk.bytes(Path::new(path)).unwrap());
    let store = site.open();
    let files = segment_files(&disk).len();
    eventually("the catalogue is complete", || store.reader().is_complete());
    let mut frames: Vec<u64> = (0..camera.next_frame).collect();
    camera.next_frame = camera.next_frame.next_multiple_of(camera.gop);
    let first = camera.next_frame;
    record_some(&site, &store, &mut camera);
    frames.extend(first..camera.next_frame);
    let killed = disk.snapshot();
    store.close();
    assert!(segment_files(&killed).len() > files + 1, "a segment was sealed that is not the newest");
    // The manifest lost its end with the power, and the catalogue knows no more.
    for (path, bytes) in [MANIFEST, CATALOGUE].into_iter().zip(known) {
        killed.put(Path::new(path), bytes);
    }

    let site = site.on(&killed);
    let mut early = ByHand::open(&site);
    // Catalogue and manifest are open, and what the manifest tells is known.
    while early.workers.volume.books.lock().log.is_none() {
        early.workers.keeper.round(false);
    }
    for _ in 0..2 {
        let first = camera.next_frame.next_multiple_of(camera.gop);
        early.record(&mut camera);
        frames.extend(first..camera.next_frame);
    }
    assert!(!early.store.reader().is_complete());
    early.sync();
    let killed_again = killed.snapshot();
    early.close();
    assert_whole(&site, &killed, &camera, &frames);
    assert_whole(&site, &killed_again, &camera, &frames);
}

/// Where everything was known, files are not looked through again.
#[test]
fn what_was_closed_when_it_was_complete_is_not_looked_through() {
    let (_, site, _) = recorded();
    let mut again = ByHand::open(&site);
    while !again.store.reader().is_complete() {
        again.workers.keeper.round(false);
        let stage = again.workers.volume.stats().catalogue_progress.stage;
        assert_ne!(stage, CatalogueStage::Folders);
    }
}
