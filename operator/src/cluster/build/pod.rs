//! A recorder's StatefulSet: one pod, whose name and volumes stay the same wherever it runs.

use std::collections::BTreeMap;

use framekeeper_crds::k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use framekeeper_crds::k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    LocalObjectReference, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use framekeeper_crds::{FailureDomain, PodResources, SegmentSpec, StoragePoolSpec};

use super::{OfRecorder, names};

/// Where recorders serve HTTP.
pub const HTTP_PORT: u16 = 8080;
/// Where recorders reach each other.
pub const PEER_PORT: u16 = 7447;
/// What outlives a container, but not its pod: the assignment, credentials, the key that peers know the recorder by. In memory.
const RUN: &str = "/run/framekeeper";
/// Credentials as the kubelet mounts them, for when the API server does not answer.
const CAMERAS: &str = "/etc/framekeeper/cameras";
/// Each volume is below this, by its name. Beside them is what is remembered of them, and the socket by which people at the machine ask.
const VOLUMES: &str = "/volumes";
/// Owner of the volumes' files: nobody in particular.
const USER: i64 = 65_532;
/// Others get their streams, segments are sealed, volumes are closed: 10 s (the supervisor's limit), and as much again for a busy node.
const GRACE_SECONDS: i64 = 20;

/// The StatefulSet.
#[must_use]
pub fn stateful_set(recorder: &OfRecorder<'_>) -> StatefulSet {
    let mut template = template(recorder);
    let hash = names::short(&serde_json::to_vec(&template).unwrap_or_default());
    // What a pod was made from stands on it: whoever looks at the two sees which pods are to be made anew.
    let metadata = template.metadata.get_or_insert_default();
    metadata.annotations.get_or_insert_default().insert(names::TEMPLATE.to_owned(), hash);
    StatefulSet {
        metadata: recorder.metadata(recorder.name),
        spec: StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names::of_pool(&recorder.pool.key.name)),
            selector: LabelSelector {
                match_labels: Some(names::labels(&recorder.pool.key.name, recorder.name)),
                ..LabelSelector::default()
            },
            // One recorder at a time, when the others record: that the operator decides.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            pod_management_policy: Some("Parallel".to_owned()),
            template,
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}

/// The template that a set's pods are made from.
#[must_use]
pub fn template_of(set: &StatefulSet) -> Option<&str> {
    let metadata = set.spec.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(names::TEMPLATE).map(String::as_str)
}

fn template(recorder: &OfRecorder<'_>) -> PodTemplateSpec {
    let spec = recorder.pool.spec;
    let told = &spec.template;
    let more = told.metadata.clone().unwrap_or_default();
    let ours = |key: &str| ["framekeeper.dev/", "app.kubernetes.io/"].iter().any(|prefix| key.starts_with(prefix));
    let mut labels: BTreeMap<String, String> = more.labels.into_iter().filter(|(key, _)| !ours(key)).collect();
    labels.extend(names::labels(&recorder.pool.key.name, recorder.name));
    let mut annotations: BTreeMap<String, String> =
        more.annotations.into_iter().filter(|(key, _)| !ours(key)).collect();
    annotations.insert(names::SEGMENT.to_owned(), segment(&spec.segment));
    let image = recorder.pool.image;
    let pull_secrets = image.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(recorder.name.to_owned()),
            automount_service_account_token: Some(true),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            image_pull_secrets: Some(pull_secrets.collect()),
            priority_class_name: told.priority_class_name.clone(),
            node_selector: (!told.node_selector.is_empty()).then(|| told.node_selector.clone()),
            tolerations: Some(tolerations(spec)),
            affinity: Some(apart(recorder)),
            topology_spread_constraints: Some(spread(recorder)),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                // Millions of files need not be looked at again at each start.
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(seccomp(spec)),
                ..PodSecurityContext::default()
            }),
            containers: vec![container(recorder)],
            volumes: Some(volumes(recorder)),
            ..PodSpec::default()
        }),
    }
}

/// What a recorder takes up only when it begins: its pod is to be made anew when one of these changes, so the template has them.
fn segment(spec: &SegmentSpec) -> String {
    let SegmentSpec { bytes: _, part, sync } = spec;
    match sync {
        Some(sync) => format!("part={part},sync={sync}"),
        None => format!("part={part}"),
    }
}

fn seccomp(spec: &StoragePoolSpec) -> SeccompProfile {
    match &spec.template.seccomp_localhost_profile {
        Some(profile) => SeccompProfile { type_: "Localhost".to_owned(), localhost_profile: Some(profile.clone()) },
        None => SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None },
    }
}

/// Kubernetes deletes pods of a node that it has not heard of for minutes, and where only the control plane is cut off that ends a recording.
fn tolerations(spec: &StoragePoolSpec) -> Vec<Toleration> {
    let stays = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    stays.into_iter().chain(spec.template.tolerations.iter().cloned()).collect()
}

fn same_pool(recorder: &OfRecorder<'_>) -> LabelSelector {
    LabelSelector { match_labels: Some(names::pool_labels(&recorder.pool.key.name)), ..LabelSelector::default() }
}

/// Preferred, not required: more recorders than nodes are better than recorders that wait.
fn apart(recorder: &OfRecorder<'_>) -> Affinity {
    let term = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(same_pool(recorder)),
            topology_key: "kubernetes.io/hostname".to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![term]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn spread(recorder: &OfRecorder<'_>) -> Vec<TopologySpreadConstraint> {
    let keys: &[&str] = match recorder.pool.spec.failure_domain {
        FailureDomain::Recorder | FailureDomain::Node => &["kubernetes.io/hostname"],
        FailureDomain::Zone => &["topology.kubernetes.io/zone", "kubernetes.io/hostname"],
    };
    let constraint = |key: &&str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: (*key).to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(same_pool(recorder)),
        ..TopologySpreadConstraint::default()
    };
    keys.iter().map(constraint).collect()
}

fn container(recorder: &OfRecorder<'_>) -> Container {
    let own = format!("{}/{}", recorder.pool.key.namespace, recorder.name);
    let run = |name: &str| format!("{RUN}/{name}");
    let pairs = [
        ("--cluster", own),
        ("--assignment", run("assignment.yaml")),
        ("--secrets", run("secrets")),
        ("--mounted-secrets", CAMERAS.to_owned()),
        ("--volumes", VOLUMES.to_owned()),
        ("--status", run("status.yaml")),
        ("--key", run("key")),
        ("--listen", format!("0.0.0.0:{HTTP_PORT}")),
        ("--peer-listen", format!("0.0.0.0:{PEER_PORT}")),
        ("--advertise", "$(POD_IP)".to_owned()),
        ("--log-format", "json".to_owned()),
    ];
    let mut command = vec!["framekeeper-recorder".to_owned(), "run".to_owned()];
    command.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    let image = recorder.pool.image;
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let probe = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        ..Probe::default()
    };
    Container {
        name: "recorder".to_owned(),
        image: Some(image.name.clone()),
        image_pull_policy: image.pull_policy.clone(),
        command: Some(command),
        env: Some(environment()),
        ports: Some(vec![port("http", HTTP_PORT), port("peer", PEER_PORT)]),
        // The supervisor sees at once when the recorder ends, and the recorder itself when it hangs: this is for the case that both are wrong.
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..probe("/livez") }),
        readiness_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(2), ..probe("/readyz") }),
        resources: Some(resources(recorder.pool.spec)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(recorder.pool.spec)),
        ..Container::default()
    }
}

fn environment() -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let address = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: "status.podIP".to_owned(),
            ..ObjectFieldSelector::default()
        }),
        ..EnvVarSource::default()
    };
    vec![EnvVar { name: "POD_IP".to_owned(), value: None, value_from: Some(address) }, plain("HOME", RUN.to_owned())]
}

fn mounts(spec: &StoragePoolSpec) -> Vec<VolumeMount> {
    let mount = |name: String, path: String, read_only: bool| VolumeMount {
        name,
        mount_path: path,
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    let fixed = [
        // Before what is mounted below it: container runtimes sort by path, but nothing obliges them to.
        mount("volumes".to_owned(), VOLUMES.to_owned(), false),
        mount("run".to_owned(), RUN.to_owned(), false),
        mount("cameras".to_owned(), CAMERAS.to_owned(), true),
    ];
    let volumes = spec
        .storage
        .volumes
        .iter()
        .map(|volume| mount(names::pod_volume(&volume.name), format!("{VOLUMES}/{}", volume.name), false));
    fixed.into_iter().chain(volumes).collect()
}

fn volumes(recorder: &OfRecorder<'_>) -> Vec<Volume> {
    // On the node's disk: a volume that somebody stopped stays stopped when the node starts again.
    let beside = Volume {
        name: "volumes".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity("16Mi".to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    let run = Volume {
        name: "run".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            mode: None,
            size_limit: Some(Quantity("64Mi".to_owned())),
        }),
        ..Volume::default()
    };
    let cameras = Volume {
        name: "cameras".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::cameras(recorder.name)),
            // Cameras without a password need none, and the recorder waits for nobody.
            optional: Some(true),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let claims = recorder.pool.spec.storage.volumes.iter().map(|volume| Volume {
        name: names::pod_volume(&volume.name),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: {
                let known = recorder.volumes.iter().find(|known| known.name == volume.name);
                known.map_or_else(|| names::claim(&volume.name, recorder.name), |it| names::claim_of(it, recorder.name))
            },
            read_only: None,
        }),
        ..Volume::default()
    });
    [beside, run, cameras].into_iter().chain(claims).collect()
}

/// Milliseconds of CPU a second that a channel takes, receiving 4 Mbit/s and writing them, and twice as much for bursts.
const CPU_MS_PER_CHANNEL: u64 = 1;
/// MiB of a channel that stands by at 4 Mbit/s with a key frame every 2 s (docs/limits.md), which is more than one that records takes.
const MEMORY_MIB_PER_CHANNEL: u64 = 17;

/// Memory is asked for as it may be used at most: a recorder that is killed for its memory costs footage. The CPU is not limited: what is idle may be used.
fn resources(spec: &StoragePoolSpec) -> ResourceRequirements {
    let channels = u64::from(spec.max_channels);
    let memory = Quantity(format!("{}Mi", 64 + MEMORY_MIB_PER_CHANNEL * channels));
    let cpu = Quantity(format!("{}m", 50 + CPU_MS_PER_CHANNEL * channels));
    let told = spec.template.resources.clone();
    let PodResources { requests, limits } = told.unwrap_or_default();
    let mut requests = requests;
    let mut limits = limits;
    if limits.is_empty() {
        limits.insert("memory".to_owned(), requests.get("memory").cloned().unwrap_or_else(|| memory.clone()));
    }
    if requests.is_empty() {
        requests.insert("cpu".to_owned(), cpu);
        requests.insert("memory".to_owned(), limits.get("memory").cloned().unwrap_or(memory));
    }
    ResourceRequirements { requests: Some(requests), limits: Some(limits), ..ResourceRequirements::default() }
}
