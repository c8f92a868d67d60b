//! Reading: what footage there is, and its bytes. Never in the way of writers, and never a byte of another use of a file.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLockReadGuard, TryLockError};
use std::time::Duration;

use framekeeper_media::WallTime;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::boxes::run::GapReason;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::init::InitSegment;
use uuid::Uuid;

use crate::catalogue::{Catalogue, CatalogueError, RunRow, View, merge_run};
use crate::checked::Caches;
use crate::damage::Hole;
use crate::error::ReadError;
use crate::lock;
use crate::manifest::RunPart;
use crate::store::Inner;
use crate::types::{RunInfo, SegmentInfo, StreamIdent};
use crate::volume::Volume;
use crate::volume::keeper::LEASE_US;

/// How often, and how long each time, a catalogue is waited for that is being written: half a second.
const CATALOGUE_LOOKS: u32 = 100;
const CATALOGUE_LOOK: Duration = Duration::from_millis(5);
/// A stream that there is footage of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// UID and names.
    pub ident: StreamIdent,
    /// Whether it is being recorded now.
    pub active: bool,
}

/// A hole, and the segment that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentDamage {
    /// Volume of the segment.
    pub volume: Uuid,
    /// Its file.
    pub file_number: u64,
    /// The use of the file.
    pub nonce: u64,
    /// What cannot be served.
    pub hole: Hole,
}

/// The codec parameters of a segment.
#[derive(Clone, Debug)]
pub struct SegmentInit {
    /// `ftyp` and `moov`.
    pub init: InitSegment,
    /// Of the video.
    pub video: H264Parameters,
    /// Of the audio, where there is any.
    pub audio: Option<AacParameters>,
}

/// Reads footage. Clones share their caches.
#[derive(Clone)]
pub struct Reader {
    pub(crate) inner: Arc<Inner>,
    pub(crate) caches: Arc<Caches>,
}

/// Runs cut where segments between others of theirs are gone: what is held stays while what is newer goes. `parts` are what there is of runs,
/// each with its volume and the number of its segment there.
fn stretches(rows: &HashMap<Uuid, RunRow>, mut parts: Vec<(usize, u64, RunPart)>) -> Vec<RunRow> {
    /// Between two segments of a run that follow each other on different volumes.
    const APART_US: i64 = 500_000;
    parts.sort_by_key(|(_, _, part)| (part.run, part.first));
    let mut cut: Vec<RunRow> = Vec::with_capacity(rows.len());
    let mut before: Option<(Uuid, usize, u64)> = None;
    for (volume, number, part) in &parts {
        let known = before.replace((part.run, *volume, *number)).filter(|(run, ..)| *run == part.run);
        let follows = known.is_some_and(|(_, on, before)| on == *volume && before + 1 == *number);
        match cut.pop() {
            Some(last) if known.is_some() && (follows || part.first <= last.part.end.saturating_add_us(APART_US)) => {
                cut.push(merge_run(Some(last), part, 1));
            }
            last => {
                let mut next = merge_run(None, part, 1);
                if known.is_some() {
                    next.part.gap = GapReason::Retired;
                    next.part.previous_end = last.as_ref().map_or(WallTime(0), |last| last.part.end);
                    next.part.previous_run = part.run;
                } else if let Some(row) = rows.get(&part.run) {
                    // The run's beginning may be gone: why there was a gap before it is remembered.
                    next.part = RunPart { first: part.first, end: part.end, ..row.part.clone() };
                }
                cut.extend(last);
                cut.push(next);
            }
        }
    }
    cut
}

fn catalogue(error: CatalogueError) -> ReadError {
    ReadError::Catalogue(error.to_string())
}

fn poisoned<T>(_: T) -> ReadError {
    ReadError::Catalogue("a thread of the store panicked".to_owned())
}

impl Reader {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, caches: Arc::default() }
    }

    pub(crate) fn volume(&self, uuid: Uuid) -> Result<Arc<Volume>, ReadError> {
        self.inner.volumes().into_iter().find(|volume| volume.uuid == uuid).ok_or(ReadError::NoVolume(uuid))
    }

    /// The volumes that can be asked without waiting for a disk that hangs.
    pub(crate) fn readable(&self) -> Vec<Arc<Volume>> {
        self.inner.volumes().into_iter().filter(|volume| !volume.is_stalled()).collect()
    }

    /// The catalogue of a volume; `None` while it is being written and the disk takes long for that.
    fn catalogue(volume: &Volume) -> Result<Option<RwLockReadGuard<'_, Catalogue>>, ReadError> {
        for _ in 0..CATALOGUE_LOOKS {
            match volume.catalogue.try_read() {
                Ok(guard) => return Ok(Some(guard)),
                Err(TryLockError::Poisoned(e)) => return Err(poisoned(e)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(CATALOGUE_LOOK),
            }
        }
        Ok(None)
    }

    /// What a volume says; nothing where it has failed and can't be read either, so that the others still answer.
    fn as_far_as<T: Default>(volume: &Volume, found: Result<T, CatalogueError>) -> Result<T, ReadError> {
        match found {
            Err(error) if volume.has_failed() => {
                tracing::warn!(volume = %volume.uuid, %error, "the catalogue of a failed volume cannot be read");
                Ok(T::default())
            }
            other => other.map_err(catalogue),
        }
    }

    /// Wall times between which footage of a stream is held.
    #[must_use]
    pub fn holds(&self, stream: Uuid) -> Vec<(WallTime, WallTime)> {
        let volumes = self.inner.volumes();
        let of_stream = |volume: &Arc<Volume>| {
            let holds = lock(&volume.holds);
            holds.iter().filter(|h| h.stream == stream).map(|h| (h.from, h.to)).collect::<Vec<_>>()
        };
        let mut holds: Vec<_> = volumes.iter().flat_map(of_stream).collect();
        holds.sort();
        holds.dedup();
        holds
    }

    /// All streams that there is footage of, by name.
    ///
    /// # Errors
    /// When a catalogue fails.
    pub fn streams(&self) -> Result<Vec<StreamInfo>, ReadError> {
        let mut found: std::collections::BTreeMap<Uuid, StreamInfo> = std::collections::BTreeMap::new();
        for volume in &self.readable() {
            let Some(guard) = Self::catalogue(volume)? else { continue };
            for (uid, name) in Self::as_far_as(volume, guard.view().and_then(|view| view.streams()))? {
                let (namespace, name) = name.split_once('/').unwrap_or(("", &name));
                let ident = StreamIdent { uid, namespace: namespace.to_owned(), name: name.to_owned() };
                found.insert(uid, StreamInfo { ident, active: false });
            }
            for segment in lock(&volume.live).values().flatten() {
                let ident = segment.fixed.stream.clone();
                found.entry(ident.uid).or_insert(StreamInfo { ident, active: false });
            }
        }
        for info in found.values_mut() {
            info.active = self.inner.stream(info.ident.uid).is_some_and(|s| s.is_taken());
        }
        let mut streams: Vec<_> = found.into_values().collect();
        streams.sort_by(|a, b| {
            (&a.ident.namespace, &a.ident.name, a.ident.uid).cmp(&(&b.ident.namespace, &b.ident.name, b.ident.uid))
        });
        Ok(streams)
    }

    /// The stream of that name: the one being recorded, else the one that was recorded last.
    ///
    /// # Errors
    /// When a catalogue fails.
    pub fn find(&self, namespace: &str, name: &str) -> Result<Option<StreamIdent>, ReadError> {
        let known = self.inner.streams();
        let same = |ident: &StreamIdent| ident.namespace == namespace && ident.name == name;
        if let Some(stream) = known.iter().find(|s| s.is_taken() && same(&s.ident)) {
            return Ok(Some(stream.ident.clone()));
        }
        let all = self.streams()?.into_iter().map(|s| s.ident).filter(same);
        let newest = all.max_by_key(|ident| {
            let last = self.inner.stream(ident.uid).and_then(|s| s.previous()).map(|p| p.end);
            last.or_else(|| self.last_end(ident.uid))
        });
        Ok(newest)
    }

    fn last_end(&self, stream: Uuid) -> Option<WallTime> {
        let last = |volume: &Arc<Volume>| {
            let view = Self::catalogue(volume).ok()??.view().ok()?;
            view.last_segment(stream).ok()?.map(|s| s.end)
        };
        self.readable().iter().filter_map(last).max()
    }

    /// Up to which wall time a stream is durable; `None` when it was not written since the store was opened.
    #[must_use]
    pub fn durable_until(&self, stream: Uuid) -> Option<WallTime> {
        Some(self.inner.stream(stream)?.durable()?.wall)
    }

    /// The runs of a stream with footage between two wall times, whole (not cut to these times), in order of their first frame. What was
    /// written but is not durable yet is included; [`Self::durable_until`] tells.
    ///
    /// # Errors
    /// When a catalogue fails.
    pub fn coverage(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<RunInfo>, ReadError> {
        // Each volume as it is at one moment: a segment is either in its catalogue or live.
        let mut volumes = Vec::new();
        for volume in self.readable() {
            let Some(guard) = Self::catalogue(&volume)? else { continue };
            let live = volume.live_of(stream);
            let view = Self::as_far_as(&volume, guard.view().map(Some))?;
            drop(guard);
            volumes.push((volume, view, live));
        }
        let mut found = Vec::with_capacity(volumes.len());
        for (volume, view, _) in &volumes {
            let rows = view.as_ref().map_or(Ok(Vec::new()), |view| view.runs(stream, from, to));
            found.push(Self::as_far_as(volume, rows)?);
        }
        let parts: Vec<Vec<_>> =
            volumes.iter().map(|(.., live)| live.iter().flat_map(|segment| segment.run_parts()).collect()).collect();
        // A run may have its segments on several volumes in turn: each is asked for what the others told of, so that it is known whole.
        let named: HashSet<Uuid> = found.iter().flatten().map(|row| row.part.run).collect();
        let named: HashSet<Uuid> = named.into_iter().chain(parts.iter().flatten().map(|part| part.run)).collect();
        let mut rows: HashMap<Uuid, RunRow> = HashMap::new();
        for ((volume, view, _), found) in volumes.iter().zip(found) {
            let here: HashSet<Uuid> = found.iter().map(|row| row.part.run).collect();
            found.into_iter().for_each(|row| put_row(&mut rows, row));
            for run in named.difference(&here) {
                let row = view.as_ref().map_or(Ok(None), |view| view.run(stream, *run));
                Self::as_far_as(volume, row)?.into_iter().for_each(|row| put_row(&mut rows, row));
            }
        }
        for part in parts.iter().flatten() {
            let row = merge_run(rows.remove(&part.run), part, 1);
            rows.insert(part.run, row);
        }
        let active = self.inner.stream(stream).filter(|s| s.is_taken()).and_then(|s| s.volume()).and_then(|at| {
            let here = volumes.iter().position(|(volume, ..)| volume.at == at)?;
            // It may have been handed over to this volume just now.
            let newest = || parts.iter().flatten().max_by_key(|part| part.end);
            parts.get(here).and_then(|parts| parts.last()).or_else(newest).map(|part| part.run)
        });
        let held = volumes.iter().any(|(volume, ..)| lock(&volume.holds).iter().any(|hold| hold.stream == stream));
        let rows: Vec<RunRow> = if held {
            let mut parts = Vec::new();
            for (at, (volume, view, live)) in volumes.iter().enumerate() {
                let all = |view: &View| view.segments(stream, WallTime(i64::MIN), WallTime(i64::MAX));
                let sealed = Self::as_far_as(volume, view.as_ref().map_or(Ok(Vec::new()), all))?;
                parts.extend(sealed.into_iter().flat_map(|s| s.runs.into_iter().map(move |part| (at, s.number, part))));
                parts.extend(live.iter().flat_map(|l| l.run_parts().into_iter().map(move |p| (at, l.fixed.number, p))));
            }
            stretches(&rows, parts)
        } else {
            rows.into_values().collect()
        };
        // Of a run in several parts, the last one is being recorded.
        let newest = rows.iter().filter(|row| Some(row.part.run) == active).map(|row| row.part.first).max();
        let is_active = |row: &RunRow| active == Some(row.part.run) && newest == Some(row.part.first);
        let inside = rows.iter().filter(|row| row.part.first < to && row.part.end > from);
        let mut runs: Vec<RunInfo> = inside.map(|row| run_info(row, is_active(row))).collect();
        runs.sort_by_key(|run| (run.from, run.run));
        Ok(runs)
    }

    /// What of a stream is known to be damaged, each hole up to the end of its segment at most, with the version of that knowledge: another
    /// one after each change.
    pub(crate) fn known_damage(&self, stream: Uuid) -> (u64, Vec<SegmentDamage>) {
        let (mut version, mut found) = (0_u64, Vec::new());
        for volume in &self.readable() {
            let (of_volume, known) = volume.rot.of(stream);
            version = version.wrapping_add(of_volume);
            found.extend(known.into_iter().map(|damage| SegmentDamage {
                volume: volume.uuid,
                file_number: damage.file_number,
                nonce: damage.nonce,
                hole: damage.hole,
            }));
        }
        (version, found)
    }

    /// The segments of a stream with footage between two wall times, in order of their first frame; the one being written included.
    ///
    /// # Errors
    /// When a catalogue fails.
    pub fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<SegmentInfo>, ReadError> {
        Ok(self.segments_as_far_as(stream, from, to)?.0)
    }

    /// The same, and whether all volumes could be asked.
    pub(crate) fn segments_as_far_as(
        &self,
        stream: Uuid,
        from: WallTime,
        to: WallTime,
    ) -> Result<(Vec<SegmentInfo>, bool), ReadError> {
        let (mut segments, readable) = (Vec::new(), self.readable());
        let mut all = readable.len() == self.inner.volumes().len();
        for volume in &readable {
            let Some(guard) = Self::catalogue(volume)? else {
                all = false;
                continue;
            };
            let live = volume.live_of(stream);
            let sealed = Self::as_far_as(volume, guard.view().and_then(|v| v.segments(stream, from, to)))?;
            drop(guard);
            segments.extend(sealed.iter().map(|segment| segment.info(volume.uuid)));
            let live = live.iter().filter_map(|segment| segment.info());
            segments.extend(live.filter(|info| info.first < to && info.end > from));
        }
        segments.sort_by_key(|segment| (segment.first, segment.volume, segment.number));
        Ok((segments, all))
    }

    /// Keeps the files of these segments from being emptied while the lease is held, for 60 s at most.
    pub fn lease(&self, segments: &[SegmentInfo]) -> Lease {
        let mut held = Vec::with_capacity(segments.len());
        for segment in segments {
            let Ok(volume) = self.volume(segment.volume) else { continue };
            let until = volume.env.clock.monotonic_us().saturating_add(LEASE_US);
            let id = volume.env.random.u64();
            lock(&volume.leases).entry(segment.file_number).or_default().push((id, until));
            held.push((volume.clone(), segment.file_number, id));
        }
        Lease { held }
    }

    /// Whether the catalogues know all that is on the volumes; right after a start they may not yet.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inner.volumes().iter().all(|v| v.catalogue_complete.load(std::sync::atomic::Ordering::Acquire))
    }
}

/// What of a run is on one more volume.
fn put_row(rows: &mut HashMap<Uuid, RunRow>, row: RunRow) {
    let run = row.part.run;
    let both = match rows.remove(&run) {
        None => row,
        Some(other) => {
            let (first, rest) = if other.part.continued { (row, other) } else { (other, row) };
            let part = RunPart {
                first: first.part.first.min(rest.part.first),
                end: first.part.end.max(rest.part.end),
                ..first.part
            };
            RunRow { part, frames: first.frames + rest.frames, segments: first.segments + rest.segments }
        }
    };
    rows.insert(run, both);
}

pub(crate) fn run_info(row: &RunRow, active: bool) -> RunInfo {
    let part = &row.part;
    RunInfo {
        run: part.run,
        recorder: part.recorder,
        epoch: part.epoch,
        rank: part.rank,
        from: part.first,
        to: part.end,
        frames: row.frames,
        gap: part.gap,
        previous_run: part.previous_run,
        previous_end: Some(part.previous_end).filter(|end| end.0 != 0),
        active,
    }
}

/// Keeps files from being emptied, until dropped; see [`Reader::lease`].
#[must_use = "dropping it lets the files be reused"]
pub struct Lease {
    held: Vec<(Arc<Volume>, u64, u64)>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        for (volume, file_number, id) in &self.held {
            let mut leases = lock(&volume.leases);
            if let Some(of_file) = leases.get_mut(file_number) {
                of_file.retain(|(lease, _)| lease != id);
                if of_file.is_empty() {
                    leases.remove(file_number);
                }
            }
        }
    }
}
