//! Who is no peer, or does not behave as one, over loopback: refused or understood, counted, and nobody else's trouble.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::connection;
use crate::tests::{Node, PATIENCE, Told, by_hand, heartbeat, told_of};
use crate::tls::{Ends, Known};
use crate::trouble::Refusal;
use crate::{Identity, Peer, Trouble};

/// Two that hear each other, for whom nothing else may matter.
struct Pair {
    first: Node,
    second: Node,
}

impl Pair {
    fn start(others: Vec<Peer>) -> Self {
        let (first, second) = (Node::start(1), Node::start(2));
        first.links.set_peers([vec![second.peer()], others].concat());
        second.links.set_peers(vec![first.unplaced()]);
        first.heard(&second);
        second.heard(&first);
        Self { first, second }
    }

    /// They hear each other all the time, and nobody else was heard.
    fn is_unaffected(&self) {
        let epoch = self.first.epoch;
        while let Ok(told) = self.second.told.try_recv() {
            assert!(matches!(&told, Told::Heard(heard) if heard.epoch() == epoch), "{told:?}");
        }
        while let Ok(told) = self.first.told.try_recv() {
            assert!(matches!(&told, Told::Heard(heard) if heard.from == self.second.me), "{told:?}");
        }
        self.first.heard(&self.second);
        self.second.heard(&self.first);
    }

    fn trouble(&self, peer: Uuid) -> Option<Trouble> {
        self.first.links.peers().remove(&peer)?.trouble
    }

    /// Waits until that is what is wrong with a peer.
    fn is_troubled(&self, peer: Uuid, is: impl Fn(Option<&Trouble>) -> bool) -> Option<Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            let trouble = self.trouble(peer);
            if is(trouble.as_ref()) {
                return trouble;
            }
            assert!(Instant::now() < until, "{trouble:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An address at which nobody is.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_key_that_is_not_the_peers_is_said_to_be_none_on_both_sides_and_is_good_when_it_is_told() {
    let third = Node::start(3);
    // As it was known before its key was made anew.
    let former = Peer { keys: vec![Identity::make().unwrap().public()], ..third.peer() };
    let pair = Pair::start(vec![former]);
    third.links.set_peers(vec![pair.first.peer()]);
    let trouble = pair.is_troubled(third.me, |trouble| trouble.is_some()).unwrap();
    let (address, key) = (third.address.to_string(), third.identity.public());
    assert_eq!(trouble, Trouble::OtherKey { address: address.clone(), key });
    let said = trouble.to_string();
    assert!(said.contains(&address) && said.contains(&key.to_string()) && said.contains("operator"), "{said}");
    pair.first.count("it came and was refused", |stats| stats.refused >= 1);
    let until = Instant::now() + PATIENCE;
    while third.links.peers().get(&pair.first.me).is_none_or(|state| state.trouble != Some(Trouble::NotKnown)) {
        assert!(Instant::now() < until, "{:?}", third.links.peers());
        std::thread::park_timeout(Duration::from_millis(2));
    }
    pair.is_unaffected();
    pair.first.links.set_peers(vec![pair.second.peer(), third.peer()]);
    pair.first.heard(&third);
    third.heard(&pair.first);
    pair.is_troubled(third.me, |trouble| trouble.is_none());
}

#[test]
fn an_address_that_another_recorder_has_by_now_keeps_neither_from_being_found() {
    let (third, fourth) = (Node::start(3), Node::start(4));
    // The fourth one is where the plan says that the third one is; where the fourth one is it does not say.
    let reused = fourth.address.to_string();
    let stale = Peer { addresses: vec![reused.clone()], ..third.peer() };
    let pair = Pair::start(vec![stale, fourth.unplaced()]);
    for node in [&third, &fourth] {
        node.links.set_peers(vec![pair.first.unplaced()]);
    }
    let expected = Trouble::OtherKey { address: reused.clone(), key: fourth.identity.public() };
    assert_eq!(pair.is_troubled(third.me, |trouble| trouble.is_some()), Some(expected));
    // By itself, and not in the third one's place.
    pair.first.heard(&fourth);
    fourth.heard(&pair.first);
    let moved = Peer { addresses: vec![reused, third.address.to_string()], ..third.peer() };
    pair.first.links.set_peers(vec![pair.second.peer(), moved, fourth.unplaced()]);
    pair.first.heard(&third);
    third.heard(&pair.first);
    pair.is_troubled(third.me, |trouble| trouble.is_none());
}

#[test]
fn where_nobody_is_and_what_was_never_told_is_said_and_is_no_alarm() {
    let (gone, keyless) = (Identity::make().unwrap(), Identity::make().unwrap());
    let gone = Peer { addresses: vec![nowhere().to_string()], ..told_of(&gone, 3) };
    let keyless = Peer { addresses: gone.addresses.clone(), keys: Vec::new(), ..told_of(&keyless, 4) };
    let pair = Pair::start(vec![gone.clone(), keyless.clone()]);
    let trouble = pair.is_troubled(gone.recorder, |trouble| trouble.is_some()).unwrap();
    assert!(!trouble.needs_somebody() && trouble.to_string().contains(&gone.addresses[0]), "{trouble}");
    assert_eq!(pair.is_troubled(keyless.recorder, |trouble| trouble.is_some()), Some(Trouble::NoKey));
}

/// Hands on what goes between whoever comes and `to`, and gives what was sent there.
fn recording_proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&recorded);
    std::thread::spawn(move || {
        let Ok((mut near, _)) = listener.accept() else { return };
        let mut far = TcpStream::connect(to).unwrap();
        let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = near.read(&mut buffer) {
            record.lock().unwrap().extend_from_slice(&buffer[..length]);
            if far.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        let _ = far.shutdown(Shutdown::Both);
    });
    (address, recorded)
}

#[test]
fn what_was_recorded_of_a_former_connection_opens_none() {
    let third = Node::start(3);
    let pair = Pair::start(vec![third.unplaced()]);
    let (proxy, recorded) = recording_proxy(pair.first.address);
    third.links.set_peers(vec![Peer { addresses: vec![proxy.to_string()], ..pair.first.peer() }]);
    (0..3).for_each(|_| drop(pair.first.heard(&third)));
    let me = third.me;
    drop(third);
    pair.first.closed(me);
    let bytes = recorded.lock().unwrap().clone();
    // A hello, a key with its proof, and heartbeats.
    assert!(bytes.len() > 600, "{}", bytes.len());
    let refused = pair.first.links.stats().refused;
    for time in 1..=2 {
        let mut again = TcpStream::connect(pair.first.address).unwrap();
        again.write_all(&bytes).unwrap();
        pair.first.count("it is refused", |stats| stats.refused == refused + time);
        let _ = again.read_to_end(&mut Vec::new());
    }
    pair.is_unaffected();
    pair.first.count("one connection", |stats| stats.connections == 1);
}

#[test]
fn who_comes_and_says_nothing_keeps_nobody_out() {
    let third = Node::start(3);
    let pair = Pair::start(vec![third.unplaced()]);
    // More than are waited for at the same time, and some that begin as if they were somebody.
    let mut silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(pair.first.address).unwrap()).collect();
    silent.iter_mut().step_by(2).for_each(|stream| stream.write_all(&[22, 3, 1]).unwrap());
    let begun = Instant::now();
    third.links.set_peers(vec![pair.first.peer()]);
    pair.first.heard(&third);
    // Read at once: the others are given up soon as well.
    let (took, refused) = (begun.elapsed(), pair.first.links.stats().refused);
    // Less than it takes to give one of them up.
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    // As many as may be waited for are; the others were given up for it, and these are in time.
    assert!((68..100).contains(&refused), "{refused}");
    pair.first.count("all are refused", |stats| stats.refused == 100);
    for mut stream in silent {
        // Closed or reset.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(!matches!(stream.read(&mut [0; 64]), Ok(1..)));
    }
    third.heard(&pair.first);
    pair.first.heard(&pair.second);
}

#[test]
fn a_peer_that_stops_in_the_middle_is_given_up() {
    let runtime = runtime();
    let slow = Identity::make().unwrap();
    let pair = Pair::start(vec![told_of(&slow, 3)]);
    let mut shaken = by_hand(&pair.first, &slow, &runtime);
    runtime.block_on(async {
        let bytes = heartbeat(3, 1).encode();
        shaken.stream().write_all(&bytes[..bytes.len() / 2]).await.unwrap();
        shaken.stream().flush().await.unwrap();
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, shaken.stream().read_to_end(&mut rest)).await.expect("not closed");
    });
    pair.is_unaffected();
}

#[test]
fn a_peer_has_a_few_connections_and_no_more() {
    let runtime = runtime();
    let eager = Identity::make().unwrap();
    let pair = Pair::start(vec![told_of(&eager, 3)]);
    let mut shaken: Vec<_> = (0..20).map(|_| by_hand(&pair.first, &eager, &runtime)).collect();
    runtime.block_on(async {
        for shaken in &mut shaken[..17] {
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, shaken.stream().read_to_end(&mut rest)).await.expect("not closed");
        }
    });
    pair.first.count("three, and the pair's", |stats| stats.connections == 4);
    pair.is_unaffected();
}

/// A peer that lets in whoever comes and says `bytes`; each connection is told of.
fn that_says(identity: &Identity, to: &Node, bytes: Vec<u8>) -> (SocketAddr, Receiver<Instant>) {
    let known = Arc::new(Known::default());
    known.set([(to.identity.public(), to.me)].into());
    let ends = Ends::new(identity, Arc::clone(&known)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (came, comes) = channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let Ok(mut shaken) = connection::accept(stream, &ends, &known).await else { continue };
                if came.send(Instant::now()).is_err() {
                    return;
                }
                let _ = shaken.stream().write_all(&bytes).await;
                let _ = shaken.stream().flush().await;
                let _ = shaken.stream().read_to_end(&mut Vec::new()).await;
            }
        });
    });
    (address, comes)
}

#[test]
fn a_peer_of_a_version_that_is_too_new_is_told_of_and_not_dialled_without_end() {
    let later = Identity::make().unwrap();
    let mut bytes = heartbeat(3, 1).encode();
    bytes[4..8].copy_from_slice(&[0, 9, 0, 9]);
    let pair = Pair::start(Vec::new());
    let (address, comes) = that_says(&later, &pair.first, bytes);
    let peer = Peer { addresses: vec![address.to_string()], ..told_of(&later, 3) };
    pair.first.links.set_peers(vec![pair.second.peer(), peer.clone()]);
    let trouble = pair.is_troubled(peer.recorder, |trouble| trouble.is_some()).unwrap();
    assert!(trouble.needs_somebody() && trouble.to_string().contains("version 9"), "{trouble}");
    let times: Vec<Instant> = (0..5).map(|_| comes.recv_timeout(PATIENCE).unwrap()).collect();
    // 0.1, 0.2, 0.4, 0.8 s.
    assert!(times[4] - times[0] >= Duration::from_millis(1_400), "{:?}", times[4] - times[0]);
    pair.first.count("each is counted", |stats| stats.malformed >= 4);
    pair.is_unaffected();
}

#[test]
fn refusals_say_what_to_do() {
    let key = Identity::make().unwrap().public();
    let error = std::io::Error::other(crate::trouble::UnknownKey(key));
    let said = Refusal::from(error).to_string();
    assert!(said.contains(&key.to_string()) && said.contains("operator") && said.contains("find out"), "{said}");
    let said = Refusal::from(std::io::Error::from(std::io::ErrorKind::TimedOut)).to_string();
    assert!(said.contains("no recorder") && said.contains("timed out") && said.contains("find out"), "{said}");
}
