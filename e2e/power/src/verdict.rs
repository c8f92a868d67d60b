//! Judges what came back after a loss of power. Pure.

use std::collections::BTreeMap;

use framekeeper_e2e_checker::found::Found;
use framekeeper_e2e_checker::judge::{From, Hole, Rules, Until, judge};
use framekeeper_e2e_checker::ledger::Ledger;
use framekeeper_e2e_checker::volume::Volume;

use crate::recover::{PROBE, Recovered};
use crate::timing::Timing;

/// A picture has reached the recorder when the next one comes, at the latest: one frame at 25 a second.
pub const FRAME_US: i64 = 40_000;
/// The wall time of a frame differs from the moment at which the camera sent it by no more than that.
const STAMPS_US: i64 = 30_000;

/// What the recorder said of its streams at some moment, by name.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When it was asked, nanoseconds of the monotonic clock.
    pub asked_ns: u64,
    /// When it had answered.
    pub answered_ns: u64,
    /// Up to which wall time each stream was durable, or from which on it was there; milliseconds since 1970, rounded down.
    pub times_ms: BTreeMap<String, i64>,
}

/// What a recorder said and did in the whole of a recording, in order of time.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// How far its streams were durable.
    pub durable: Vec<Sample>,
    /// From when on they were there.
    pub from: Vec<Sample>,
    /// When it wrote and synced.
    pub timing: Timing,
    /// When it was started again in order, which makes a hole. Nanoseconds since 1970.
    pub restarted_ns: i64,
}

/// What was promised at the moment of the cut.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The cut, nanoseconds since 1970.
    pub cut_wall_ns: u64,
    /// Up to where each stream was reported to be durable, before the cut. Milliseconds since 1970.
    pub durable_ms: BTreeMap<String, i64>,
    /// From where on each stream must still be there. Milliseconds since 1970.
    pub from_ms: BTreeMap<String, i64>,
    /// What had reached the recorder by then was covered by a sync that had ended before the cut. Microseconds since 1970.
    pub arrived_us: Option<i64>,
    /// Up to which wall time that sync covered what had been handed to the volume, by the name of the stream. Microseconds since 1970.
    pub handed_us: BTreeMap<String, i64>,
    /// Longest allowed loss before the cut by the clock, milliseconds; `None` where the machine did not let the recorder work.
    pub max_lost_ms: Option<f64>,
    /// When recording must be possible again, milliseconds.
    pub max_open_ms: f64,
    /// When the recorder was started again in order, which makes a hole. Nanoseconds since 1970.
    pub restarted_ns: i64,
}

impl Promise {
    /// What holds at a cut (monotonic, since 1970), by what the recorder had said and done before.
    ///
    /// What retention takes may be gone some time before the recorder says so.
    #[must_use]
    pub fn at(cut: (u64, u64), said: &Said, max_lost_ms: Option<f64>, max_open_ms: f64) -> Self {
        const RETENTION_NS: u64 = 1_500_000_000;
        let (cut_ns, cut_wall_ns) = cut;
        let before = said.durable.iter().rfind(|sample| sample.answered_ns <= cut_ns);
        let after = said.from.iter().find(|sample| sample.asked_ns >= cut_ns + RETENTION_NS);
        let times = |sample: Option<&Sample>| sample.map(|sample| sample.times_ms.clone()).unwrap_or_default();
        let cut_us = i64::try_from(cut_wall_ns / 1_000).unwrap_or(i64::MAX);
        let covered = said.timing.covered(cut_us);
        Self {
            cut_wall_ns,
            durable_ms: times(before),
            from_ms: times(after),
            arrived_us: covered.map(|covered| covered.arrived_us),
            handed_us: covered.map(|covered| said.timing.handed(covered.batch)).unwrap_or_default(),
            max_lost_ms,
            max_open_ms,
            restarted_ns: said.restarted_ns,
        }
    }
}

impl Promise {
    /// Up to which moment everything that a camera had sent must be there, microseconds since 1970: it had reached the recorder, and a sync
    /// covered it. Frames that were kept back on their way to the recorder were not there to be handed over.
    #[must_use]
    pub fn covered_us(&self, camera: &str) -> Option<i64> {
        let arrived_us = self.arrived_us? - FRAME_US;
        let handed_us = self.handed_us.get(&format!("default/{camera}"))? - FRAME_US - STAMPS_US;
        Some(arrived_us.min(handed_us))
    }

    /// The longest time by which something was kept back, milliseconds: so much less is asked of the disk.
    #[must_use]
    pub fn kept_back_ms(&self) -> f64 {
        let arrived_us = self.arrived_us.map_or(i64::MIN, |arrived| arrived - FRAME_US);
        let back = |handed: &i64| arrived_us.saturating_sub(handed - FRAME_US - STAMPS_US).max(0);
        self.handed_us.values().map(back).max().unwrap_or(0) as f64 / 1e3
    }
}

/// Something that was promised and is not so.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// What was said to be durable is not there, or what came before it is not.
    DurableLost {
        /// The stream.
        stream: String,
        /// How much of it, milliseconds; `None` when nothing of the stream is there.
        missing_ms: Option<i64>,
    },
    /// A sync had covered it and had ended, and it is not there.
    SyncedLost {
        /// The stream.
        stream: String,
        /// How much of it, milliseconds; `None` when nothing of the stream is there.
        missing_ms: Option<i64>,
    },
    /// Old footage is not there, and it was not retention.
    OldLost {
        /// The stream.
        stream: String,
        /// How much of it, milliseconds.
        missing_ms: i64,
    },
    /// More than allowed is missing before the cut, by the clock.
    TooMuchLost {
        /// The stream.
        stream: String,
        /// How much, milliseconds.
        lost_ms: f64,
    },
    /// Recording was possible too late.
    Slow {
        /// After how long, milliseconds, without the time for which the machine did not let it work.
        open_ms: f64,
    },
    /// What is there is not right: frames that differ, files that contradict each other.
    Wrong(String),
}

impl Violation {
    /// Whether it says that something durable is gone: what a writer that does not sync is found out by.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::DurableLost { .. } | Self::SyncedLost { .. })
    }
}

/// What was found out about one image.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Longest loss before the cut, milliseconds.
    pub lost_ms: f64,
    /// What is not as promised.
    pub violations: Vec<Violation>,
}

/// Judges a volume that was recovered.
#[must_use]
pub fn verdict(volume: &Volume, ledgers: &[Ledger], recovered: &Recovered, promise: &Promise) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.violations.extend(volume.findings.iter().map(|finding| Violation::Wrong(finding.to_string())));
    let open_ms = recovered.open_ms - recovered.delayed_ms;
    if open_ms > promise.max_open_ms {
        verdict.violations.push(Violation::Slow { open_ms });
    }
    let found = Found::on_volume(volume);
    for ledger in ledgers {
        let stream = found.iter().find(|found| found.stream == format!("default/{}", ledger.camera));
        of_stream(&mut verdict, stream, ledger, promise);
    }
    for found in &found {
        let known = ledgers.iter().any(|ledger| found.stream == format!("default/{}", ledger.camera));
        if !known && found.stream != format!("{PROBE}/{PROBE}") {
            verdict.violations.push(Violation::Wrong(format!("a stream that nobody recorded: {}", found.stream)));
        }
    }
    verdict
}

fn of_stream(verdict: &mut Verdict, found: Option<&Found>, ledger: &Ledger, promise: &Promise) {
    let stream = ledger.camera.clone();
    let durable_ms = promise.durable_ms.get(&stream).copied();
    let covered_us = promise.covered_us(&stream);
    let walls = |found: &Found| found.video.iter().filter_map(|frame| frame.wall_us).min();
    let Some((found, oldest_us)) = found.and_then(|found| Some((found, walls(found)?))) else {
        let missing_ms = None;
        let durable = durable_ms.map(|_| Violation::DurableLost { stream: stream.clone(), missing_ms });
        let synced = covered_us.map(|_| Violation::SyncedLost { stream, missing_ms });
        verdict.violations.extend(durable.into_iter().chain(synced));
        return;
    };
    let missing_ms = promise.from_ms.get(&stream).map_or(0, |from| oldest_us.div_euclid(1_000) - from);
    if missing_ms > 0 {
        verdict.violations.push(Violation::OldLost { stream: stream.clone(), missing_ms });
    }
    // Behind what must be there, a disk that writes in any order may leave holes: judged below.
    let cut_ns = i64::try_from(promise.cut_wall_ns).unwrap_or(i64::MAX);
    let rules = Rules {
        from: From::FirstFound,
        until: Until::EmittedNs(cut_ns),
        max_missing_ms: f64::INFINITY,
        ..Rules::default()
    };
    let report = judge(&[found], ledger, &rules);
    verdict.violations.extend(report.findings.into_iter().map(|what| Violation::Wrong(format!("{stream}: {what}"))));
    let restarted = |hole: &Hole| {
        hole.from_ns <= promise.restarted_ns + 100_000_000
            && hole.back_ns.is_some_and(|back| back >= promise.restarted_ns)
    };
    let first_missing = |holes: &[Hole]| holes.iter().find(|hole| !restarted(hole)).map(|hole| hole.from_ns);
    let picture = first_missing(&report.video.holes);
    let sound = report.audio.as_ref().and_then(|audio| first_missing(&audio.holes));

    let lost_ms = picture.map_or(0.0, |from| (cut_ns - from).max(0) as f64 / 1e6);
    verdict.lost_ms = verdict.lost_ms.max(lost_ms);
    if promise.max_lost_ms.is_some_and(|most| lost_ms > most) {
        verdict.violations.push(Violation::TooMuchLost { stream: stream.clone(), lost_ms });
    }
    let missing = [picture, sound].into_iter().flatten().min();
    if let (Some(covered_us), Some(from_ns)) = (covered_us, missing)
        && from_ns <= covered_us * 1_000
    {
        let missing_ms = Some((covered_us * 1_000 - from_ns) / 1_000_000);
        verdict.violations.push(Violation::SyncedLost { stream: stream.clone(), missing_ms });
    }
    if let Some(durable_ms) = durable_ms {
        verdict.violations.extend(durable_lost(found, ledger, durable_ms, missing, &stream));
    }
}

/// The frame of that recorded time must be there, and everything that was emitted before it.
fn durable_lost(
    found: &Found,
    ledger: &Ledger,
    durable_ms: i64,
    missing: Option<i64>,
    stream: &str,
) -> Option<Violation> {
    let lost = |missing_ms| Some(Violation::DurableLost { stream: stream.to_owned(), missing_ms: Some(missing_ms) });
    let of = |ms: i64| found.video.iter().find(|frame| frame.wall_us.is_some_and(|us| us.div_euclid(1_000) == ms));
    let Some(frame) = of(durable_ms) else {
        let walls = found.video.iter().filter_map(|frame| frame.wall_us.map(|us| us.div_euclid(1_000)));
        let before = walls.filter(|ms| *ms < durable_ms).max().unwrap_or(i64::MIN);
        return lost(durable_ms.saturating_sub(before));
    };
    let emitted = ledger.video.iter().find(|emitted| Some(emitted.number) == frame.number)?;
    let from_ns = missing.filter(|from_ns| *from_ns < emitted.wall_ns)?;
    lost((emitted.wall_ns - from_ns) / 1_000_000)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
