//! What the recorder itself says of its ticks, writes and syncs (`RUST_LOG=framekeeper::timing=trace`), and what must therefore be on the
//! disk at a moment. Pure, and exact on the busiest machine: it asks what the recorder did, not how long it should have taken.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::PART_US;

/// Of recorders.
const TICK_US: i64 = 100_000;
/// A frame that was read so long before a tick is handed to the volume in that tick at the latest: it would get older than `part` before
/// the next one. Half a tick is the cutter's slack.
const HANDED_AFTER_US: i64 = PART_US - TICK_US - TICK_US / 2;

/// From when to when, microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Span {
    /// When it began.
    pub began_us: i64,
    /// When it ended.
    pub ended_us: i64,
}

impl Span {
    /// How long it was.
    #[must_use]
    pub fn us(self) -> i64 {
        self.ended_us - self.began_us
    }
}

#[derive(Deserialize)]
struct Line {
    message: String,
    #[serde(flatten)]
    span: Span,
    stream: Option<String>,
    newest_us: Option<i64>,
}

/// A fragment on its way from a camera to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// When it was handed over. Microseconds since 1970.
    pub at_us: i64,
    /// `namespace/name`.
    pub stream: String,
    /// Wall time up to which picture and sound are in it. Microseconds since 1970.
    pub newest_us: i64,
}

/// Everything that one recorder did with one volume, each in order of time.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    /// From when the sockets were read to when all was handed over.
    pub ticks: Vec<Span>,
    /// From when the writer took what was handed over to when all of it was written.
    pub batches: Vec<Span>,
    /// From when it was settled what is synced to when that had been.
    pub syncs: Vec<Span>,
    /// What was handed over.
    pub handed: Vec<Handed>,
}

/// What must be on the disk at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Frames that had reached the recorder by then. Microseconds since 1970.
    pub arrived_us: i64,
    /// What had been handed over when this batch of writes began.
    pub batch: Span,
    /// By this sync.
    pub sync: Span,
}

impl Timing {
    /// Reads it out of a recorder's log.
    ///
    /// # Errors
    /// When there are no ticks, writes or syncs in it.
    pub fn parse(log: &str) -> Result<Self> {
        let mut timing = Self::default();
        for line in log.lines().filter(|line| line.contains("\"TRACE\"")) {
            let Line { message, span, stream, newest_us } =
                serde_json::from_str(line).with_context(|| line.to_owned())?;
            match message.as_str() {
                "tick" => timing.ticks.push(span),
                "written" => timing.batches.push(span),
                "synced" => timing.syncs.push(span),
                "handed over" => {
                    let stream = stream.with_context(|| line.to_owned())?;
                    timing.handed.push(Handed {
                        at_us: span.ended_us,
                        stream,
                        newest_us: newest_us.with_context(|| line.to_owned())?,
                    });
                }
                _ => {}
            }
        }
        ensure!(!timing.handed.is_empty(), "the recorder's log does not say what was handed over");
        for (what, spans) in [("tick", &timing.ticks), ("written", &timing.batches), ("synced", &timing.syncs)] {
            ensure!(!spans.is_empty(), "the recorder's log does not say when it {what}");
            ensure!(spans.is_sorted_by_key(|span| span.began_us), "{what}: not in order of time; was the clock set?");
        }
        Ok(timing)
    }

    /// What must be there after a loss of power at `cut_us`; `None` while nothing was synced.
    #[must_use]
    pub fn covered(&self, cut_us: i64) -> Option<Covered> {
        let sync = last(&self.syncs, |sync| sync.ended_us <= cut_us)?;
        let batch = last(&self.batches, |batch| batch.ended_us <= sync.began_us)?;
        let tick = last(&self.ticks, |tick| tick.ended_us <= batch.began_us)?;
        let read = last(&self.ticks, |read| read.began_us <= tick.began_us - HANDED_AFTER_US)?;
        Some(Covered { arrived_us: read.began_us, batch, sync })
    }

    /// Up to which wall time each stream had been handed over when a batch of writes began, microseconds since 1970. A camera, or what is
    /// between it and the recorder, may have kept back what the clock alone would expect.
    #[must_use]
    pub fn handed(&self, batch: Span) -> BTreeMap<String, i64> {
        let before = self.handed.iter().take_while(|handed| handed.at_us < batch.began_us);
        before.map(|handed| (handed.stream.clone(), handed.newest_us)).collect()
    }

    /// How long the sync took, or would have taken, that the cut came before the end of. Microseconds.
    #[must_use]
    pub fn sync_us(&self, cut_us: i64) -> i64 {
        self.syncs.iter().find(|sync| sync.ended_us > cut_us).or(self.syncs.last()).map_or(0, |sync| sync.us())
    }
}

/// The last one of which it is true, in a list in which it is true of the first ones.
fn last(spans: &[Span], is: impl Fn(&Span) -> bool) -> Option<Span> {
    spans.get(spans.partition_point(is).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(every_ms: i64, first_ms: i64, ms: i64) -> Vec<Span> {
        let begins = (0..).map(|n| first_ms + n * every_ms).take_while(|&begin| begin < 10_000);
        begins.map(|begin| Span { began_us: begin * 1_000, ended_us: (begin + ms) * 1_000 }).collect()
    }

    /// Ticks at 0, 100 … that take 2 ms, writes of 10 ms behind them, and a sync of 20 ms behind every fifth.
    fn regular() -> Timing {
        let handed = |at_ms: i64| Handed {
            at_us: at_ms * 1_000,
            stream: "default/door".to_owned(),
            newest_us: (at_ms - 40) * 1_000,
        };
        let handed = (0..10_000).step_by(500).map(handed).collect();
        Timing { ticks: spans(100, 0, 2), batches: spans(100, 3, 10), syncs: spans(500, 514, 20), handed }
    }

    #[test]
    fn what_a_sync_covers_follows_from_the_write_before_it() {
        let timing = regular();
        assert_eq!(timing.covered(533_000), None);
        // The sync that began at 514 covers the batch of the tick at 500, and that all that was read by 100.
        let covered = timing.covered(534_000).unwrap();
        assert_eq!((covered.arrived_us, covered.sync.began_us), (100_000, 514_000));
        assert_eq!(timing.covered(1_033_999).unwrap(), covered);
        assert_eq!(timing.covered(1_034_000).unwrap().arrived_us, 600_000);
        assert_eq!(timing.sync_us(600_000), 20_000);
        // The fragment of the tick at 500 is in the batch that began at 503, and not in the one before.
        let (before, batch) = (Span { began_us: 403_000, ended_us: 413_000 }, covered.batch);
        assert_eq!(timing.handed(batch), BTreeMap::from([("default/door".to_owned(), 460_000)]));
        assert_eq!(timing.handed(before), BTreeMap::from([("default/door".to_owned(), -40_000)]));
        // Up to the last moment no more is lost than part, interval, a sync and the tick's grain.
        assert!(1_034_000 - covered.arrived_us <= PART_US + 500_000 + 20_000 + 10_000);
    }

    #[test]
    fn a_write_that_has_not_ended_when_the_sync_begins_is_not_covered() {
        let timing = Timing { batches: spans(100, 3, 12), ..regular() };
        assert_eq!(timing.covered(534_000).unwrap().arrived_us, 0);
    }

    #[test]
    fn a_late_tick_hands_over_what_was_read_long_before() {
        let mut timing = regular();
        // The machine stood still from 200 on, up to the tick at 500.
        timing.ticks.retain(|tick| !(150_000..450_000).contains(&tick.began_us));
        timing.batches.retain(|batch| !(150_000..450_000).contains(&batch.began_us));
        assert_eq!(timing.covered(534_000).unwrap().arrived_us, 100_000);
        timing.ticks.retain(|tick| !(50_000..450_000).contains(&tick.began_us));
        assert_eq!(timing.covered(534_000).unwrap().arrived_us, 0);
    }

    #[test]
    fn it_is_read_out_of_a_log() {
        let log = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"the assignment","began_us":"no"}
{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"tick","began_us":1,"ended_us":2}
{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"handed over","began_us":2,"ended_us":2,"stream":"a/b","newest_us":1}
{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"written","volume":"v","began_us":3,"ended_us":4}
{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"synced","volume":"v","began_us":5,"ended_us":9}
"#;
        let timing = Timing::parse(log).unwrap();
        assert_eq!(timing.handed, [Handed { at_us: 2, stream: "a/b".to_owned(), newest_us: 1 }]);
        assert_eq!((timing.ticks[0].us(), timing.batches[0].us(), timing.syncs[0].us()), (1, 1, 4));
        assert!(Timing::parse(log.replace("synced", "sank").as_str()).unwrap_err().to_string().contains("synced"));
        let turned = log.to_owned() + &log.replace("\"began_us\":5", "\"began_us\":4");
        assert!(Timing::parse(&turned).unwrap_err().to_string().contains("not in order"));
    }
}
