//! What was said of each stream last. Of ten thousand streams most are told the same in the same second: what they have in common is kept once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Weak};

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use framekeeper_crds::{CameraStreamStatus, StreamPhase};

use super::settled::Settled;

/// What was said of a stream.
#[derive(Debug)]
pub(super) struct Said {
    /// Without conditions.
    rest: CameraStreamStatus,
    conditions: Box<[Arc<Condition>]>,
    /// Of its UID: one that is made again under the same name knows nothing of what was said before.
    of: u64,
    /// What made it so, where it stays so while that is the same.
    pub(super) settled: Option<Settled>,
}

impl Said {
    /// All of it.
    pub(super) fn status(&self) -> CameraStreamStatus {
        let conditions = self.conditions.iter().map(|condition| Condition::clone(condition)).collect();
        CameraStreamStatus { conditions, ..self.rest.clone() }
    }

    /// Whether it was said of the stream of this UID.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.of == digest(&uid)
    }

    pub(super) fn phase(&self) -> Option<StreamPhase> {
        self.rest.phase
    }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The conditions that were said of any stream.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    known: HashMap<u64, Weak<Condition>>,
    /// When there are so many, those that nobody has any more are forgotten.
    crowded: usize,
}

impl Conditions {
    /// Keeps what is said of the stream of this UID.
    pub(super) fn keep(&mut self, uid: &str, mut status: CameraStreamStatus) -> Said {
        let conditions = std::mem::take(&mut status.conditions).into_iter().map(|condition| self.shared(condition));
        let conditions = conditions.collect();
        Said { rest: status, conditions, of: digest(&uid), settled: None }
    }

    fn shared(&mut self, condition: Condition) -> Arc<Condition> {
        let Condition { type_, status, reason, message, observed_generation, last_transition_time } = &condition;
        let digest = digest(&(type_, status, reason, message, observed_generation, last_transition_time.0.as_second()));
        let known = self.known.get(&digest).and_then(Weak::upgrade).filter(|known| **known == condition);
        known.unwrap_or_else(|| {
            if self.known.len() >= self.crowded {
                self.known.retain(|_, known| known.strong_count() > 0);
                self.crowded = 1_000.max(self.known.len() * 2);
            }
            let new = Arc::new(condition);
            self.known.insert(digest, Arc::downgrade(&new));
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use framekeeper_crds::k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(message: &str, nanosecond: i128) -> CameraStreamStatus {
        let condition = Condition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: "Recording".into(),
            message: message.into(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::from_nanosecond(nanosecond).unwrap()),
        };
        CameraStreamStatus { bitrate: Some(5), conditions: vec![condition], ..CameraStreamStatus::default() }
    }

    #[test]
    fn what_is_the_same_is_kept_once_and_what_differs_stays_apart() {
        let mut all = Conditions::default();
        let a = all.keep("u1", status("a", 1));
        let again = all.keep("u1", status("a", 1));
        assert!(Arc::ptr_eq(&a.conditions[0], &again.conditions[0]));
        let (other, later) = (all.keep("u1", status("b", 1)), all.keep("u1", status("a", 2)));
        assert_eq!(a.status(), status("a", 1));
        assert!(a.is_of("u1") && !a.is_of("u2"));
        assert_eq!(other.status(), status("b", 1));
        assert_eq!(later.status(), status("a", 2), "not within the same second only");
        drop((a, again, other, later));
        for number in 0..5_000 {
            drop(all.keep("u1", status(&number.to_string(), 1)));
        }
        assert!(all.known.len() <= 1_000, "{}", all.known.len());
    }
}
