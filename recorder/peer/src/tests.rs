//! Links between recorders of one process, over loopback.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_takeover::heartbeat::Heartbeat;
use framekeeper_takeover::{Report, Standing};
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::connection::{self, Shaken};
use crate::tls::{Ends, Known};
use crate::{Brain, Clock, Identity, Links, Peer};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const STREAM: Uuid = Uuid::from_u128(7);
static EPOCHS: AtomicU64 = AtomicU64::new(1_000);

#[derive(Debug)]
pub(crate) enum Told {
    Heard(Heard),
    Closed(Uuid),
}

#[derive(Clone, Debug)]
pub(crate) struct Heard {
    at: u64,
    pub(crate) from: Uuid,
    hears_us: bool,
    reports: Vec<(Uuid, Report)>,
}

impl Heard {
    pub(crate) fn epoch(&self) -> u64 {
        self.reports[0].1.epoch
    }
}

/// Passes on what it is told, and reports one stream in an epoch of its own.
struct Recorder {
    epoch: u64,
    told: Sender<Told>,
}

impl Brain for Recorder {
    fn hear(&mut self, at: u64, from: Uuid, hears_us: bool, reports: Vec<(Uuid, Report)>) {
        let _ = self.told.send(Told::Heard(Heard { at, from, hears_us, reports }));
    }
    fn close(&mut self, _now: u64, peer: Uuid) {
        let _ = self.told.send(Told::Closed(peer));
    }
    fn step(&mut self, _now: u64) -> bool {
        false
    }
    fn is_restless(&self, _now: u64) -> bool {
        false
    }
    fn tell(&mut self, _now: u64, _peer: Uuid) -> (bool, Vec<(Uuid, Report)>) {
        (true, vec![(STREAM, report(self.epoch))])
    }
}

pub(crate) fn report<T>(epoch: u64) -> Report<T> {
    Report {
        version: PlanVersion { term: 1, sequence: 1 },
        epoch,
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

fn clock() -> Clock {
    fn monotonic_us() -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_micros() as u64
    }
    // Lives of one process must differ: its monotonic time does.
    Clock { monotonic_us, wall: || WallTime(1_700_000_000_000_000 + monotonic_us() as i64) }
}

pub(crate) struct Node {
    pub(crate) me: Uuid,
    /// Of this life: no other has it.
    pub(crate) epoch: u64,
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
    pub(crate) links: Links,
    pub(crate) told: Receiver<Told>,
}

impl Node {
    pub(crate) fn start(number: u128) -> Self {
        Self::with(number, Identity::make().unwrap())
    }

    pub(crate) fn with(number: u128, identity: Identity) -> Self {
        let (me, listener) = (Uuid::from_u128(number), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let (to, told) = channel();
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        let brain = Arc::new(Mutex::new(Recorder { epoch, told: to }));
        let links = Links::start(&identity, me, Some(listener), clock(), brain).unwrap();
        Self { me, epoch, identity, address, links, told }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer {
            recorder: self.me,
            name: format!("recorder-{}", self.me.as_u128()),
            addresses: vec![self.address.to_string()],
            keys: vec![self.identity.public()],
        }
    }

    /// Known by its key, and not where it is.
    pub(crate) fn unplaced(&self) -> Peer {
        Peer { addresses: Vec::new(), ..self.peer() }
    }

    pub(crate) fn heard(&self, from: &Node) -> Heard {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left).expect("it was not heard") {
                Told::Heard(heard) if heard.from == from.me => return heard,
                _ => {}
            }
        }
    }

    pub(crate) fn closed(&self, of: Uuid) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if matches!(self.told.recv_timeout(left).expect("it was not closed"), Told::Closed(peer) if peer == of) {
                return;
            }
        }
    }

    /// Waits until a count is what it should be; connections tell nobody when they fail.
    pub(crate) fn count(&self, what: &str, is: impl Fn(crate::LinkStats) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self.links.stats()) {
            assert!(Instant::now() < until, "{what}: {:?}", self.links.stats());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

#[test]
fn two_recorders_hear_each_other_whoever_dials() {
    for (first_knows, second_knows) in [(true, true), (true, false), (false, true)] {
        let (first, second) = (Node::start(1), Node::start(2));
        first.links.set_peers(vec![if first_knows { second.peer() } else { second.unplaced() }]);
        second.links.set_peers(vec![if second_knows { first.peer() } else { first.unplaced() }]);
        let heard = first.heard(&second);
        assert!(heard.hears_us);
        assert_eq!(heard.reports, [(STREAM, report(second.epoch))]);
        // Four times a second, once it stands.
        let before = second.heard(&first);
        let later = (0..8).fold(before.clone(), |_, _| second.heard(&first));
        let took = later.at - before.at;
        assert!((1_200_000..10_000_000).contains(&took), "{took} µs for eight heartbeats");
        // Where both dialled, one of the two connections is given up.
        first.count("one connection", |stats| stats.connections == 1);
        second.count("one connection", |stats| stats.connections == 1);
    }
}

/// Decides nothing any more.
struct Broken;

impl Brain for Broken {
    fn hear(&mut self, _now: u64, _peer: Uuid, _hears_us: bool, _reports: Vec<(Uuid, Report)>) {}
    fn close(&mut self, _now: u64, _peer: Uuid) {}
    fn step(&mut self, _now: u64) -> bool {
        panic!("told to panic")
    }
    fn is_restless(&self, _now: u64) -> bool {
        false
    }
    fn tell(&mut self, _now: u64, _peer: Uuid) -> (bool, Vec<(Uuid, Report)>) {
        (false, Vec::new())
    }
}

#[test]
fn a_thread_that_panicked_is_seen_to_run_no_more() {
    assert!(Node::start(1).links.is_running());
    let (identity, brain) = (Identity::make().unwrap(), Arc::new(Mutex::new(Broken)));
    let links = Links::start(&identity, Uuid::from_u128(1), None, clock(), brain).unwrap();
    let until = Instant::now() + PATIENCE;
    while links.is_running() {
        assert!(Instant::now() < until, "it runs on");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_process_that_ends_is_noticed_and_one_that_begins_anew_is_heard_elsewhere() {
    let (first, second) = (Node::start(1), Node::start(2));
    first.links.set_peers(vec![second.peer()]);
    second.links.set_peers(vec![first.peer()]);
    first.heard(&second);
    let (me, identity) = (second.me, second.identity);
    drop(second.links);
    first.closed(me);
    // Its address is another one, and the first is not told.
    let again = Node::with(me.as_u128(), identity);
    again.links.set_peers(vec![first.peer()]);
    assert_eq!(first.heard(&again).epoch(), again.epoch);
    again.heard(&first);
}

#[test]
fn two_whose_addresses_nobody_knows_find_each_other_through_a_third_that_both_reach() {
    let (first, second, third) = (Node::start(1), Node::start(2), Node::start(3));
    // Where the plan says that the first one is somebody else is by now.
    let stranger = Node::start(4);
    let stale = Peer { addresses: vec![stranger.address.to_string()], ..first.peer() };
    second.links.set_peers(vec![stale, third.peer()]);
    first.links.set_peers(vec![second.unplaced(), third.peer()]);
    stranger.count("it was dialled", |stats| stats.refused >= 1);
    // The third one does not know either, and is reached by both.
    third.links.set_peers(vec![first.unplaced(), second.unplaced()]);
    assert!(first.heard(&second).hears_us);
    assert!(second.heard(&first).hears_us);
    // Without it they go on, and it is where they heard from last that they try: the link comes back when one of them begins anew.
    drop(third);
    let (me, identity) = (second.me, second.identity);
    drop(second.links);
    first.closed(me);
    let again = Node::with(me.as_u128(), identity);
    again.links.set_peers(vec![Peer { addresses: vec![first.address.to_string()], ..first.peer() }]);
    assert_eq!(first.heard(&again).epoch(), again.epoch);
}

#[test]
fn who_has_another_key_is_not_let_in_and_not_listened_to() {
    let (first, stranger) = (Node::start(1), Node::start(2));
    let known = Node::start(3);
    // The stranger takes the place of the second recorder, and knows the first one's key.
    let expected = Identity::make().unwrap();
    let second = Peer { keys: vec![expected.public()], ..stranger.peer() };
    first.links.set_peers(vec![second, known.peer()]);
    known.links.set_peers(vec![first.peer()]);
    stranger.links.set_peers(vec![first.peer()]);
    first.count("it came and was refused", |stats| stats.refused >= 1);
    stranger.count("it was dialled and found to be another one", |stats| stats.refused >= 1);
    first.heard(&known);
    known.heard(&first);
    first.count("one connection, with the known one", |stats| stats.connections == 1);
    // Whoever dials learns only after its own handshake that it is refused.
    stranger.count("none of its connections stands", |stats| stats.connections == 0);
    assert_eq!(stranger.links.stats().heard, 0);
}

#[test]
fn a_key_that_takes_anothers_place_keeps_the_link_and_one_that_is_gone_ends_it() {
    let (first, second) = (Node::start(1), Node::start(2));
    first.links.set_peers(vec![second.peer()]);
    second.links.set_peers(vec![first.peer()]);
    first.heard(&second);
    let next = Identity::make().unwrap();
    let both = Peer { keys: vec![next.public(), second.identity.public()], ..second.peer() };
    let before = first.links.stats().heard;
    first.links.set_peers(vec![both]);
    first.count("it is heard on and on", |stats| stats.heard >= before + 8);
    while let Ok(told) = first.told.try_recv() {
        assert!(matches!(told, Told::Heard(_)), "{told:?}");
    }
    first.heard(&second);
    first.links.set_peers(vec![Peer { keys: vec![next.public()], ..second.peer() }]);
    first.count("the old key is not good any more", |stats| stats.connections == 0);
    first.links.set_peers(Vec::new());
    second.closed(first.me);
}

/// With the number as its epoch.
pub(crate) fn heartbeat(sender: u128, number: u64) -> Heartbeat {
    Heartbeat {
        sender: Uuid::from_u128(sender),
        life: 1,
        number,
        sent: WallTime(0),
        hears_you: true,
        echo: None,
        reports: vec![(STREAM, report(number))],
        port: 0,
        seeks: Vec::new(),
        places: Vec::new(),
    }
}

/// A connection with `node` made by hand, with a key that it knows.
pub(crate) fn by_hand(node: &Node, identity: &Identity, runtime: &tokio::runtime::Runtime) -> Shaken {
    let known = Arc::new(Known::default());
    known.set([(node.identity.public(), node.me)].into());
    let ends = Ends::new(identity, Arc::clone(&known)).unwrap();
    runtime.block_on(connection::dial(&node.address.to_string(), &ends, &known)).unwrap()
}

pub(crate) fn told_of(identity: &Identity, recorder: u128) -> Peer {
    let name = format!("recorder-{recorder}");
    Peer { recorder: Uuid::from_u128(recorder), name, addresses: Vec::new(), keys: vec![identity.public()] }
}

#[test]
fn what_is_no_heartbeat_of_that_peer_ends_its_connection_and_no_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, good) = (Node::start(1), Node::start(2));
    let bad = Identity::make().unwrap();
    first.links.set_peers(vec![good.peer(), told_of(&bad, 3)]);
    good.links.set_peers(vec![first.peer()]);
    first.heard(&good);
    let mut too_long = heartbeat(3, 1).encode();
    too_long[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut too_new = heartbeat(3, 1).encode();
    too_new[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
    let others = [heartbeat(2, 1).encode(), vec![0; 64], too_long, too_new];
    for (number, bytes) in others.into_iter().enumerate() {
        let mut shaken = by_hand(&first, &bad, &runtime);
        runtime.block_on(async {
            shaken.stream().write_all(&bytes).await.unwrap();
            shaken.stream().flush().await.unwrap();
            // It is closed from the other side.
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, shaken.stream().read_to_end(&mut rest)).await.expect("not closed");
        });
        first.count("it is counted", |stats| stats.malformed == number as u64 + 1);
    }
    // What comes again is no news, and what is right is heard.
    let mut shaken = by_hand(&first, &bad, &runtime);
    runtime.block_on(async {
        // Also one of a former life, whatever its number.
        let old = Heartbeat { life: 0, ..heartbeat(3, 99) };
        for heartbeat in [heartbeat(3, 5), heartbeat(3, 5), heartbeat(3, 4), old, heartbeat(3, 6)] {
            shaken.stream().write_all(&heartbeat.encode()).await.unwrap();
        }
        shaken.stream().flush().await.unwrap();
    });
    let mut numbers = Vec::new();
    while numbers.last() != Some(&6) {
        match first.told.recv_timeout(PATIENCE).unwrap() {
            Told::Heard(heard) if heard.from == Uuid::from_u128(3) => numbers.push(heard.epoch()),
            Told::Closed(peer) => assert_ne!(peer, good.me, "another link was closed"),
            Told::Heard(_) => {}
        }
    }
    assert_eq!(numbers, [5, 6]);
}

#[test]
fn a_process_that_begins_anew_with_an_earlier_clock_is_heard_when_its_former_connection_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = Node::start(1);
    let other = Identity::make().unwrap();
    first.links.set_peers(vec![told_of(&other, 3)]);
    let say = |shaken: &mut Shaken, life: u64, number: u64| {
        runtime.block_on(async {
            let heartbeat = Heartbeat { life, ..heartbeat(3, number) };
            shaken.stream().write_all(&heartbeat.encode()).await.unwrap();
            shaken.stream().flush().await.unwrap();
        });
    };
    let mut former = by_hand(&first, &other, &runtime);
    say(&mut former, 9, 5);
    first.count("it is heard", |stats| stats.heard == 1);
    let mut anew = by_hand(&first, &other, &runtime);
    say(&mut anew, 2, 1);
    first.count("it comes, and counts as one of a former life", |stats| stats.heard == 2);
    drop(former);
    first.count("the new connection stands", |stats| stats.connections == 1);
    say(&mut anew, 2, 2);
    let mut numbers = Vec::new();
    while numbers.last() != Some(&2) {
        match first.told.recv_timeout(PATIENCE).expect("it is not heard") {
            Told::Heard(heard) => numbers.push(heard.epoch()),
            told @ Told::Closed(_) => panic!("{told:?}"),
        }
    }
    assert_eq!(numbers, [5, 2]);
}

#[test]
fn a_plain_connection_is_none() {
    let first = Node::start(1);
    let other = Identity::make().unwrap();
    first.links.set_peers(vec![told_of(&other, 2)]);
    let mut plain = std::net::TcpStream::connect(first.address).unwrap();
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    first.count("it is refused", |stats| stats.refused == 1);
}
