//! The volumes of an assignment: opened, watched, and brought to where the assignment and people want them, one without the other.
//!
//! ```text
//! assignment ─► plans ┐                         ┌─ a thread a change: opening or stopping a volume may take as long as its disk wants
//! person ─► wishes    ├─ reconcile, each look ──┤
//! store ─► stats      ┘                         └─ drain, undrain: at once
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use framekeeper_crds::{Recorder, VolumeState, VolumeWrites};
use framekeeper_media::WallTime;
use framekeeper_store::env::{Env, WritePath, WritesWanted};
use framekeeper_store::{Placement, SYNC_BUCKETS_US, Store, StoreConfig, VolumeConfig, VolumeStats};
use tracing::{info, warn};

use super::control::{Reply, Verb};
use super::copies::Copies;
use super::foreign::Foreigners;
use super::opens::Opens;
use super::wishes::{Wish, Wishes};
use crate::assignment::{Assignment, VolumePlan};
use crate::clock;
use crate::limits::Shares;
use crate::status::space::Trouble;
use crate::view::{View, VolumeNumbers, VolumeView};

/// A volume that could not be opened is tried again after that long: a mount may have come.
const RETRY: Duration = Duration::from_secs(10);

const HOUR_US: i64 = 3_600_000_000;

/// The volumes, by the names that the pool gives them.
pub(super) struct Volumes {
    parent: PathBuf,
    segment_bytes: u64,
    known: Vec<Known>,
    copies: Copies,
    opens: Opens,
    wishes: Wishes,
}

struct Known {
    plan: VolumePlan,
    folder: PathBuf,
    wish: Wish,
    /// The assignment has it no more.
    gone: bool,
    /// Somebody asked for it to be opened anew.
    again: bool,
    /// With how many bytes it was opened.
    budget_bytes: u64,
    /// Why it is not open.
    problem: Option<String>,
    retry: Option<Instant>,
    change: Option<JoinHandle<Result<(), String>>>,
    ready: bool,
    /// When its oldest footage begins, as the status tells it.
    oldest: Option<WallTime>,
    foreign: Foreigners,
}

/// No volume can be used.
pub(super) struct NoVolume {
    pub(super) views: Vec<VolumeView>,
}

impl fmt::Display for NoVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.views.iter().filter_map(|view| view.reason.as_ref().map(|(_, sentence)| sentence.as_str()));
        f.write_str(&why.collect::<Vec<_>>().join("; "))
    }
}

/// Opens what can be opened of the assignment's volumes, below `folder`.
///
/// # Errors
/// When none can.
pub(super) fn open(
    folder: &Path,
    assignment: &Assignment,
    writes: WritesWanted,
    memory: Shares,
    scrub_round: Duration,
) -> Result<(Volumes, Store), NoVolume> {
    let wishes = Wishes::read(folder);
    let known = assignment.volumes.iter().map(|plan| Known::new(folder, plan.clone(), &wishes)).collect();
    let segment_bytes = assignment.segment_bytes;
    let opens = Opens::read(folder);
    let copies = Copies::default();
    let mut volumes = Volumes { parent: folder.to_owned(), segment_bytes, known, copies, opens, wishes };
    for volume in volumes.known.iter_mut().filter(|volume| volume.wish != Wish::Stop) {
        volume.problem = volume.no_folder();
    }
    let given = volumes.known.iter().filter(|volume| volume.problem.is_none() && volume.wish != Wish::Stop);
    let configs: Vec<_> = given.map(|volume| volume.config(segment_bytes)).collect();
    let none = |known: &[Known], why: Option<&str>| {
        let why = |volume: &Known| volume.problem.clone().or(why.map(str::to_owned));
        Err(NoVolume {
            views: known.iter().map(|volume| volume.view_as(VolumeState::Refused, "Refused", why(volume))).collect(),
        })
    };
    let all_stopped = volumes.known.iter().all(|volume| volume.wish == Wish::Stop);
    if configs.is_empty() && !all_stopped {
        return none(&volumes.known, None);
    }
    let mut config = StoreConfig::new(&assignment.pool, &assignment.name, assignment.uid, configs);
    config.sync_interval = assignment.sync;
    config.writes = writes;
    config.known_opens = volumes.opens.known.clone();
    config.stream_queue_bytes = memory.stream_frames_bytes;
    config.total_queue_bytes = memory.frames_bytes;
    config.reader_cache_bytes = memory.reader_cache_bytes;
    config.retention = assignment.retention.clone();
    config.placement = placement(assignment);
    config.scrub_round = scrub_round;
    // With every volume stopped there is nothing to record to, but somebody to be told that one is to be used again.
    let opened =
        if all_stopped { Ok(Store::without_volumes(&config, Env::real())) } else { Store::open(config, Env::real()) };
    match opened {
        Ok(store) => {
            volumes.drain_as_wished(&store);
            Ok((volumes, store))
        }
        Err(error) => none(&volumes.known, Some(&error.to_string())),
    }
}

/// As the store calls it.
pub(super) fn placement(assignment: &Assignment) -> Placement {
    match assignment.placement {
        framekeeper_crds::Placement::Fill => Placement::Fill,
        framekeeper_crds::Placement::RoundRobin => Placement::RoundRobin,
    }
}

impl Volumes {
    /// The assignment may have other volumes now.
    pub(super) fn assign(&mut self, assignment: &Assignment) {
        self.copies.outdate();
        for volume in &mut self.known {
            volume.gone = true;
        }
        for plan in &assignment.volumes {
            match self.known.iter_mut().find(|volume| volume.plan.name == plan.name) {
                Some(volume) => {
                    volume.plan = plan.clone();
                    volume.gone = false;
                    volume.retry = None;
                }
                None => self.known.push(Known::new(&self.parent, plan.clone(), &self.wishes)),
            }
        }
    }

    /// Somebody at the machine wants a volume to be something else, or wants to know.
    pub(super) fn ask(&mut self, verb: Verb, name: &str, store: &Arc<Store>) -> Reply {
        let names = || self.known.iter().map(|volume| volume.plan.name.as_str()).collect::<Vec<_>>().join(", ");
        let Some(at) = self.known.iter().position(|volume| volume.plan.name == name) else {
            return Reply::Error(format!("this recorder has no volume {name:?}, only {}", names()));
        };
        let stats = store.volumes();
        let Some(volume) = self.known.get_mut(at) else { return Reply::Error("no volume".to_owned()) };
        let found = stats.iter().find(|stats| volume.is(stats));
        let wish = match verb {
            Verb::Drain => Wish::Drain,
            Verb::Stop => Wish::Stop,
            Verb::Start => Wish::Run,
            Verb::State | Verb::Holds | Verb::Release => volume.wish,
        };
        // First remembered, then done: what somebody was told holds after a crash too.
        if wish != volume.wish
            && let Err(error) = self.wishes.set(&volume.plan.name, wish)
        {
            return Reply::Error(format!(
                "volume {name} is left as it is, because that could not be remembered: {error}"
            ));
        }
        volume.wish = wish;
        if verb == Verb::Start {
            volume.retry = None;
            volume.again = found.is_some_and(|stats| stats.failed.is_some());
        }
        if verb != Verb::State {
            info!(volume = name, ?verb, "asked by a person at the machine");
        }
        let busy = volume.change.is_some();
        let done = match volume.wish {
            Wish::Run => found.is_some_and(|stats| stats.failed.is_none() && !stats.draining),
            Wish::Drain => found.is_some_and(|stats| stats.draining && stats.streams == 0),
            Wish::Stop => found.is_none(),
        };
        let state = volume.view(found);
        Reply::State {
            state: format!("{:?}", state.state),
            done: done && !busy,
            streams: found.map_or(0, |stats| stats.streams),
            message: state.reason.map(|(_, sentence)| sentence),
        }
    }

    /// A volume that was drained when the recorder ended is drained again, before any stream is recorded to it.
    fn drain_as_wished(&self, store: &Store) {
        for stats in store.volumes() {
            let drained = self.known.iter().any(|volume| volume.is(&stats) && volume.wish == Wish::Drain);
            if drained && let Err(error) = store.drain_volume(stats.volume) {
                warn!(%error, "a volume could not be drained again");
            }
        }
    }

    /// Brings every volume nearer to what it is to be. Never waits for a disk.
    pub(super) fn reconcile(&mut self, store: &Arc<Store>, now: Instant) {
        let stats = store.volumes();
        for volume in &mut self.known {
            volume.poll(now);
            if volume.change.is_none() {
                let found = stats.iter().find(|stats| volume.is(stats));
                volume.reconcile(found, store, self.segment_bytes, now);
            }
        }
        self.known.retain(|volume| {
            let open = stats.iter().any(|stats| volume.is(stats));
            !volume.gone || open || volume.change.is_some()
        });
    }

    /// Tells the view how they are.
    pub(super) fn publish(&mut self, store: &Store, view: &View) {
        let (stats, now) = (store.volumes(), Instant::now());
        let folders: Vec<PathBuf> = self.known.iter().map(|volume| volume.folder.clone()).collect();
        let mut views = Vec::with_capacity(self.known.len());
        for volume in &mut self.known {
            if volume.problem.is_none() && volume.change.is_none() {
                // It was among those that the store was opened with.
                let dir = |stats: &&VolumeStats| stats.volume.is_nil() && stats.dir == volume.folder;
                volume.problem = stats.iter().find(dir).and_then(|stats| stats.failed.clone());
            }
            let found = stats.iter().find(|stats| volume.is(stats));
            volume.oldest = told(volume.oldest, found.and_then(|stats| stats.oldest), clock::wall());
            let mut next = volume.view(found);
            let foreign = matches!(next.space, Some(Trouble::ForeignData | Trouble::ForeignDataGrows));
            next.culprits = volume.foreign.look(foreign, &volume.folder, &folders, now);
            volume.ready = next.state == VolumeState::Ready;
            views.push(next);
        }
        view.set_volumes(views);
        self.opens.keep();
    }

    /// Whether any can be written to.
    pub(super) fn any_ready(&self) -> bool {
        self.known.iter().any(|volume| volume.ready)
    }

    /// Writes the assignment's copy to each volume that can be written to, unless it is there. Never waits for a disk.
    pub(super) fn keep_copies(&mut self, object: &Recorder) {
        let ready = self.known.iter().filter(|volume| volume.ready);
        self.copies.keep(ready.map(|volume| volume.folder.as_path()), object);
    }
}

impl Known {
    fn new(parent: &Path, plan: VolumePlan, wishes: &Wishes) -> Self {
        Self {
            wish: wishes.of(&plan.name),
            foreign: Foreigners::default(),
            folder: parent.join(&plan.name),
            budget_bytes: plan.budget_bytes,
            plan,
            gone: false,
            again: false,
            problem: None,
            retry: None,
            change: None,
            ready: false,
            oldest: None,
        }
    }

    fn config(&self, segment_bytes: u64) -> VolumeConfig {
        VolumeConfig {
            dir: self.folder.clone(),
            uuid: Some(self.plan.uuid),
            segment_bytes,
            budget_bytes: self.plan.budget_bytes,
        }
    }

    /// Not made here: where a mount is missing, footage would fill the disk of the machine.
    fn no_folder(&self) -> Option<String> {
        let why = "is not there or not a folder; the volume's folder must be made or mounted first";
        (!self.folder.is_dir()).then(|| format!("{} {why}", self.folder.display()))
    }

    /// Whether these are the numbers of this volume, open.
    fn is(&self, stats: &VolumeStats) -> bool {
        !stats.volume.is_nil() && stats.dir == self.folder
    }

    /// Takes note of a change that has ended.
    fn poll(&mut self, now: Instant) {
        if !self.change.as_ref().is_some_and(JoinHandle::is_finished) {
            return;
        }
        let Some(change) = self.change.take() else { return };
        self.problem = match change.join() {
            Ok(Ok(())) => None,
            Ok(Err(message)) => Some(message),
            Err(_) => Some("opening or stopping it ended in a panic".to_owned()),
        };
        if let Some(message) = &self.problem {
            warn!(volume = self.plan.name, "{message}");
            self.retry = now.checked_add(RETRY);
        }
    }

    fn reconcile(&mut self, found: Option<&VolumeStats>, store: &Arc<Store>, segment_bytes: u64, now: Instant) {
        let wish = if self.gone { Wish::Stop } else { self.wish };
        match found {
            Some(stats) if wish == Wish::Stop || stats.volume != self.plan.uuid => {
                let volume = stats.volume;
                self.begin("stop", store, move |store| store.stop_volume(volume).map_err(|error| error.to_string()));
            }
            Some(stats) if self.again || self.budget_bytes != self.plan.budget_bytes => {
                let (volume, config) = (stats.volume, self.config(segment_bytes));
                self.again = false;
                self.budget_bytes = self.plan.budget_bytes;
                self.begin("restart", store, move |store| {
                    store.restart_volume(volume, &config).map_err(|error| error.to_string())
                });
            }
            Some(stats) if stats.draining != (wish == Wish::Drain) && stats.failed.is_none() => {
                let changed = match wish {
                    Wish::Drain => store.drain_volume(stats.volume),
                    _ => store.undrain_volume(stats.volume),
                };
                if let Err(error) = changed {
                    warn!(volume = self.plan.name, "{error}");
                }
            }
            Some(_) => {}
            None if wish == Wish::Stop || self.retry.is_some_and(|at| now < at) => {}
            None => {
                self.problem = self.no_folder();
                if self.problem.is_some() {
                    self.retry = now.checked_add(RETRY);
                    return;
                }
                let config = self.config(segment_bytes);
                self.again = false;
                self.budget_bytes = self.plan.budget_bytes;
                self.begin("open", store, move |store| store.start_volume(&config).map_err(|error| error.to_string()));
            }
        }
    }

    fn begin(
        &mut self,
        what: &'static str,
        store: &Arc<Store>,
        change: impl FnOnce(&Store) -> Result<(), String> + Send + 'static,
    ) {
        info!(volume = self.plan.name, "{what} the volume");
        let store = Arc::clone(store);
        match std::thread::Builder::new().name("volume-change".to_owned()).spawn(move || change(&store)) {
            Ok(handle) => self.change = Some(handle),
            Err(error) => self.problem = Some(format!("a thread could not be started: {error}")),
        }
    }

    fn view_as(&self, state: VolumeState, word: &'static str, why: Option<String>) -> VolumeView {
        VolumeView {
            name: self.plan.name.clone(),
            uuid: self.plan.uuid,
            state,
            reason: why.map(|message| (word, message)),
            writes: None,
            oldest: self.oldest,
            space: None,
            culprits: None,
            numbers: None,
        }
    }

    fn view(&self, found: Option<&VolumeStats>) -> VolumeView {
        let Some(stats) = found else {
            return match &self.problem {
                _ if self.change.is_some() => self.view_as(VolumeState::Opening, "Opening", None),
                _ if self.gone || self.wish == Wish::Stop => {
                    let message =
                        "stopped as asked, until `framekeeper-recorder volume start` or the manifest says otherwise";
                    self.view_as(VolumeState::Stopped, "Stopped", Some(message.to_owned()))
                }
                Some(problem) => self.view_as(VolumeState::Refused, "Refused", Some(problem.clone())),
                None => self.view_as(VolumeState::Opening, "Opening", None),
            };
        };
        let (state, reason) = if let Some(message) = &stats.failed {
            (VolumeState::Failed, Some(("VolumeFailed", message.clone())))
        } else if stats.stalled {
            let message =
                "the disk does not answer; streams are recorded elsewhere where that is possible, until it does";
            (VolumeState::Hanging, Some(("DiskHangs", message.to_owned())))
        } else if stats.draining {
            let message = "drained as asked, until `framekeeper-recorder volume start`: no stream is recorded here where another volume takes it";
            (VolumeState::Draining, Some(("Drained", message.to_owned())))
        } else {
            (VolumeState::Ready, stats.stuck.clone().map(|message| ("NoFileToReuse", message)))
        };
        let writes = stats.write_path.as_ref().map(|path| match path {
            WritePath::Direct => (VolumeWrites::Direct, None),
            WritePath::Buffered { reason } => (VolumeWrites::Buffered, Some(reason.clone())),
        });
        let space = Trouble::of(stats.outlook, &stats.foreign);
        VolumeView { reason, writes, space, numbers: Some(numbers(stats)), ..self.view_as(state, "", None) }
    }
}

/// When a volume's oldest footage begins, as a status tells it: in steady state that moves on all the time, and a status is not written for it
/// all the time.
fn told(told: Option<WallTime>, is: Option<WallTime>, now: WallTime) -> Option<WallTime> {
    let (Some(before), Some(is)) = (told, is) else { return is };
    let step_us = (now.0.saturating_sub(is.0) / 20).max(HOUR_US);
    Some(if is.0.abs_diff(before.0) < step_us.unsigned_abs() { before } else { is })
}

fn numbers(stats: &VolumeStats) -> VolumeNumbers {
    let used_files = stats.files_made.saturating_sub(stats.files_free).saturating_sub(stats.files_retired);
    let mut sync_buckets: Vec<(f64, u64)> =
        SYNC_BUCKETS_US.iter().zip(&stats.sync_buckets).map(|(bound, count)| (*bound as f64 / 1e6, *count)).collect();
    let slower = stats.syncs.saturating_sub(stats.sync_buckets.iter().sum());
    sync_buckets.push((f64::INFINITY, slower));
    VolumeNumbers {
        capacity_bytes: stats.files_total.saturating_mul(stats.segment_bytes),
        used_bytes: used_files.saturating_mul(stats.segment_bytes),
        free_files: stats.files_free,
        waiting_records: stats.waiting_records,
        held_bytes: stats.files_held.saturating_mul(stats.segment_bytes),
        holds: stats.holds,
        usable_files: stats.files_usable,
        awaited_files: stats.files_awaited,
        outlook: stats.outlook,
        foreign: stats.foreign,
        sync_ms: u32::try_from(stats.sync_interval.as_millis()).unwrap_or(u32::MAX),
        rotational: stats.rotational,
        written_bytes: stats.bytes,
        writes: stats.writes,
        write_batches: stats.write_batches,
        write_seconds: stats.write_us as f64 / 1e6,
        writes_directly: stats.write_path == Some(WritePath::Direct),
        unsynced_us: stats.unsynced_us,
        sealed_segments: stats.sealed,
        retired_segments: stats.retired,
        oldest: stats.oldest,
        syncs: stats.syncs,
        sync_seconds: stats.sync_us as f64 / 1e6,
        sync_buckets,
        catalogue: stats.catalogue_progress,
        damage: stats.damage.clone(),
        scrub: stats.scrub,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_footage_is_told_in_steps() {
        let hours = |hours: i64| WallTime(hours * HOUR_US);
        let minutes = |minutes: i64| WallTime(minutes * HOUR_US / 60);
        assert_eq!(told(None, Some(hours(5)), hours(6)), Some(hours(5)));
        assert_eq!(told(Some(hours(5)), Some(minutes(359)), hours(6)), Some(hours(5)));
        assert_eq!(told(Some(hours(5)), Some(hours(6)), hours(7)), Some(hours(6)));
        // A twentieth of 200 hours.
        assert_eq!(told(Some(hours(5)), Some(hours(14)), hours(214)), Some(hours(5)));
        assert_eq!(told(Some(hours(5)), Some(hours(15)), hours(215)), Some(hours(15)));
        // Also backwards: an old volume is found in its whole length.
        assert_eq!(told(Some(hours(5)), Some(hours(3)), hours(6)), Some(hours(3)));
        assert_eq!(told(Some(hours(5)), None, hours(6)), None);
    }
}
