//! What a channel and those who decide about it tell each other: whether it is to record, and how it is.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use framekeeper_store::PlanVersion;
use framekeeper_takeover::{Footage, SteadyTime};
use tokio::sync::Notify;

use crate::assignment::{ChannelPlan, Class};

const NEVER: i64 = i64::MIN;
/// Frames that do not come for so long are missed, at least.
const SILENCE_US: u64 = 2_000_000;
/// And at least for so many times as long as it takes from one to the next.
const FRAMES_MISSED: u64 = 4;

/// How long a camera that plays may be silent before it counts as not seen, microseconds. `frame_us`: from one frame to the next, 0 where that is not known.
pub(super) fn patience_us(frame_us: u64) -> u64 {
    SILENCE_US.max(frame_us.saturating_mul(FRAMES_MISSED))
}

/// What is to become of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// They are kept in memory for a while.
    StandBy,
    /// They are recorded, behind `from` also those that are in memory; see [`framekeeper_takeover::Action::Begin`].
    Record {
        /// In this epoch.
        epoch: u64,
        /// What is durable elsewhere.
        from: Option<SteadyTime>,
    },
}

/// What of a channel's plan may change while its session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) rank: u32,
    pub(super) plan_version: PlanVersion,
    pub(super) class: Class,
    /// Another recorder is to have it.
    pub(super) is_retired: bool,
    pub(super) wish: Wish,
}

impl Standing {
    /// A standby whose session does not play has no slot until it records.
    pub(super) fn shares_slots(&self) -> bool {
        self.class == Class::Ready && self.rank > 0 && !self.is_retired
    }
}

/// How it is, by the channel itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// A session plays.
    pub(super) plays: bool,
    /// When the newest frame was read, monotonic microseconds.
    pub(super) last_frame_us: u64,
    /// From one frame to the next, microseconds; 0 where that is not known yet.
    pub(super) frame_us: u64,
    /// The longest group of pictures lately, microseconds.
    pub(super) gop_us: u64,
    /// The oldest picture in memory, while it stands by.
    pub(super) memory: Option<SteadyTime>,
    /// What is durable of what is recorded without a hole.
    pub(super) footage: Option<Footage>,
    /// The store takes what it is given.
    pub(super) kept: bool,
    /// A session stands, which is all that there is to see of the camera before frames are asked for.
    pub(super) stands: bool,
    /// It has one of the slots that takeovers share.
    pub(super) has_slot: bool,
}

/// Between the thread that records a channel and those that decide.
#[derive(Debug)]
pub(crate) struct Control {
    /// Grows with each change of `standing`.
    version: AtomicU64,
    standing: Mutex<Standing>,
    plays: AtomicBool,
    kept: AtomicBool,
    stands: AtomicBool,
    has_slot: AtomicBool,
    last_frame_us: AtomicU64,
    frame_us: AtomicU64,
    gop_us: AtomicU64,
    memory: AtomicI64,
    footage: Mutex<Option<Footage>>,
    key_frame: Notify,
}

impl Control {
    /// For a channel that begins with `plan`. One that nobody else holds records at once.
    pub(crate) fn new(plan: &ChannelPlan) -> Arc<Self> {
        let wish = match plan.shared {
            None => Wish::Record { epoch: plan.epoch, from: None },
            Some(_) => Wish::StandBy,
        };
        let standing =
            Standing { rank: plan.rank, plan_version: plan.plan_version, class: plan.class(), is_retired: false, wish };
        Arc::new(Self {
            version: AtomicU64::new(0),
            standing: Mutex::new(standing),
            plays: AtomicBool::new(false),
            kept: AtomicBool::new(true),
            stands: AtomicBool::new(false),
            has_slot: AtomicBool::new(false),
            last_frame_us: AtomicU64::new(0),
            frame_us: AtomicU64::new(0),
            gop_us: AtomicU64::new(0),
            memory: AtomicI64::new(NEVER),
            footage: Mutex::new(None),
            key_frame: Notify::new(),
        })
    }

    /// The camera is to be asked for a key frame, by whoever can.
    pub(super) fn want_key_frame(&self) {
        self.key_frame.notify_one();
    }

    /// Waits until the camera is to be asked for a key frame.
    pub(super) async fn key_frame_wanted(&self) {
        self.key_frame.notified().await;
    }

    /// The plan changed. In effect from the next tick on. Of one that others hold as well it does not say whether it is recorded.
    pub(crate) fn set(&self, plan: &ChannelPlan) {
        self.change(|standing| {
            standing.rank = plan.rank;
            standing.plan_version = plan.plan_version;
            standing.class = plan.class();
            standing.is_retired = false;
            if plan.shared.is_none() {
                standing.wish = Wish::Record { epoch: plan.epoch, from: None };
            }
        });
    }

    /// Whether it is to be recorded. In effect from the next tick on.
    pub(crate) fn wish(&self, wish: Wish) {
        self.change(|standing| standing.wish = wish);
    }

    /// Another recorder is to have it.
    pub(crate) fn retire(&self) {
        self.change(|standing| standing.is_retired = true);
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.lock();
        let before = *standing;
        change(&mut standing);
        if *standing != before {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted, if that is not what it was at version `seen`.
    pub(super) fn news(&self, seen: &mut u64) -> Option<Standing> {
        let version = self.version.load(Ordering::Acquire);
        (std::mem::replace(seen, version) != version).then(|| *self.lock())
    }

    pub(super) fn standing(&self) -> Standing {
        *self.lock()
    }

    /// 0 for the primary.
    pub(crate) fn rank(&self) -> u32 {
        self.lock().rank
    }

    /// The epoch in which it is recorded, if it is.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self.lock().wish {
            Wish::StandBy => None,
            Wish::Record { epoch, .. } => Some(epoch),
        }
    }

    /// Whether another recorder is to have it.
    pub(crate) fn is_retired(&self) -> bool {
        self.lock().is_retired
    }

    pub(super) fn publish(&self, facts: &Facts) {
        self.plays.store(facts.plays, Ordering::Relaxed);
        self.kept.store(facts.kept, Ordering::Relaxed);
        self.stands.store(facts.stands, Ordering::Relaxed);
        self.has_slot.store(facts.has_slot, Ordering::Relaxed);
        self.last_frame_us.store(facts.last_frame_us, Ordering::Relaxed);
        self.frame_us.store(facts.frame_us, Ordering::Relaxed);
        self.gop_us.store(facts.gop_us, Ordering::Relaxed);
        self.memory.store(facts.memory.map_or(NEVER, |time| time.0), Ordering::Relaxed);
        *self.footage.lock().unwrap_or_else(PoisonError::into_inner) = facts.footage;
    }

    /// Frames come, at `now_us` (monotonic), or would if they were asked for.
    pub(crate) fn sees_camera(&self, now_us: u64) -> bool {
        let patience_us = patience_us(self.frame_us.load(Ordering::Relaxed));
        let silent_us = now_us.saturating_sub(self.last_frame_us.load(Ordering::Relaxed));
        self.stands.load(Ordering::Relaxed) || (self.plays.load(Ordering::Relaxed) && silent_us < patience_us)
    }

    /// It has a slot of its own, or one of those that takeovers share.
    pub(crate) fn has_slot(&self) -> bool {
        !self.lock().shares_slots() || self.has_slot.load(Ordering::Relaxed)
    }

    /// It stands by without frames, in no slot.
    pub(crate) fn is_held(&self) -> bool {
        let standing = *self.lock();
        standing.shares_slots() && standing.wish == Wish::StandBy
    }

    /// The store takes what it is given.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The oldest picture in memory, while it stands by.
    pub(crate) fn memory(&self) -> Option<SteadyTime> {
        Some(self.memory.load(Ordering::Relaxed)).filter(|time| *time != NEVER).map(SteadyTime)
    }

    /// What is durable of what is recorded without a hole, since it was last asked to record.
    pub(crate) fn footage(&self) -> Option<Footage> {
        *self.footage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest group of pictures lately, microseconds.
    pub(crate) fn gop_us(&self) -> u64 {
        self.gop_us.load(Ordering::Relaxed)
    }
}
