//! What is planned with, and what a plan says: plain values.

/// What a failure of a recorder may cost a stream, cheapest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// No standby.
    #[default]
    None,
    /// The standby's session is set up and does not play. Reserved slots are shared: one is taken only while its recorder stands in.
    Ready,
    /// The standby plays into memory. Each has a reserved slot of its own.
    Playing,
    /// The standby records as well. Each has a reserved slot of its own.
    Mirrored,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 4] = [Class::None, Class::Ready, Class::Playing, Class::Mirrored];

    /// Whether each standby has a reserved slot of its own.
    #[must_use]
    pub fn is_dedicated(self) -> bool {
        matches!(self, Class::Playing | Class::Mirrored)
    }
}

/// What a pool promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// M: slots of each recorder.
    pub max_channels: u32,
    /// f: so many failure domains may fail at once.
    pub tolerated_failures: u32,
    /// K: standbys of each stream; f at least.
    pub standbys: u32,
}

/// How the slots of each recorder are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// For primaries.
    pub normal: u32,
    /// For standbys that have one of their own, and for takeovers.
    pub reserved: u32,
}

impl Slots {
    /// All slots of a recorder.
    #[must_use]
    pub fn total(self) -> u32 {
        self.normal.saturating_add(self.reserved)
    }
}

/// How a recorder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Records, and may be given more.
    #[default]
    Active,
    /// Does not answer at the moment: keeps what it has, is given nothing.
    Down,
    /// Is to be emptied: what it records goes on elsewhere, if there is room.
    Draining,
    /// Lost, for longer than the pool waits: what it had is given to others. It still counts when slots are divided.
    Gone,
}

/// A recorder of the pool, wanted even if it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorder {
    /// Its number within the pool.
    pub ordinal: u32,
    /// What it fails together with; recorders of one domain have the same number.
    pub domain: u32,
    /// How it is.
    pub condition: Condition,
}

/// A stream that is to be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The class that was asked for.
    pub class: Class,
    /// Streams with a higher one come first when slots are short.
    pub priority: i32,
    /// How many sessions the camera allows at once, if that is known.
    pub max_sessions: Option<u32>,
    /// The camera refuses or drops sessions that do not play, as was found out by trying.
    pub drops_idle_sessions: bool,
    /// The recorder that had it last, though it is not recorded now: its footage is there.
    pub prefers: Option<u32>,
}

/// Who held a stream in the previous plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The primary's ordinal.
    pub primary: u32,
    /// The standbys' ordinals by rank.
    pub standbys: Vec<u32>,
    /// Who records it now, if that is not the primary.
    pub active: Option<u32>,
}

/// Who holds a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The primary's ordinal.
    pub primary: u32,
    /// The standbys' ordinals by rank.
    pub standbys: Vec<u32>,
    /// The class it has, which may be lower than the one that was asked for.
    pub class: Class,
    /// Whether any f domains may fail without leaving it unrecorded; `None` if nobody asked for that.
    pub protected: Option<bool>,
    /// Why it has fewer standbys than were asked for.
    pub lack: Option<Lack>,
}

impl Assigned {
    /// As the previous plan of the next one.
    #[must_use]
    pub fn held(&self) -> Held {
        Held { primary: self.primary, standbys: self.standbys.clone(), active: None }
    }
}

/// Why a stream has fewer standbys than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// The pool has no reserve.
    NoReserve(NoReserve),
    /// The camera does not allow enough sessions.
    Sessions {
        /// How many it allows.
        allowed: u32,
        /// How many would be needed.
        needed: u32,
    },
    /// The camera drops sessions that do not play, so it can have no `Ready` standby.
    DropsIdleSessions,
    /// There was no reserved slot, or no recorder in another failure domain, for it.
    Room,
}

/// Why a pool has no reserved slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoReserve {
    /// No failure is to be tolerated.
    NotAsked,
    /// All failure domains may fail at once: nobody would be left.
    Domains {
        /// How many there are.
        domains: u32,
        /// f.
        tolerated_failures: u32,
    },
    /// With a reserve that is large enough no normal slot would be left.
    MaxChannels {
        /// M.
        max_channels: u32,
    },
}

/// The standbys that a camera allows a stream: its class, how many, and why not more.
///
/// A primary and k standbys hold 1 + k sessions in every class, and a handover one more for a moment. So a lower class with as many standbys
/// would not help a camera with few sessions: it gets fewer standbys, and the class `None` when there is room for none.
#[must_use]
pub(super) fn allowed(demand: &Demand, standbys: u32) -> (Class, u32, Option<Lack>) {
    if demand.class == Class::None || standbys == 0 {
        return (demand.class, 0, None);
    }
    if demand.class == Class::Ready && demand.drops_idle_sessions {
        return (Class::None, 0, Some(Lack::DropsIdleSessions));
    }
    let needed = standbys.saturating_add(2);
    match demand.max_sessions {
        Some(allowed) if allowed < needed => {
            let lack = Some(Lack::Sessions { allowed, needed });
            match allowed.saturating_sub(2) {
                0 => (Class::None, 0, lack),
                fewer => (demand.class, fewer, lack),
            }
        }
        _ => (demand.class, standbys, None),
    }
}
