//! Retention by the limits of streams: one decision over all volumes, made on one thread. What goes for want of files on one volume is that
//! volume's keeper's to decide (`volume/keeper`).
//!
//! ```text
//! assignment ─► Wanted ─┐                                     ┌─► doomed of a volume ─► its keeper retires them
//! retention.json ───────┼─► Retirer, once a second ─ decide ──┤
//! catalogues, segments ─┘       │                             └─► seals of what nobody writes any more
//!                               └─► retention.json
//! ```
//! It reads catalogues, so a disk that hangs can hold it up; then only the limits wait, and keepers go on making room.

mod age;
mod decide;
mod remembered;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use framekeeper_media::WallTime;
use uuid::Uuid;

use crate::inner::Inner;
use crate::lock;
use crate::types::Hold;
use crate::volume::Volume;
use crate::volume::signal::Signal;
use age::{AgeClock, SAVE_EVERY_US};
pub use decide::Limits;
use decide::{Piece, Verdict, decide};
use remembered::Remembered;

/// From one look to the next.
pub(crate) const ROUND: Duration = Duration::from_secs(1);
/// Looks between two looks at which streams there is footage of, where streams that nobody knows have limits too.
const STREAM_ROUNDS: u32 = 60;
/// Segments are in order of time but for steps of the clock: behind the first that is young enough so many more are looked at.
const LOOK_ON: usize = 16;

/// How long footage is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of these streams.
    pub streams: HashMap<Uuid, Limits>,
    /// Of streams that nothing is known of: neither here nor on any volume, where what was said last is written down.
    pub others: Limits,
}

/// What the thread is told and tells.
#[derive(Default)]
pub(crate) struct Shared {
    wanted: Mutex<(u64, Arc<Retention>)>,
    /// Bytes of streams with a limit, as last counted.
    kept_bytes: Mutex<HashMap<Uuid, u64>>,
    pub(crate) wake: Arc<Signal>,
}

impl Shared {
    pub(crate) fn new(retention: Retention) -> Self {
        Self { wanted: Mutex::new((0, Arc::new(retention))), ..Self::default() }
    }

    pub(crate) fn set(&self, retention: Retention) {
        let mut wanted = lock(&self.wanted);
        if *wanted.1 != retention {
            *wanted = (wanted.0 + 1, Arc::new(retention));
            drop(wanted);
            self.wake.notify();
        }
    }

    fn wanted(&self) -> (u64, Arc<Retention>) {
        lock(&self.wanted).clone()
    }

    pub(crate) fn kept_bytes(&self, stream: Uuid) -> Option<u64> {
        lock(&self.kept_bytes).get(&stream).copied()
    }
}

/// A segment that may go.
#[derive(Clone, Copy, Debug)]
struct Which {
    /// Position among the volumes of this look.
    volume: usize,
    file_number: u64,
    nonce: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sealed,
    /// It gets its index, or the manifest is about to hear of it.
    Sealing,
    /// It has no index, and is asked to be given one first.
    Open,
}

/// When a stream is to be looked at again.
struct Seen {
    limits: Limits,
    /// Segments that had been begun.
    begun: u64,
    /// Bytes of the segment that is being recorded.
    growing: u64,
    next_end: Option<WallTime>,
    next_bytes: Option<u64>,
    /// Something is on its way out.
    unfinished: bool,
}

/// A volume, as it was met.
struct Met {
    at: usize,
    written: Remembered,
    saved_us: u64,
}

/// What looks the same as long as nothing concerns all streams.
#[derive(Default, PartialEq)]
struct Common {
    wanted: u64,
    volumes: Vec<usize>,
    holds: Vec<Vec<Hold>>,
}

/// The thread's state.
pub(crate) struct Retirer {
    age: Option<AgeClock>,
    met: HashMap<Uuid, Met>,
    /// The limits of streams that have any, as they were told last.
    known: BTreeMap<Uuid, Limits>,
    common: Common,
    seen: HashMap<Uuid, Seen>,
    /// Streams that there is footage of.
    streams: HashSet<Uuid>,
    rounds: u32,
}

impl Retirer {
    pub(crate) fn new() -> Self {
        Self {
            age: None,
            met: HashMap::new(),
            known: BTreeMap::new(),
            common: Common::default(),
            seen: HashMap::new(),
            streams: HashSet::new(),
            rounds: 0,
        }
    }

    /// One look. Volumes that can't be written, don't answer or are not known wholly yet are left out.
    pub(crate) fn round(&mut self, inner: &Inner) {
        let volumes: Vec<_> = inner.volumes().into_iter().filter(|volume| is_known(volume)).collect();
        let Some(first) = volumes.first() else { return };
        self.meet(&volumes);
        let (mono_us, wall) = (first.env.clock.monotonic_us(), first.env.clock.wall());
        let now = match &mut self.age {
            Some(age) => age.advance(mono_us, wall),
            none => {
                let saved = self.met.values().filter_map(|met| met.written.age_time).max();
                none.insert(AgeClock::start(saved, mono_us, wall)).advance(mono_us, wall)
            }
        };
        let (version, wanted) = inner.retention.wanted();
        let common = Common {
            wanted: version,
            volumes: volumes.iter().map(|volume| volume.at).collect(),
            holds: volumes.iter().map(|volume| lock(&volume.holds).clone()).collect(),
        };
        let changed = common != self.common;
        if changed {
            self.learn(&wanted);
            self.seen.clear();
            self.common = common;
        }
        self.find_streams(inner, &volumes, &wanted, changed);
        self.save(&volumes, mono_us, now, false);
        self.rounds = self.rounds.wrapping_add(1);
        for stream in self.concerned(&wanted) {
            let limits = self.limits(&wanted, stream);
            if !limits.is_empty() {
                self.look(inner, &volumes, stream, limits, now);
            }
        }
    }

    /// Writes down how far the time for ages is: the store is closed in order.
    pub(crate) fn last(&mut self, inner: &Inner) {
        let volumes: Vec<_> = inner.volumes().into_iter().filter(|volume| is_known(volume)).collect();
        let Some((first, age)) = volumes.first().zip(self.age.as_mut()) else { return };
        let clock = &first.env.clock;
        let (mono_us, wall) = (clock.monotonic_us(), clock.wall());
        let now = age.advance(mono_us, wall);
        self.save(&volumes, mono_us, now, true);
    }

    /// Reads what is written down on volumes that have come.
    fn meet(&mut self, volumes: &[Arc<Volume>]) {
        for volume in volumes {
            if self.met.get(&volume.uuid).is_some_and(|met| met.at == volume.at) {
                continue;
            }
            let written = remembered::read(volume.folder.as_ref()).unwrap_or_else(|error| {
                tracing::warn!(%error, volume = %volume.uuid, file = remembered::NAME, "cannot be read");
                Remembered::default()
            });
            for (stream, limits) in &written.streams {
                let known = self.known.entry(*stream).or_insert(*limits);
                *known = known.wider(*limits);
            }
            let saved_us = volume.env.clock.monotonic_us();
            self.met.insert(volume.uuid, Met { at: volume.at, written, saved_us });
        }
    }

    /// What was told comes before what was written down.
    fn learn(&mut self, wanted: &Retention) {
        for (stream, limits) in &wanted.streams {
            if limits.is_empty() {
                self.known.remove(stream);
            } else {
                self.known.insert(*stream, *limits);
            }
        }
    }

    fn limits(&self, wanted: &Retention, stream: Uuid) -> Limits {
        wanted.streams.get(&stream).or_else(|| self.known.get(&stream)).copied().unwrap_or(wanted.others)
    }

    /// Which streams there is footage of; those that there is none of and that nobody asks for are forgotten.
    fn find_streams(&mut self, inner: &Inner, volumes: &[Arc<Volume>], wanted: &Retention, changed: bool) {
        if !changed && !self.rounds.is_multiple_of(STREAM_ROUNDS) {
            return;
        }
        self.streams.clear();
        for volume in volumes {
            if let Ok(catalogue) = volume.catalogue.read() {
                let streams = catalogue.view().and_then(|view| view.streams()).unwrap_or_default();
                self.streams.extend(streams.into_iter().map(|(uid, _)| uid));
            }
            self.streams.extend(lock(&volume.live).keys());
        }
        // A volume that can't be seen now may have footage of others.
        if inner.volumes().iter().all(|volume| is_known(volume)) {
            self.known.retain(|stream, _| wanted.streams.contains_key(stream) || self.streams.contains(stream));
        }
        self.seen.retain(|stream, _| self.streams.contains(stream));
    }

    /// Streams that may have limits.
    fn concerned(&self, wanted: &Retention) -> Vec<Uuid> {
        let told = wanted.streams.keys().chain(self.known.keys()).copied();
        let others = self.streams.iter().copied().filter(|_| !wanted.others.is_empty());
        told.chain(others).collect::<HashSet<_>>().into_iter().collect()
    }

    /// Writes down what is to be remembered where it is not what stands there.
    fn save(&mut self, volumes: &[Arc<Volume>], mono_us: u64, now: WallTime, at_end: bool) {
        let ages = self.known.values().any(|limits| limits.max_age.is_some());
        for volume in volumes {
            let Some(met) = self.met.get_mut(&volume.uuid) else { continue };
            let late = ages && (at_end || mono_us.saturating_sub(met.saved_us) >= SAVE_EVERY_US);
            if met.written.streams == self.known && !late {
                continue;
            }
            let remembered = Remembered { age_time: ages.then_some(now), streams: self.known.clone() };
            if let Err(error) = remembered::write(volume.folder.as_ref(), &remembered) {
                volume.fail("write retention.json", &error);
                continue;
            }
            met.written = remembered;
            met.saved_us = mono_us;
        }
    }

    /// Looks at one stream, where something may have changed for it.
    fn look(&mut self, inner: &Inner, volumes: &[Arc<Volume>], stream: Uuid, limits: Limits, now: WallTime) {
        let begun = inner.stream(stream).map_or(0, |stream| stream.counters.segments.get());
        let growing = growing_bytes(inner, volumes, stream);
        let too_old = |end: WallTime| {
            let age_us = limits.max_age.map_or(i64::MAX, |age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
            end < now.saturating_add_us(-age_us)
        };
        let due = self.seen.get(&stream).is_none_or(|seen| {
            seen.unfinished
                || (seen.limits, seen.begun) != (limits, begun)
                || seen.next_end.is_some_and(too_old)
                || seen.next_bytes.is_some_and(|more| growing >= seen.growing.saturating_add(more))
        });
        if !due {
            return;
        }
        let pieces = volumes.iter().enumerate().map(|(at, volume)| pieces(inner, volume, at, stream, limits, now));
        let Some(pieces) = pieces.collect::<Option<Vec<_>>>() else { return };
        let Verdict { go, bytes, next_end, next_bytes } = decide(pieces, limits, now);
        let unfinished = !go.is_empty();
        if limits.max_bytes.is_some() {
            lock(&inner.retention.kept_bytes).insert(stream, bytes);
        } else {
            lock(&inner.retention.kept_bytes).remove(&stream);
        }
        self.seen.insert(stream, Seen { limits, begun, growing, next_end, next_bytes, unfinished });
        for which in go {
            let Some(volume) = volumes.get(which.volume) else { continue };
            match which.state {
                State::Sealed => {
                    lock(&volume.doomed).insert((which.file_number, which.nonce));
                    volume.wake_keeper.notify();
                }
                // The oldest goes first: what is newer waits until it is sealed and can go.
                State::Open => {
                    volume.ask_for_seal(stream);
                    return;
                }
                State::Sealing => return,
            }
        }
    }
}

/// Whether a decision can count on a volume and change it.
fn is_known(volume: &Volume) -> bool {
    !volume.has_failed() && !volume.is_stalled() && volume.catalogue_complete.load(Ordering::Acquire)
}

/// Bytes so far of the segment that a stream is being recorded to.
fn growing_bytes(inner: &Inner, volumes: &[Arc<Volume>], stream: Uuid) -> u64 {
    let Some(at) = inner.stream(stream).and_then(|stream| stream.volume()) else { return 0 };
    let live = volumes.iter().find(|volume| volume.at == at).map(|volume| volume.live_of(stream));
    live.into_iter().flatten().filter_map(|segment| Some(segment.info()?.used_bytes)).next_back().unwrap_or(0)
}

/// The segments of a stream on a volume; without a limit of bytes, only those that are old or nearly so. `None` when they can't be read.
fn pieces(
    inner: &Inner,
    volume: &Volume,
    at: usize,
    stream: Uuid,
    limits: Limits,
    now: WallTime,
) -> Option<Vec<Piece<Which>>> {
    let recorded = inner.stream(stream).is_some_and(|s| s.is_taken() && s.volume() == Some(volume.at));
    let file_bytes = volume.segment_bytes;
    let age_us = limits.max_age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let young = limits.max_bytes.is_none().then_some(age_us).flatten().map(|age_us| now.saturating_add_us(-age_us));
    let guard = volume.catalogue.read().ok()?;
    let live = volume.live_of(stream);
    let view = guard.view().inspect_err(|error| tracing::error!(%error, "the catalogue failed")).ok()?;
    let sealed =
        view.places(stream, young, LOOK_ON).inspect_err(|error| tracing::error!(%error, "the catalogue failed"));
    let sealed = sealed.ok()?;
    drop(view);
    drop(guard);
    let mut pieces: Vec<_> = sealed
        .into_iter()
        .map(|place| Piece {
            id: Which { volume: at, file_number: place.file_number, nonce: place.nonce, state: State::Sealed },
            number: place.number,
            end: place.end,
            bytes: file_bytes,
            held: volume.is_held(stream, place.first, place.end),
            grows: false,
        })
        .collect();
    let newest = live.iter().map(|segment| segment.fixed.number).max();
    for segment in live {
        let Some(info) = segment.info() else { continue };
        let state = if segment.record().is_some() { State::Sealing } else { State::Open };
        let grows = recorded && state == State::Open && Some(info.number) == newest;
        pieces.push(Piece {
            id: Which { volume: at, file_number: info.file_number, nonce: info.nonce, state },
            number: info.number,
            end: info.end,
            bytes: if grows { info.used_bytes } else { file_bytes },
            held: volume.is_held(stream, info.first, info.end),
            grows,
        });
    }
    Some(pieces)
}
