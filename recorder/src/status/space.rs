//! The condition `RecordingSpace`: whether held footage or foreign data will end recording.

use std::time::Duration;

use framekeeper_store::{Crowding, Foreign, Outlook};

use super::conditions::Verdict;
use crate::view::VolumeView;

/// What is wrong with a volume's room, in the words of the condition. It says how long there is room in steps, so that a status is written when
/// something changed and not all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Data that is not the volume's takes its room.
    ForeignDataGrows,
    /// There is less room than the volume needs.
    ForeignData,
    /// Held footage leaves few files, but does not grow.
    HoldsLeaveLittle,
    /// Held footage grows, and there are files for less than so many minutes.
    HoldsFillVolume(u64),
    /// Nothing may be given up any more.
    NothingMayGo,
}

/// Steps of the time that is left, in minutes.
const STEPS_MIN: [u64; 8] = [10, 30, 60, 3 * 60, 6 * 60, 12 * 60, 24 * 60, 48 * 60];

impl Trouble {
    /// The worst of a volume, if there is any.
    pub(crate) fn of(outlook: Outlook, foreign: &Foreign) -> Option<Self> {
        let room = match outlook {
            Outlook::Lasting { .. } => None,
            Outlook::Dwindling { lasts: None } => Some(Self::HoldsLeaveLittle),
            Outlook::Dwindling { lasts: Some(lasts) } => {
                let step = STEPS_MIN.into_iter().find(|minutes| lasts < Duration::from_secs(minutes * 60));
                Some(step.map_or(Self::HoldsLeaveLittle, Self::HoldsFillVolume))
            }
            Outlook::Exhausted => Some(Self::NothingMayGo),
        };
        let crowd = match foreign.crowding {
            Crowding::None => None,
            Crowding::Coming => Some(Self::ForeignDataGrows),
            Crowding::Short => Some(Self::ForeignData),
        };
        room.max(crowd)
    }

    fn reason(self) -> &'static str {
        match self {
            Self::ForeignDataGrows => "ForeignDataGrows",
            Self::ForeignData => "ForeignData",
            Self::HoldsLeaveLittle | Self::HoldsFillVolume(_) | Self::NothingMayGo => "HoldsFillVolume",
        }
    }

    fn sentence(self, culprits: Option<&str>) -> String {
        let whose = culprits.map_or_else(String::new, |culprits| format!(", above all {culprits}"));
        match self {
            Self::ForeignDataGrows => format!(
                "data that is not the volume's grows on its file system{whose}, and little room is left; remove it, or the volume gets fewer files than its budget"
            ),
            Self::ForeignData => format!(
                "data that is not the volume's takes its room{whose}; it records into the files that it has, and older footage goes earlier; remove that data, or make the budget smaller"
            ),
            Self::HoldsLeaveLittle => "held footage leaves less than a fifth of its files; release holds, or add room".to_owned(),
            Self::HoldsFillVolume(minutes) => format!(
                "held footage grows: at the present rates recording ends in less than {}; end or release holds, or add room",
                if minutes < 60 { format!("{minutes} min") } else { format!("{} h", minutes / 60) }
            ),
            Self::NothingMayGo => {
                "nothing on it may be given up any more: streams go to another volume with room, else their frames are dropped; release holds, or add room".to_owned()
            }
        }
    }
}

pub(super) fn recording_space(volumes: &[VolumeView]) -> Verdict {
    const KIND: &str = "RecordingSpace";
    let troubled = volumes.iter().filter_map(|volume| Some((volume, volume.space?)));
    let mut troubled: Vec<(&VolumeView, Trouble)> = troubled.collect();
    troubled.sort_by_key(|(_, trouble)| std::cmp::Reverse(*trouble));
    let Some((_, worst)) = troubled.first() else {
        let message = "neither held footage nor foreign data will end recording soon".to_owned();
        return Verdict { kind: KIND, good: true, reason: "SpaceSuffices", message };
    };
    let sentence = |(volume, trouble): &(&VolumeView, Trouble)| {
        format!("{}: {}", volume.name, trouble.sentence(volume.culprits.as_deref()))
    };
    let message = troubled.iter().map(sentence).collect::<Vec<_>>().join("; ");
    Verdict { kind: KIND, good: false, reason: worst.reason(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(outlook: Outlook, crowding: Crowding) -> Option<Trouble> {
        Trouble::of(outlook, &Foreign { crowding, ..Foreign::default() })
    }

    fn in_minutes(minutes: u64) -> Outlook {
        Outlook::Dwindling { lasts: Some(Duration::from_secs(minutes * 60)) }
    }

    #[test]
    fn the_worst_is_told_and_time_in_steps() {
        assert_eq!(of(Outlook::default(), Crowding::None), None);
        assert_eq!(of(in_minutes(9), Crowding::Short), Some(Trouble::HoldsFillVolume(10)));
        assert_eq!(of(in_minutes(61), Crowding::None), Some(Trouble::HoldsFillVolume(180)));
        assert_eq!(of(in_minutes(170), Crowding::None), Some(Trouble::HoldsFillVolume(180)));
        assert_eq!(of(in_minutes(10_000), Crowding::None), Some(Trouble::HoldsLeaveLittle));
        assert_eq!(of(Outlook::Dwindling { lasts: None }, Crowding::Coming), Some(Trouble::HoldsLeaveLittle));
        assert_eq!(of(Outlook::Exhausted, Crowding::Short), Some(Trouble::NothingMayGo));
        assert_eq!(of(Outlook::default(), Crowding::Coming), Some(Trouble::ForeignDataGrows));
        assert!(Trouble::HoldsFillVolume(180).sentence(None).contains("less than 3 h"));
        assert!(Trouble::ForeignData.sentence(Some("/mnt/a/logs (3 GB)")).contains("above all /mnt/a/logs (3 GB);"));
    }
}
