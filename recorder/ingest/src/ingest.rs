//! The tick thread: reads all sources' sockets on one tick, and takes orders between ticks.
//!
//! ```text
//! sleep to the tick ─► orders ─► drivers turn ─► start what is due ─► read every session ─► sink.tick() for all ─► after_tick()
//! ```
//! Waking up is what costs, so nothing wakes this thread but its own clock: sessions are polled with a waker that does nothing. While
//! an attempt is young, there are short ticks in between that read the opening sessions alone, so that a hand-shake of
//! six round trips does not take six whole ticks.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bucket::TokenBucket;
use crate::clock::{Clock, Random};
use crate::config::IngestConfig;
use crate::contain::contain;
use crate::engine::{Engine, Item};
use crate::event::{Sink, TickTime};
use crate::native::NativeEngine;
use crate::source::{Limits, Source};
use crate::spec::{SourceId, SourceSpec, SpecError};
use crate::stats::{Counters, SourceStats};

/// Called once a tick, after all sinks: writes can go out together here. On the tick thread: must not take long.
pub type AfterTick = Box<dyn FnMut(TickTime) + Send>;

/// How far short ticks are apart.
const OPENING_TICK_US: u64 = 10_000;

/// How long an attempt has short ticks; one that takes longer waits for a network, not for us.
const YOUNG_ATTEMPT_US: u64 = 1_000_000;

/// Threads that may wait for DNS at once.
const MAX_RESOLVER_THREADS: usize = 8;

/// A running ingest: one thread, any number of sources. Dropping it shuts it down.
pub struct Ingest {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    orders: Mutex<Vec<Order>>,
    counters: Mutex<BTreeMap<SourceId, Arc<Counters>>>,
    next_id: AtomicU64,
    ticks: AtomicU64,
    late_ticks: AtomicU64,
    busy_us: AtomicU64,
}

enum Order {
    Add(SourceId, SourceSpec, Box<dyn Sink>, Arc<Counters>),
    Update(SourceId, SourceSpec),
    Remove(SourceId),
    Shutdown,
}

/// How the tick itself does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickStats {
    /// Ticks so far.
    pub ticks: u64,
    /// Ticks that began more than a whole tick late; those between were left out.
    pub late_ticks: u64,
    /// Time spent in ticks, all sinks and `after_tick` included, microseconds.
    pub busy_us: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can leave them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ingest {
    /// Starts the tick thread with the Native engine.
    ///
    /// # Errors
    /// The thread or its runtime could not be made (limits of the system).
    pub fn start(config: IngestConfig, after_tick: AfterTick) -> io::Result<Self> {
        let user_agent = config.user_agent.clone();
        Self::start_with(config, after_tick, move || Box::new(NativeEngine::new(user_agent)))
    }

    /// Starts the tick thread with the engine that `make_engine` makes, on that thread.
    ///
    /// # Errors
    /// The thread or its runtime could not be made (limits of the system).
    pub fn start_with(
        config: IngestConfig,
        after_tick: AfterTick,
        make_engine: impl FnOnce() -> Box<dyn Engine> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_RESOLVER_THREADS)
            .thread_name("ingest-resolver")
            .build()?;
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ingest-tick".to_owned()).spawn(move || {
            let engine = runtime.block_on(async { make_engine() });
            Ticker::new(config, after_tick, engine, for_thread).run(&runtime);
            // A resolver that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds a source; its first attempt begins within a tick or when its turn comes.
    ///
    /// # Errors
    /// The spec cannot be right, whatever the camera says.
    pub fn add(&self, spec: SourceSpec, sink: Box<dyn Sink>) -> Result<SourceId, SpecError> {
        spec.validate()?;
        let id = SourceId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let counters = Arc::new(Counters::default());
        lock(&self.shared.counters).insert(id, Arc::clone(&counters));
        self.order(Order::Add(id, spec, sink, counters));
        Ok(id)
    }

    /// Changes a source. New credentials of a source that plays are used at its next session; of one that does not, at once. Another
    /// URL or audio setting begins a new session at once. Other sources notice nothing. An unknown `id` is ignored.
    ///
    /// # Errors
    /// The spec cannot be right; the old one stays.
    pub fn update(&self, id: SourceId, spec: SourceSpec) -> Result<(), SpecError> {
        spec.validate()?;
        self.order(Order::Update(id, spec));
        Ok(())
    }

    /// Ends a source: TEARDOWN is sent in the background; its sink hears [`crate::SessionEndKind::Stopped`] at the next tick and is dropped.
    /// An unknown `id` is ignored.
    pub fn remove(&self, id: SourceId) {
        self.order(Order::Remove(id));
    }

    /// The counters of every source.
    #[must_use]
    pub fn stats(&self) -> Vec<(SourceId, SourceStats)> {
        lock(&self.shared.counters).iter().map(|(id, counters)| (*id, counters.snapshot())).collect()
    }

    /// How the tick itself does.
    #[must_use]
    pub fn tick_stats(&self) -> TickStats {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        TickStats {
            ticks: load(&self.shared.ticks),
            late_ticks: load(&self.shared.late_ticks),
            busy_us: load(&self.shared.busy_us),
        }
    }

    /// Whether the tick thread lives. It ends by [`Ingest::shutdown`], or if `after_tick` panics.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends all sources as [`Ingest::remove`] does and waits for it: at most a tick and the TEARDOWN limit.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn order(&self, order: Order) {
        lock(&self.shared.orders).push(order);
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.order(Order::Shutdown);
            if thread.join().is_err() {
                tracing::error!("the tick thread had panicked");
            }
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.end();
    }
}

struct Ticker {
    tick_us: u64,
    limits: Limits,
    teardown_limit: Duration,
    clock: Box<dyn Clock>,
    random: Box<dyn Random>,
    after_tick: AfterTick,
    engine: Box<dyn Engine>,
    shared: Arc<Shared>,
    sources: BTreeMap<SourceId, Source>,
    bucket: TokenBucket,
    /// Kept between ticks for its memory.
    items: Vec<Item>,
}

impl Ticker {
    fn new(config: IngestConfig, after_tick: AfterTick, engine: Box<dyn Engine>, shared: Arc<Shared>) -> Self {
        let now_us = config.clock.now().monotonic_us;
        Self {
            tick_us: u64::try_from(config.tick.as_micros()).unwrap_or(u64::MAX).clamp(1000, 10_000_000),
            limits: Limits { silence: config.silence, handshake: config.handshake_limit, backoff: config.backoff },
            teardown_limit: config.teardown_limit,
            clock: config.clock,
            random: config.random,
            after_tick,
            engine,
            shared,
            sources: BTreeMap::new(),
            bucket: TokenBucket::new(config.start_rate, now_us),
            items: Vec::new(),
        }
    }

    fn run(mut self, runtime: &tokio::runtime::Runtime) {
        let mut next_us = self.clock.now().monotonic_us;
        loop {
            let at = self.clock.now();
            if at.monotonic_us < next_us {
                if self.is_opening(at) {
                    runtime.block_on(self.short_tick(at));
                }
                let now_us = self.clock.now().monotonic_us;
                let short_us = if self.is_opening(at) { now_us + OPENING_TICK_US } else { next_us };
                self.clock.sleep_until(short_us.min(next_us));
                continue;
            }
            if !self.take_orders(at, runtime) {
                break;
            }
            runtime.block_on(self.full_tick(at));
            (self.after_tick)(at);
            next_us = self.finish_tick(at, next_us);
        }
        let Self { engine, teardown_limit, sources, .. } = self;
        runtime.block_on(async {
            drop(sources);
            engine.drain(teardown_limit).await;
        });
    }

    /// Counts the tick and says when the next is: on the grid, leaving out those that are past.
    fn finish_tick(&self, at: TickTime, planned_us: u64) -> u64 {
        let done_us = self.clock.now().monotonic_us;
        self.shared.ticks.fetch_add(1, Ordering::Relaxed);
        self.shared.busy_us.fetch_add(done_us.saturating_sub(at.monotonic_us), Ordering::Relaxed);
        if at.monotonic_us.saturating_sub(planned_us) > self.tick_us {
            self.shared.late_ticks.fetch_add(1, Ordering::Relaxed);
        }
        let behind = done_us.saturating_sub(planned_us) / self.tick_us;
        planned_us + (behind + 1) * self.tick_us
    }

    fn is_opening(&self, at: TickTime) -> bool {
        let young = |since_us| at.monotonic_us.saturating_sub(since_us) < YOUNG_ATTEMPT_US;
        self.sources.values().any(|source| source.opening_since_us().is_some_and(young))
    }

    /// Does what was asked for since the last tick. False when everything shall end.
    fn take_orders(&mut self, at: TickTime, runtime: &tokio::runtime::Runtime) -> bool {
        // A connection that is being made is taken off the runtime's drivers when it is dropped.
        let _inside = runtime.enter();
        let orders = std::mem::take(&mut *lock(&self.shared.orders));
        for order in orders {
            match order {
                Order::Add(id, spec, sink, counters) => {
                    self.sources.insert(id, Source::new(spec, sink, counters, at));
                }
                Order::Update(id, spec) => {
                    if let Some(source) = self.sources.get_mut(&id) {
                        source.update(spec, at);
                    }
                }
                Order::Remove(id) => {
                    if let Some(mut source) = self.sources.remove(&id) {
                        source.stop(at);
                        drop_contained(source);
                        lock(&self.shared.counters).remove(&id);
                    }
                }
                Order::Shutdown => {
                    for source in self.sources.values_mut() {
                        source.stop(at);
                    }
                    return false;
                }
            }
        }
        true
    }

    async fn full_tick(&mut self, at: TickTime) {
        // Turns the drivers: what has arrived since the last tick is known afterwards.
        tokio::task::yield_now().await;
        self.start_due(at);
        let now = || self.clock.now();
        for source in self.sources.values_mut() {
            source.read(at, &now, &self.limits, self.random.unit(), &mut self.items);
        }
        self.engine.tick(at);
        for source in self.sources.values_mut() {
            source.tick(at, &self.limits, self.random.unit());
        }
    }

    async fn short_tick(&mut self, at: TickTime) {
        tokio::task::yield_now().await;
        let now = || self.clock.now();
        for source in self.sources.values_mut().filter(|source| source.opening_since_us().is_some()) {
            source.read(at, &now, &self.limits, self.random.unit(), &mut self.items);
        }
    }

    fn start_due(&mut self, at: TickTime) {
        let mut due: Vec<_> = self
            .sources
            .iter()
            .filter_map(|(id, source)| {
                source.due_us().filter(|due| *due <= at.monotonic_us).map(|due| (source.priority(), due, *id))
            })
            .collect();
        due.sort_unstable_by_key(|(priority, due_us, id)| (std::cmp::Reverse(*priority), *due_us, *id));
        for (_, _, id) in due {
            if !self.bucket.take(at.monotonic_us) {
                break;
            }
            if let Some(source) = self.sources.get_mut(&id) {
                source.start(self.engine.as_ref(), at, &self.limits, self.random.unit());
            }
        }
    }
}

fn drop_contained(source: Source) {
    if let Err(report) = contain(|| drop(source)) {
        tracing::error!(report, "a sink panicked when it was dropped");
    }
}
