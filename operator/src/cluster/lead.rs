//! The election as it is carried out: the Lease is read and written, and everybody in this process is told who leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use framekeeper_crds::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::options::Options;
use crate::election::{Candidate, Claim, Record, Rules, TERM, WRITES};

/// A request for the Lease that takes longer is given up: the next one may be faster.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// What is left of the right to lead when a write begins, at least: a write that begins later is not begun.
const LEAST_LEFT_US: u64 = 200_000;

/// Microseconds that also pass while the machine sleeps.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// An API server that was not reached for so long is out of reach.
const LOST_US: u64 = 5_000_000;
/// So long after it is within reach again, watches bring what they missed.
const CATCHES_UP_US: u64 = 10_000_000;

/// Since when the API server is within this process's reach.
#[derive(Debug, Default)]
pub struct Reach {
    last_us: AtomicU64,
    steady_us: AtomicU64,
}

impl Reach {
    fn reached(&self, now_us: u64) {
        let last_us = self.last_us.swap(now_us, Ordering::Relaxed);
        if now_us.saturating_sub(last_us) > LOST_US {
            self.steady_us.store(now_us, Ordering::Relaxed);
        }
    }

    /// Whether what watches bring may be what was before an outage.
    #[must_use]
    pub fn is_deaf(&self, now_us: u64) -> bool {
        let since = |time: &AtomicU64| now_us.saturating_sub(time.load(Ordering::Relaxed));
        since(&self.last_us) > LOST_US || since(&self.steady_us) < CATCHES_UP_US
    }
}

/// The right to write, in a term, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The term.
    pub term: u64,
    /// When it ends, by [`monotonic_us`].
    pub until_us: u64,
}

/// What the rest of the process knows of the election.
#[derive(Clone, Debug)]
pub struct Leadership {
    lead: watch::Receiver<Option<Lead>>,
    /// The term that was told last.
    known: Option<u64>,
    /// The highest term that was seen in Recorders.
    pub highest_seen: Arc<AtomicU64>,
    /// Whether the API server is within reach.
    pub reach: Arc<Reach>,
}

impl Leadership {
    /// The term in which this operator may write now, and how long a write may take at most.
    #[must_use]
    pub fn may_write(&self) -> Option<(u64, Duration)> {
        let lead = (*self.lead.borrow())?;
        // A term that is not the last one may not be written in.
        if self.highest_seen.load(Ordering::Relaxed) > lead.term {
            return None;
        }
        let left = lead.until_us.checked_sub(monotonic_us()).filter(|left| *left >= LEAST_LEFT_US)?;
        Some((lead.term, Duration::from_micros(left)))
    }

    /// Waits until this operator leads, leads in another term, or leads no more. That its Lease was renewed is no news.
    pub async fn changed(&mut self) {
        let term = |lead: &Option<Lead>| lead.map(|lead| lead.term);
        let before = self.known;
        match self.lead.wait_for(|lead| term(lead) != before).await {
            Ok(lead) => self.known = term(&lead),
            Err(_) => std::future::pending::<()>().await,
        }
    }
}

/// One operator in the election.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
    tell: watch::Sender<Option<Lead>>,
    highest_seen: Arc<AtomicU64>,
    reach: Arc<Reach>,
    last: Option<Lease>,
}

impl Elector {
    /// Takes part by the name of the options' identity. Nothing of what Recorders say may be unknown when it begins to run.
    #[must_use]
    pub fn new(client: Client, options: &Options) -> (Self, Leadership) {
        let (tell, lead) = watch::channel(None);
        let highest_seen = Arc::new(AtomicU64::new(0));
        let reach = Arc::new(Reach::default());
        let identity = format!("{}_{}", options.identity, uuid::Uuid::new_v4());
        let elector = Self {
            api: Api::namespaced(client, &options.namespace),
            name: options.lease_name.clone(),
            candidate: Candidate::new(identity, Rules::default()),
            tell,
            highest_seen: Arc::clone(&highest_seen),
            reach: Arc::clone(&reach),
            last: None,
        };
        (elector, Leadership { lead, known: None, highest_seen, reach })
    }

    /// Runs until `stop` says so, and then gives the Lease up.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let began = monotonic_us();
            if let Err(error) = self.look().await {
                warn!(lease = %self.name, "cannot be read or written, and who leads is open for as long: {error}");
            }
            self.publish();
            let wait = self.candidate.next_look(began).saturating_sub(monotonic_us());
            tokio::select! {
                () = sleep(Duration::from_micros(wait)) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        // Nobody writes any more before it is another one's.
        self.tell.send_replace(None);
        if let Some(lease) = self.last.take()
            && let Some(claim) = self.candidate.release(&Record::from(&lease))
            && let Err(error) = self.write(&claim, Some(&lease)).await
        {
            warn!("the Lease could not be given up, and runs out: {error}");
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        self.candidate.saw_term(self.highest_seen.load(Ordering::Relaxed));
        let lease = within(self.api.get_opt(&self.name)).await?;
        let now = monotonic_us();
        self.reach.reached(now);
        let record = lease.as_ref().map(Record::from);
        let claim = self.candidate.looked(now, record.as_ref());
        self.last.clone_from(&lease);
        // Whoever has it now, this one does not wait for an answer to say that it has lost it.
        self.publish();
        let Some(claim) = claim else { return Ok(()) };
        match self.write(&claim, lease.as_ref()).await {
            Ok(written) => {
                self.candidate.granted(now, &claim);
                self.last = Some(written);
                Ok(())
            }
            Err(Error::Api(status)) if status.code == 409 => {
                self.candidate.refused();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, claim: &Claim, lease: Option<&Lease>) -> Result<Lease, Error> {
        let mut object = lease.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let now = MicroTime(Timestamp::now());
        let spec = object.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&claim.holder) {
            spec.acquire_time = Some(now.clone());
        }
        spec.renew_time = Some(now);
        spec.holder_identity = Some(claim.holder.clone());
        spec.lease_transitions = i32::try_from(claim.transitions).ok();
        spec.lease_duration_seconds = i32::try_from(claim.lease / 1_000_000).ok();
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert(TERM.to_owned(), claim.term.to_string());
        annotations.insert(WRITES.to_owned(), claim.writes.to_string());
        object.metadata.resource_version.clone_from(&claim.version);
        let params = PostParams::default();
        if claim.version.is_some() {
            within(self.api.replace(&self.name, &params, &object)).await
        } else {
            within(self.api.create(&params, &object)).await
        }
    }

    fn publish(&self) {
        let now = monotonic_us();
        let lead = self.candidate.term(now).zip(self.candidate.until());
        let lead = lead.map(|(term, until_us)| Lead { term, until_us });
        let before = self.tell.send_replace(lead).map(|lead| lead.term);
        match (before, lead.map(|lead| lead.term)) {
            (before, Some(term)) if before != Some(term) => info!(term, "leads"),
            (Some(term), None) => warn!(term, "leads no more"),
            _ => {}
        }
    }
}

async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(REQUEST_TIMEOUT, request).await.unwrap_or_else(|_| Err(Error::Service("no answer in time".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_outage_of_the_api_server_watches_have_a_while_to_catch_up() {
        const SECOND: u64 = 1_000_000;
        let (reach, begin) = (Reach::default(), 1_000 * SECOND);
        let at = |second: u64| begin + second * SECOND;
        assert!(reach.is_deaf(at(0)), "nothing was reached yet");
        let mut deaf = Vec::new();
        for second in 0..100 {
            // It is out of reach for twenty seconds; of one request more the answer gets lost.
            if !(30..50).contains(&second) && second != 70 {
                reach.reached(at(second));
            }
            if reach.is_deaf(at(second)) {
                deaf.push(second);
            }
        }
        let expected: Vec<u64> = (0..10).chain(35..60).collect();
        assert_eq!(deaf, expected);
    }
}
