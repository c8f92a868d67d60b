//! What this recorder is to do: a `Recorder` object, checked once and turned into plain values that the rest works on.
//!
//! ```text
//! FILE.yaml ──► file ──► Recorder ─┐
//!                                  ├─ newest (term, generation) ─► plan ─► Assignment ─► diff ─► channels
//! <volume>/assignment.json ─ copy ─┘
//! ```
//! A mistake that concerns one channel is that channel's ([`Refusal`]); only what concerns all of them refuses the assignment.

mod channel;
mod copy;
mod diff;
mod file;
mod holders;
mod plan;
mod secrets;

pub use copy::{COPY_NAME, CopyError, read_copy, write_copy};
pub use diff::{Change, diff};
pub use file::{FileError, FileWatch, parse};
pub use holders::{Class, RetiredPlan, Shared};
pub use plan::{Assignment, ChannelPlan, HoldPlan, OnvifPlan, PlanError, Refusal, SecretName, VolumePlan};
pub use secrets::{SecretError, Secrets};

use framekeeper_crds::Recorder;

/// Which of two assignments is newer: by the operator's term, then by the object's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `spec.term`.
    pub term: u64,
    /// `metadata.generation`; 0 where there is none.
    pub generation: i64,
}

impl Version {
    /// The version of an object.
    #[must_use]
    pub fn of(recorder: &Recorder) -> Self {
        Self { term: recorder.spec.term, generation: recorder.metadata.generation.unwrap_or(0) }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "term {}, generation {}", self.term, self.generation)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::plan::tests::{object, uid, yaml};
}
