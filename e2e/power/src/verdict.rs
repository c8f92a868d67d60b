//! Judges what came back after a loss of power. Pure.

use std::collections::BTreeMap;

use framekeeper_e2e_checker::found::Found;
use framekeeper_e2e_checker::judge::{From, Rules, Until, judge};
use framekeeper_e2e_checker::ledger::Ledger;
use framekeeper_e2e_checker::volume::Volume;

use crate::recover::{PROBE, Recovered};

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

/// What was promised at the moment of the cut.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The cut, nanoseconds since 1970.
    pub cut_wall_ns: u64,
    /// Up to where each stream was reported to be durable, before the cut. Milliseconds since 1970.
    pub durable_ms: BTreeMap<String, i64>,
    /// From where on each stream must still be there. Milliseconds since 1970.
    pub from_ms: BTreeMap<String, i64>,
    /// Longest allowed loss before the cut, milliseconds.
    pub max_lost_ms: f64,
    /// When recording must be possible again, milliseconds.
    pub max_open_ms: f64,
    /// When the recorder was started again in order, which makes a hole. Nanoseconds since 1970.
    pub restarted_ns: i64,
}

impl Promise {
    /// What holds at a cut, by what the recorder had said before.
    ///
    /// `durable` and `from` are in order of time. What retention takes may be gone some time before the recorder says so.
    #[must_use]
    pub fn at(
        cut_ns: u64,
        cut_wall_ns: u64,
        durable: &[Sample],
        from: &[Sample],
        limits: (f64, f64),
        restarted_ns: i64,
    ) -> Self {
        const RETENTION_NS: u64 = 1_500_000_000;
        let before = durable.iter().rfind(|sample| sample.answered_ns <= cut_ns);
        let after = from.iter().find(|sample| sample.asked_ns >= cut_ns + RETENTION_NS);
        let times = |sample: Option<&Sample>| sample.map(|sample| sample.times_ms.clone()).unwrap_or_default();
        Self {
            cut_wall_ns,
            durable_ms: times(before),
            from_ms: times(after),
            max_lost_ms: limits.0,
            max_open_ms: limits.1,
            restarted_ns,
        }
    }
}

/// Something that was promised and is not so.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// What was said to be durable is not there.
    DurableLost {
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
    /// More than allowed is missing before the cut.
    TooMuchLost {
        /// The stream.
        stream: String,
        /// How much, milliseconds.
        lost_ms: f64,
    },
    /// Recording was possible too late.
    Slow {
        /// After how long, milliseconds.
        open_ms: f64,
    },
    /// What is there is not right: holes, frames that differ, files that contradict each other.
    Wrong(String),
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
    if recovered.open_ms > promise.max_open_ms {
        verdict.violations.push(Violation::Slow { open_ms: recovered.open_ms });
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
    let durable = promise.durable_ms.get(&stream).copied();
    let walls = || found.iter().flat_map(|found| &found.video).filter_map(|frame| frame.wall_us);
    let (Some(found), Some(oldest_us), Some(newest_us)) = (found, walls().min(), walls().max()) else {
        verdict.violations.extend(durable.map(|_| Violation::DurableLost { stream, missing_ms: None }));
        return;
    };
    let missing = durable.map_or(0, |durable| durable - newest_us.div_euclid(1_000));
    if missing > 0 {
        verdict.violations.push(Violation::DurableLost { stream: stream.clone(), missing_ms: Some(missing) });
    }
    let missing = promise.from_ms.get(&stream).map_or(0, |from| oldest_us.div_euclid(1_000) - from);
    if missing > 0 {
        verdict.violations.push(Violation::OldLost { stream: stream.clone(), missing_ms: missing });
    }
    let newest = found.video.iter().filter_map(|frame| frame.number).max();
    let next = ledger.video.iter().find(|frame| Some(frame.number) > newest);
    let cut_ns = i64::try_from(promise.cut_wall_ns).unwrap_or(i64::MAX);
    let lost_ms = next.map_or(0.0, |next| (cut_ns - next.wall_ns).max(0) as f64 / 1e6);
    verdict.lost_ms = verdict.lost_ms.max(lost_ms);
    if lost_ms > promise.max_lost_ms {
        verdict.violations.push(Violation::TooMuchLost { stream: stream.clone(), lost_ms });
    }
    // The hole that touches this moment, and no other, was made by the restart.
    let known = Rules {
        kills_ns: vec![promise.restarted_ns],
        max_missing_ms: f64::INFINITY,
        max_back_ms: f64::INFINITY,
        ..Rules::default()
    };
    let rules = Rules { from: From::FirstFound, until: Until::LastFound, ..known };
    let report = judge(&[found], ledger, &rules);
    verdict.violations.extend(report.findings.into_iter().map(|what| Violation::Wrong(format!("{stream}: {what}"))));
}
