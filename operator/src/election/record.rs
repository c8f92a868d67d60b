//! The Lease as an object of the API: `coordination.k8s.io/v1`.

use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;

/// The annotation that says in which term the holder leads.
pub const TERM: &str = "framekeeper.dev/term";

/// The annotation that says how often the holder, since it began, had asked for the Lease when it wrote it: a Lease that says less than its holder has written is
/// from an older state.
pub const WRITES: &str = "framekeeper.dev/writes";

/// What an election goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `holderIdentity`; empty when nobody has it.
    pub holder: String,
    /// `leaseTransitions`.
    pub transitions: u64,
    /// The annotation [`TERM`].
    pub term: u64,
    /// `leaseDurationSeconds`, in microseconds.
    pub lease: u64,
    /// The annotation [`WRITES`].
    pub writes: u64,
    /// `resourceVersion`.
    pub version: String,
}

impl From<&Lease> for Record {
    /// What is missing, negative or no number counts as 0: anybody may write anything into a Lease, and what is too low is made up for elsewhere.
    fn from(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let annotations = lease.metadata.annotations.as_ref();
        let number = |name| annotations.and_then(|annotations| annotations.get(name)?.parse().ok()).unwrap_or(0);
        let count = |number: Option<i32>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        Self {
            holder: spec.holder_identity.unwrap_or_default(),
            transitions: count(spec.lease_transitions),
            term: number(TERM),
            writes: number(WRITES),
            lease: count(spec.lease_duration_seconds).saturating_mul(1_000_000),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}
