//! Held footage: what the assignment and people want held, brought onto every volume.
//!
//! A hold ends only when somebody says so: its stream's owner, by `releasedHolds` of the assignment, or a person at this machine. What is on a
//! volume and in neither stays.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;

use framekeeper_media::WallTime;
use framekeeper_store::{Hold, Store};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use uuid::Uuid;

use crate::assignment::{Assignment, HoldPlan};
use crate::serve::query::format_time;

/// What is to be held and what not, and what is being done about it.
#[derive(Default)]
pub(super) struct Holds {
    wanted: Vec<HoldPlan>,
    released: Vec<HoldPlan>,
    /// Asked for by people at the machine.
    by_hand: HashSet<Uuid>,
    changes: HashMap<Uuid, JoinHandle<()>>,
}

/// A hold, for people.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldView {
    /// Names it.
    pub hold: Uuid,
    /// The stream, `namespace/name`; its UID where the name is not known any more.
    pub stream: String,
    /// From this time on; from the first frame on where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Up to this time; for ever where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// It stands in the annotation of its CameraStream: released there, and nowhere else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub annotated: bool,
}

impl HoldView {
    /// From a hold and what is known of its stream.
    pub(crate) fn new(hold: &Hold, stream: String, annotated: bool) -> Self {
        let bound = |time: WallTime, none: i64| (time.0 != none).then(|| format_time(time));
        let (from, to) = (bound(hold.from, i64::MIN), bound(hold.to, i64::MAX));
        Self { hold: hold.hold, stream, from, to, annotated }
    }

    /// As a line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { hold, stream, from, to, annotated } = self;
        let bound = |time: &Option<String>, none: &str| time.clone().unwrap_or_else(|| none.to_owned());
        let (from, to) = (bound(from, "the first frame"), bound(to, "for ever"));
        let how = if *annotated { ", by the annotation of its CameraStream" } else { "" };
        format!("{hold}  {stream}  {from}  {to}{how}")
    }
}

impl Holds {
    /// The assignment says so now.
    pub(super) fn assign(&mut self, assignment: &Assignment) {
        self.wanted.clone_from(&assignment.holds);
        self.released.clone_from(&assignment.released_holds);
        self.by_hand.retain(|id| !self.wanted.iter().any(|plan| plan.hold.hold == *id));
    }

    /// Brings every open volume nearer to that. Never waits for a disk.
    pub(super) fn reconcile(&mut self, store: &Arc<Store>) {
        self.changes.retain(|_, change| !change.is_finished());
        let mut seen = HashSet::new();
        for (volume, has) in store.holds() {
            seen.extend(has.iter().map(|hold| hold.hold));
            if self.changes.contains_key(&volume) {
                continue;
            }
            let (set, release) = difference(&has, &self.wanted, &self.released, &self.by_hand);
            if !set.is_empty() || !release.is_empty() {
                self.change(store, volume, set, release);
            }
        }
        self.by_hand.retain(|id| seen.contains(id));
    }

    fn change(&mut self, store: &Arc<Store>, volume: Uuid, set: Vec<Hold>, release: Vec<Uuid>) {
        info!(%volume, set = set.len(), released = release.len(), "held footage changes");
        let store = Arc::clone(store);
        let change = move || {
            if let Err(error) = store.change_holds(volume, &set, &release) {
                warn!("what is held could not be changed: {error}");
            }
        };
        match std::thread::Builder::new().name("hold-change".to_owned()).spawn(change) {
            Ok(handle) => {
                self.changes.insert(volume, handle);
            }
            Err(error) => warn!(%error, "what is held could not be changed"),
        }
    }

    /// All that is held on the open volumes.
    pub(super) fn list(&self, store: &Store) -> Vec<HoldView> {
        let mut holds: Vec<Hold> = store.holds().into_iter().flat_map(|(_, holds)| holds).collect();
        holds.sort_by_key(|hold| (hold.stream, hold.from, hold.hold));
        holds.dedup();
        let names: HashMap<Uuid, String> = store
            .reader()
            .streams()
            .unwrap_or_default()
            .into_iter()
            .map(|info| (info.ident.uid, format!("{}/{}", info.ident.namespace, info.ident.name)))
            .collect();
        let view = |hold: &Hold| {
            let plan = self.wanted.iter().find(|plan| plan.hold.hold == hold.hold);
            let name = plan.map(|plan| plan.name.clone()).or_else(|| names.get(&hold.stream).cloned());
            HoldView::new(hold, name.unwrap_or_else(|| hold.stream.to_string()), plan.is_some())
        };
        holds.iter().map(view).collect()
    }

    /// A person at the machine wants a hold released. Whether that is done, on all volumes that are open.
    ///
    /// # Errors
    /// Why it cannot be, as a sentence.
    pub(super) fn release(&mut self, id: &str, store: &Store) -> Result<bool, String> {
        let hold: Uuid =
            id.parse().map_err(|_| format!("{id:?} names no hold; `framekeeper-recorder volume holds` lists them"))?;
        if let Some(plan) = self.wanted.iter().find(|plan| plan.hold.hold == hold) {
            return Err(format!(
                "it stands in the annotation {} of CameraStream {}; take it away there",
                framekeeper_crds::HOLD_ANNOTATION,
                plan.name
            ));
        }
        let there = store.holds().iter().any(|(_, holds)| holds.iter().any(|h| h.hold == hold));
        if there && self.by_hand.insert(hold) {
            info!(%hold, "a hold is released by a person at the machine");
        }
        Ok(!there)
    }
}

/// What to set and what to release on a volume that `has` these holds.
fn difference(
    has: &[Hold],
    wanted: &[HoldPlan],
    released: &[HoldPlan],
    by_hand: &HashSet<Uuid>,
) -> (Vec<Hold>, Vec<Uuid>) {
    let wants = |id: Uuid| wanted.iter().any(|plan| plan.hold.hold == id);
    let taken_back = |id: Uuid| by_hand.contains(&id) || released.iter().any(|plan| plan.hold.hold == id);
    let set = wanted.iter().map(|plan| plan.hold).filter(|hold| !has.contains(hold)).collect();
    let release = has.iter().map(|hold| hold.hold).filter(|id| taken_back(*id) && !wants(*id)).collect();
    (set, release)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(id: u128) -> HoldPlan {
        let hold = Hold { hold: Uuid::from_u128(id), stream: Uuid::nil(), from: WallTime(0), to: WallTime(i64::MAX) };
        HoldPlan { hold, name: "default/door".to_owned() }
    }

    fn ids(of: impl IntoIterator<Item = u128>) -> HashSet<Uuid> {
        of.into_iter().map(Uuid::from_u128).collect()
    }

    #[test]
    fn what_nobody_released_stays() {
        let has = [plan(1).hold, plan(2).hold, plan(3).hold, plan(4).hold];
        let (wanted, released) = ([plan(1), plan(5)], [plan(2), plan(9)]);
        let (set, release) = difference(&has, &wanted, &released, &ids([3]));
        assert_eq!((set, release), (vec![plan(5).hold], vec![Uuid::from_u128(2), Uuid::from_u128(3)]));
        // Without any word from anybody: nothing.
        assert_eq!(difference(&has, &[], &[], &ids([])), (vec![], vec![]));
        // Wanted again weighs more than released before.
        assert_eq!(difference(&has, &[plan(2)], &released, &ids([2])), (vec![], vec![]));
    }

    #[test]
    fn a_hold_is_a_line() {
        let view = HoldView::new(&plan(7).hold, "default/door".to_owned(), true);
        assert_eq!(
            view.line(),
            "00000000-0000-0000-0000-000000000007  default/door  1970-01-01T00:00:00.000Z  for ever, by the annotation of its CameraStream"
        );
    }
}
