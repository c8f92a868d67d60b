//! From a `Recorder` object to what is to be done: checked, in plain values, with a reason for each channel that cannot be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use framekeeper_crds::{Placement, Recorder, RecorderRetention, StreamRef};
use framekeeper_media::WallTime;
use framekeeper_store::{Hold, Limits, PlanVersion, Retention, StreamIdent};
use url::Url;
use uuid::Uuid;

use super::Version;
use super::channel::channel_plan;
use super::holders::{Class, RetiredPlan, Shared};
use framekeeper_peer::Peer;

/// Space of the UIDs that are made up for objects without one (RFC 9562 §5.5).
const UID_SPACE: Uuid = Uuid::from_u128(0x6b1f_2f0a_97d4_4d35_9d0c_6a4e_52b7_90ce);

/// What one recorder is to do.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which of two is newer.
    pub version: Version,
    /// Namespace of the recorder, its pool and its streams' Secrets.
    pub namespace: String,
    /// Name of the recorder.
    pub name: String,
    /// UID of the `Recorder` object.
    pub uid: Uuid,
    /// The pool as `namespace/name`.
    pub pool: String,
    /// Size of each segment file in bytes.
    pub segment_bytes: u64,
    /// The longest that a frame is only in memory.
    pub part: Duration,
    /// From one sync to the next; `None`: by the kind of disk.
    pub sync: Option<Duration>,
    /// Where to write to.
    pub volumes: Vec<VolumePlan>,
    /// On which of them the next segment of a stream goes.
    pub placement: Placement,
    /// How long footage is kept; also of streams that are refused or not recorded now.
    pub retention: Retention,
    /// Slots that no channel has for itself: takeovers of streams of class `Ready` share them.
    pub shared_slots: u32,
    /// The channels to record.
    pub channels: Vec<ChannelPlan>,
    /// Streams that another recorder is to have.
    pub retired: BTreeMap<Uuid, RetiredPlan>,
    /// The recorders that streams are shared with.
    pub peers: Vec<Peer>,
    /// Names of recorders whose footage is asked for together with what is here, and addresses of their HTTP servers.
    pub remotes: Vec<(String, String)>,
    /// What is wrong with what is said of recorders; they are left out.
    pub peer_mistakes: Vec<String>,
    /// Footage that is to be held.
    pub holds: Vec<HoldPlan>,
    /// Holds that were taken back.
    pub released_holds: Vec<HoldPlan>,
    /// The channels that cannot be recorded, and why.
    pub refusals: Vec<Refusal>,
    /// The object this was made from, without user info in its addresses.
    pub object: Recorder,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Its name, and that of its folder.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// How many bytes may be used.
    pub budget_bytes: u64,
}

/// One channel to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPlan {
    /// The stream.
    pub stream: StreamIdent,
    /// Grows with each change of who records the stream.
    pub epoch: u64,
    /// 0 for the primary.
    pub rank: u32,
    /// The decision that this comes from.
    pub plan_version: PlanVersion,
    /// Where the video comes from; no user info in it.
    pub url: Url,
    /// The Secret with the camera's credentials.
    pub secret: Option<SecretName>,
    /// Whether audio is recorded.
    pub audio: bool,
    /// Higher ones first.
    pub priority: i32,
    /// Where the camera is asked for key frames.
    pub onvif: Option<OnvifPlan>,
    /// Who else holds it; `None`: nobody.
    pub shared: Option<Shared>,
}

/// Where a camera is asked for key frames over ONVIF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnvifPlan {
    /// Its device service; no user info in it.
    pub endpoint: Url,
    /// The token of the media profile, where it was given.
    pub profile: Option<String>,
}

impl ChannelPlan {
    /// What a failure may cost it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.shared.as_ref().map_or(Class::None, |shared| shared.class)
    }
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldPlan {
    /// As the store has it. Its name follows from stream and times, so that the same hold is the same one for every recorder and for ever.
    pub hold: Hold,
    /// The stream, `namespace/name`.
    pub name: String,
}

/// Names a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A channel that cannot be recorded as it stands in the assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stream.
    pub stream: StreamRef,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// The same as a sentence, without credentials.
    pub message: String,
}

/// Why an assignment cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}, {expected}")]
pub struct PlanError {
    /// The field, from the object's root.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

impl Assignment {
    /// Checks `recorder` and takes it apart.
    ///
    /// # Errors
    /// [`PlanError`] for what concerns all channels.
    pub fn from_object(mut recorder: Recorder) -> Result<Self, PlanError> {
        let spec = &recorder.spec;
        let namespace = recorder.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        check_name("metadata.namespace", &namespace)?;
        let name = recorder.metadata.name.clone().unwrap_or_default();
        check_name("metadata.name", &name)?;
        check_name("spec.pool", &spec.pool)?;
        let uid = match recorder.metadata.uid.as_deref() {
            Some(text) => uid_of("metadata.uid", text)?,
            None => Uuid::new_v5(&UID_SPACE, format!("{namespace}/{name}").as_bytes()),
        };
        let (channels, mut refusals, shared_slots) = channels(&recorder, uid);
        // Whatever is made from the object from here on may be seen: a password in an address is refused, and ends here.
        for channel in &mut recorder.spec.channels {
            channel.source.url = framekeeper_crds::validate::redact_url(&channel.source.url);
            if let Some(onvif) = &mut channel.source.onvif {
                onvif.endpoint = framekeeper_crds::validate::redact_url(&onvif.endpoint);
            }
        }
        let spec = &recorder.spec;
        let segment = spec.segment;
        check(
            segment.bytes.is_multiple_of(4096) && (1 << 20..=1 << 30).contains(&segment.bytes),
            "spec.segment.bytes",
            segment.bytes,
            "it must be a multiple of 4096 between 1 MiB and 1 GiB",
        )?;
        check(
            (100..=2_000).contains(&segment.part_ms),
            "spec.segment.partMs",
            segment.part_ms,
            "it must be between 100 and 2000",
        )?;
        check(
            segment.sync_ms.is_none_or(|sync_ms| (100..=10_000).contains(&sync_ms)),
            "spec.segment.syncMs",
            segment.sync_ms.unwrap_or_default(),
            "it must be between 100 and 10000",
        )?;
        let volumes = volumes(&recorder)?;
        let (released_holds, _) = holds(&spec.released_holds);
        let (holds, bad_holds) = holds(&spec.holds);
        refusals.extend(bad_holds);
        let retired = super::holders::retired(&spec.retired);
        let (peers, peer_mistakes) = super::holders::peers(&recorder, uid);
        Ok(Self {
            version: Version::of(&recorder),
            pool: format!("{namespace}/{}", spec.pool),
            namespace,
            name,
            uid,
            segment_bytes: segment.bytes,
            part: Duration::from_millis(segment.part_ms.into()),
            sync: segment.sync_ms.map(|sync_ms| Duration::from_millis(sync_ms.into())),
            volumes,
            placement: recorder.spec.placement,
            retention: retention(&recorder),
            shared_slots,
            channels,
            retired,
            peers,
            peer_mistakes,
            remotes: super::holders::remotes(&recorder),
            holds,
            released_holds,
            refusals,
            object: recorder,
        })
    }
}

impl ChannelPlan {
    /// As status and events name it.
    #[must_use]
    pub fn stream_ref(&self) -> StreamRef {
        StreamRef {
            namespace: self.stream.namespace.clone(),
            name: self.stream.name.clone(),
            uid: self.stream.uid.to_string(),
        }
    }
}

fn check(right: bool, field: &str, value: impl ToString, expected: &'static str) -> Result<(), PlanError> {
    if right { Ok(()) } else { Err(PlanError { field: field.to_owned(), value: value.to_string(), expected }) }
}

pub(super) fn check_name(field: &str, value: &str) -> Result<(), PlanError> {
    check(
        is_name(value),
        field,
        value,
        "it must be 1 to 253 lower-case letters, digits, '-' and '.', and begin and end with a letter or digit",
    )
}

/// An RFC 1123 subdomain, as Kubernetes names objects; also harmless as a folder.
fn is_name(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    value.len() <= 253
        && ends(value.chars().next())
        && ends(value.chars().last())
        && value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
}

pub(super) fn uid_of(field: &str, text: &str) -> Result<Uuid, PlanError> {
    Uuid::parse_str(text).map_err(|_| PlanError {
        field: field.to_owned(),
        value: text.to_owned(),
        expected: "it must be a UUID such as 0b0e7a3e-4f6b-4f8a-9d2e-1c2b3a4d5e6f",
    })
}

fn retention(recorder: &Recorder) -> Retention {
    let spec = &recorder.spec;
    let limits = |told: RecorderRetention| Limits {
        max_age: told.max_age_ms.map(Duration::from_millis),
        max_bytes: told.max_bytes,
    };
    let kept = spec.kept.iter().map(|kept| (&kept.stream, kept.retention));
    let recorded = spec.channels.iter().map(|channel| (&channel.stream, channel.retention));
    // What has no UID has no footage.
    let streams =
        kept.chain(recorded).filter_map(|(stream, told)| Some((Uuid::parse_str(&stream.uid).ok()?, limits(told))));
    Retention { streams: streams.collect(), others: limits(spec.retention) }
}

fn volumes(recorder: &Recorder) -> Result<Vec<VolumePlan>, PlanError> {
    let given = &recorder.spec.volumes;
    check(!given.is_empty(), "spec.volumes", "[]", "it must list at least one volume")?;
    let mut seen = HashSet::new();
    let mut volumes = Vec::with_capacity(given.len());
    for (number, volume) in given.iter().enumerate() {
        let field = |name: &str| format!("spec.volumes[{number}].{name}");
        check_name(&field("name"), &volume.name)?;
        check(seen.insert(volume.name.as_str()), &field("name"), &volume.name, "it must occur once")?;
        let uuid = uid_of(&field("uuid"), &volume.uuid)?;
        volumes.push(VolumePlan { name: volume.name.clone(), uuid, budget_bytes: volume.budget_bytes });
    }
    Ok(volumes)
}

fn channels(recorder: &Recorder, me: Uuid) -> (Vec<ChannelPlan>, Vec<Refusal>, u32) {
    let mut refusals = Vec::new();
    let mut good: Vec<ChannelPlan> = Vec::with_capacity(recorder.spec.channels.len());
    let mut by_uid: HashMap<Uuid, usize> = HashMap::new();
    let mut by_name: HashMap<(String, String), usize> = HashMap::new();
    for channel in &recorder.spec.channels {
        let plan = match channel_plan(channel, me) {
            Ok(plan) => plan,
            Err((reason, message)) => {
                refusals.push(Refusal { stream: channel.stream.clone(), reason, message });
                continue;
            }
        };
        let name = (plan.stream.namespace.clone(), plan.stream.name.clone());
        let twin = by_uid.get(&plan.stream.uid).or_else(|| by_name.get(&name)).copied();
        match twin.and_then(|twin| good.get_mut(twin).map(|first| (twin, first))) {
            // Recorded rather than not at all: by the newer decision, or the first of two equal ones.
            Some((twin, first)) => {
                let newer = plan.plan_version > first.plan_version;
                let other = if newer { std::mem::replace(first, plan) } else { plan };
                let kept = first.stream_ref();
                let (term, sequence) = (first.plan_version.term, first.plan_version.sequence);
                if newer {
                    by_uid.insert(first.stream.uid, twin);
                    by_name.insert((kept.namespace.clone(), kept.name.clone()), twin);
                }
                refusals.push(Refusal {
                    stream: other.stream_ref(),
                    reason: "DuplicateStream",
                    message: format!(
                        "{}/{} stands twice in spec.channels; the entry with UID {} and plan version {term}.{sequence} is recorded, the other is left out",
                        kept.namespace, kept.name, kept.uid
                    ),
                });
            }
            None => {
                by_uid.insert(plan.stream.uid, good.len());
                by_name.insert(name, good.len());
                good.push(plan);
            }
        }
    }
    let all = recorder.spec.slots.normal.saturating_add(recorder.spec.slots.reserved);
    let (over, left) = slots(&mut good, all);
    refusals.extend(over);
    (good, refusals, left)
}

fn holds(given: &[framekeeper_crds::Hold]) -> (Vec<HoldPlan>, Vec<Refusal>) {
    let mut refusals = Vec::new();
    let mut plans = Vec::with_capacity(given.len());
    for hold in given {
        let framekeeper_crds::HoldRange { from, to } = &hold.range;
        let bound =
            |time: &Option<MicroTime>, none| WallTime(time.as_ref().map_or(none, |time| time.0.as_microsecond()));
        let (from, to) = (bound(from, i64::MIN), bound(to, i64::MAX));
        let name = format!("{}/{}", hold.stream.namespace, hold.stream.name);
        match uid_of("stream.uid", &hold.stream.uid) {
            Ok(stream) => {
                let id = Uuid::new_v5(&UID_SPACE, format!("hold/{stream}/{}/{}", from.0, to.0).as_bytes());
                plans.push(HoldPlan { hold: Hold { hold: id, stream, from, to }, name });
            }
            Err(error) => refusals.push(Refusal {
                stream: hold.stream.clone(),
                reason: "InvalidHold",
                message: format!("its footage cannot be held: {error}"),
            }),
        }
    }
    (plans, refusals)
}

/// Keeps as many channels as there are slots, those of the highest priority, in the order given. Those that need none are kept anyway. Also: how many
/// slots are left.
fn slots(channels: &mut Vec<ChannelPlan>, slots: u32) -> (Vec<Refusal>, u32) {
    let at_most = usize::try_from(slots).unwrap_or(usize::MAX);
    let needs_one = |plan: &ChannelPlan| plan.rank == 0 || plan.class() != Class::Ready;
    let needing = channels.iter().enumerate().filter(|(_, plan)| needs_one(plan));
    let mut order: Vec<(i32, usize)> = needing.map(|(at, plan)| (plan.priority, at)).collect();
    if order.len() <= at_most {
        return (Vec::new(), slots.saturating_sub(u32::try_from(order.len()).unwrap_or(u32::MAX)));
    }
    // What it alone is to record goes before what it stands by for.
    let stands_by = |at: usize| channels.get(at).is_some_and(|plan| plan.rank > 0);
    order.sort_by_key(|&(priority, at)| (stands_by(at), std::cmp::Reverse(priority), at));
    let kept: HashSet<usize> = order.iter().take(at_most).map(|&(_, at)| at).collect();
    let mut at = 0;
    let mut refusals = Vec::new();
    channels.retain(|plan| {
        let keep = kept.contains(&at) || !needs_one(plan);
        at += 1;
        if !keep {
            refusals.push(Refusal {
                stream: plan.stream_ref(),
                reason: "NoSlot",
                message: format!(
                    "this recorder has {slots} slots and {} channels; this one's priority, {}, is among the lowest",
                    order.len(),
                    plan.priority
                ),
            });
        }
        keep
    });
    (refusals, 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn uid(number: u32) -> String {
        Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number)).to_string()
    }

    pub(crate) fn channel(number: u32) -> serde_json::Value {
        serde_json::json!({
            "stream": {"namespace": "default", "name": format!("cam-{number}"), "uid": uid(number)},
            "role": "Primary", "epoch": 1, "planVersion": {"term": 3, "sequence": 1},
            "source": {"url": format!("rtsp://camera{number}.example/s")}, "audio": true,
        })
    }

    pub(crate) fn object_with(channels: Vec<serde_json::Value>) -> Recorder {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "framekeeper.dev/v1alpha1", "kind": "Recorder",
            "metadata": {"namespace": "default", "name": "main-recorder-0", "uid": uid(900), "generation": 7},
            "spec": {
                "pool": "main", "ordinal": 0, "term": 3, "slots": {"normal": 3, "reserved": 0},
                "segment": {"bytes": 67_108_864, "partMs": 500, "syncMs": 500},
                "volumes": [{"name": "footage", "uuid": uid(800), "budgetBytes": 1_073_741_824_u64}],
                "channels": channels,
            },
        }))
        .unwrap()
    }

    pub(crate) fn object() -> Recorder {
        object_with(vec![channel(1), channel(2)])
    }

    pub(crate) fn yaml(recorder: &Recorder) -> String {
        framekeeper_crds::yaml::write(recorder).unwrap()
    }

    fn reasons(assignment: &Assignment) -> Vec<(&str, &str)> {
        assignment.refusals.iter().map(|refusal| (refusal.stream.name.as_str(), refusal.reason)).collect()
    }

    #[test]
    fn a_good_object() {
        let assignment = Assignment::from_object(object()).unwrap();
        assert_eq!(assignment.version, Version { term: 3, generation: 7 });
        assert_eq!(assignment.pool, "default/main");
        assert_eq!(assignment.channels.len(), 2);
        assert!(assignment.refusals.is_empty());
    }

    #[test]
    fn one_bad_channel_is_its_own_trouble() {
        let mut user_info = channel(2);
        user_info["source"]["url"] = "rtsp://bob:geheim@camera/".into();
        let mut bad_uid = channel(3);
        bad_uid["stream"]["uid"] = "x".into();
        let mut climbing = channel(4);
        climbing["stream"]["name"] = "../../etc".into();
        let mut no_url = channel(5);
        no_url["source"]["url"] = "camera".into();
        let mut standby = channel(6);
        standby["role"] = "Standby".into();
        let assignment =
            Assignment::from_object(object_with(vec![channel(1), user_info, bad_uid, climbing, no_url, standby]))
                .unwrap();
        assert_eq!(assignment.channels.len(), 1);
        assert_eq!(
            reasons(&assignment),
            [
                ("cam-2", "InvalidSource"),
                ("cam-3", "InvalidChannel"),
                ("../../etc", "InvalidChannel"),
                ("cam-5", "InvalidSource"),
                ("cam-6", "InvalidChannel"),
            ]
        );
        assert!(!format!("{assignment:?}").contains("geheim"));
    }

    #[test]
    fn of_two_entries_of_one_stream_the_newer_decision_is_recorded() {
        let mut newer = channel(1);
        newer["planVersion"]["sequence"] = 2.into();
        newer["source"]["url"] = "rtsp://moved.example/s".into();
        let mut namesake = channel(9);
        namesake["stream"]["name"] = "cam-1".into();
        let assignment = Assignment::from_object(object_with(vec![channel(1), newer, namesake, channel(2)])).unwrap();
        assert_eq!(reasons(&assignment), [("cam-1", "DuplicateStream"), ("cam-1", "DuplicateStream")]);
        let urls: Vec<&str> = assignment.channels.iter().map(|plan| plan.url.as_str()).collect();
        assert_eq!(urls, ["rtsp://moved.example/s", "rtsp://camera2.example/s"]);
    }

    #[test]
    fn the_lowest_priorities_go_without_when_slots_are_short() {
        let priority = |number: u32, priority: i32| {
            let mut channel = channel(number);
            channel["priority"] = priority.into();
            channel
        };
        let assignment = Assignment::from_object(object_with(vec![
            priority(1, 0),
            priority(2, 5),
            priority(3, -1),
            priority(4, 0),
            priority(5, 0),
        ]))
        .unwrap();
        let names: Vec<&str> = assignment.channels.iter().map(|plan| plan.stream.name.as_str()).collect();
        assert_eq!(names, ["cam-1", "cam-2", "cam-4"]);
        assert_eq!(reasons(&assignment), [("cam-3", "NoSlot"), ("cam-5", "NoSlot")]);
    }

    #[test]
    fn what_concerns_all_refuses_the_assignment() {
        let broken = |change: fn(&mut Recorder)| {
            let mut object = object();
            change(&mut object);
            Assignment::from_object(object).unwrap_err().to_string()
        };
        assert!(broken(|object| object.spec.volumes.clear()).contains("spec.volumes"));
        assert!(broken(|object| object.spec.segment.part_ms = 5_000).contains("spec.segment.partMs is \"5000\""));
        assert!(broken(|object| object.spec.volumes[0].uuid = "7".into()).contains("spec.volumes[0].uuid"));
        assert!(broken(|object| object.spec.volumes[0].name = "../x".into()).contains("spec.volumes[0].name"));
        assert!(broken(|object| object.spec.pool.clear()).contains("spec.pool"));
        assert!(broken(|object| object.metadata.name = None).contains("metadata.name"));
    }
}
