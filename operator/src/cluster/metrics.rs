//! What the operator counts, for `/metrics`.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Pool {
    namespace: String,
    pool: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Slots {
    namespace: String,
    pool: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

/// All of it. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconcile: Histogram,
    errors: Counter,
    writes: Counter,
    failed_writes: Counter,
    lost_events: Counter,
    plan: Histogram,
    leader: Gauge,
    term: Gauge<u64, AtomicU64>,
    queue: Gauge,
    slots: Family<Slots, Gauge>,
    used: Family<Slots, Gauge>,
    ready: Family<Pool, Gauge>,
    streams: Family<Phase, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || exponential_buckets(0.001, 2.0, 15);
        let mut registry = Registry::with_prefix("framekeeper_operator");
        let metrics = Self {
            registry: Arc::default(),
            reconcile: Histogram::new(seconds()),
            errors: Counter::default(),
            writes: Counter::default(),
            failed_writes: Counter::default(),
            lost_events: Counter::default(),
            plan: Histogram::new(seconds()),
            leader: Gauge::default(),
            term: Gauge::default(),
            queue: Gauge::default(),
            slots: Family::default(),
            used: Family::default(),
            ready: Family::default(),
            streams: Family::default(),
        };
        registry.register_with_unit(
            "reconcile",
            "How long a reconciliation of everything took",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciliations that could not do all they were to",
            metrics.errors.clone(),
        );
        registry.register("writes", "Writes to the API server", metrics.writes.clone());
        registry.register(
            "failed_writes",
            "Writes that the API server refused or did not answer",
            metrics.failed_writes.clone(),
        );
        registry.register(
            "lost_events",
            "Events that were given up: more waited than statuses left time for, or the API server did not take them",
            metrics.lost_events.clone(),
        );
        registry.register_with_unit(
            "plan",
            "How long it took to decide who records what",
            Unit::Seconds,
            metrics.plan.clone(),
        );
        registry.register("leader", "Whether this operator leads", metrics.leader.clone());
        registry.register("term", "The term in which it leads; 0 while it does not", metrics.term.clone());
        registry.register("queue", "Statuses and events that wait to be written", metrics.queue.clone());
        registry.register("slots", "Slots of a pool, by kind", metrics.slots.clone());
        registry.register("slots_used", "Slots of a pool that hold a channel, by kind", metrics.used.clone());
        registry.register("recorders_ready", "Recorders of a pool that can record", metrics.ready.clone());
        registry.register("streams", "CameraStreams by phase", metrics.streams.clone());
        if let Ok(mut shared) = metrics.registry.lock() {
            *shared = registry;
        }
        metrics
    }
}

/// The slots of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolNumbers {
    /// Normal and reserved ones.
    pub slots: [u32; 2],
    /// Those that hold a channel.
    pub used: [u32; 2],
    /// Recorders that can record.
    pub ready: u32,
}

impl Metrics {
    /// A write ended.
    pub fn wrote(&self, good: bool) {
        if good {
            self.writes.inc()
        } else {
            self.failed_writes.inc()
        };
    }

    /// A reconciliation ended.
    pub fn reconciled(&self, took: Duration, good: bool) {
        self.reconcile.observe(took.as_secs_f64());
        if !good {
            self.errors.inc();
        }
    }

    /// A plan was made.
    pub fn planned(&self, took: Duration) {
        self.plan.observe(took.as_secs_f64());
    }

    /// Who leads.
    pub fn leads(&self, term: Option<u64>) {
        self.leader.set(i64::from(term.is_some()));
        self.term.set(term.unwrap_or(0));
    }

    /// So many events were given up.
    pub fn lost_events(&self, count: u64) {
        self.lost_events.inc_by(count);
    }

    /// How much waits to be written.
    pub fn waits(&self, count: usize) {
        self.queue.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many streams are in each phase.
    pub fn streams(&self, phases: &std::collections::BTreeMap<&'static str, u64>) {
        for phase in ["Pending", "Connecting", "Recording", "Failed", "Suspended"] {
            let count = phases.get(phase).copied().unwrap_or(0);
            self.streams.get_or_create(&Phase { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// How a pool stands.
    pub fn pool(&self, namespace: &str, pool: &str, numbers: PoolNumbers) {
        let (namespace, pool) = (namespace.to_owned(), pool.to_owned());
        for (kind, (slots, used)) in ["normal", "reserved"].into_iter().zip(numbers.slots.into_iter().zip(numbers.used))
        {
            let labels = Slots { namespace: namespace.clone(), pool: pool.clone(), kind };
            self.slots.get_or_create(&labels).set(slots.into());
            self.used.get_or_create(&labels).set(used.into());
        }
        self.ready.get_or_create(&Pool { namespace, pool }).set(numbers.ready.into());
    }

    /// Pools that are gone are not told of any more.
    pub fn forget_pools(&self) {
        self.slots.clear();
        self.used.clear();
        self.ready.clear();
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}
