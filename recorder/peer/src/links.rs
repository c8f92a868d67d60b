//! The thread that keeps the links: who is dialled, who is let in, and when who is told what.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use framekeeper_media::WallTime;
use framekeeper_takeover::heartbeat::{Heartbeat, Newest};
use framekeeper_takeover::{Moment, Offset, PeerClock, Report};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::connection::{self, Connection, Ended, Event};
use crate::dialler::Dialler;
use crate::key::{Identity, PublicKey};
use crate::places::{Places, in_turn};
use crate::tls::{Ends, Known};
use crate::trouble::{Refusal, Seldom, Trouble};

/// From one heartbeat to the next.
const BEAT_US: u64 = 250_000;
/// How often is told how it stands with peers.
const LOOK_US: u64 = 1_000_000;
/// How often is decided while something goes on, and while all is quiet: then with each heartbeat. Every thread that wakes up costs, and pools have many.
const STEP: Duration = Duration::from_millis(50);
const QUIET: Duration = Duration::from_micros(BEAT_US);
/// A heartbeat may be sent so long before its time, where another one is.
const EARLY_US: u64 = 25_000;
/// Handshakes of those who come, at the same time. A recorder's takes some milliseconds; where more come the oldest is given up, so that nobody who
/// comes and says nothing keeps others out.
const SHAKING: usize = 32;
/// Connections with one peer; the oldest goes. One is enough, two come up where both dial at the same time.
const CONNECTIONS: usize = 3;
/// Events that wait to be looked at.
const EVENTS: usize = 256;

/// A recorder that streams are shared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// UID of its `Recorder` object.
    pub recorder: Uuid,
    /// Its name, for people.
    pub name: String,
    /// Where it may be reached, as `host:port`, tried in this order.
    pub addresses: Vec<String>,
    /// What it is known by: one key, or two while one takes the other's place.
    pub keys: Vec<PublicKey>,
}

/// What decides. It is asked on the thread of the links, and must not block. All times are monotonic microseconds of this recorder, also those that
/// others said.
pub trait Brain: Send + 'static {
    /// A heartbeat of `peer` came: whether one of ours reached it lately, and what it says of each stream.
    fn hear(&mut self, now: u64, peer: Uuid, hears_us: bool, reports: Vec<(Uuid, Report)>);
    /// The last connection with a peer ended.
    fn close(&mut self, now: u64, peer: Uuid);
    /// Asked as often as [`Self::is_restless`] makes it, four times a second at least. Whether the peers are to be told of it at once.
    fn step(&mut self, now: u64) -> bool;
    /// Whether something goes on. As long as it does, [`Self::step`] is asked twenty times a second.
    fn is_restless(&self, now: u64) -> bool;
    /// Whether `peer` was heard lately ([`framekeeper_takeover::Link::hears`]), and what it is told of each stream.
    fn tell(&mut self, now: u64, peer: Uuid) -> (bool, Vec<(Uuid, Report)>);
}

/// The clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Microseconds, never set.
    pub monotonic_us: fn() -> u64,
    /// The time of day.
    pub wall: fn() -> WallTime,
}

impl Clock {
    fn now(&self) -> Moment {
        Moment { monotonic: (self.monotonic_us)(), wall: (self.wall)() }
    }
}

/// How it stands with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// By how much its time of day is ahead of the one here, as far as that was measured lately.
    pub offset: Option<Offset>,
    /// Why it is not heard, as far as that is known.
    pub trouble: Option<Trouble>,
    /// The host that it is, or was last, heard from.
    pub host: Option<IpAddr>,
}

/// What was counted since the start; `connections` is how many stand now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Connections that stand.
    pub connections: u64,
    /// Heartbeats that were sent.
    pub sent: u64,
    /// Heartbeats that came.
    pub heard: u64,
    /// Who came and was not let in: because of a key that is not known, or for another reason.
    pub refused: u64,
    /// Connections that were closed because what came was no heartbeat of that peer.
    pub malformed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    sent: AtomicU64,
    heard: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
}

enum Command {
    Peers(Vec<Peer>),
    Look,
    Stop,
}

/// The running links. They end when this is dropped.
#[derive(Debug)]
pub struct Links {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    states: Arc<Mutex<HashMap<Uuid, PeerState>>>,
}

impl Links {
    /// Begins, with nobody to talk to yet. Who comes to `listener` is let in by its key; without one, only others are dialled.
    ///
    /// # Errors
    /// When the thread, or what it needs of the system, cannot be had.
    pub fn start<B: Brain>(
        identity: &Identity,
        me: Uuid,
        listener: Option<TcpListener>,
        clock: Clock,
        brain: Arc<Mutex<B>>,
    ) -> io::Result<Self> {
        let known = Arc::new(Known::default());
        let ends = Arc::new(Ends::new(identity, Arc::clone(&known)).map_err(io::Error::other)?);
        let (commands, orders) = mpsc::unbounded_channel();
        let counts = Arc::new(Counts::default());
        let states = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = match listener {
            None => None,
            Some(listener) => {
                listener.set_nonblocking(true)?;
                let _inside = runtime.enter();
                Some(tokio::net::TcpListener::from_std(listener)?)
            }
        };
        let (events_to, events) = mpsc::channel(EVENTS);
        let port = listener.as_ref().and_then(|listener| listener.local_addr().ok()).map_or(0, |local| local.port());
        let keeper = Keeper {
            me,
            port,
            // Grows from one life to the next, unless the clock was set back in between: then others hear nothing new of this one until
            // their connection to the former life ends, which is long over.
            life: (clock.wall)().0.unsigned_abs(),
            number: 0,
            clock,
            brain,
            ends,
            known,
            counts: Arc::clone(&counts),
            states: Arc::clone(&states),
            next_look: 0,
            refusals: Seldom::default(),
            shaking: VecDeque::new(),
            peers: HashMap::new(),
            events_to,
            connections: Arc::default(),
        };
        let run = move || runtime.block_on(keeper.run(listener, events, orders));
        let thread = std::thread::Builder::new().name("peers".to_owned()).spawn(run)?;
        Ok(Self { commands, thread: Some(thread), counts, states })
    }

    /// Whom to talk to from now on. Links with those that stay are not touched.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        // A thread that ended has nobody to talk to.
        let _ = self.commands.send(Command::Peers(peers));
    }

    /// Something changed that decisions depend on: the next heartbeat is not waited for.
    pub fn look(&self) {
        let _ = self.commands.send(Command::Look);
    }

    /// Whether their thread lives. Before they are dropped it ends only by a panic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// How it stands with each peer.
    #[must_use]
    pub fn peers(&self) -> HashMap<Uuid, PeerState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { connections, sent, heard, refused, malformed } = &*self.counts;
        LinkStats {
            connections: get(connections),
            sent: get(sent),
            heard: get(heard),
            refused: get(refused),
            malformed: get(malformed),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of the links to other recorders panicked");
        }
    }
}

struct Linked {
    peer: Peer,
    connections: Vec<Connection>,
    newest: Newest,
    of_it: PeerClock,
    trouble: Option<Trouble>,
    places: Places,
    /// Recorders that it does not reach.
    seeks: Vec<Uuid>,
    next_beat: u64,
    is_linked: watch::Sender<bool>,
    dialler: AbortHandle,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.dialler.abort();
    }
}

struct Keeper<B> {
    me: Uuid,
    /// Where it listens; 0: it does not.
    port: u16,
    life: u64,
    number: u64,
    clock: Clock,
    brain: Arc<Mutex<B>>,
    ends: Arc<Ends>,
    known: Arc<Known>,
    counts: Arc<Counts>,
    states: Arc<Mutex<HashMap<Uuid, PeerState>>>,
    next_look: u64,
    refusals: Seldom,
    /// Those who came, and have not said who they are.
    shaking: VecDeque<(SocketAddr, AbortHandle)>,
    peers: HashMap<Uuid, Linked>,
    events_to: mpsc::Sender<Event>,
    /// How many there were, to number them.
    connections: Arc<AtomicU64>,
}

impl<B: Brain> Keeper<B> {
    async fn run(
        mut self,
        listener: Option<tokio::net::TcpListener>,
        mut events: mpsc::Receiver<Event>,
        mut orders: mpsc::UnboundedReceiver<Command>,
    ) {
        let mut next = Instant::now();
        loop {
            let come = async { Some(listener.as_ref()?.accept().await) };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Command::Peers(peers)) => {
                        self.set_peers(peers);
                        next = next.min(Instant::now() + STEP);
                    }
                    Some(Command::Look) => next = next.min(Instant::now() + STEP),
                    Some(Command::Stop) | None => return,
                },
                () = sleep_until(next) => {
                    self.step();
                    next = Instant::now() + self.pace();
                }
                Some(event) = events.recv() => {
                    self.happened(event);
                    next = next.min(Instant::now() + self.pace());
                }
                Some(come) = come => match come {
                    Ok((stream, from)) => self.shake(stream, from),
                    // Out of descriptors, for instance: not tried again in a tight loop.
                    Err(error) => {
                        debug!(%error, "a recorder that came could not be let in");
                        sleep(STEP).await;
                    }
                },
            }
        }
    }

    /// How long it may take to the next step.
    fn pace(&self) -> Duration {
        let now = (self.clock.monotonic_us)();
        if self.brain().is_restless(now) {
            return STEP;
        }
        let beats = self.peers.values().filter(|linked| !linked.connections.is_empty()).map(|linked| linked.next_beat);
        beats.min().map_or(QUIET, |beat| Duration::from_micros(beat.saturating_sub(now))).clamp(STEP, QUIET)
    }

    /// Finds out who came.
    fn shake(&mut self, stream: TcpStream, from: SocketAddr) {
        self.shaking.retain(|(_, task)| !task.is_finished());
        if self.shaking.len() >= SHAKING
            && let Some((from, oldest)) = self.shaking.pop_front()
        {
            oldest.abort();
            self.refused(from, &Refusal::PushedOut(SHAKING));
        }
        let (ends, known) = (Arc::clone(&self.ends), Arc::clone(&self.known));
        let (events, number) = (self.events_to.clone(), self.next_number());
        let shake = async move {
            match connection::accept(stream, &ends, &known).await {
                Ok(shaken) => drop(tokio::spawn(connection::run(shaken, number, events))),
                // Whoever counts may have ended.
                Err(error) => drop(events.send(Event::Refused { from, why: error.into() }).await),
            }
        };
        self.shaking.push_back((from, tokio::spawn(shake).abort_handle()));
    }

    fn refused(&mut self, from: SocketAddr, why: &Refusal) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.refusals.now((self.clock.monotonic_us)()) {
            warn!(%from, left_out, "somebody who came was not let in: {why}");
        }
    }

    fn next_number(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    fn brain(&self) -> MutexGuard<'_, B> {
        self.brain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_peers(&mut self, peers: Vec<Peer>) {
        let keys = peers.iter().flat_map(|peer| peer.keys.iter().map(|key| (*key, peer.recorder)));
        self.known.set(keys.collect());
        let mut before = std::mem::take(&mut self.peers);
        for peer in peers.into_iter().filter(|peer| peer.recorder != self.me) {
            let linked = match before.remove(&peer.recorder) {
                Some(mut linked) => {
                    // One whose key is not the peer's any more.
                    linked.connections.retain(|connection| peer.keys.contains(&connection.key));
                    if linked.peer != peer {
                        linked.dialler.abort();
                        linked.dialler = self.dial(&peer, &linked.places, &linked.is_linked);
                        linked.peer = peer;
                    }
                    linked
                }
                None => {
                    let (is_linked, _) = watch::channel(false);
                    let places = Places::default();
                    let dialler = self.dial(&peer, &places, &is_linked);
                    Linked {
                        peer,
                        connections: Vec::new(),
                        newest: Newest::default(),
                        of_it: PeerClock::default(),
                        trouble: None,
                        places,
                        seeks: Vec::new(),
                        next_beat: 0,
                        is_linked,
                        dialler,
                    }
                }
            };
            self.peers.insert(linked.peer.recorder, linked);
        }
        self.count();
    }

    /// Dials a peer whenever there is no connection with it.
    fn dial(&self, peer: &Peer, places: &Places, is_linked: &watch::Sender<bool>) -> AbortHandle {
        let dialler = Dialler {
            peer: peer.clone(),
            places: places.clone(),
            is_linked: is_linked.subscribe(),
            ends: Arc::clone(&self.ends),
            known: Arc::clone(&self.known),
            events: self.events_to.clone(),
            numbers: Arc::clone(&self.connections),
            clock: self.clock,
        };
        tokio::spawn(dialler.run()).abort_handle()
    }

    fn happened(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Up(connection) => self.up(connection),
            Event::Heard { peer, connection, mut heartbeat } => {
                self.counts.heard.fetch_add(1, Ordering::Relaxed);
                let Some(linked) = self.peers.get_mut(&peer) else { return };
                // Not from one that was closed here meanwhile; and on each connection the same comes again.
                let its = linked.connections.iter().find(|known| known.number == connection);
                let Some(its) = its.filter(|_| linked.newest.is_news(&heartbeat)) else { return };
                linked.places.heard(its.remote, heartbeat.port);
                linked.seeks = std::mem::take(&mut heartbeat.seeks);
                let told = std::mem::take(&mut heartbeat.places);
                if !linked.is_linked.send_replace(true) {
                    info!(peer = linked.peer.name, "the link to a recorder stands");
                }
                if linked.trouble.take().is_some() {
                    self.next_look = 0;
                }
                let hears_us = heartbeat.hears_you;
                let reports = linked.of_it.hear(now, heartbeat);
                self.brain().hear(now.monotonic, peer, hears_us, reports);
                let sought = |who: &Uuid| self.peers.get(who).filter(|linked| !*linked.is_linked.borrow());
                for (linked, place) in told.iter().filter_map(|(who, place)| Some((sought(who)?, *place))) {
                    linked.places.told(place);
                }
            }
            Event::Down { peer, connection, why } => {
                let Some(linked) = self.peers.get_mut(&peer) else { return };
                linked.connections.retain(|other| other.number != connection);
                // Also where another one stands: it may be of a process that began anew before this one was missed.
                linked.newest.ended();
                if linked.connections.is_empty() && linked.is_linked.send_replace(false) {
                    info!(peer = linked.peer.name, "the link to a recorder is down: {why}");
                    linked.seeks.clear();
                    self.brain().close(now.monotonic, peer);
                }
                if matches!(why, Ended::Malformed(_) | Ended::Impostor(_)) {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(trouble) = Trouble::of_end(&why) {
                    self.troubled(peer, trouble);
                }
            }
            Event::Refused { from, why } => self.refused(from, &why),
            Event::NotReached { peer, why } => self.troubled(peer, why),
            Event::Found { peer, at } => {
                // Who dials it may not know any other address of it.
                if let Some(linked) = self.peers.get(&peer).filter(|linked| !*linked.is_linked.borrow()) {
                    linked.places.told(at);
                }
            }
        }
        self.count();
    }

    /// Says what is wrong with a peer, once.
    fn troubled(&mut self, peer: Uuid, trouble: Trouble) {
        let Some(linked) = self.peers.get_mut(&peer) else { return };
        let peer = &linked.peer.name;
        if *linked.is_linked.borrow() {
            // Another connection with it stands.
            if let Some(left_out) = self.refusals.now((self.clock.monotonic_us)()) {
                warn!(peer, left_out, "a connection with a recorder was closed: {trouble}");
            }
            return;
        }
        if linked.trouble.as_ref() == Some(&trouble) {
            return;
        }
        if trouble.needs_somebody() {
            warn!(peer, "there is no link to a recorder: {trouble}");
        } else {
            debug!(peer, "there is no link to a recorder: {trouble}");
        }
        linked.trouble = Some(trouble);
        self.next_look = 0;
    }

    fn up(&mut self, connection: Connection) {
        let (me, peer) = (self.me, connection.peer);
        // Dropped where it is a peer no more: that closes it.
        let Some(linked) = self.peers.get_mut(&peer) else { return };
        // Where both dialled at the same time, the one stays that the lower of the two dialled.
        if me < peer {
            let mine = linked.connections.iter().any(|other| other.dialled);
            if mine && !connection.dialled {
                return;
            }
            linked.connections.retain(|other| other.dialled || !connection.dialled);
        }
        if linked.connections.len() >= CONNECTIONS {
            linked.connections.remove(0);
        }
        linked.connections.push(connection);
        linked.next_beat = 0;
        self.beat(self.clock.now(), false);
    }

    fn step(&mut self) {
        let now = self.clock.now();
        let urgent = self.brain().step(now.monotonic);
        self.beat(now, urgent);
        if now.monotonic >= self.next_look {
            self.next_look = now.monotonic.saturating_add(LOOK_US);
            let state = |linked: &Linked| PeerState {
                offset: linked.of_it.offset(now),
                trouble: linked.trouble.clone(),
                host: linked.places.last().map(|place| place.ip()),
            };
            let states = self.peers.iter().map(|(peer, linked)| (*peer, state(linked)));
            *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
        }
    }

    /// Tells those whose time has come, or all.
    fn beat(&mut self, now: Moment, urgent: bool) {
        let mut brain = self.brain.lock().unwrap_or_else(PoisonError::into_inner);
        // Most of the time nobody is sought.
        let is_sought = |linked: &Linked| !*linked.is_linked.borrow() && !linked.peer.keys.is_empty();
        let sought: Vec<Uuid> =
            self.peers.iter().filter(|(_, linked)| is_sought(linked)).map(|(peer, _)| *peer).collect();
        let asked: HashSet<Uuid> = self.peers.values().flat_map(|linked| linked.seeks.iter().copied()).collect();
        let found = |who: &Uuid| self.peers.get(who).filter(|linked| *linked.is_linked.borrow())?.places.last();
        let found: HashMap<Uuid, SocketAddr> = asked.iter().filter_map(|who| Some((*who, found(who)?))).collect();
        for (peer, linked) in &mut self.peers {
            // A little early together costs less than each at its time.
            let is_due = now.monotonic.saturating_add(EARLY_US) >= linked.next_beat;
            if linked.connections.is_empty() || !(is_due || urgent) {
                continue;
            }
            linked.next_beat = now.monotonic.saturating_add(BEAT_US);
            let (hears_you, reports) = brain.tell(now.monotonic, *peer);
            self.number += 1;
            linked.of_it.send(now.monotonic, self.number);
            let heartbeat = Heartbeat {
                sender: self.me,
                life: self.life,
                number: self.number,
                sent: now.wall,
                hears_you,
                echo: linked.of_it.echo(now.monotonic),
                // By the same look at the clock: it may be set before the next.
                reports: reports.into_iter().map(|(stream, report)| (stream, report.told(now))).collect(),
                port: self.port,
                seeks: in_turn(sought.clone(), self.number),
                places: linked.seeks.iter().filter_map(|who| Some((*who, *found.get(who)?))).collect(),
            };
            let bytes: Arc<[u8]> = heartbeat.encode().into();
            for connection in &linked.connections {
                // A peer that does not read misses some.
                if connection.out.try_send(Arc::clone(&bytes)).is_ok() {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn count(&self) {
        let connections: usize = self.peers.values().map(|linked| linked.connections.len()).sum();
        self.counts.connections.store(connections as u64, Ordering::Relaxed);
    }
}
