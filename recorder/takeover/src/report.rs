//! What a decision is made of: the assignment, this recorder's own condition, and what peers say.

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use uuid::Uuid;

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

/// Durable footage of one stretch of recording without a hole, by the times of its pictures on the receiver's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footage {
    /// Time of its first picture.
    pub first: WallTime,
    /// At which the newest one ends that a loss of power would not take.
    pub durable: WallTime,
}

/// How it stands with this recorder and the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The camera delivers, or its session stands where nothing plays.
    pub camera: bool,
    /// Time of the oldest picture in memory, where pictures are kept there.
    pub memory: Option<WallTime>,
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

/// What a heartbeat says of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
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
    pub footage: Option<Footage>,
    /// For how long it has been recording as now, microseconds.
    pub recording_for: u64,
    /// For how long its process has been holding the stream, microseconds.
    pub holding_for: u64,
    /// The holders that it hears recording, each with how far that is durable.
    pub hears: Vec<(Uuid, WallTime)>,
    /// The hold of the last takeover that it knows of, and how long ago it ended, microseconds.
    pub last_takeover: Option<(u64, u64)>,
}

impl Report {
    /// Frames come and become durable there, as far as it knows itself.
    #[must_use]
    pub fn delivers(&self) -> bool {
        self.recording && self.able
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
