//! Loss of power: what comes back from a disk that kept what was flushed and any part of the rest.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::count;
use framekeeper_e2e::judge;
use framekeeper_e2e::power::{Outcome, Place, Recording, Sabotage, cameras, ready, record};
use framekeeper_e2e_power::mount::Came;
use framekeeper_e2e_power::verdict::Violation;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

#[test]
#[ignore = "run by `make power`, as long as it finds what docs/durability.md lists as open"]
fn after_a_loss_of_power_all_that_was_durable_is_there() -> Result<()> {
    ready()?;
    let folder = tempfile::tempdir()?;
    let result = proof(folder.path());
    if result.is_err() {
        // For `power-disk images --cut`.
        let kept = folder.keep();
        judge::result(&format!("the logs of the disks are kept in {}", kept.display()));
    }
    result
}

fn proof(folder: &Path) -> Result<()> {
    let seed: u64 = rand::random();
    judge::result(&format!("seed {seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let cameras = cameras(folder)?;
    // Each recording is another one; in each, many moments.
    for round in 0..count(1, 5) {
        for place in [Place::Volume, Place::Data] {
            let folder = folder.join(format!("{place:?}-{round}"));
            let time = Duration::from_secs(count(14, 40) as u64);
            let recording = record(&folder, &cameras, place, time, None)?;
            let (sealed, retired, syncs) = recording.counts;
            ensure!(
                sealed > 8 && retired > 0,
                "nothing was sealed ({sealed}) or retired ({retired}): nothing is proven"
            );
            let (writes, flushes) = recording.logged();
            judge::result(&format!(
                "{place:?}: {writes} writes, {flushes} flushes, {syncs} syncs of at most {} ms, {sealed} segments sealed, {retired} retired; the machine \
                 stood still for {:.0} ms of 1.5 s",
                recording.max_sync_ms, recording.stalled_ms
            ));
            let cuts = recording.cuts(count(20, 210), &mut random);
            let outcomes = images(&recording, &cuts)?;
            let violations: Vec<_> = outcomes.iter().filter(|outcome| !outcome.verdict.violations.is_empty()).collect();
            ensure!(violations.is_empty(), "{} of {}: {violations:#?}", violations.len(), outcomes.len());
            for cut in cuts.iter().rev().take(count(1, 4)) {
                let back = recording.reboot(*cut, &cameras, Duration::from_secs(2))?;
                ensure!(back <= MAX_BACK_MS, "{place:?}: recorded again {back:.0} ms after the start");
                judge::result(&format!("{place:?}: the whole product recorded again {back:.0} ms after its start"));
            }
        }
    }
    Ok(())
}

/// From the start of the operator to the first frame recorded: 2 s, and a GOP of these cameras.
const MAX_BACK_MS: f64 = 3_000.0;

#[test]
#[ignore = "run by `make power`"]
fn a_recorder_without_syncs_is_found_out() -> Result<()> {
    found_out(Sabotage::NoSync)
}

#[test]
#[ignore = "run by `make power`"]
fn a_recorder_whose_syncs_come_late_is_found_out() -> Result<()> {
    found_out(Sabotage::LateSync)
}

fn found_out(harm: Sabotage) -> Result<()> {
    ready()?;
    let folder = tempfile::tempdir()?;
    let cameras = cameras(folder.path())?;
    let recording = record(&folder.path().join("disk"), &cameras, Place::Volume, Duration::from_secs(6), Some(harm))?;
    let cuts = recording.cuts(count(8, 40), &mut StdRng::seed_from_u64(rand::random()));
    let outcomes = images(&recording, &cuts)?;
    let lost = |outcome: &&Outcome| {
        outcome.verdict.violations.iter().any(|violation| matches!(violation, Violation::DurableLost { .. }))
    };
    let caught = outcomes.iter().filter(lost).count();
    judge::result(&format!("{harm:?}: {caught} of {} images lack what was said to be durable", outcomes.len()));
    ensure!(caught > 0, "{harm:?} was not noticed in {} images: {outcomes:#?}", outcomes.len());
    Ok(())
}

/// Recovers images, tells how it goes, and sums up.
fn images(recording: &Recording, cuts: &[framekeeper_e2e_power::image::Cut]) -> Result<Vec<Outcome>> {
    let (done, began) = (AtomicUsize::new(0), Instant::now());
    let outcomes = recording.images(cuts, |_| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(50) {
            tell(&format!("{done} of {} images, {:.0} s", cuts.len(), began.elapsed().as_secs_f64()));
        }
    })?;
    let largest = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).fold(0.0, f64::max);
    let (lost, open) = (largest(|one| one.verdict.lost_ms), largest(|one| one.recovered.map_or(0.0, |r| r.open_ms)));
    let durable = largest(|one| one.recovered.map_or(0.0, |r| r.durable_ms));
    let checked = outcomes.iter().filter(|one| one.came == Some(Came::AfterCheck)).count();
    let torn: usize = outcomes.iter().map(|one| one.survival.torn).sum();
    let unflushed: usize = outcomes.iter().map(|one| one.survival.unflushed).sum();
    let seconds = began.elapsed().as_secs_f64() / outcomes.len().max(1) as f64;
    outcomes.first().context("no image")?;
    judge::result(&format!(
        "{} images at {seconds:.2} s: {unflushed} writes unflushed, {torn} torn; at most {lost:.0} ms lost (allowed {:.0}); may record after at most \
         {open:.0} ms, durable again after {durable:.0} ms; {checked} needed e2fsck -p",
        outcomes.len(),
        recording.max_lost_ms()
    ));
    Ok(outcomes)
}

#[expect(clippy::print_stdout, reason = "whoever waits for hours wants to see that it goes on")]
fn tell(text: &str) {
    println!("{text}");
}
