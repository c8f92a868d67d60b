//! Footage of several recorders as one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use framekeeper_media::WallTime;
use uuid::Uuid;

use super::leases;
use super::remote::{Remote, Remotes};
use super::wire::{Name, Question, WireCoverage, WireFrames, WireHole, WireInit, WireSegment};
use crate::serve::footage::{Footage, FootageError, Hole, Init, Lease, Run, Segment, SegmentFrames};

/// Of so many segments of others the frames are kept.
const RECENT: usize = 16;

/// A use of a file, how far it was written, and what of it was known to be whole.
type Key = (Uuid, u64, u64, u64, WallTime, u32);

fn key(segment: &Segment) -> Key {
    let Segment { volume, file_number, nonce, used_bytes, first, counts, .. } = segment;
    (*volume, *file_number, *nonce, *used_bytes, *first, counts.video_frames)
}

/// What is here and what others have.
pub(in crate::serve) struct Union {
    own: Arc<dyn Footage>,
    remotes: Arc<Remotes>,
    /// Whose volumes are whose, as far as segments of them were listed.
    owners: Mutex<HashMap<Uuid, Arc<Remote>>>,
    recent: Mutex<VecDeque<(Key, Arc<SegmentFrames>)>>,
}

impl Union {
    pub(in crate::serve) fn new(own: Arc<dyn Footage>, remotes: Arc<Remotes>) -> Self {
        Self { own, remotes, owners: Mutex::default(), recent: Mutex::default() }
    }

    fn owner(&self, segment: &Segment) -> Option<Arc<Remote>> {
        lock(&self.owners).get(&segment.volume).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Footage for Union {
    fn find(&self, namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError> {
        if let Some(found) = self.own.find(namespace, name)? {
            return Ok(Some(found));
        }
        let question = Question::Find { namespace: namespace.to_owned(), name: name.to_owned() };
        let answers: Vec<(_, Option<Uuid>)> = Remote::ask_all(&self.remotes.all(), &question);
        Ok(answers.into_iter().find_map(|(_, found)| found))
    }

    fn coverage(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError> {
        let mut runs = self.own.coverage(stream, from, to)?;
        let question = Question::Coverage { stream, from: from.0, to: to.0 };
        for (_, answer) in Remote::ask_all::<WireCoverage>(&self.remotes.all(), &question) {
            runs.extend(answer.runs.into_iter().map(Run::from));
        }
        runs.sort_by_key(|run| (run.from, run.run));
        Ok(runs)
    }

    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let mut segments = self.own.segments(stream, from, to)?;
        let question = Question::Segments { stream, from: from.0, to: to.0 };
        for (remote, answer) in Remote::ask_all::<Vec<WireSegment>>(&self.remotes.all(), &question) {
            let theirs = answer.into_iter().map(Segment::from);
            let mut owners = lock(&self.owners);
            for segment in theirs {
                owners.insert(segment.volume, Arc::clone(&remote));
                segments.push(segment);
            }
        }
        segments.sort_by_key(|segment| (segment.first, segment.volume, segment.number));
        Ok(segments)
    }

    fn frames(&self, segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        let Some(remote) = self.owner(segment) else { return self.own.frames(segment) };
        let key = key(segment);
        if let Some((_, frames)) = lock(&self.recent).iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(frames));
        }
        let answer: WireFrames = remote.ask(&Question::Frames { segment: Name::from(segment) })?;
        let frames = SegmentFrames::try_from(answer).map_err(|why| FootageError::Broken(why.to_owned()))?;
        let frames = Arc::new(frames);
        let mut recent = lock(&self.recent);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back((key, Arc::clone(&frames)));
        Ok(frames)
    }

    fn init(&self, segment: &Segment) -> Result<Init, FootageError> {
        let Some(remote) = self.owner(segment) else { return self.own.init(segment) };
        let answer = remote.read(&Question::Init { segment: Name::from(segment) })?;
        let line = answer.iter().position(|byte| *byte == b'\n');
        let head = line.and_then(|end| serde_json::from_slice::<WireInit>(answer.get(..end)?).ok());
        match (line, head) {
            (Some(line), Some(WireInit { reorders })) => Ok(Init { bytes: answer.slice(line + 1..), reorders }),
            _ => Err(FootageError::Broken(format!("recorder {}: its answer is not understood", remote.name))),
        }
    }

    fn read_at(&self, segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        let Some(remote) = self.owner(segment) else { return self.own.read_at(segment, offset, buf) };
        let length = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let answer = remote.read(&Question::Bytes { segment: Name::from(segment), offset, length })?;
        if answer.len() != buf.len() {
            let got = answer.len();
            return Err(FootageError::Broken(format!("recorder {}: {got} bytes instead of {length}", remote.name)));
        }
        buf.copy_from_slice(&answer);
        Ok(())
    }

    fn damage(&self, stream: Uuid) -> Result<Vec<Hole>, FootageError> {
        let mut holes = self.own.damage(stream)?;
        for (_, answer) in Remote::ask_all::<Vec<WireHole>>(&self.remotes.all(), &Question::Damage { stream }) {
            holes.extend(answer.into_iter().map(Hole::from));
        }
        Ok(holes)
    }

    fn damage_version(&self, stream: Uuid) -> u64 {
        self.own.damage_version(stream)
    }

    fn is_complete(&self) -> bool {
        self.own.is_complete() && !self.remotes.all().iter().any(|remote| remote.is_out())
    }

    fn cache_bytes(&self) -> usize {
        let frames: usize = lock(&self.recent).iter().map(|(_, frames)| frames.weight()).sum();
        self.own.cache_bytes() + frames
    }

    fn holds(&self, stream: Uuid) -> Vec<(WallTime, WallTime)> {
        // The same ones are told to all.
        self.own.holds(stream)
    }

    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease> {
        let (mut own, mut others) = (Vec::new(), Vec::<(Arc<Remote>, Vec<Segment>)>::new());
        for segment in segments {
            match self.owner(segment) {
                None => own.push(segment.clone()),
                Some(owner) => match others.iter_mut().find(|(remote, _)| Arc::ptr_eq(remote, &owner)) {
                    Some((_, its)) => its.push(segment.clone()),
                    None => others.push((owner, vec![segment.clone()])),
                },
            }
        }
        let mut held = vec![self.own.lease(&own)];
        held.extend(others.iter().flat_map(|(remote, its)| leases::ask(remote, its)));
        Box::new(held)
    }

    fn durable_until(&self, stream: Uuid) -> Option<WallTime> {
        // Whoever records it now says up to when; one that does not has said all it has.
        let last = Question::Coverage { stream, from: i64::MAX - 1, to: i64::MAX };
        let others = Remote::ask_all::<WireCoverage>(&self.remotes.all(), &last);
        let others = others.into_iter().filter_map(|(_, answer)| answer.durable.map(WallTime));
        self.own.durable_until(stream).into_iter().chain(others).max()
    }
}
