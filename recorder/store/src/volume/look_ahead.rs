//! What the keeper looks at once a second, so that files are ready before they are needed, and trouble is told before it is there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::Volume;
use super::open::BOOKKEEPING_BYTES_A_FILE;
use crate::outlook::{self, Eater, Files, Foreign, Outlook};
use crate::rate::Rate;
use crate::types::Hold;
use crate::{catalogue, lock, manifest_log};

/// From one look to the next.
const LOOK_US: u64 = 1_000_000;
/// Held segments are counted whenever something changed; where that takes a while, because many are held, only so often.
const COUNT_US: u64 = 10_000_000;
const MANY: u64 = 10_000;
/// The keeper may sleep that long while a file could be emptied, and emptying it may take that long.
const ROUND_AND_EMPTYING: Duration = Duration::from_secs(3);
/// Room that folders, manifest and catalogue may want at any time.
const BOOKS_BYTES: u64 = 1 << 20;

/// What the keeper remembers from look to look.
#[derive(Default)]
pub(crate) struct LookAhead {
    looked_us: Option<u64>,
    rates: HashMap<Uuid, Rate>,
    counted: Option<Counted>,
    least_foreign_bytes: Option<u64>,
}

struct Counted {
    at_us: u64,
    holds: Vec<Hold>,
    sealed: u64,
    held: u64,
}

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) files: Files,
    pub(crate) outlook: Outlook,
    pub(crate) foreign: Foreign,
}

impl LookAhead {
    /// Looks, if it is time.
    pub(crate) fn look(&mut self, volume: &Volume) {
        let now_us = volume.env.clock.monotonic_us();
        if self.looked_us.is_some_and(|looked| now_us.saturating_sub(looked) < LOOK_US) {
            return;
        }
        self.looked_us = Some(now_us);
        self.rates(volume, now_us);
        let files = self.files(volume, now_us);
        let eaters = self.eaters(volume);
        let outlook = match files {
            Some(files) => outlook::outlook(files, &eaters, volume.env.clock.wall()),
            None => Outlook::default(),
        };
        let foreign = self.foreign(volume);
        let mut seen = lock(&volume.seen);
        *seen = Seen { files: files.unwrap_or(seen.files), outlook, foreign: foreign.unwrap_or(seen.foreign) };
    }

    fn rates(&mut self, volume: &Volume, now_us: u64) {
        let streams = lock(&volume.streams).clone();
        let recorded = streams.iter().filter(|s| s.is_taken() && s.volume() == Some(volume.at));
        let recorded: HashMap<Uuid, u64> = recorded.map(|s| (s.ident.uid, s.counters.bytes.get())).collect();
        self.rates.retain(|uid, _| recorded.contains_key(uid));
        let lead = Duration::from_micros(volume.sync_interval_us) + ROUND_AND_EMPTYING;
        let mut ahead = 0;
        for (uid, bytes) in recorded {
            let rate = self.rates.entry(uid).or_default();
            rate.add(now_us, bytes);
            ahead += outlook::files_ahead(rate.peak().unwrap_or(0.0), volume.segment_bytes, lead);
        }
        volume.files_ahead.store(ahead, Ordering::Relaxed);
    }

    /// Counts files; `None` while the catalogue is not complete, or fails.
    fn files(&mut self, volume: &Volume, now_us: u64) -> Option<Files> {
        if !volume.catalogue_complete.load(Ordering::Acquire) {
            return None;
        }
        let catalogue = volume.catalogue.read().ok()?;
        let view = catalogue.view().ok()?;
        let holds = lock(&volume.holds).clone();
        let sealed = view.count().ok()?;
        let fresh = |c: &&Counted| {
            let soon = c.held >= MANY && now_us.saturating_sub(c.at_us) < COUNT_US;
            c.holds == holds && (c.sealed == sealed || soon)
        };
        let known = self.counted.as_ref().filter(fresh);
        let held = match known {
            Some(counted) => counted.held,
            None => {
                let count = |(stream, from, to): (Uuid, WallTime, WallTime)| view.count_touching(stream, from, to).ok();
                let held = merged(&holds).into_iter().map(count).sum::<Option<u64>>()?;
                self.counted = Some(Counted { at_us: now_us, holds, sealed, held });
                held
            }
        };
        let usable = lock(&volume.pool).usable() + sealed.saturating_sub(held) + volume.idle_unheld();
        Some(Files { total: lock(&volume.pool).numbers().0, usable, held })
    }

    fn eaters(&self, volume: &Volume) -> Vec<Eater> {
        let holds = lock(&volume.holds);
        let of = |uid: Uuid| holds.iter().filter(move |h| h.stream == uid).map(|h| (h.from, h.to)).collect::<Vec<_>>();
        let eater = |(uid, rate): (&Uuid, &Rate)| {
            let files_per_second = rate.per_second()? / volume.segment_bytes as f64;
            Some(Eater { files_per_second, holds: of(*uid) }).filter(|eater| !eater.holds.is_empty())
        };
        self.rates.iter().filter_map(eater).collect()
    }

    fn foreign(&mut self, volume: &Volume) -> Option<Foreign> {
        let space = volume.folder.space().ok()?;
        let (total, made, ..) = lock(&volume.pool).numbers();
        let books = [manifest_log::NAME, catalogue::NAME]
            .into_iter()
            .filter_map(|name| volume.folder.open(Path::new(name), false).ok()?.size().ok());
        let books_bytes = books.sum::<u64>();
        let own_bytes = made * volume.segment_bytes + books_bytes;
        let books_most = total * BOOKKEEPING_BYTES_A_FILE;
        let books_more = books_most.saturating_sub(books_bytes).max(BOOKS_BYTES.min(books_most));
        let needed_bytes = total.saturating_sub(made) * volume.segment_bytes + books_more;
        let foreign = outlook::foreign(space, own_bytes, needed_bytes, self.least_foreign_bytes);
        self.least_foreign_bytes = Some(self.least_foreign_bytes.unwrap_or(foreign.bytes).min(foreign.bytes));
        Some(foreign)
    }
}

/// Each stream's held stretches, none of which touches another one of it.
fn merged(holds: &[Hold]) -> Vec<(Uuid, WallTime, WallTime)> {
    let mut sorted: Vec<_> = holds.iter().map(|h| (h.stream, h.from, h.to)).collect();
    sorted.sort();
    let mut merged: Vec<(Uuid, WallTime, WallTime)> = Vec::with_capacity(sorted.len());
    for (stream, from, to) in sorted {
        match merged.last_mut() {
            Some((of, _, until)) if *of == stream && from <= *until => *until = (*until).max(to),
            _ => merged.push((stream, from, to)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_of_a_stream_that_touch_are_one() {
        let hold = |stream: u128, from: i64, to: i64| Hold {
            hold: Uuid::new_v4(),
            stream: Uuid::from_u128(stream),
            from: WallTime(from),
            to: WallTime(to),
        };
        let holds = [hold(2, 0, 5), hold(1, 10, 20), hold(1, 0, 10), hold(1, 30, 40), hold(1, 31, 32), hold(1, 50, 60)];
        let stretches: Vec<_> = merged(&holds).iter().map(|(s, f, t)| (s.as_u128(), f.0, t.0)).collect();
        assert_eq!(stretches, [(1, 0, 20), (1, 30, 40), (1, 50, 60), (2, 0, 5)]);
    }
}
