//! What changes between two assignments, channel by channel. A channel that is the same in both is not in the result, so
//! nothing can touch it.

use std::collections::HashMap;

use uuid::Uuid;

use super::ChannelPlan;

/// What is to be done with one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Begin to record it.
    Start(ChannelPlan),
    /// Its plan version, epoch, rank, priority or Secret is another one; the session goes on.
    Adjust(ChannelPlan),
    /// It comes from another place, or with other tracks: a new session.
    Restart(ChannelPlan),
    /// Stop recording it.
    Stop(Uuid),
}

/// What turns `old` into `new`: stops first, so that slots are free before they are taken.
#[must_use]
pub fn diff(old: &[ChannelPlan], new: &[ChannelPlan]) -> Vec<Change> {
    let before: HashMap<Uuid, &ChannelPlan> = old.iter().map(|plan| (plan.stream.uid, plan)).collect();
    let after: HashMap<Uuid, &ChannelPlan> = new.iter().map(|plan| (plan.stream.uid, plan)).collect();
    let stops = old.iter().map(|plan| plan.stream.uid).filter(|uid| !after.contains_key(uid)).map(Change::Stop);
    let rest = new.iter().filter_map(|plan| match before.get(&plan.stream.uid) {
        None => Some(Change::Start(plan.clone())),
        Some(&was) if was == plan => None,
        Some(was) if was.url == plan.url && was.audio == plan.audio && was.stream == plan.stream => {
            Some(Change::Adjust(plan.clone()))
        }
        Some(_) => Some(Change::Restart(plan.clone())),
    });
    stops.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Assignment;
    use crate::assignment::plan::tests::{channel, object_with};
    use proptest::prelude::*;

    fn plans(channels: Vec<serde_json::Value>) -> Vec<ChannelPlan> {
        let mut object = object_with(channels);
        object.spec.slots.normal = 1000;
        Assignment::from_object(object).unwrap().channels
    }

    #[test]
    fn each_kind_of_change() {
        let old = plans(vec![channel(1), channel(2), channel(3), channel(4)]);
        let mut moved = channel(2);
        moved["source"]["url"] = "rtsp://elsewhere.example/s".into();
        let mut secret = channel(3);
        secret["source"]["credentialsSecretRef"] = serde_json::json!({"name": "door"});
        let new = plans(vec![channel(5), channel(1), moved, secret]);
        let changes = diff(&old, &new);
        assert_eq!(
            changes,
            [
                Change::Stop(old[3].stream.uid),
                Change::Start(new[0].clone()),
                Change::Restart(new[2].clone()),
                Change::Adjust(new[3].clone()),
            ]
        );
    }

    #[test]
    fn order_alone_changes_nothing() {
        let old = plans(vec![channel(1), channel(2)]);
        assert_eq!(diff(&old, &plans(vec![channel(2), channel(1)])), []);
    }

    proptest! {
        #[test]
        fn doing_the_changes_gives_the_new_assignment(
            old in proptest::collection::btree_map(0_u32..12, (0_u64..2, 0_u8..2), 0..10),
            new in proptest::collection::btree_map(0_u32..12, (0_u64..2, 0_u8..2), 0..10),
        ) {
            let make = |map: &std::collections::BTreeMap<u32, (u64, u8)>| plans(map.iter().map(|(&number, &(epoch, place))| {
                let mut channel = channel(number);
                channel["epoch"] = epoch.into();
                channel["source"]["url"] = format!("rtsp://place{place}.example/s").into();
                channel
            }).collect());
            let (old, new) = (make(&old), make(&new));
            let mut state: Vec<ChannelPlan> = old.clone();
            for change in diff(&old, &new) {
                match change {
                    Change::Start(plan) => {
                        prop_assert!(state.iter().all(|other| other.stream.uid != plan.stream.uid));
                        state.push(plan);
                    }
                    Change::Adjust(plan) | Change::Restart(plan) => {
                        let place = state.iter_mut().find(|other| other.stream.uid == plan.stream.uid).unwrap();
                        prop_assert_ne!(&*place, &plan);
                        *place = plan;
                    }
                    Change::Stop(uid) => state.retain(|other| other.stream.uid != uid),
                }
            }
            state.sort_by_key(|plan| plan.stream.uid);
            let mut wanted = new.clone();
            wanted.sort_by_key(|plan| plan.stream.uid);
            prop_assert_eq!(state, wanted);
        }
    }
}
