//! Images of the disk of a recording, and what the product makes of them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use framekeeper_e2e_checker::ledger::Ledger;
use framekeeper_e2e_checker::volume::{State, Volume};
use framekeeper_e2e_power::image::{Cut, Survival};
use framekeeper_e2e_power::log::Action;
use framekeeper_e2e_power::mount::{Came, DiskProcess, LoopDevice, Mounted};
use framekeeper_e2e_power::recover::{Recovered, Site, by_program};
use framekeeper_e2e_power::verdict::{FRAME_US, Promise, Verdict, Violation, verdict};
use framekeeper_e2e_power::{PART_US, wall_ns};
use rand::RngExt as _;
use serde_json::Value;

use super::watch::{delayed_ms, durable};
use super::{DISK_BYTES, FILES, Place, Recording, SEGMENT_BYTES, mount_point};
use crate::bench::process::family;
use crate::harness::{Cameras, poll, prefer, program};
use crate::local::System;

/// Of recorders.
const TICK_US: i64 = 100_000;
/// `segment.sync` as it is when nobody sets it.
const SYNC_US: i64 = 500_000;
/// When recording must be possible after a start.
const MAX_OPEN_MS: f64 = 2_000.0;
/// What is lost at a cut may have been delayed by what happened so long before it.
const LATELY_NS: u64 = 2_500_000_000;
/// A recorder whose threads had to wait no longer than that for a processor, lately and all together, was on a quiet machine.
const QUIET_MS: f64 = 40.0;

/// An image, and what became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The cut.
    pub cut: Cut,
    /// What survived behind the last flush.
    pub survival: Survival,
    /// How the file system came back; `None`: not at all.
    pub came: Option<Came>,
    /// How the product recovered it; `None`: not at all.
    pub recovered: Option<Recovered>,
    /// By the clock, no more than that may be lost, milliseconds; `None` where the machine was busy.
    pub max_lost_ms: Option<f64>,
    /// For how long frames were kept back on their way to the recorder, at most, milliseconds: no sync could cover them.
    pub kept_back_ms: f64,
    /// What was found.
    pub verdict: Verdict,
}

/// What a recording did, as the clock sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Writes of blocks, and flushes, that were logged.
    pub logged: (usize, usize),
    /// Syncs.
    pub syncs: usize,
    /// The longest of them, milliseconds.
    pub longest_sync_ms: f64,
    /// The longest batch of writes, milliseconds.
    pub longest_write_ms: f64,
    /// The longest that something waited from its arrival to the end of the sync that covered it, milliseconds.
    pub longest_ms: f64,
    /// For how long the recorder's threads had to wait for a processor, in the whole window, milliseconds.
    pub delayed_ms: f64,
}

impl Recording {
    /// Random cuts within the recording, in order: half of them spread over its time, half over its writes.
    pub fn cuts(&self, count: usize, random: &mut rand::rngs::StdRng) -> Vec<Cut> {
        let at = |ns: u64| self.log.records.partition_point(|record| record.monotonic_ns <= ns);
        let (first, last) = (at(self.window.0).max(1), at(self.window.1));
        let mut cuts: Vec<_> = (0..count)
            .map(|number| {
                let records = if number % 2 == 0 {
                    at(random.random_range(self.window.0..self.window.1)).clamp(first, last)
                } else {
                    random.random_range(first..=last)
                };
                Cut { records, seed: random.random() }
            })
            .collect();
        cuts.sort_by_key(|cut| cut.records);
        cuts
    }

    /// Numbers of the recording.
    #[must_use]
    pub fn judged(&self) -> Judged {
        let flushes = self.log.records.iter().filter(|record| record.action == Action::Flush).count();
        let timing = &self.said.timing;
        let longest = |spans: &[framekeeper_e2e_power::timing::Span]| {
            spans.iter().map(|span| span.us()).max().unwrap_or(0) as f64 / 1e3
        };
        let waited = timing.syncs.iter().filter_map(|sync| {
            // A moment before its end, all that the one before did not cover waits.
            Some(sync.ended_us - timing.covered(sync.ended_us - 1)?.arrived_us)
        });
        Judged {
            logged: (self.log.records.len() - flushes, flushes),
            syncs: timing.syncs.len(),
            longest_sync_ms: longest(&timing.syncs),
            longest_write_ms: longest(&timing.batches),
            longest_ms: waited.max().unwrap_or(0) as f64 / 1e3,
            delayed_ms: self.delays.ms(self.window.0, self.window.1),
        }
    }

    /// The moment of a cut: (monotonic, since 1970) nanoseconds.
    fn moment(&self, cut: Cut) -> (u64, u64) {
        // The disk has taken up its last record, and not the next one.
        let last = self.log.records.get(cut.records.saturating_sub(1));
        last.map_or((0, 0), |record| (record.monotonic_ns, record.wall_ns))
    }

    /// The longest loss that is promised, milliseconds: what `docs/durability.md` names, with the sync that the cut came into.
    /// `None` where the machine did not let the recorder work.
    fn max_lost_ms(&self, cut: Cut) -> Option<f64> {
        let (monotonic_ns, wall_ns) = self.moment(cut);
        let quiet = self.delays.ms(monotonic_ns.saturating_sub(LATELY_NS), monotonic_ns) <= QUIET_MS;
        let sync_us = self.said.timing.sync_us(i64::try_from(wall_ns / 1_000).ok()?);
        quiet.then_some((PART_US + TICK_US + SYNC_US + sync_us + FRAME_US) as f64 / 1e3)
    }

    fn promise(&self, cut: Cut) -> Promise {
        Promise::at(self.moment(cut), &self.said, self.max_lost_ms(cut), MAX_OPEN_MS)
    }

    /// Where the volume is below the root of the file system.
    fn volume(&self) -> &'static str {
        match self.scene.place {
            Place::Volume => "",
            Place::Data => "volumes/main-recorder-0/footage",
        }
    }

    /// Recovers the image of each cut, on some threads; tells `progress` of each.
    ///
    /// # Errors
    /// When the machine does not do what it should. What the product does wrong is in the outcomes.
    pub fn images(&self, cuts: &[Cut], progress: impl Fn(&Outcome) + Sync) -> Result<Vec<Outcome>> {
        // A recovery waits for a sync most of the time.
        const WORKERS: usize = 3;
        let ledgers = Ledger::read_all(std::slice::from_ref(&self.ledgers))?;
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = |number: usize| -> Result<()> {
            let folder = self.folder.join(format!("images-{number}"));
            let log = DiskProcess::log(&self.folder);
            let mut disk = DiskProcess::images(&program("power-disk")?, &folder, DISK_BYTES, &log)?;
            prefer(disk.pid())?;
            while let Some(&cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = self.one(&mut disk, &folder, cut, &ledgers)?;
                progress(&outcome);
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            }
            disk.stop()
        };
        std::thread::scope(|scope| {
            let work = &work;
            let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || work(number))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn one(&self, disk: &mut DiskProcess, folder: &Path, cut: Cut, ledgers: &[Ledger]) -> Result<Outcome> {
        let survival = disk.show(cut)?;
        let promise = self.promise(cut);
        let mut outcome = Outcome {
            cut,
            survival,
            came: None,
            recovered: None,
            max_lost_ms: promise.max_lost_ms,
            kept_back_ms: promise.kept_back_ms(),
            verdict: Verdict::default(),
        };
        let wrong = |what: &str, error: &anyhow::Error| Verdict {
            violations: vec![Violation::Wrong(format!("{what}: {error:#}"))],
            ..Verdict::default()
        };
        let (mounted, came) = match Mounted::ext4(LoopDevice::on(&disk.file())?, &folder.join("mounted")) {
            Ok(mounted) => mounted,
            Err(error) => return Ok(Outcome { verdict: wrong("file system", &error), ..outcome }),
        };
        outcome.came = Some(came);
        let site = Site {
            folder: folder.join("mounted").join(self.volume()),
            segment_bytes: SEGMENT_BYTES,
            budget_bytes: FILES * SEGMENT_BYTES,
        };
        outcome.verdict = match by_program(&program("power-recover")?, &site) {
            Err(error) => wrong("recovery", &error),
            Ok(recovered) => {
                outcome.recovered = Some(recovered);
                match Volume::read(&site.folder, State::AtRest) {
                    Ok(volume) => verdict(&volume, ledgers, &recovered, &promise),
                    Err(error) => wrong("volume", &error.into()),
                }
            }
        };
        mounted.unmount()?;
        Ok(outcome)
    }

    /// Starts the whole product on the image of a cut, as after a reboot, and lets it record for `time`. Returns after how many
    /// milliseconds it recorded again, without those for which the machine did not let it work.
    ///
    /// # Errors
    /// When it does not, or what is there is not as promised.
    pub fn reboot(&self, cut: Cut, cameras: &Cameras, time: Duration) -> Result<f64> {
        let folder = self.folder.join(format!("reboot-{}-{}", cut.records, cut.seed));
        let log = DiskProcess::log(&self.folder);
        let mut disk = DiskProcess::images(&program("power-disk")?, &folder.join("disk"), DISK_BYTES, &log)?;
        prefer(disk.pid())?;
        let _survival = disk.show(cut)?;
        let (mounted, _) = Mounted::ext4(LoopDevice::on(&disk.file())?, &folder.join(mount_point(self.scene.place)))?;
        if self.scene.place == Place::Volume {
            // The operator's part of the data folder was on another disk, which lost nothing.
            copy(&self.folder.join("data/run"), &folder.join("data/run"))?;
        }
        let began_ns = i64::try_from(wall_ns())?;
        let mut system = System::start_on(&folder, self.manifest.clone(), 1)?;
        let names = crate::bench::stamps::ledger_names(&cameras.ledgers)?;
        let recorder = system.http(0);
        let back = poll(Duration::from_secs(30), Duration::from_millis(20), || {
            let now = durable(recorder).unwrap_or_default();
            Ok(names.iter().all(|name| now.get(name).is_some_and(|&time| time > began_ns / 1_000_000)).then_some(()))
        })?;
        // For how long those who had to start could not work: a machine that has just booted does nothing else.
        let delayed_ms = delayed_ms(&family(&[system.operator.pid()]))?;
        ensure!(back.is_some(), "not recording 30 s after the start: {}", system.operator.log_tail());
        std::thread::sleep(time);
        let stop = crate::judge::now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        system.stop()?;
        let json = folder.join("report.json");
        let mut arguments = crate::judge::volumes(&cameras.ledgers, &system.volumes());
        // Of what is missing, more is known here.
        for (name, value) in [
            ("--stop", stop.to_string()),
            ("--max-missing-ms", "1e9".to_owned()),
            ("--json", json.display().to_string()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        crate::judge::check(&arguments)?;
        mounted.unmount()?;
        disk.stop()?;
        let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
        let mut slowest_ms = 0.0_f64;
        for stream in report.get("streams").and_then(Value::as_array).context("no streams in the report")? {
            let name = stream.get("camera").and_then(Value::as_str).unwrap_or_default();
            for track in ["/video/holes", "/audio/holes"] {
                for hole in stream.pointer(track).and_then(Value::as_array).context("no holes")? {
                    let back_ns = self.hole(cut, name, hole).with_context(|| format!("{name}: {track}: {hole}"))?;
                    slowest_ms = slowest_ms.max((back_ns - began_ns) as f64 / 1e6);
                }
            }
        }
        Ok(slowest_ms - delayed_ms)
    }

    /// A hole in what was recorded before a cut and behind it: whether it may be there. When frames came back, nanoseconds since 1970.
    fn hole(&self, cut: Cut, stream: &str, hole: &Value) -> Result<i64> {
        let (_, cut_wall_ns) = self.moment(cut);
        let (cut_ns, promise) = (i64::try_from(cut_wall_ns)?, self.promise(cut));
        let ns = |key: &str| hole.get(key).and_then(Value::as_i64);
        let (from_ns, back_ns) = (ns("from_ns").context("no begin")?, ns("back_ns").context("never recorded again")?);
        let restarted_ns = promise.restarted_ns;
        if from_ns <= restarted_ns + 100_000_000 && back_ns >= restarted_ns {
            return Ok(back_ns);
        }
        ensure!(from_ns <= cut_ns + 100_000_000, "not recorded, long after the start");
        let synced_us = promise.covered_us(stream).unwrap_or(0);
        ensure!(from_ns / 1_000 > synced_us, "a sync covered all up to {synced_us} µs");
        let durable_ms = promise.durable_ms.get(stream).copied().unwrap_or(0);
        // Frames are stamped as they are sent, and recorded a moment later.
        ensure!(from_ns / 1_000_000 + 20 >= durable_ms, "durable up to {durable_ms}");
        let lost_ms = (cut_ns - from_ns) as f64 / 1e6;
        ensure!(promise.max_lost_ms.is_none_or(|most| lost_ms <= most), "{lost_ms:.0} ms lost");
        Ok(back_ns)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
