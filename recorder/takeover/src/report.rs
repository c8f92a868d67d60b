//! What a decision is made of: the assignment, this recorder's own condition, and what peers say.

use framekeeper_media::boxes::run::PlanVersion;
use uuid::Uuid;

use crate::clock::SteadyTime;

/// Times of another recorder come through what is known of its clock, which is measured anew all the time.
const SAME_TIME_US: u64 = 50_000;

/// What standbys of a stream do before anything happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// They stand by, with or without frames in memory.
    Standby,
    /// They record as well, all the time.
    Mirrored,
}

/// What the plan says of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The decision it is part of; a higher one wins.
    pub version: PlanVersion,
    /// Exceeds every epoch that the planner knew of.
    pub epoch: u64,
    /// What standbys do.
    pub class: Class,
    /// Its holders by rank: the primary first.
    pub holders: Vec<Uuid>,
    /// Former holders, that may not have let go yet.
    pub retired: Vec<Uuid>,
}

impl Assignment {
    /// The rank of a recorder, where it holds the stream.
    #[must_use]
    pub fn rank(&self, recorder: Uuid) -> Option<usize> {
        self.holders.iter().position(|holder| *holder == recorder)
    }
}

/// What a recorder's assignment says of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the stream.
    Holder,
    /// It held it, or was never heard of.
    Superseded,
}

/// Durable footage of one stretch of recording without a hole, by the times of its pictures. `T`: on which clock; on its way between recorders it is
/// the sender's time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footage<T = SteadyTime> {
    /// Time of its first picture.
    pub first: T,
    /// Time of the newest one that a loss of power would not take.
    pub durable: T,
}

/// How it stands with this recorder and the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The camera delivers, or its session stands where nothing plays.
    pub camera: bool,
    /// Time of the oldest picture in memory, where pictures are kept there.
    pub memory: Option<SteadyTime>,
    /// A volume takes its footage.
    pub storage: bool,
    /// It has a slot, or one is free for it. One that was free when it began may be gone when its first frame comes.
    pub slot: bool,
    /// This recorder is to end, or to give the stream away.
    pub leaving: bool,
    /// For how long the oldest picture has been waiting to be durable on the volume that it is recorded to, or would be, microseconds. Pictures
    /// of other streams count: who records nothing must know of its disk as well.
    pub unsynced: u64,
    /// What it has recorded since [`crate::Action::Begin`], or since the last hole; `None` before the first picture of it is durable.
    pub footage: Option<Footage>,
    /// The longest group of pictures lately, microseconds.
    pub gop: u64,
}

/// What a heartbeat says of one stream. `T`: see [`Footage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<T = SteadyTime> {
    /// The plan that the sender goes by.
    pub version: PlanVersion,
    /// The highest epoch that the sender knows of.
    pub epoch: u64,
    /// What the sender's plan says of the receiver.
    pub you: Standing,
    /// It records, or tries to.
    pub recording: bool,
    /// It would record if it had to: it sees the camera, has a volume, a slot, and does not leave.
    pub able: bool,
    /// It is to end, or to give the stream away.
    pub leaving: bool,
    /// See [`Own::unsynced`].
    pub unsynced: u64,
    /// See [`Own::footage`].
    pub footage: Option<Footage<T>>,
    /// For how long it has been recording as now, microseconds.
    pub recording_for: u64,
    /// For how long its process has been holding the stream, microseconds.
    pub holding_for: u64,
    /// The holders that it hears recording, each with how far that is durable.
    pub hears: Vec<(Uuid, T)>,
    /// The hold of the last takeover that it knows of, and how long ago it ended, microseconds.
    pub last_takeover: Option<(u64, u64)>,
}

impl<T> Report<T> {
    /// The same with times on another clock: this footage, and of each holder that it hears what `time` makes of its time.
    pub(crate) fn with_times<U>(self, footage: Option<Footage<U>>, time: impl Fn(T) -> U) -> Report<U> {
        let Self { version, epoch, you, recording, able, leaving, unsynced, recording_for, holding_for, .. } = self;
        let hears = self.hears.into_iter().map(|(holder, durable)| (holder, time(durable))).collect();
        let last_takeover = self.last_takeover;
        Report {
            version,
            epoch,
            you,
            recording,
            able,
            leaving,
            unsynced,
            footage,
            recording_for,
            holding_for,
            hears,
            last_takeover,
        }
    }
}

impl Report {
    /// Frames come and become durable there, as far as it knows itself.
    #[must_use]
    pub fn delivers(&self) -> bool {
        self.recording && self.able
    }

    /// Whether more differs from what was said `before` than how far time and footage have gone on.
    #[must_use]
    pub fn is_news(&self, before: &Self) -> bool {
        let standing = |report: &Self| {
            let Self { version, epoch, you, recording, able, leaving, .. } = *report;
            (version, epoch, you, recording, able, leaving)
        };
        let same_holders =
            || self.hears.iter().map(|(holder, _)| holder).eq(before.hears.iter().map(|(holder, _)| holder));
        let is_other = match (self.footage, before.footage) {
            (Some(is), Some(was)) => is.first.0.abs_diff(was.first.0) > SAME_TIME_US,
            (is, was) => is.is_some() != was.is_some(),
        };
        standing(self) != standing(before) || is_other || !same_holders()
    }
}

/// Another recorder that has to do with the stream.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Which.
    pub recorder: Uuid,
    /// What its link says.
    pub liveness: crate::Liveness,
    /// What its newest heartbeat says; `None` where that does not mention the stream.
    pub report: Option<&'a Report>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of a primary that has just begun.
    pub(crate) fn report() -> Report {
        Report {
            version: PlanVersion { term: 1, sequence: 1 },
            epoch: 1,
            you: Standing::Holder,
            recording: true,
            able: true,
            leaving: false,
            unsynced: 0,
            footage: None,
            recording_for: 0,
            holding_for: 0,
            hears: Vec::new(),
            last_takeover: None,
        }
    }

    #[test]
    fn news_is_what_changes_a_decision() {
        let with = |first: i64, durable: i64| Report {
            footage: Some(Footage { first: SteadyTime(first), durable: SteadyTime(durable) }),
            ..report()
        };
        let before = with(1_000_000, 2_000_000);
        assert!(!before.is_news(&before));
        // Time goes by, and is measured a little differently.
        assert!(!Report { recording_for: 250_000, unsynced: 9, ..with(1_003_000, 2_250_000) }.is_news(&before));
        assert!(with(1_200_000, 2_250_000).is_news(&before));
        assert!(report().is_news(&before) && before.is_news(&report()));
        assert!(Report { able: false, ..before.clone() }.is_news(&before));
        assert!(Report { epoch: 2, ..before.clone() }.is_news(&before));
        let hears = |durable| Report { hears: vec![(Uuid::nil(), SteadyTime(durable))], ..before.clone() };
        assert!(hears(5).is_news(&before) && !hears(5).is_news(&hears(6)));
    }
}
