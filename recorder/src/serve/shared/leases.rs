//! Segments of another recorder that stay as they are while somebody reads them through this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::answer::named;
use super::remote::Remote;
use super::wire::{Name, Question};
use crate::serve::footage::{Footage, FootageError, Lease, Segment};

/// Segments that one question names.
const SEGMENTS_AT_ONCE: usize = 1_000;
/// Leases that others hold here.
const LEASES_AT_MOST: usize = 1_000;
/// A store's lease lasts as long, [`Footage::lease`]; what is behind it is forgotten.
const LASTS: Duration = Duration::from_secs(60);

type ById = HashMap<Uuid, (Box<dyn Lease>, Instant)>;

/// What others hold here.
#[derive(Default)]
pub(in crate::serve) struct Leases(Mutex<ById>);

impl Leases {
    fn held(&self) -> MutexGuard<'_, ById> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds those of the segments that are still there, for a minute; returns how many.
    pub(super) fn hold(&self, footage: &dyn Footage, lease: Uuid, names: &[Name]) -> Result<usize, FootageError> {
        let mut segments = Vec::with_capacity(names.len());
        for name in names {
            match named(footage, name) {
                Ok(segment) => segments.push(segment),
                Err(FootageError::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        let mut held = self.held();
        held.retain(|_, (_, since)| since.elapsed() < LASTS);
        if held.len() >= LEASES_AT_MOST {
            return Err(FootageError::Broken(format!("{LEASES_AT_MOST} leases are held, which is the limit")));
        }
        held.insert(lease, (footage.lease(&segments), Instant::now()));
        Ok(segments.len())
    }

    pub(super) fn release(&self, lease: Uuid) {
        self.held().remove(&lease);
    }
}

/// A lease at another recorder; given back when dropped.
struct Held {
    at: Arc<Remote>,
    lease: Uuid,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.at.tell(Question::Release { lease: self.lease });
    }
}

/// Asks another recorder to keep segments of its own. Whoever cannot be asked cannot be read from either: that is seen there.
pub(super) fn ask(at: &Arc<Remote>, segments: &[Segment]) -> Vec<Box<dyn Lease>> {
    let mut held: Vec<Box<dyn Lease>> = Vec::new();
    for some in segments.chunks(SEGMENTS_AT_ONCE) {
        let lease = Uuid::new_v4();
        let segments = some.iter().map(Name::from).collect();
        match at.ask::<usize>(&Question::Lease { lease, segments }) {
            Ok(_) => held.push(Box::new(Held { at: Arc::clone(at), lease })),
            Err(error) => tracing::debug!(%error, "footage of another recorder is read without a lease"),
        }
    }
    held
}
