//! The local control plane itself: it reads, plans, starts recorders, follows changes, and tells what it sees.
//! Deciding is elsewhere (`assign`, `status`); here it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use framekeeper_crds::RecorderStatus;
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::child::{DRAIN, Happening, Plan};
use super::error::LocalError;
use super::files;
use super::folder::DataFolder;
use super::manifest::{self, Manifests};
use super::objects::Objects;
use super::ports::{self, Ports};
use super::report::Shown;
use super::running::{Answer, Running};
use super::screen::Screen;
use super::sources::Sources;
use crate::decide::assign::{self, Assignment, World};
use crate::decide::cameras::Cameras;
use crate::decide::learn;
use crate::decide::moves;
use crate::decide::observe::Reports;
use crate::decide::place::PoolPlan;
use crate::decide::report::{self, Reporter};
use crate::decide::standing;
use crate::decide::state::State;
use crate::decide::wanted::{Key, Wanted};

/// How often files and logs are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often statuses are made and the table is drawn.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a summary is logged where there is no table.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders of manifests.
    pub manifests: Vec<PathBuf>,
    /// Where everything is kept.
    pub data: PathBuf,
    /// The recorder's program; looked for where it is not given.
    pub recorder_bin: Option<PathBuf>,
    /// First port of the recorders' HTTP servers; 0 for any free ports.
    pub http_base_port: u16,
    /// Address of the recorders' HTTP servers.
    pub listen: IpAddr,
}

/// Runs until it is told to stop, by SIGINT or SIGTERM. Must be called on the main thread, in a runtime of that thread; see [`super::child::start`].
///
/// # Errors
/// When it can't start. What happens later is logged and overcome.
pub async fn run(options: Options, screen: Screen) -> Result<(), LocalError> {
    let system = |what| move |source| LocalError::System { what, source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("cannot listen to SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("cannot listen to SIGTERM"))?;
    let mut sources = Sources::new(options.manifests.clone());
    let manifests = read(&mut sources)?;
    let program = find_recorder(options.recorder_bin.as_deref())?;
    let folder = DataFolder::open(&options.data)?;
    let mut state = State::load(&folder.state())?;
    state.term += 1;
    state.sequence = 0;

    let (happening_to, mut happenings) = mpsc::unbounded_channel();
    let (answer_to, mut answers) = mpsc::unbounded_channel();
    let mut plane = Plane {
        reporter: Reporter::new(Shown::new(Objects::new(&folder.status()), screen)),
        client: reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| LocalError::System { what: "no HTTP client", source: std::io::Error::other(error) })?,
        options,
        program,
        folder,
        state,
        manifests: Manifests::default(),
        wanted: Wanted::default(),
        plans: BTreeMap::new(),
        cameras: Cameras::default(),
        running: BTreeMap::new(),
        leaving: BTreeMap::new(),
        draining: BTreeSet::new(),
        stopping: false,
        happening_to,
        answer_to,
    };
    plane.apply(manifests)?;
    info!(
        "statuses and events are in {}, footage is in {}",
        plane.folder.status().display(),
        plane.folder.volumes().display()
    );

    let mut look = interval(LOOK_INTERVAL);
    let mut report = interval(REPORT_INTERVAL);
    let mut summary = interval(SUMMARY_INTERVAL);
    for ticks in [&mut look, &mut report, &mut summary] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    summary.reset();
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            Some((key, happening)) = happenings.recv() => plane.happened(&key, happening),
            Some((key, answer)) = answers.recv() => plane.heard(&key, answer),
            _ = look.tick() => plane.look(&mut sources),
            _ = report.tick() => plane.report(),
            _ = summary.tick() => plane.reporter.sink.summary(),
        }
    }
    plane.stop(&mut happenings).await;
    Ok(())
}

/// Reads the manifests, and says everything that is wrong with them.
fn read(sources: &mut Sources) -> Result<Manifests, LocalError> {
    let files = sources
        .read()
        .map_err(|errors| LocalError::Manifests { mistakes: errors.iter().map(ToString::to_string).collect() })?;
    let reading = manifest::read(&files);
    for warning in &reading.warnings {
        warn!("{warning}");
    }
    if reading.mistakes.is_empty() {
        Ok(reading.manifests)
    } else {
        Err(LocalError::Manifests { mistakes: reading.mistakes.iter().map(ToString::to_string).collect() })
    }
}

fn find_recorder(given: Option<&Path>) -> Result<PathBuf, LocalError> {
    const NAME: &str = "framekeeper-recorder";
    if let Some(given) = given {
        return match std::path::absolute(given) {
            Ok(path) if path.is_file() => Ok(path),
            _ => Err(LocalError::NoRecorder { searched: format!("--recorder-bin says {}", given.display()) }),
        };
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join(NAME));
    beside
        .into_iter()
        .chain(in_path)
        .find(|path| path.is_file())
        .ok_or_else(|| LocalError::NoRecorder { searched: "neither beside this program nor in PATH".into() })
}

/// The recorders there shall be.
fn wanted_recorders(manifests: &Manifests) -> BTreeSet<Key> {
    let pools = manifests.pools.iter().flat_map(|(pool, spec)| {
        (0..spec.object.recorders)
            .map(|ordinal| Key::new(&pool.namespace, framekeeper_crds::recorder_name(&pool.name, ordinal)))
    });
    pools.collect()
}

struct Plane {
    options: Options,
    program: PathBuf,
    folder: DataFolder,
    state: State,
    manifests: Manifests,
    /// What the manifests want.
    wanted: Wanted,
    plans: BTreeMap<Key, PoolPlan>,
    /// What is about to be found out of cameras.
    cameras: Cameras,
    running: BTreeMap<Key, Running>,
    /// Recorders that were told to stop and have not yet.
    leaving: BTreeMap<Key, Running>,
    /// Recorders that are not wanted any more and run until others have what they hold.
    draining: BTreeSet<Key>,
    /// Whether the operator itself stops: then nobody is started or forgotten any more.
    stopping: bool,
    reporter: Reporter<Shown>,
    client: reqwest::Client,
    happening_to: mpsc::UnboundedSender<(Key, Happening)>,
    answer_to: mpsc::UnboundedSender<Answer>,
}

struct Outside<'p> {
    folder: &'p DataFolder,
    running: &'p BTreeMap<Key, Running>,
    ports: &'p BTreeMap<Key, Ports>,
    listen: IpAddr,
}

impl World for Outside<'_> {
    fn new_uuid(&mut self) -> Uuid {
        Uuid::new_v4()
    }

    fn volume_uuid(&mut self, recorder: &Key, pool: &Key, volume: &str) -> Option<Uuid> {
        self.folder.recorder(recorder).volume_uuid(recorder, pool, volume)
    }

    fn status(&self, recorder: &Key) -> Option<&RecorderStatus> {
        self.running.get(recorder)?.seen.status.as_ref()
    }

    fn peer_address(&self, recorder: &Key) -> Option<String> {
        Some(SocketAddr::new(ports::from_here(self.listen), self.ports.get(recorder)?.peer).to_string())
    }

    fn http_address(&self, recorder: &Key) -> Option<String> {
        Some(SocketAddr::new(ports::from_here(self.listen), self.ports.get(recorder)?.http).to_string())
    }
}

impl Plane {
    /// Makes the manifests so. When that fails, what was before goes on.
    fn apply(&mut self, manifests: Manifests) -> Result<(), LocalError> {
        let mut wanted_now = manifests.wanted();
        let refused = assign::refused_changes(&wanted_now, &self.state);
        if !refused.is_empty() {
            let mistakes = refused.iter().filter_map(|(key, error)| {
                let place = &manifests.pools.get(key)?.place;
                let object = format!("StoragePool {key}");
                Some(place.mistake(&object, &error.path, &error.value, error.message.as_str()).to_string())
            });
            return Err(LocalError::Manifests { mistakes: mistakes.collect() });
        }
        // Before it is assigned who records what: peers are told each other's.
        let wanted = wanted_recorders(&manifests);
        let known = |key: &Key| {
            let known = self.state.recorders.get(&key.to_string());
            known.map_or_else(Ports::default, |known| Ports { http: known.http_port, peer: known.peer_port })
        };
        // Those that are to be drained keep theirs.
        let wanted = wanted.into_iter().chain(self.running.keys().cloned());
        let wanted = wanted.map(|key| (key.clone(), known(&key))).collect();
        let holding = self.running.keys().chain(self.leaving.keys()).cloned().collect();
        let ports = ports::choose(&wanted, &holding, self.options.http_base_port, self.options.listen)?;
        let mut outside =
            Outside { folder: &self.folder, running: &self.running, ports: &ports, listen: self.options.listen };
        moves::stay(&mut wanted_now, &self.state, &outside);
        let Assignment { mut state, recorders, plans } = assign::assign(&wanted_now, self.state.clone(), &mut outside);
        for (key, Ports { http, peer }) in &ports {
            if let Some(recorder) = state.recorders.get_mut(&key.to_string()) {
                recorder.http_port = *http;
                recorder.peer_port = *peer;
            }
        }
        // Before any recorder hears of it, so that an epoch is never given twice.
        let path = self.folder.state();
        state.store(&path).map_err(|source| LocalError::Write { path, source })?;
        self.state = state;
        (self.manifests, self.wanted) = (manifests, wanted_now);
        self.plans = plans;

        let gone: Vec<Key> = self.running.keys().filter(|key| !recorders.contains_key(key)).cloned().collect();
        for key in gone {
            if let Some(running) = self.running.remove(&key) {
                self.draining.remove(&key);
                info!(recorder = %key.name, "is not wanted any more; its footage stays in {}", self.folder.recorder(&key).volumes().display());
                running.stop();
                self.leaving.insert(key, running);
            }
        }
        let wanted = wanted_recorders(&self.manifests);
        self.draining.retain(|key| !wanted.contains(key));
        for (key, recorder) in recorders {
            if !wanted.contains(&key) && self.draining.insert(key.clone()) {
                info!(recorder = %key.name, "is not wanted any more; it records on until others record what it has");
            }
            let files = self.folder.recorder(&key);
            let known = self.running.get(&key).is_some_and(|running| running.seen.recorder == recorder);
            let give = || {
                files.prepare(&recorder)?;
                files.write_secrets(&recorder, &self.manifests)?;
                if known { Ok(()) } else { files.write_assignment(&recorder) }
            };
            give().map_err(|source| LocalError::Write { path: files.assignment(), source })?;
            if let Some(running) = self.running.get_mut(&key) {
                running.seen.recorder = recorder;
            } else if !self.leaving.contains_key(&key) {
                self.start(&key, std::sync::Arc::unwrap_or_clone(recorder));
            }
        }
        self.take_back();
        Ok(())
    }

    /// Takes back what recorders were given that are gone.
    fn take_back(&self) {
        if let Err(error) = self.folder.keep_only(self.running.keys().chain(self.leaving.keys())) {
            warn!("the assignment and credentials of a recorder that is gone cannot be removed: {error}");
        }
    }

    fn start(&mut self, key: &Key, recorder: framekeeper_crds::Recorder) {
        let files = self.folder.recorder(key);
        let ports = self.state.recorders.get(&key.to_string());
        let (http, peer) = ports.map_or((0, 0), |recorder| (recorder.http_port, recorder.peer_port));
        let address = |port: u16| SocketAddr::new(self.options.listen, port).to_string();
        let (address, peer_address) = (address(http), address(peer));
        // What an earlier process said does not hold for this one. If it stays, the new one replaces it anyway.
        let _ = files::remove(&files.status());
        let pairs: [(&str, OsString); 8] = [
            ("--assignment", files.assignment().into()),
            ("--secrets", files.secrets().into()),
            ("--volumes", files.volumes().into()),
            ("--status", files.status().into()),
            ("--listen", address.clone().into()),
            // Also where it has no peers yet, so that it need not be started anew when it gets some.
            ("--peer-listen", peer_address.into()),
            ("--key", files.peer_key().into()),
            ("--log-format", "json".into()),
        ];
        let arguments = pairs.into_iter().flat_map(|(name, value)| [name.into(), value]);
        let plan = Plan {
            recorder: key.clone(),
            program: self.program.clone(),
            arguments: std::iter::once("run".into()).chain(arguments).collect(),
            log: files.log(),
        };
        let (happenings, answers) = (self.happening_to.clone(), self.answer_to.clone());
        let running = Running::start(recorder, address, plan, &self.client, happenings, answers);
        self.running.insert(key.clone(), running);
    }

    fn happened(&mut self, key: &Key, happening: Happening) {
        let name = &key.name;
        let log = self.folder.recorder(key).log();
        match happening {
            Happening::Started { pid } => {
                if let Some(running) = self.running.get_mut(key) {
                    running.has_started();
                    info!(recorder = %name, pid, http = %format!("http://{}", running.seen.address), log = %log.display(), "started");
                }
            }
            Happening::NotStarted { error, retry_in } => {
                error!(recorder = %name, "cannot be started: {error} ({}); trying again in {retry_in:?}", self.program.display());
                self.ended(key);
            }
            Happening::Ended { how, retry_in } => {
                self.read_log(key);
                let words = self.running.get(key).map(|running| running.tail.last_words()).unwrap_or_default();
                error!(recorder = %name, "ended with {how}; starting it again in {retry_in:?}; its last words: {}", words.join(" | "));
                self.ended(key);
            }
            Happening::Stopped => self.left(key, "stopped"),
            Happening::Killed => {
                warn!(recorder = %name, "did not stop within {DRAIN:?} and was killed; what it had not written is lost, at most 0.6 s of each stream");
                self.left(key, "killed");
            }
        }
    }

    fn ended(&mut self, key: &Key) {
        let path = self.folder.recorder(key).status();
        let is_kept = self.running.get_mut(key).is_some_and(|running| running.has_given_up(&path));
        if !is_kept {
            // It would be read as if the next process had said it.
            let _ = files::remove(&path);
        }
        self.report();
    }

    fn left(&mut self, key: &Key, how: &str) {
        info!(recorder = %key.name, "{how}");
        if self.stopping {
            let path = self.folder.recorder(key).status();
            if let Some(running) = self.running.get_mut(key) {
                running.seen.has_ended();
                running.read_status(&path);
            }
        } else if self.leaving.remove(key).is_none() {
            self.running.remove(key);
        } else if let Some(remembered) = self.state.recorders.get(&key.to_string())
            && self.is_wanted(key)
        {
            // It came back into the manifests while it was still stopping.
            let mut recorder =
                framekeeper_crds::Recorder::new(&key.name, framekeeper_crds::RecorderSpec::clone(&remembered.spec));
            recorder.metadata.namespace = Some(key.namespace.clone());
            recorder.metadata.uid = Some(remembered.uid.clone());
            recorder.metadata.generation = Some(remembered.generation);
            self.start(key, recorder);
        }
        if !self.stopping {
            self.take_back();
        }
    }

    fn is_wanted(&self, key: &Key) -> bool {
        wanted_recorders(&self.manifests).contains(key)
    }

    fn heard(&mut self, key: &Key, answer: Option<Arc<Reports>>) {
        let Some(running) = self.running.get_mut(key) else { return };
        let now = Instant::now();
        let is_news = answer.as_ref().is_some_and(|reports| learn::from_channels(&mut self.state, reports.all()));
        running.seen.heard(answer.clone(), now);
        if is_news {
            self.remember();
        }
        let Some(reports) = answer else { return };
        let others = |stream: &Key| {
            let others = self.running.iter().filter(|(other, _)| *other != key);
            standing::sessions(others.filter_map(|(_, running)| running.seen.report(stream, now)))
        };
        if self.cameras.heard(&mut self.state, key, reports.all(), now, others)
            && let Err(error) = self.apply(self.manifests.clone())
        {
            error!("what was found out of cameras cannot be made so: {error}");
        }
    }

    /// Takes note of what a recorder newly says of itself. Whether others must be told.
    fn learn(&mut self, key: &Key) -> bool {
        let Some(status) = self.running.get(key).and_then(|running| running.seen.status.as_ref()) else { return false };
        let news = learn::from_status(&mut self.state, key, status);
        if news.remember && !news.assign {
            self.remember();
        }
        news.assign
    }

    /// Keeps what was learnt, for an operator that is started after this one.
    fn remember(&self) {
        let path = self.folder.state();
        if let Err(error) = self.state.store(&path) {
            warn!("{} cannot be written: {error}", path.display());
        }
    }

    /// Looks at what others write: manifests, logs, statuses.
    fn look(&mut self, sources: &mut Sources) {
        let keys: Vec<Key> = self.running.keys().chain(self.leaving.keys()).cloned().collect();
        let mut has_news = false;
        for key in keys {
            self.read_log(&key);
            let path = self.folder.recorder(&key).status();
            if self.running.get_mut(&key).is_some_and(|running| running.read_status(&path)) {
                has_news |= self.learn(&key);
            }
        }
        if has_news && let Err(error) = self.apply(self.manifests.clone()) {
            error!("what recorders say of themselves cannot be passed on to their peers: {error}");
        }
        if !sources.have_changed() {
            return;
        }
        match read(sources).and_then(|manifests| self.apply(manifests)) {
            Ok(()) => {
                info!("the manifests changed, and are in effect");
                self.report();
            }
            Err(LocalError::Manifests { mistakes }) => {
                for mistake in &mistakes {
                    error!("{mistake}");
                }
                error!("the manifests changed but are wrong ({} mistakes); what was before goes on", mistakes.len());
            }
            Err(other) => error!("the manifests changed but cannot be made so; what was before goes on: {other}"),
        }
    }

    /// Shows what recorders warn of.
    fn read_log(&mut self, key: &Key) {
        let running = self.running.get_mut(key).or_else(|| self.leaving.get_mut(key));
        let Some(running) = running else { return };
        match running.tail.lines() {
            Ok(lines) => {
                for (_, text) in lines.iter().map(|line| super::log_tail::readable(line)).filter(|(show, _)| *show) {
                    warn!(recorder = %key.name, "{text}");
                }
            }
            Err(error) => warn!(recorder = %key.name, "its log cannot be read: {error}"),
        }
    }

    fn report(&mut self) {
        let view = report::View {
            wanted: &self.wanted,
            state: &self.state,
            plans: &self.plans,
            running: &self.running,
            unmade: &BTreeMap::new(),
            rolling: &BTreeMap::new(),
            stopped: self.stopping,
            // The screen shows more than statuses tell.
            revision: None,
        };
        let (now, wall) = (Instant::now(), Timestamp::now());
        self.reporter.sink.begin();
        self.reporter.report(&view, now, wall);
        self.reporter.sink.draw(&view, now, wall);
    }

    /// Stops all recorders.
    async fn stop(&mut self, happenings: &mut mpsc::UnboundedReceiver<(Key, Happening)>) {
        self.stopping = true;
        self.reporter.sink.release();
        let mut waiting: BTreeSet<Key> = self.running.keys().chain(self.leaving.keys()).cloned().collect();
        info!("stopping {} recorders, which takes {DRAIN:?} at most", waiting.len());
        self.running.values().for_each(Running::stop);
        let mut progress = interval(Duration::from_secs(2));
        progress.reset();
        while !waiting.is_empty() {
            tokio::select! {
                _ = progress.tick() => {
                    let names: Vec<&str> = waiting.iter().map(|key| key.name.as_str()).collect();
                    info!("waiting for {}", names.join(", "));
                }
                Some((key, happening)) = happenings.recv() => {
                    let over = matches!(happening, Happening::Stopped | Happening::Killed);
                    self.read_log(&key);
                    self.happened(&key, happening);
                    if over {
                        waiting.remove(&key);
                    }
                }
            }
        }
        self.report();
    }
}
