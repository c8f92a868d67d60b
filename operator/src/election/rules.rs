//! The lengths of time that an election goes by.

const SECOND: u64 = 1_000_000;

/// How long what may last. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A Lease that did not change for so long may be claimed by others.
    pub lease: u64,
    /// A leader that could not renew it for so long stops. Shorter than the lease by more than clocks may differ, and than a request may take.
    pub renew_within: u64,
    /// A leader renews it so often.
    pub renew_every: u64,
    /// Others look at it so often.
    pub look_every: u64,
}

impl Default for Rules {
    /// The first three are those of Kubernetes' own controllers.
    fn default() -> Self {
        Self { lease: 15 * SECOND, renew_within: 10 * SECOND, renew_every: 2 * SECOND, look_every: SECOND / 2 }
    }
}
