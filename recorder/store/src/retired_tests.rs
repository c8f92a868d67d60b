//! A retired file is emptied although nothing is written any more: where all streams wait for a file, nothing is. The workers are stepped by
//! hand, so that a sync begins just between what it covers and the moment that is noted for it.

use std::sync::atomic::Ordering;

use crate::failing_tests::common::{Camera, Site};
use crate::{Store, lock};

#[test]
fn a_sync_between_a_retirement_and_its_time_is_enough() {
    let (_, site) = Site::mem(5);
    let (store, mut workers) = Store::assemble(&site.config(), site.env.clone()).unwrap();
    let mut workers = workers.remove(0);
    let mut camera = Camera { key_bytes: 200_000, frame_bytes: 20_000, ..Camera::new("door") };
    let mut writer = store.stream(camera.ident.clone()).unwrap();
    writer.begin_run(camera.run());
    let volume = workers.volume.clone();
    let retired = || lock(&volume.pool).retired();
    for _ in 0..1_000 {
        if !retired().is_empty() {
            break;
        }
        writer.append(camera.fragment());
        store.flush_tick();
        workers.writer.tick();
        while workers.syncer.once() {}
        workers.keeper.round(false);
    }
    let (number, noted_us) = *retired().first().expect("a file is retired");
    // Durable, with a sync that began a moment before the file was retired.
    while workers.syncer.once() {}
    let synced_us = volume.synced_us.load(Ordering::Acquire);
    // In the same microsecond it would be covered.
    let now_us = || site.env.clock.monotonic_us();
    let since_us = std::iter::repeat_with(now_us).find(|now_us| *now_us > synced_us).unwrap();
    assert!(since_us > noted_us);
    lock(&volume.pool).retired_again(number, since_us);

    workers.keeper.round(false);
    assert!(retired().iter().any(|(of, _)| *of == number), "what no sync is known to cover is not emptied");
    workers.syncer.once();
    workers.keeper.round(false);
    assert!(!retired().iter().any(|(of, _)| *of == number), "{:?}", retired());
}
