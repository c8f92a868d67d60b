//! Pods that are made from an older template are made anew: one recorder of a pool at a time, and the next one when all record. Pure.

use std::collections::BTreeMap;

/// A recorder's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// UID of the pod; none: there is no pod at the moment.
    pub uid: Option<String>,
    /// Whether it was made from the template that holds now.
    pub is_current: bool,
    /// Whether it is on its way out.
    pub is_leaving: bool,
    /// Whether it can record, and knows what it is to.
    pub is_well: bool,
    /// Whether it can't even be started, so that nothing is lost with it.
    pub is_stuck: bool,
}

/// How many of a pool's pods are to be made anew.
#[must_use]
pub fn outdated(pods: &BTreeMap<u32, PodView>) -> usize {
    pods.values().filter(|pod| pod.uid.is_some() && !pod.is_current).count()
}

/// Which pod of a pool is to be deleted next, so that a new one takes its place: by ordinal. `may_stop`: no stream lacks anything by it, as far as is known.
#[must_use]
pub fn next(pods: &BTreeMap<u32, PodView>, may_stop: bool) -> Option<u32> {
    let outdated = || pods.iter().filter(|(_, pod)| pod.uid.is_some() && !pod.is_current && !pod.is_leaving);
    // One that is not well may still record, and may be what others lean on. One that never came up can only be helped by the new template.
    if let Some((ordinal, _)) = outdated().find(|(_, pod)| pod.is_stuck) {
        return Some(*ordinal);
    }
    if !may_stop || pods.values().any(|pod| !pod.is_well || pod.is_leaving) {
        return None;
    }
    outdated().map(|(ordinal, _)| *ordinal).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(is_current: bool, is_well: bool) -> PodView {
        PodView { uid: Some("u".into()), is_current, is_leaving: false, is_well, is_stuck: false }
    }

    #[test]
    fn one_at_a_time_and_only_while_all_record() {
        let pods = |list: &[PodView]| (0..).zip(list.iter().cloned()).collect::<BTreeMap<u32, _>>();
        let (old, new, starting) = (pod(false, true), pod(true, true), pod(true, false));
        let (next, cautious) = (|pods: &BTreeMap<u32, PodView>| next(pods, true), |pods| next(&pods, false));
        assert_eq!(next(&pods(&[new.clone(), new.clone()])), None);
        assert_eq!(cautious(pods(&[old.clone(), old.clone()])), None, "a standby is not ready");
        assert_eq!((outdated(&pods(&[old.clone(), new.clone()])), outdated(&pods(std::slice::from_ref(&new)))), (1, 0));
        assert_eq!(next(&pods(&[old.clone(), old.clone()])), Some(0));
        assert_eq!(next(&pods(&[starting.clone(), old.clone()])), None, "the first one is not back yet");
        let leaving = PodView { is_leaving: true, ..old.clone() };
        assert_eq!(next(&pods(&[leaving, old.clone()])), None);
        let none = PodView { uid: None, is_well: false, ..new.clone() };
        assert_eq!(next(&pods(&[none, old.clone()])), None);
        assert_eq!(next(&pods(&[new, old.clone()])), Some(1));
        // The others are not as they should be because the first one is away: that is no reason to take them away, too.
        let unwell = pod(false, false);
        assert_eq!(next(&pods(&[starting.clone(), unwell.clone(), old.clone()])), None);
        assert_eq!(next(&pods(&[old.clone(), unwell.clone(), old.clone()])), None);
        // One that can't be started may be just what the new template mends.
        let stuck = PodView { is_stuck: true, ..unwell };
        let pods = pods(&[old, stuck, starting]);
        assert_eq!((next(&pods), cautious(pods)), (Some(1), Some(1)));
    }
}
