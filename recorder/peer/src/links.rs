//! The thread that keeps the links: who is dialled, who is let in, and when who is told what.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use framekeeper_media::WallTime;
use framekeeper_takeover::heartbeat::{Heartbeat, Newest};
use framekeeper_takeover::{Moment, Offset, PeerClock, Report};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::connection::{self, Connection, Ended, Event};
use crate::key::{Identity, PublicKey};
use crate::tls::{Ends, Known};

/// From one heartbeat to the next.
const BEAT_US: u64 = 250_000;
/// How often is looked how far the clocks of peers are from ours.
const LOOK_US: u64 = 1_000_000;
/// How often is decided.
const STEP: Duration = Duration::from_millis(50);
/// A peer that cannot be reached is dialled again after so long, and after twice as long each time, up to the second one.
const REDIAL: Duration = Duration::from_millis(100);
const REDIAL_AT_MOST: Duration = Duration::from_secs(2);
/// Handshakes of those who come, at the same time: what is more waits to be accepted.
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
    /// Asked twenty times a second. Whether the peers are to be told of it at once.
    fn step(&mut self, now: u64) -> bool;
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

/// What was counted since the start; `connections` is how many stand now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Connections that stand.
    pub connections: u64,
    /// Heartbeats that were sent.
    pub sent: u64,
    /// Heartbeats that came.
    pub heard: u64,
    /// Handshakes of those who came that failed, because of a key that is not known or for another reason.
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
    Stop,
}

/// The running links. They end when this is dropped.
#[derive(Debug)]
pub struct Links {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    offsets: Arc<Mutex<HashMap<Uuid, Offset>>>,
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
        let offsets = Arc::default();
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
        let keeper = Keeper {
            me,
            // Grows from one life to the next, unless the clock was set back in between: then others hear nothing new of this one until
            // their connection to the former life ends, which is long over.
            life: (clock.wall)().0.unsigned_abs(),
            number: 0,
            clock,
            brain,
            ends,
            known,
            counts: Arc::clone(&counts),
            offsets: Arc::clone(&offsets),
            next_look: 0,
            peers: HashMap::new(),
            events_to,
            connections: Arc::default(),
        };
        let run = move || runtime.block_on(keeper.run(listener, events, orders));
        let thread = std::thread::Builder::new().name("peers".to_owned()).spawn(run)?;
        Ok(Self { commands, thread: Some(thread), counts, offsets })
    }

    /// Whom to talk to from now on. Links with those that stay are not touched.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        // A thread that ended has nobody to talk to.
        let _ = self.commands.send(Command::Peers(peers));
    }

    /// By how much the time of day of each peer is ahead of the one here, as far as that was measured lately.
    #[must_use]
    pub fn offsets(&self) -> HashMap<Uuid, Offset> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    life: u64,
    number: u64,
    clock: Clock,
    brain: Arc<Mutex<B>>,
    ends: Arc<Ends>,
    known: Arc<Known>,
    counts: Arc<Counts>,
    offsets: Arc<Mutex<HashMap<Uuid, Offset>>>,
    next_look: u64,
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
        let mut step = interval(STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shaking = Arc::new(Semaphore::new(SHAKING));
        loop {
            let come = async {
                let listener = listener.as_ref()?;
                let place = Arc::clone(&shaking).acquire_owned().await.ok()?;
                Some((listener.accept().await, place))
            };
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Command::Peers(peers)) => self.set_peers(peers),
                    Some(Command::Stop) | None => return,
                },
                _ = step.tick() => self.step(),
                Some(event) = events.recv() => self.happened(event),
                Some((come, place)) = come => match come {
                    Ok((stream, _)) => {
                        let (ends, known) = (Arc::clone(&self.ends), Arc::clone(&self.known));
                        let (events, number) = (self.events_to.clone(), self.next_number());
                        tokio::spawn(async move {
                            let shaken = connection::accept(stream, &ends, &known).await;
                            drop(place);
                            match shaken {
                                Ok(shaken) => connection::run(shaken, number, events).await,
                                // Whoever counts may have ended.
                                Err(error) => drop(events.send(Event::Refused(error)).await),
                            }
                        });
                    }
                    // Out of descriptors, for instance: not tried again in a tight loop.
                    Err(error) => {
                        debug!(%error, "a recorder that came could not be let in");
                        sleep(STEP).await;
                    }
                },
            }
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
                        linked.dialler = self.dial(&peer, &linked.is_linked);
                        linked.peer = peer;
                    }
                    linked
                }
                None => {
                    let (is_linked, _) = watch::channel(false);
                    let dialler = self.dial(&peer, &is_linked);
                    Linked {
                        peer,
                        connections: Vec::new(),
                        newest: Newest::default(),
                        of_it: PeerClock::default(),
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
    fn dial(&self, peer: &Peer, is_linked: &watch::Sender<bool>) -> AbortHandle {
        let (peer, mut is_linked) = (peer.clone(), is_linked.subscribe());
        let (ends, known, events) = (Arc::clone(&self.ends), Arc::clone(&self.known), self.events_to.clone());
        let (numbers, clock) = (Arc::clone(&self.connections), self.clock);
        let dial = async move {
            let mut wait = REDIAL;
            while is_linked.wait_for(|linked| !linked).await.is_ok() {
                for address in &peer.addresses {
                    match connection::dial(address, &ends, &known).await {
                        Ok(shaken) => {
                            wait = REDIAL;
                            let number = numbers.fetch_add(1, Ordering::Relaxed);
                            connection::run(shaken, number, events.clone()).await;
                            break;
                        }
                        Err(error) => debug!(peer = %peer.recorder, address, %error, "a recorder could not be reached"),
                    }
                }
                // Not all at the same moment, behind an outage.
                let jitter = Duration::from_micros((clock.monotonic_us)() % 50_000);
                sleep(wait + jitter).await;
                wait = (wait * 2).min(REDIAL_AT_MOST);
            }
        };
        tokio::spawn(dial).abort_handle()
    }

    fn happened(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Up(connection) => self.up(connection),
            Event::Heard { peer, heartbeat } => {
                self.counts.heard.fetch_add(1, Ordering::Relaxed);
                let Some(linked) = self.peers.get_mut(&peer) else { return };
                // On each connection the same comes again.
                if !linked.newest.is_news(&heartbeat) {
                    return;
                }
                let hears_us = heartbeat.hears_you;
                let reports = linked.of_it.hear(now, heartbeat);
                self.brain().hear(now.monotonic, peer, hears_us, reports);
            }
            Event::Down { peer, connection, why } => {
                if matches!(why, Ended::Malformed(_) | Ended::Impostor(_)) {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                    warn!(%peer, "a link is closed: {why}");
                }
                let Some(linked) = self.peers.get_mut(&peer) else { return };
                linked.connections.retain(|other| other.number != connection);
                if linked.connections.is_empty() && linked.is_linked.send_replace(false) {
                    info!(%peer, "the link to a recorder is down: {why}");
                    // Of a process that begins anew.
                    linked.newest = Newest::default();
                    self.brain().close(now.monotonic, peer);
                }
            }
            Event::Refused(error) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                debug!(%error, "somebody who came was not let in");
            }
        }
        self.count();
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
        if !linked.is_linked.send_replace(true) {
            info!(%peer, "the link to a recorder stands");
        }
        self.beat(self.clock.now(), false);
    }

    fn step(&mut self) {
        let now = self.clock.now();
        let urgent = self.brain().step(now.monotonic);
        self.beat(now, urgent);
        if now.monotonic >= self.next_look {
            self.next_look = now.monotonic.saturating_add(LOOK_US);
            let offsets = self.peers.iter().filter_map(|(peer, linked)| Some((*peer, linked.of_it.offset(now)?)));
            *self.offsets.lock().unwrap_or_else(PoisonError::into_inner) = offsets.collect();
        }
    }

    /// Tells those whose time has come, or all.
    fn beat(&mut self, now: Moment, urgent: bool) {
        let mut brain = self.brain.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, linked) in &mut self.peers {
            if linked.connections.is_empty() || (now.monotonic < linked.next_beat && !urgent) {
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
