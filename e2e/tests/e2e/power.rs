//! Loss of power: what comes back from a disk that kept what was flushed and any part of the rest.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, count};
use framekeeper_e2e::judge;
use framekeeper_e2e::power::{Outcome, Place, Recording, Sabotage, Scene, Way, cameras, ready, record};
use framekeeper_e2e_power::image::Cut;
use framekeeper_e2e_power::mount::Came;
use framekeeper_e2e_power::verdict::Violation;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// From the start of the operator to the first frame recorded: 2 s, and a GOP of these cameras.
const MAX_BACK_MS: f64 = 3_000.0;

/// All of them in `make soak`, the first two in `make test`.
const SCENES: [(Place, Way); 4] = [
    (Place::Volume, Way::Direct),
    (Place::Data, Way::Buffered),
    (Place::Volume, Way::Buffered),
    (Place::Data, Way::Direct),
];

#[test]
fn after_a_loss_of_power_all_that_was_durable_is_there() -> Result<()> {
    ready()?;
    let folder = tempfile::tempdir()?;
    let result = proof(folder.path());
    if result.is_err() {
        // For `power-disk images --cut`.
        let kept = folder.keep();
        judge::say(&format!("the logs of the disks are kept in {}", kept.display()));
    }
    result
}

fn proof(folder: &Path) -> Result<()> {
    let seed: u64 = rand::random();
    judge::result(&format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let cameras = cameras(folder)?;
    let time = Duration::from_secs(count(12, 30) as u64);
    // Each recording is another one; in each, many moments.
    for round in 0..count(1, 5) {
        for pair in SCENES.chunks(2).take(count(1, 2)) {
            let one = |&(place, way): &(Place, Way)| {
                let folder = folder.join(format!("{place:?}-{way:?}-{round}"));
                record(&folder, &cameras, Scene { place, way, time, harm: None })
            };
            let recordings: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = pair.iter().map(|scene| scope.spawn(move || one(scene))).collect();
                threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a panic"))?).collect()
            });
            for recording in recordings {
                prove(&recording?, &cameras, &mut random)?;
            }
        }
    }
    Ok(())
}

/// Images of one recording.
fn prove(recording: &Recording, cameras: &Cameras, random: &mut StdRng) -> Result<()> {
    let Scene { place, way, .. } = recording.scene;
    let what = format!("{place:?}, {way:?}");
    let (sealed, retired) = recording.counts;
    ensure!(sealed > 8 && retired > 0, "nothing was sealed ({sealed}) or retired ({retired}): nothing is proven");
    let did = recording.judged();
    judge::result(&format!(
        "{what}: {} writes, {} flushes, {} syncs of at most {:.0} ms, writes of at most {:.0} ms; arrived to durable in at most {:.0} ms, of \
         which the recorder waited {:.0} ms in all for a processor; {sealed} segments sealed, {retired} retired",
        did.logged.0,
        did.logged.1,
        did.syncs,
        did.longest_sync_ms,
        did.longest_write_ms,
        did.longest_ms,
        did.delayed_ms
    ));
    let cuts = recording.cuts(count(15, 100), random);
    let outcomes = images(&what, recording, &cuts)?;
    let violations: Vec<_> = outcomes.iter().filter(|outcome| !outcome.verdict.violations.is_empty()).collect();
    ensure!(violations.is_empty(), "{what}: {} of {}: {violations:#?}", violations.len(), outcomes.len());
    for cut in cuts.iter().rev().take(1) {
        let back = recording.reboot(*cut, cameras, Duration::from_secs(2))?;
        ensure!(back <= MAX_BACK_MS, "{what}: recorded again {back:.0} ms after the start");
        judge::result(&format!("{what}: the whole product recorded again {back:.0} ms after its start"));
    }
    Ok(())
}

#[test]
fn a_recorder_without_syncs_is_found_out() -> Result<()> {
    // Of an image that happens to keep everything nobody can tell.
    found_out(Sabotage::NoSync, Way::Direct, 2)
}

#[test]
fn a_recorder_whose_syncs_come_late_is_found_out() -> Result<()> {
    // Half of the time the last sync was a true one. What is written past the page cache is on the disk, and any flush makes it durable,
    // also that of a file that is emptied; through the cache, a sync that does nothing leaves nothing on the disk.
    found_out(Sabotage::LateSync, Way::Buffered, 4)
}

/// At least one of so many images must show it. Where syncs come late about half do, and of sixteen chance alone left too few in one run of thirty.
fn found_out(harm: Sabotage, way: Way, of: usize) -> Result<()> {
    ready()?;
    let folder = tempfile::tempdir()?;
    let cameras = cameras(folder.path())?;
    let scene = Scene { place: Place::Volume, way, time: Duration::from_secs(6), harm: Some(harm) };
    let recording = record(&folder.path().join("disk"), &cameras, scene)?;
    let cuts = recording.cuts(count(12 * of, 60), &mut StdRng::seed_from_u64(rand::random()));
    let outcomes = images(&format!("{harm:?}"), &recording, &cuts)?;
    let lost = |outcome: &&Outcome| outcome.verdict.violations.iter().any(Violation::is_loss);
    let caught = outcomes.iter().filter(lost).count();
    judge::result(&format!("{harm:?}: {caught} of {} images lack what was synced", outcomes.len()));
    ensure!(caught * of >= outcomes.len(), "{harm:?} was noticed in {caught} of {}: {outcomes:#?}", outcomes.len());
    Ok(())
}

/// Recovers images, tells how it goes, and sums up.
fn images(what: &str, recording: &Recording, cuts: &[Cut]) -> Result<Vec<Outcome>> {
    let (done, began) = (AtomicUsize::new(0), Instant::now());
    let outcomes = recording.images(cuts, |_| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(50) {
            judge::say(&format!("{what}: {done} of {} images, {:.0} s", cuts.len(), began.elapsed().as_secs_f64()));
        }
    })?;
    let largest = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).fold(0.0, f64::max);
    let (lost, open) = (largest(|one| one.verdict.lost_ms), largest(|one| one.recovered.map_or(0.0, |r| r.open_ms)));
    let durable = largest(|one| one.recovered.map_or(0.0, |r| r.durable_ms));
    let checked = outcomes.iter().filter(|one| one.came == Some(Came::AfterCheck)).count();
    let torn: usize = outcomes.iter().map(|one| one.survival.torn).sum();
    let unflushed: usize = outcomes.iter().map(|one| one.survival.unflushed).sum();
    let by_clock = outcomes.iter().filter(|one| one.max_lost_ms.is_some()).count();
    let spare = outcomes.iter().filter_map(|one| Some(one.max_lost_ms? - one.verdict.lost_ms)).fold(f64::MAX, f64::min);
    let kept_back = largest(|one| one.kept_back_ms);
    let seconds = began.elapsed().as_secs_f64() / outcomes.len().max(1) as f64;
    outcomes.first().context("no image")?;
    judge::result(&format!(
        "{what}: {} images at {seconds:.2} s: {unflushed} writes unflushed, {torn} torn; at most {lost:.0} ms lost; frames came at most {kept_back:.0} ms late; {by_clock} judged by the \
         clock too, least room {spare:.0} ms; may record after at most {open:.0} ms, durable again after {durable:.0} ms; {checked} needed e2fsck -p",
        outcomes.len(),
    ));
    Ok(outcomes)
}
