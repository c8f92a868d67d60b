//! The volumes of an assignment: opened, and watched.

use std::fmt;
use std::path::{Path, PathBuf};

use framekeeper_crds::VolumeState;
use framekeeper_store::env::Env;
use framekeeper_store::{SYNC_BUCKETS_US, Store, StoreConfig, VolumeConfig, VolumeStats};
use uuid::Uuid;

use crate::assignment::{Assignment, VolumePlan};
use crate::view::{View, VolumeNumbers, VolumeView};

/// The volumes, by the names that the pool gives them.
pub(super) struct Volumes {
    known: Vec<Known>,
}

struct Known {
    plan: VolumePlan,
    folder: PathBuf,
    /// Why it was not even given to the store.
    refused: Option<String>,
    ready: bool,
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
pub(super) fn open(folder: &Path, assignment: &Assignment) -> Result<(Volumes, Store), NoVolume> {
    let mut known: Vec<Known> = assignment
        .volumes
        .iter()
        .map(|plan| {
            let folder = folder.join(&plan.name);
            // Not made here: where a mount is missing, footage would fill the disk of the machine.
            let refused = (!folder.is_dir()).then(|| {
                format!(
                    "{} is not there or not a folder; the volume's folder must be made or mounted first",
                    folder.display()
                )
            });
            Known { plan: plan.clone(), folder, refused, ready: false }
        })
        .collect();
    let given: Vec<&Known> = known.iter().filter(|volume| volume.refused.is_none()).collect();
    if given.is_empty() {
        return Err(NoVolume {
            views: known.iter().map(|volume| volume.refused_view(volume.refused.clone())).collect(),
        });
    }
    let configs = given.iter().map(|volume| VolumeConfig {
        dir: volume.folder.clone(),
        uuid: Some(volume.plan.uuid),
        segment_bytes: assignment.segment_bytes,
        budget_bytes: volume.plan.budget_bytes,
    });
    let mut config = StoreConfig::new(&assignment.pool, &assignment.name, assignment.uid, configs.collect());
    config.sync_interval = assignment.sync;
    match Store::open(config, Env::real()) {
        Ok(store) => {
            for volume in &mut known {
                volume.ready = volume.refused.is_none();
            }
            Ok((Volumes { known }, store))
        }
        Err(error) => {
            let message = error.to_string();
            let why = |volume: &Known| volume.refused.clone().or_else(|| Some(message.clone()));
            Err(NoVolume { views: known.iter().map(|volume| volume.refused_view(why(volume))).collect() })
        }
    }
}

impl Volumes {
    /// Tells the view how they are.
    pub(super) fn publish(&mut self, store: &Store, view: &View) {
        let stats = store.volumes();
        let mut views = Vec::with_capacity(self.known.len());
        for volume in &mut self.known {
            let found = stats.iter().find(|stats| stats.dir == volume.folder);
            let next = match found {
                None => volume.refused_view(volume.refused.clone()),
                Some(stats) => volume.open_view(stats),
            };
            volume.ready = next.state == VolumeState::Ready;
            views.push(next);
        }
        view.set_volumes(views);
    }

    /// Folders of those that can be written to.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Path> {
        self.known.iter().filter(|volume| volume.ready).map(|volume| volume.folder.as_path())
    }
}

impl Known {
    fn refused_view(&self, why: Option<String>) -> VolumeView {
        VolumeView {
            name: self.plan.name.clone(),
            uuid: self.plan.uuid,
            state: VolumeState::Refused,
            reason: why.map(|message| ("Refused", message)),
            numbers: None,
        }
    }

    fn open_view(&self, stats: &VolumeStats) -> VolumeView {
        let (state, reason) = match (&stats.failed, &stats.stuck) {
            // It was never open.
            (Some(message), _) if stats.volume == Uuid::nil() => {
                return self.refused_view(Some(message.clone()));
            }
            (Some(message), _) => (VolumeState::Failed, Some(("VolumeFailed", message.clone()))),
            (None, Some(message)) => (VolumeState::Ready, Some(("NoFileToReuse", message.clone()))),
            (None, None) => (VolumeState::Ready, None),
        };
        VolumeView { name: self.plan.name.clone(), uuid: self.plan.uuid, state, reason, numbers: Some(numbers(stats)) }
    }
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
        written_bytes: stats.bytes,
        writes: stats.writes,
        unsynced_us: stats.unsynced_us,
        sealed_segments: stats.sealed,
        retired_segments: stats.retired,
        syncs: stats.syncs,
        sync_seconds: stats.sync_us as f64 / 1e6,
        sync_buckets,
    }
}
