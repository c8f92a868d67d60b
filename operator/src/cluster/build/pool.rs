//! What a pool has beside its recorders.

use framekeeper_crds::k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use framekeeper_crds::k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{HTTP_PORT, PEER_PORT};
use super::{OfPool, names};

/// Gives each recorder's pod a name in DNS, whether it is ready or not.
#[must_use]
pub fn service(pool: &OfPool<'_>) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: pool.metadata(&names::of_pool(&pool.key.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::pool_labels(&pool.key.name)),
            ports: Some(vec![port("http", HTTP_PORT), port("peer", PEER_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// How many recorders others may stop at once ([`crate::decide::caution::PoolCaution::at_once`]).
#[must_use]
pub fn disruption_budget(pool: &OfPool<'_>, at_once: u32) -> PodDisruptionBudget {
    // Recorders of one node fail together, but are not stopped together: each has streams that have to go on elsewhere first.
    let at_once = i32::try_from(at_once).unwrap_or(1);
    PodDisruptionBudget {
        metadata: pool.metadata(&names::of_pool(&pool.key.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(at_once)),
            selector: Some(LabelSelector {
                match_labels: Some(names::pool_labels(&pool.key.name)),
                ..LabelSelector::default()
            }),
            // One that cannot record protects nothing: its node may be emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
