//! What a recorder may do, and with what: its own ServiceAccount, Role and Lease, and the credentials of its own cameras.

use std::collections::BTreeMap;

use framekeeper_crds::GROUP;
use framekeeper_crds::k8s_openapi::ByteString;
use framekeeper_crds::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use framekeeper_crds::k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use framekeeper_crds::k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{OfRecorder, names};

/// A recorder that did not renew its Lease for so long is taken for lost: four times as long as it may take.
pub const LEASE_SECONDS: i32 = 40;
/// Annotation of the Secret: the versions of the Secrets that it was made from. Not a hash of what is in it, which would tell two passwords from each other.
pub const SOURCES: &str = "framekeeper.dev/sources";

/// Whom a recorder is to the API server.
#[must_use]
pub fn service_account(recorder: &OfRecorder<'_>) -> ServiceAccount {
    ServiceAccount { metadata: recorder.metadata(recorder.name), ..ServiceAccount::default() }
}

/// It reads its own Recorder and its own Secret, and writes its own status and its own Lease. Nothing else, by name.
#[must_use]
pub fn role(recorder: &OfRecorder<'_>) -> Role {
    let rule = |group: &str, resource: &str, name: String, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(vec![name]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let name = || recorder.name.to_owned();
    Role {
        metadata: recorder.metadata(recorder.name),
        rules: Some(vec![
            rule(GROUP, "recorders", name(), &["get", "list", "watch"]),
            rule(GROUP, "recorders/status", name(), &["get", "patch"]),
            rule("", "secrets", names::cameras(recorder.name), &["get", "list", "watch"]),
            rule("coordination.k8s.io", "leases", name(), &["get", "update", "patch"]),
        ]),
    }
}

/// Gives it that.
#[must_use]
pub fn role_binding(recorder: &OfRecorder<'_>) -> RoleBinding {
    RoleBinding {
        metadata: recorder.metadata(recorder.name),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: recorder.name.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: recorder.name.to_owned(),
            namespace: Some(recorder.pool.key.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

/// The Lease by which it is known to be alive. Who holds it and since when, the recorder writes.
#[must_use]
pub fn lease(recorder: &OfRecorder<'_>) -> Lease {
    Lease {
        metadata: recorder.metadata(recorder.name),
        spec: Some(LeaseSpec { lease_duration_seconds: Some(LEASE_SECONDS), ..LeaseSpec::default() }),
    }
}

/// User name and password of a camera.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The version of the Secret that they are from.
    pub version: String,
    /// Its values, by key; only those that cameras need.
    pub values: BTreeMap<String, Vec<u8>>,
}

/// The Secret of a recorder: for each Secret that its streams name, what is in it, as one JSON object of base64 values under the Secret's own name.
#[must_use]
pub fn cameras(recorder: &OfRecorder<'_>, credentials: &BTreeMap<String, Credentials>) -> Secret {
    let mut metadata = recorder.metadata(&names::cameras(recorder.name));
    let sources: Vec<String> = credentials.iter().map(|(name, found)| format!("{name}={}", found.version)).collect();
    let sources = names::short(sources.join(",").as_bytes());
    metadata.annotations = Some([(SOURCES.to_owned(), sources)].into());
    let data = credentials.iter().map(|(name, found)| {
        let values: BTreeMap<&String, ByteString> =
            found.values.iter().map(|(key, value)| (key, ByteString(value.clone()))).collect();
        // Base64 in strings: there is nothing in it that JSON could not hold.
        (name.clone(), ByteString(serde_json::to_vec(&values).unwrap_or_default()))
    });
    Secret { metadata, data: Some(data.collect()), ..Secret::default() }
}
