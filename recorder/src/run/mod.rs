//! `framekeeper-recorder run`: the worker, from its assignment to an orderly end.
//!
//! ```text
//! main thread    assignment, secrets, signals, status: looks each 250 ms ─ orders ─► channels
//! ingest-tick    all cameras' sockets, the channels' state machines, at its end store.flush_tick()
//! store          its own threads: writing, syncing, zeroing
//! http           one worker: probes, metrics, footage; reading for other recorders on threads of its own
//! peers          links to other recorders, and who records what is shared
//! ```
//! The number of threads does not depend on the number of streams.

mod channels;
pub mod control;
mod copies;
mod foreign;
mod holds;
mod hung;
mod moved;
mod opens;
mod origin;
mod volumes;
mod wishes;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::RecorderPhase;
use framekeeper_ingest::bucket::StartRate;
use framekeeper_ingest::{Ingest, IngestConfig, TickTime};
use framekeeper_store::env::WritesWanted;
use framekeeper_store::{Store, StoreConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::assignment::{Assignment, FileWatch, Secrets, Version};
use crate::cluster::{Cluster, ClusterOptions, Files};
use crate::exit::Exit;
use crate::http::{self, Sources};
use crate::limits::{self, ChannelLoad, Guard, OwnMemory, Shares};
use crate::metrics::{ProcessNumbers, TickNumbers};
use crate::serve::{Remotes, ServeLimits, ServeState};
pub use crate::standby::PeerOptions;
use crate::standby::{LinksError, Standby};
use crate::status::StatusFile;
use crate::view::{ChannelEntry, View};
use crate::{clock, supervisor};
use channels::Channels;
use control::{Control, Reply, Verb};
use holds::Holds;
use hung::{Hung, Threads};
use volumes::Volumes;

/// How often the assignment, Secrets and transitions are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// At every so many looks the memory limit is asked for again, each 2 s: a pod can be resized while it runs.
const LIMIT_LOOKS: u32 = 8;
/// How many sessions may begin: after a crash, 500 cameras, the most that a recorder may have, play again within 3 s.
const START_RATE: StartRate = StartRate { per_second: 150, burst: 50 };
/// Others have so long to begin to record what this one did: within what is left of the time that whoever ends it gives, volumes are closed.
const HAND_OVER: Duration = Duration::from_secs(6);
/// How often is looked whether they have.
const HAND_OVER_LOOK: Duration = Duration::from_millis(20);
/// Threads of the HTTP server beside its one worker: reading footage blocks.
const HTTP_READERS: usize = 4;

/// The command line of `run`.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// File with the `Recorder` object.
    pub assignment: PathBuf,
    /// Folder with Secrets.
    pub secrets: Option<PathBuf>,
    /// Folder in which volumes are, by name.
    pub volumes: PathBuf,
    /// File for the `Recorder` object with its status.
    pub status: Option<PathBuf>,
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// How footage is written.
    pub writes: Writes,
    /// Within which time all footage is read again and checked.
    pub scrub_round: Duration,
    /// How other recorders reach this one.
    pub peers: PeerOptions,
    /// The address that others reach this one at, where that is not the one it listens on.
    pub advertise: Option<IpAddr>,
    /// The API server's part, in a cluster.
    pub cluster: Option<ClusterOptions>,
}

/// Within which time all footage is read again, where nobody says otherwise.
pub const SCRUB_ROUND: Duration = StoreConfig::SCRUB_ROUND;

/// How footage is written to the volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Writes {
    /// Past the page cache where the kernel, the sandbox and the file system allow it, else through it.
    #[default]
    Auto,
    /// Past the page cache; a volume where that is refused is not used.
    Direct,
    /// Through the page cache.
    Buffered,
}

impl From<Writes> for WritesWanted {
    fn from(writes: Writes) -> Self {
        match writes {
            Writes::Auto => Self::Auto,
            Writes::Direct => Self::Direct,
            Writes::Buffered => Self::Buffered,
        }
    }
}

/// Why the worker cannot work; says how to end.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot listen on {address}: {source}; another program has it, or it is not an address of this machine")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("no assignment can be used: {0}")]
    Assignment(String),
    #[error("no volume can be used: {0}")]
    Volumes(String),
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error("stopped before there was an assignment")]
    Stopped,
    #[error("the thread of the link to the API server ended before there was an assignment; a restart is the way out")]
    Deaf,
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Listen { .. } | Self::Links(LinksError::Listen { .. }) => Exit::PortInUse,
            Self::Assignment(_) => Exit::BadAssignment,
            Self::Stopped => Exit::Ok,
            Self::Volumes(_) => Exit::VolumeRefused,
            Self::Links(LinksError::Key(_) | LinksError::Links(_)) | Self::System { .. } | Self::Deaf => Exit::Internal,
        }
    }
}

/// Runs until SIGTERM or SIGINT.
#[must_use]
pub fn run(options: &RunOptions) -> Exit {
    match Worker::start(options).map(Worker::work) {
        Ok(exit) => exit,
        Err(error) => {
            error!(exit_status = error.exit().code(), "{error}");
            error.exit()
        }
    }
}

struct Worker {
    runtime: tokio::runtime::Runtime,
    view: Arc<View>,
    guard: Arc<Guard>,
    watch: FileWatch,
    assignment: Assignment,
    secrets: Secrets,
    status: StatusFile,
    http: SocketAddr,
    volumes: Volumes,
    holds: Holds,
    store: Arc<Store>,
    standby: Arc<Standby>,
    remotes: Arc<Remotes>,
    /// Hosts that recorders are heard from, by their names.
    hosts: HashMap<String, IpAddr>,
    channels: Channels,
    /// How often it has looked.
    looks: u32,
    /// Its Recorder is another object of the same name now.
    is_replaced: bool,
    /// What people at the machine ask; none where there can be no socket.
    control: Option<Control>,
    signals: Signals,
    /// Dropped last: it still tells that this one has stopped.
    cluster: Option<Cluster>,
}

/// The signals that ask for an orderly end; listened for before anything else begins.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen(runtime: &tokio::runtime::Runtime) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

impl Worker {
    fn start(options: &RunOptions) -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(HTTP_READERS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(system("the HTTP server's threads could not be started"))?;
        let mut signals = Signals::listen(&runtime).map_err(system("signals cannot be handled"))?;
        let listen = |source| StartError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let http = listener.local_addr().map_err(listen)?;

        let advertised =
            |address: SocketAddr| SocketAddr::new(options.advertise.unwrap_or_else(|| address.ip()), address.port());
        let http = advertised(http);

        let cluster = options.cluster.as_ref().map(|it| Cluster::start(it, files(options))).transpose();
        let cluster = cluster.map_err(system("the thread for the API server could not be started"))?;
        let mut watch = FileWatch::new(&options.assignment);
        if let Some(cluster) = &cluster
            && !options.assignment.exists()
        {
            cluster.wait_for_answer();
        }
        let origin = loop {
            match origin::find(&mut watch, &options.volumes) {
                Ok(origin) => break origin,
                Err(message) => {
                    let Some(cluster) = &cluster else { return Err(StartError::Assignment(message)) };
                    // It will be told, sooner or later.
                    warn!("{message}; waiting for the API server");
                    match wait_for(&options.assignment, cluster, &runtime, &mut signals) {
                        Waited::ForAnAssignment => {}
                        Waited::Stopped => return Err(StartError::Stopped),
                        Waited::InVain => return Err(StartError::Deaf),
                    }
                }
            }
        };
        let assignment = origin.assignment;
        let view = Arc::new(View::new(assignment.name.clone(), supervisor::restarts()));
        view.set_assignment_is_stale(origin.stale);
        if let Some(cluster) = &cluster {
            cluster.watch(&view);
        }
        info!(recorder = assignment.name, version = %assignment.version, channels = assignment.channels.len(), volumes = assignment.volumes.len(), "the assignment");

        let mut status = StatusFile::new(options.status.as_deref());
        let guard = Arc::new(guard(&assignment));
        let (writes, round) = (options.writes.into(), options.scrub_round);
        let (mut volumes, store) = match volumes::open(&options.volumes, &assignment, writes, guard.shares, round) {
            Ok(opened) => opened,
            Err(refused) => {
                let message = refused.to_string();
                view.set_volumes(refused.views);
                view.set_phase(RecorderPhase::Failed);
                tell(&mut status, &assignment, &view, http);
                return Err(StartError::Volumes(message));
            }
        };
        let store = Arc::new(store);
        volumes.publish(&store, &view);

        let after_tick = {
            let (store, view) = (Arc::clone(&store), Arc::clone(&view));
            Box::new(move |at: TickTime| {
                let ended_us = store.env().clock.wall().0;
                tracing::trace!(target: "framekeeper::timing", began_us = at.wall.0, ended_us, "tick");
                store.flush_tick();
                view.beat(at);
            })
        };
        let config = IngestConfig { start_rate: START_RATE, ..IngestConfig::default() };
        let tick = config.tick;
        let ingest = Ingest::start(config, after_tick).map_err(system("the tick thread could not be started"))?;
        let standby = Arc::new(Standby::start(&options.peers, assignment.uid, Arc::clone(&store))?);
        view.set_known_as(standby.public_key(), standby.address().map(advertised));
        let mut channels = Channels::new(
            Arc::clone(&view),
            Arc::clone(&store),
            Arc::clone(&standby),
            ingest,
            tick,
            runtime.handle().clone(),
        );
        let mut secrets = Secrets::new(options.secrets.as_deref());
        channels.apply(&assignment, &mut secrets);

        rate_memory(&guard, &view, &store, standby.shared_slots().left());
        let limits = ServeLimits { clips: guard.shares.clips, cache_bytes: guard.shares.serve_cache_bytes };
        let remotes = Arc::new(Remotes::default());
        remotes.set(&assignment.remotes, runtime.handle());
        let program = PathBuf::from("/proc/self/exe");
        let left = {
            let store = Arc::clone(&store);
            move || memory_left(&store)
        };
        let serve =
            ServeState::new(store.reader(), Arc::clone(&remotes), program, limits).with_memory_left(Arc::new(left));
        let sources = Sources { serve, view: Arc::clone(&view), store: Arc::clone(&store), guard: Arc::clone(&guard) };
        let (app, spare) = (http::router(sources.clone()), http::spare_router(sources));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(listen)?
        };
        runtime.spawn(http::server::serve(listener, app, spare, Arc::clone(&guard)));
        view.set_phase(RecorderPhase::Ready);
        info!(address = %http, "listening");
        let control = control::listen(&options.volumes)
            .inspect_err(|error| warn!(%error, "`volume drain|stop|start` cannot reach this recorder"))
            .ok();
        let mut holds = Holds::default();
        holds.assign(&assignment);
        let worker = Self {
            runtime,
            view,
            guard,
            watch,
            assignment,
            secrets,
            status,
            http,
            volumes,
            holds,
            store,
            standby,
            remotes,
            hosts: HashMap::new(),
            channels,
            looks: 0,
            is_replaced: false,
            control,
            signals,
            cluster,
        };
        Ok(worker)
    }

    fn work(mut self) -> Exit {
        let handle = self.runtime.handle().clone();
        let mut hung = Hung::default();
        let exit = handle.block_on(async {
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = self.signals.terminate.recv() => return Exit::Ok,
                    _ = self.signals.interrupt.recv() => return Exit::Ok,
                    _ = look.tick() => self.look(),
                }
                if self.is_replaced {
                    return Exit::Replaced;
                }
                if let Some(trouble) = self.trouble(&mut hung) {
                    error!(exit_status = Exit::Internal.code(), "{trouble}; a restart is the way out");
                    return Exit::Internal;
                }
            }
        });
        if !matches!(exit, Exit::Ok | Exit::Replaced) {
            // Nothing is dropped: that would wait for the thread that hangs. Each line of the log went out as it was said.
            std::process::exit(exit.code().into());
        }
        self.drain();
        exit
    }

    /// Why this process can't go on, if it can't: it notices itself, since those who watch it see no more than that it is there.
    fn trouble(&self, hung: &mut Hung) -> Option<&'static str> {
        let threads = Threads {
            ticks: self.channels.is_running(),
            peers: self.standby.is_running(),
            cluster: self.cluster.as_ref().is_none_or(Cluster::is_running),
        };
        threads.ended().or_else(|| hung.look(self.view.ticks().ticks).then_some("the tick thread hangs"))
    }

    /// What is looked at each 250 ms.
    fn look(&mut self) {
        match self.watch.poll() {
            None => {}
            Some(Ok(object)) => self.take(object),
            Some(Err(error)) => {
                warn!("{error}; the recorder goes on with the last good one");
                self.view.set_assignment_is_stale(true);
            }
        }
        while let Some(question) = self.control.as_ref().and_then(Control::next) {
            // Whoever asked may have gone.
            let _ = question.reply.try_send(self.answer(question.verb, &question.volume));
        }
        self.holds.reconcile(&self.store);
        self.volumes.reconcile(&self.store, Instant::now());
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LIMIT_LOOKS) {
            self.guard.set_memory_limit(limits::memory_limit());
        }
        self.guard.look(ProcessNumbers::resident_bytes());
        self.channels.let_go();
        self.channels.look(&mut self.secrets);
        self.view.set_ticks(self.channels.ticks());
        self.view.set_peers(self.standby.numbers());
        self.find_remotes();
        self.volumes.publish(&self.store, &self.view);
        self.volumes.keep_copies(&self.assignment.object);
        rate_memory(&self.guard, &self.view, &self.store, self.standby.shared_slots().left());
        let long_gops = self.store.streams().into_iter().filter(|stream| stream.gop_too_long);
        self.view.set_long_gops(long_gops.map(|stream| stream.name).collect());
        let usable = self.volumes.any_ready();
        self.view.set_phase(if usable { RecorderPhase::Ready } else { RecorderPhase::Failed });
        tell(&mut self.status, &self.assignment, &self.view, self.http);
    }

    /// Others are asked for footage where they are heard from.
    fn find_remotes(&mut self) {
        let hosts = self.standby.hosts();
        if hosts != self.hosts {
            self.hosts = hosts;
            self.remotes.set(&moved::all(&self.assignment.remotes, &self.hosts), self.runtime.handle());
        }
    }

    /// What somebody at the machine is told.
    fn answer(&mut self, verb: Verb, about: &str) -> Reply {
        match verb {
            Verb::Holds => Reply::Holds(self.holds.list(&self.store)),
            Verb::Release => match self.holds.release(about, &self.store) {
                Ok(done) => Reply::Released { done },
                Err(message) => Reply::Error(message),
            },
            Verb::Drain | Verb::Stop | Verb::Start | Verb::State => self.volumes.ask(verb, about, &self.store),
        }
    }

    /// A new assignment came.
    fn take(&mut self, object: framekeeper_crds::Recorder) {
        let version = Version::of(&object);
        let is_other = |uid: &String| uid.parse().is_ok_and(|uid: uuid::Uuid| uid != self.assignment.uid);
        if object.metadata.uid.as_ref().is_some_and(is_other) {
            warn!(
                "the assignment's file is about another Recorder of this name, whose pool was made again; this process ends, and the next one is that"
            );
            self.is_replaced = true;
            return;
        }
        if version < self.assignment.version {
            warn!(%version, in_effect = %self.assignment.version, "the assignment's file is older than what is in effect and is ignored");
            self.view.set_assignment_is_stale(true);
            return;
        }
        let assignment = match Assignment::from_object(object) {
            Ok(assignment) => assignment,
            Err(error) => {
                warn!("the assignment cannot be used: {error}; the recorder goes on with the last good one");
                self.view.set_assignment_is_stale(true);
                return;
            }
        };
        if let Some(difference) = needs_restart(&self.assignment, &assignment) {
            warn!("{difference} changed; that takes effect when the recorder is started again");
        }
        self.view.set_assignment_is_stale(false);
        info!(version = %assignment.version, channels = assignment.channels.len(), "a new assignment");
        self.channels.apply(&assignment, &mut self.secrets);
        self.remotes.set(&moved::all(&assignment.remotes, &self.hosts), self.runtime.handle());
        self.volumes.assign(&assignment);
        self.store.set_retention(assignment.retention.clone());
        self.store.set_placement(volumes::placement(&assignment));
        self.holds.assign(&assignment);
        self.assignment = assignment;
        self.view.transition();
    }

    /// What others can record they begin to, before this one ends. Frames go on coming meanwhile.
    fn hand_over(&self) {
        self.standby.leave();
        let until = Instant::now() + HAND_OVER;
        while self.standby.is_handing_over() {
            if Instant::now() >= until {
                warn!("not all streams were taken over by other recorders in time");
                return;
            }
            std::thread::sleep(HAND_OVER_LOOK);
        }
    }

    /// Ends in order: sessions, then what they left, then the volumes.
    fn drain(mut self) {
        info!("stopping");
        self.view.set_phase(RecorderPhase::Draining);
        tell(&mut self.status, &self.assignment, &self.view, self.http);
        // Those who know it by its former name can't be told of the next one.
        if !self.is_replaced {
            self.hand_over();
        }
        self.channels.shutdown();
        self.store.flush_tick();
        self.store.close();
        self.view.set_phase(RecorderPhase::Stopped);
        tell(&mut self.status, &self.assignment, &self.view, self.http);
        drop(self.cluster.take());
        self.runtime.shutdown_background();
        info!("stopped");
    }
}

fn files(options: &RunOptions) -> Files {
    let beside = |name: &str| options.assignment.with_file_name(name);
    Files {
        assignment: options.assignment.clone(),
        secrets: options.secrets.clone().unwrap_or_else(|| beside("secrets")),
        status: options.status.clone().unwrap_or_else(|| beside("status.yaml")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waited {
    ForAnAssignment,
    Stopped,
    /// Nobody will bring one.
    InVain,
}

/// Waits until there is an assignment, or nobody wants or brings one any more.
fn wait_for(assignment: &Path, cluster: &Cluster, runtime: &tokio::runtime::Runtime, signals: &mut Signals) -> Waited {
    runtime.block_on(async {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Waited::Stopped,
                _ = signals.interrupt.recv() => return Waited::Stopped,
                () = tokio::time::sleep(LOOK) => {
                    if assignment.exists() {
                        return Waited::ForAnAssignment;
                    }
                    if !cluster.is_running() {
                        return Waited::InVain;
                    }
                }
            }
        }
    })
}

/// The limits of this process, its descriptors raised as far as they go.
fn guard(assignment: &Assignment) -> Guard {
    let slots = &assignment.object.spec.slots;
    let channels = slots.normal.saturating_add(slots.reserved) as usize;
    let descriptors = limits::raise_descriptors().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files could not be raised");
        0
    });
    let memory_limit_bytes = limits::memory_limit();
    let shares = Shares::of(memory_limit_bytes);
    let connections = limits::connections(descriptors, channels, shares);
    info!(
        memory_limit_bytes,
        frames_bytes = shares.frames_bytes,
        clips = shares.clips,
        descriptors,
        connections,
        "limits"
    );
    Guard::new(memory_limit_bytes, descriptors, connections)
}

/// Bytes of memory that nothing uses, and that recording does not wait for; `None` where nothing limits them.
fn memory_left(store: &Store) -> Option<u64> {
    let (used, most) = store.frames_bytes();
    let frames_to_come_bytes = most.saturating_sub(used) as u64;
    limits::memory_left(OwnMemory { resident_bytes: ProcessNumbers::resident_bytes(), frames_to_come_bytes })
}

/// Compares what the channels ask for with the memory that there is.
fn rate_memory(guard: &Guard, view: &View, store: &Store, takeovers: u32) {
    let channels = view.channels();
    let load = |entry: &Arc<ChannelEntry>| {
        let bits_per_second = entry.stats.bits_per_second();
        let is_held = entry.control.is_held();
        let stands_by = entry.control.epoch().is_none() && !is_held;
        // What nobody stores the store knows nothing of.
        let measured = || Some(entry.control.gop_us()).filter(|us| *us > 0 && bits_per_second > 0);
        let gop_bytes = match stands_by {
            _ if is_held => None,
            true => measured().map(|us| bits_per_second / 8 * us / 1_000_000),
            false => store.stream_stats(entry.stream.uid).and_then(|stream| stream.gop_bytes),
        };
        ChannelLoad { gop_bytes, bits_per_second, stands_by, is_held }
    };
    let short = guard.rate(limits::needed_bytes(channels.iter().map(load), takeovers), channels.len());
    if view.set_memory_short(short) {
        match short {
            Some(short) => warn!("memory: {short}"),
            None => info!("the memory is rated for what is to be recorded"),
        }
    }
}

fn tell(status: &mut StatusFile, assignment: &Assignment, view: &View, http: SocketAddr) {
    // Said once: it is tried again at each look.
    if let Err(error) = status.update(&assignment.object, view, http, clock::wall())
        && status.complain()
    {
        warn!("the status could not be written: {error}");
    }
}

/// What only a restart can change, if that changed.
fn needs_restart(old: &Assignment, new: &Assignment) -> Option<&'static str> {
    if (old.segment_bytes, old.part, old.sync) != (new.segment_bytes, new.part, new.sync) {
        Some("spec.segment")
    } else if (&old.name, old.uid, &old.pool) != (&new.name, new.uid, &new.pool) {
        Some("the recorder's name, UID or pool")
    } else {
        None
    }
}

impl From<framekeeper_ingest::TickStats> for TickNumbers {
    fn from(stats: framekeeper_ingest::TickStats) -> Self {
        Self { ticks: stats.ticks, late: stats.late_ticks, busy_us: stats.busy_us }
    }
}
