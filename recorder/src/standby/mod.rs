//! Streams that this recorder holds together with others: links to them, and who records.
//!
//! ```text
//!  assignment ─ plans, peers ─► Standby ─► Brain ◄─ heartbeats ─► Links (framekeeper-peer)
//!                                            │ each 50 to 250 ms: framekeeper-takeover decides
//!  channel ◄─ Wish ─ Control ◄───────────────┘
//! ```

mod brain;
mod clocks;
mod spread;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use framekeeper_peer::{Clock, Identity, KeyError, Links, Peer};
use framekeeper_store::Store;
use framekeeper_takeover::{Assignment, Class, Offset, Own, Rules};
use tracing::{info, warn};
use uuid::Uuid;

pub(crate) use brain::Counts;
use brain::{Brain, Seat};
use clocks::{Clocks, News};
pub(crate) use spread::Spread;

use crate::assignment::{self, ChannelPlan, RetiredPlan};
use crate::channel::{Control, SharedSlots, Wish};
use crate::clock;
use crate::metrics::PeerNumbers;

/// A group of pictures whose length is not known yet.
const ASSUMED_GOP_US: u64 = 2_000_000;

/// Where this recorder is reached, and how it is known.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// File with its key; made where there is none.
    pub key: Option<std::path::PathBuf>,
    /// Where other recorders reach it.
    pub listen: Option<SocketAddr>,
    /// How long a recorder that had failed must have recorded without a fault before it has its streams back.
    pub hold: Duration,
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinksError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(
        "cannot listen for other recorders on {address}: {source}; another program has it, or it is not an address of this machine"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the links to other recorders cannot be kept: {0}")]
    Links(std::io::Error),
}

/// The running links and decisions. They end when this is dropped.
pub(crate) struct Standby {
    brain: Arc<Mutex<Brain>>,
    links: Links,
    clocks: Mutex<Clocks>,
    names: Mutex<HashMap<Uuid, String>>,
    store: Arc<Store>,
    shared_slots: Arc<SharedSlots>,
    public_key: String,
    address: Option<SocketAddr>,
    /// Where no plan says it, microseconds.
    hold: u64,
}

impl Standby {
    /// Begins, with no streams and no peers.
    ///
    /// # Errors
    /// [`LinksError`].
    pub(crate) fn start(options: &PeerOptions, me: Uuid, store: Arc<Store>) -> Result<Self, LinksError> {
        let identity = identity(options.key.as_deref())?;
        let listener = options.listen.map(|address| {
            let refused = |source| LinksError::Listen { address, source };
            let listener = TcpListener::bind(address).map_err(refused)?;
            let address = listener.local_addr().map_err(refused)?;
            Ok::<_, LinksError>((listener, address))
        });
        let (listener, address) = listener.transpose()?.unzip();
        let hold = u64::try_from(options.hold.as_micros()).unwrap_or(u64::MAX);
        let rules = Rules { hold, ..Rules::default() };
        let brain = Arc::new(Mutex::new(Brain::new(me, rules)));
        let clock = Clock { monotonic_us: clock::monotonic_us, wall: clock::wall };
        let links = Links::start(&identity, me, listener, clock, Arc::clone(&brain)).map_err(LinksError::Links)?;
        let public_key = identity.public().to_string();
        info!(public_key, address = address.map(tracing::field::display), "known to other recorders");
        let shared_slots = Arc::default();
        Ok(Self {
            brain,
            links,
            clocks: Mutex::default(),
            names: Mutex::default(),
            store,
            shared_slots,
            public_key,
            address,
            hold,
        })
    }

    /// For how long a recorder that had failed must record without a fault before it has its streams back, milliseconds, where the plan says it.
    pub(crate) fn set_hold(&self, told_ms: Option<u32>) {
        let hold = told_ms.map_or(self.hold, |ms| u64::from(ms) * 1_000);
        self.brain().set_hold(hold);
    }

    fn brain(&self) -> MutexGuard<'_, Brain> {
        lock(&self.brain)
    }

    /// Whom streams are shared with from now on.
    pub(crate) fn set_peers(&self, peers: &[Peer], mistakes: &[String]) {
        for mistake in mistakes {
            warn!("{mistake}");
        }
        let known: Vec<(Uuid, bool)> = peers.iter().map(|peer| (peer.recorder, !peer.keys.is_empty())).collect();
        self.brain().set_peers(clock::monotonic_us(), &known);
        *lock(&self.names) = peers.iter().map(|peer| (peer.recorder, peer.name.clone())).collect();
        self.links.set_peers(peers.to_vec());
    }

    /// A stream is held together with others from now on, or by another plan; or by nobody else any more.
    pub(crate) fn hold(&self, plan: &ChannelPlan, control: &Arc<Control>) {
        let uid = plan.stream.uid;
        let Some(shared) = &plan.shared else { return self.let_go(uid) };
        let assignment = Assignment {
            version: plan.plan_version,
            epoch: plan.epoch,
            class: match shared.class {
                assignment::Class::Mirrored => Class::Mirrored,
                assignment::Class::None | assignment::Class::Ready | assignment::Class::Playing => Class::Standby,
            },
            holders: shared.holders.clone(),
            retired: shared.retired.clone(),
        };
        let seat = || self.seat(uid, control);
        // Not under the lock: footage is read for it.
        let epoch = if self.brain().holds(uid) { 0 } else { self.last_epoch(uid) };
        // What is recorded here already is no takeover to be decided: it is to be told of, and let go of where another one is the primary.
        let alone = control.epoch();
        self.brain().hold(clock::monotonic_us(), uid, assignment, epoch, alone, seat);
        self.links.look();
    }

    fn seat(&self, stream: Uuid, control: &Arc<Control>) -> Box<dyn Seat> {
        Box::new(ChannelSeat {
            stream,
            control: Arc::clone(control),
            shared_slots: Arc::clone(&self.shared_slots),
            store: Arc::clone(&self.store),
        })
    }

    /// The slots that takeovers share.
    pub(crate) fn shared_slots(&self) -> &Arc<SharedSlots> {
        &self.shared_slots
    }

    /// Another recorder is to have a stream. Whether this one records it until then.
    pub(crate) fn retire(&self, stream: Uuid, plan: &RetiredPlan, me: Uuid, control: &Arc<Control>) -> bool {
        let assignment = Assignment {
            version: plan.plan_version,
            epoch: 0,
            class: Class::Standby,
            holders: plan.holders.clone(),
            retired: vec![me],
        };
        let alone = || control.epoch().map(|epoch| (epoch, self.seat(stream, control)));
        let records = self.brain().retire(clock::monotonic_us(), stream, assignment, alone);
        self.links.look();
        records
    }

    /// A stream is not held any more, or by nobody else.
    pub(crate) fn let_go(&self, stream: Uuid) {
        self.brain().let_go(stream);
    }

    /// Streams of former plans that others record by now.
    pub(crate) fn released(&self) -> Vec<Uuid> {
        self.brain().released()
    }

    /// This recorder is to end.
    pub(crate) fn leave(&self) {
        self.brain().leave(clock::monotonic_us());
        self.links.look();
    }

    /// Whether somebody is about to take what this one records.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.brain().is_handing_over(clock::monotonic_us())
    }

    /// Whether others can be heard, and told.
    pub(crate) fn is_running(&self) -> bool {
        self.links.is_running()
    }

    /// What others know it by.
    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Hosts that recorders are heard from, by their names.
    pub(crate) fn hosts(&self) -> HashMap<String, IpAddr> {
        let names = lock(&self.names);
        let heard = self.links.peers().into_iter().filter_map(|(peer, state)| Some((peer, state.host?)));
        heard.filter_map(|(peer, host)| Some((names.get(&peer)?.clone(), host))).collect()
    }

    /// What was counted and measured.
    pub(crate) fn numbers(&self) -> PeerNumbers {
        let mut states = self.links.peers();
        let offsets = states.iter().filter_map(|(peer, state)| Some((*peer, state.offset?))).collect::<HashMap<_, _>>();
        let names = lock(&self.names);
        let name = |peer: Uuid| names.get(&peer).cloned().unwrap_or_else(|| peer.to_string());
        let mut clocks = lock(&self.clocks);
        for (peer, news) in clocks.look(&offsets) {
            let peer = name(peer);
            match news {
                News::Apart(ahead_us) => warn!(
                    peer,
                    ahead_ms = ahead_us / 1_000,
                    "a recorder's clock is not in step with the one here; keep the clocks of all recorders by NTP"
                ),
                News::InStep => info!(peer, "a recorder's clock is in step with the one here"),
            }
        }
        let now = clock::monotonic_us();
        let (counts, silent) = {
            let brain = self.brain();
            (brain.counts(now), brain.silent(now))
        };
        let mut trouble =
            |peer: Uuid| states.remove(&peer).and_then(|state| state.trouble).map(|trouble| trouble.to_string());
        let mut silent: Vec<_> = silent.into_iter().map(|peer| (name(peer), trouble(peer))).collect();
        silent.sort_unstable();
        PeerNumbers {
            counts,
            links: self.links.stats(),
            silent,
            clock_ahead_us: offsets.values().map(Offset::middle).max_by_key(|ahead| ahead.unsigned_abs()),
            clocks_apart: clocks.apart().map(|(peer, ahead_us)| (name(peer), ahead_us)).collect(),
        }
    }

    /// The epoch that this recorder recorded a stream in last, in this life or a former one. The last run has the highest.
    fn last_epoch(&self, stream: Uuid) -> u64 {
        const BESIDE_US: i64 = 1_000_000;
        let Some(end) = self.store.previous(stream).map(|run| run.end) else { return 0 };
        let (from, to) = (end.saturating_add_us(-BESIDE_US), end.saturating_add_us(BESIDE_US));
        let runs = self.store.reader().coverage(stream, from, to).unwrap_or_default();
        runs.iter().map(|run| run.epoch).max().unwrap_or(0)
    }
}

/// What is done under these locks is done whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key in a file, or one for this life.
fn identity(path: Option<&Path>) -> Result<Identity, KeyError> {
    match path {
        Some(path) => Identity::load_or_make(path),
        None => Identity::make(),
    }
}

/// A channel of this recorder, as decisions see it.
struct ChannelSeat {
    stream: Uuid,
    control: Arc<Control>,
    shared_slots: Arc<SharedSlots>,
    store: Arc<Store>,
}

impl Seat for ChannelSeat {
    fn own(&self, now_us: u64) -> Own {
        let storage = self.store.storage(self.stream);
        let gop_us = self.control.gop_us();
        Own {
            camera: self.control.sees_camera(now_us),
            memory: self.control.memory(),
            storage: storage.takes && self.control.is_kept(),
            slot: self.control.has_slot() || self.shared_slots.left() > 0,
            leaving: false,
            unsynced: storage.unsynced_us,
            footage: self.control.footage(),
            gop: if gop_us == 0 { ASSUMED_GOP_US } else { gop_us },
        }
    }

    fn wish(&self, wish: Wish) {
        self.control.wish(wish);
    }
}
