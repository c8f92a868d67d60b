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
    /// Whether it can record, and does what it is to.
    pub is_well: bool,
}

/// Which pod of a pool is to be deleted next, so that a new one takes its place: by ordinal.
#[must_use]
pub fn next(pods: &BTreeMap<u32, PodView>) -> Option<u32> {
    let outdated = || pods.iter().filter(|(_, pod)| pod.uid.is_some() && !pod.is_current && !pod.is_leaving);
    // One that records nothing costs nothing.
    if let Some((ordinal, _)) = outdated().find(|(_, pod)| !pod.is_well) {
        return Some(*ordinal);
    }
    if pods.values().any(|pod| !pod.is_well || pod.is_leaving) {
        return None;
    }
    outdated().map(|(ordinal, _)| *ordinal).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(is_current: bool, is_well: bool) -> PodView {
        PodView { uid: Some("u".into()), is_current, is_leaving: false, is_well }
    }

    #[test]
    fn one_at_a_time_and_only_while_all_record() {
        let pods = |list: &[PodView]| (0..).zip(list.iter().cloned()).collect::<BTreeMap<u32, _>>();
        let (old, new, starting) = (pod(false, true), pod(true, true), pod(true, false));
        assert_eq!(next(&pods(&[new.clone(), new.clone()])), None);
        assert_eq!(next(&pods(&[old.clone(), old.clone()])), Some(0));
        assert_eq!(next(&pods(&[starting.clone(), old.clone()])), None, "the first one is not back yet");
        let leaving = PodView { is_leaving: true, ..old.clone() };
        assert_eq!(next(&pods(&[leaving, old.clone()])), None);
        let none = PodView { uid: None, is_well: false, ..new.clone() };
        assert_eq!(next(&pods(&[none, old.clone()])), None);
        assert_eq!(next(&pods(&[new, old.clone()])), Some(1));
        // One that can't record may be just what the new template mends.
        assert_eq!(next(&pods(&[old, pod(false, false), starting])), Some(1));
    }
}
