//! What must outlive the operator so that a second start goes on where the first stopped: identities, generations, epochs
//! and who records what. One JSON file, replaced whole. It holds no credentials.

use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use framekeeper_crds::{
    CameraFindings, CameraStreamSpec, HoldRange, PlanVersion, Recorder, RecorderSpec, StoragePoolSpec, StreamRef,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::local::files;

const VERSION: u32 = 1;

/// Everything that is remembered.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Form of this file.
    pub version: u32,
    /// Grows at each start of the operator.
    pub term: u64,
    /// Grows with each plan of the term that changes who records what.
    pub sequence: u64,
    /// By `namespace/name`. Streams that are gone stay, so that one that comes back gets a higher epoch.
    pub streams: BTreeMap<String, StreamState>,
    /// By `namespace/name`.
    pub pools: BTreeMap<String, PoolState>,
    /// By `namespace/name`.
    pub recorders: BTreeMap<String, RecorderState>,
}

/// What is remembered of a stream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamState {
    /// Its UID.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// The spec as last seen.
    #[serde(with = "shared")]
    pub spec: Arc<CameraStreamSpec>,
    /// The recorder that has it, or had it last: ordinal within `pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorder: Option<u32>,
    /// The recorders that stand by for it, or did last, by rank: ordinals within `pool`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<u32>,
    /// The pool of these recorders, `namespace/name`.
    pub pool: String,
    /// Grows with each change of who records it.
    pub epoch: u64,
    /// The highest epoch that a recorder has said it records in: one that takes over begins a new one by itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch_seen: u64,
    /// The decision that gave it to these recorders.
    pub plan_version: PlanVersion,
    /// What was found out of its camera by trying. Forgotten when its source changes.
    #[serde(default, skip_serializing_if = "CameraLimits::is_none")]
    pub camera: CameraLimits,
    /// What of its footage is to be held. Forgotten when the stream is gone: recorders go on holding it, until a person releases it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldRange>,
    /// Of these, what recorders are not told of, because Recorders have no room for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_holds: Vec<LeftOutHold>,
    /// Holds that were taken back from it while it was there, the newest last. They are said for as long as it is there: a volume that was away
    /// may come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released_holds: Vec<HoldRange>,
}

/// A hold that recorders are not told of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOutHold {
    /// The footage.
    #[serde(flatten)]
    pub range: HoldRange,
    /// Whether they were told once, so that they may hold it: it is said when it is taken back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub was_told: bool,
}

/// What a camera does not do, as was found out by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CameraLimits {
    /// It ends sessions that do not play.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drops_idle_sessions: bool,
    /// It refused one more than so many sessions at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
}

impl CameraLimits {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// As a status says it; nothing where nothing was found out.
    #[must_use]
    pub fn findings(&self) -> Option<CameraFindings> {
        let Self { drops_idle_sessions, sessions } = *self;
        (!self.is_none()).then_some(CameraFindings { drops_idle_sessions, sessions })
    }
}

/// What is remembered of a pool.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolState {
    /// Its UID.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// The spec as last seen.
    pub spec: StoragePoolSpec,
}

/// What is remembered of a recorder.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecorderState {
    /// Its UID.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// The spec as last written.
    pub spec: Told,
    /// Streams it is to let go of, with the generation that says so first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<Retiring>,
    /// The port of its HTTP server, so that a second start finds it at the same place; 0 when none was chosen yet.
    #[serde(default)]
    pub http_port: u16,
    /// The port where its peers reach it; 0 when none was chosen yet.
    #[serde(default)]
    pub peer_port: u16,
    /// What its peers know it by, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// What a recorder is told. The Recorder that says it is shared with whoever else looks at it: one of a thousand channels is no small thing.
#[derive(Clone, Debug)]
pub struct Told(Arc<Recorder>);

impl Told {
    /// The Recorder that says it, or one that says the same.
    #[must_use]
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.0
    }
}

impl From<Arc<Recorder>> for Told {
    fn from(recorder: Arc<Recorder>) -> Self {
        Self(recorder)
    }
}

impl Deref for Told {
    type Target = RecorderSpec;

    fn deref(&self) -> &RecorderSpec {
        &self.0.spec
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || **self == **other
    }
}

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RecorderSpec::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(Recorder::new("", RecorderSpec::deserialize(from)?))))
    }
}

/// A stream that a recorder is to let go of.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retiring {
    /// The stream.
    pub stream: StreamRef,
    /// The decision that took it away.
    pub plan_version: PlanVersion,
    /// The first generation of the Recorder that says so: once it is observed and the stream let go of, it need not be said any more.
    pub generation: i64,
    /// Whether it goes on with the stream until one of those that hold it now has proven that it records.
    #[serde(default, skip_serializing_if = "is_false")]
    pub handover: bool,
}

impl StreamState {
    /// Who holds it, or did last: the primary, then the standbys by rank.
    #[must_use]
    pub fn holders(&self) -> Vec<u32> {
        self.recorder.iter().chain(&self.standbys).copied().collect()
    }

    /// What recorders are told to hold of it.
    pub fn told_holds(&self) -> impl Iterator<Item = &HoldRange> {
        self.holds.iter().filter(|range| !self.left_out_holds.iter().any(|left_out| left_out.range == **range))
    }

    /// The highest epoch it was ever recorded in, as far as is known.
    #[must_use]
    pub fn newest_epoch(&self) -> u64 {
        self.epoch.max(self.epoch_seen)
    }

    /// Takes note of an epoch that a recorder records in. Whether it is news.
    pub fn saw_epoch(&mut self, epoch: u64) -> bool {
        let is_news = epoch > self.newest_epoch();
        if is_news {
            self.epoch_seen = epoch;
        }
        is_news
    }
}

/// What many share, written as if it were not.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

// serde asks for references.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            term: 0,
            sequence: 0,
            streams: BTreeMap::new(),
            pools: BTreeMap::new(),
            recorders: BTreeMap::new(),
        }
    }
}

/// Why the state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this program wrote.
    #[error("{path} is damaged ({source}); move it away to start afresh: streams may then move to other recorders")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file was written by a newer program.
    #[error("{path} was written by a newer version of this program (form {found}, known is {VERSION})")]
    Newer {
        /// The file.
        path: String,
        /// Its form.
        found: u32,
    },
}

impl State {
    /// Reads the state, or begins one where there is none.
    ///
    /// # Errors
    /// When the file is there but can't be used. It is left as it is.
    pub fn load(path: &Path) -> Result<Self, StateError> {
        let shown = path.display().to_string();
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StateError::Read { path: shown, source }),
        };
        let damaged = |source| StateError::Damaged { path: shown.clone(), source };
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let found = json.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        if found > VERSION {
            return Err(StateError::Newer { path: shown, found });
        }
        serde_json::from_value(json).map_err(damaged)
    }

    /// Writes the state.
    ///
    /// # Errors
    /// When the file can't be replaced; the old one is then still there.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        text.push(b'\n');
        files::replace(path, &text, files::Durable::Yes)
    }
}
