//! What heartbeats cost: two recorders that share streams, over loopback with TLS, with real reports and nothing to decide.
//!
//! `cargo run --release -p framekeeper-peer --example heartbeat_bench [SECONDS]`; 10 by default. CPU is user and system time of the whole process, which is both
//! recorders, so half of it for each.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_peer::{Brain, Clock, Identity, Links, Peer};
use framekeeper_takeover::{Footage, Report, Standing, SteadyTime};
use uuid::Uuid;

const SHARED: [usize; 3] = [0, 100, 1_000];
const SETTLE: Duration = Duration::from_secs(2);

static BEGUN: OnceLock<Instant> = OnceLock::new();

fn monotonic_us() -> u64 {
    u64::try_from(BEGUN.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn wall() -> WallTime {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    WallTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Tells of so many streams, and counts what is told.
struct Recorder {
    streams: usize,
    heard: u64,
}

impl Brain for Recorder {
    fn hear(&mut self, _now: u64, _peer: Uuid, _hears_us: bool, reports: Vec<(Uuid, Report)>) {
        self.heard += reports.len() as u64;
    }
    fn close(&mut self, _now: u64, _peer: Uuid) {}
    fn step(&mut self, _now: u64) -> bool {
        false
    }
    fn is_restless(&self, _now: u64) -> bool {
        false
    }
    fn tell(&mut self, now: u64, peer: Uuid) -> (bool, Vec<(Uuid, Report)>) {
        let time = |before: i64| SteadyTime(i64::try_from(now).unwrap_or(i64::MAX) - before);
        let report = || Report {
            version: PlanVersion { term: 3, sequence: 14 },
            epoch: 7,
            you: Standing::Holder,
            recording: true,
            able: true,
            leaving: false,
            unsynced: 400_000,
            footage: Some(Footage { first: time(60_000_000), durable: time(600_000) }),
            recording_for: 60_000_000,
            holding_for: 90_000_000,
            hears: vec![(peer, time(700_000))],
            last_takeover: None,
        };
        (true, (0..self.streams).map(|number| (Uuid::from_u128(number as u128), report())).collect())
    }
}

fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // proc(5): fields 14 and 15 are utime and stime; the first here is field 3. USER_HZ is 100 on Linux.
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (number(11) + number(12)) as f64 / 100.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    println!("{:>14} {:>24} {:>18}", "shared streams", "CPU ms/s of a recorder", "heartbeats heard");
    for streams in SHARED {
        let clock = Clock { monotonic_us, wall };
        let mut known = Vec::new();
        for number in 0..2_u128 {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            known.push((Uuid::from_u128(1_000_000 + number), listener.local_addr()?, listener, Identity::make()?));
        }
        let peer = |(uid, address, _, identity): &(Uuid, SocketAddr, TcpListener, Identity)| Peer {
            recorder: *uid,
            name: uid.to_string(),
            addresses: vec![address.to_string()],
            keys: vec![identity.public()],
        };
        let peers: Vec<Peer> = known.iter().map(peer).collect();
        let mut links = Vec::new();
        for ((uid, _, listener, identity), other) in known.into_iter().zip(peers.into_iter().rev()) {
            let brain = Arc::new(Mutex::new(Recorder { streams, heard: 0 }));
            let running = Links::start(&identity, uid, Some(listener), clock, brain)?;
            running.set_peers(vec![other]);
            links.push(running);
        }
        std::thread::sleep(SETTLE);
        let heard = || links.iter().map(|links| links.stats().heard).sum::<u64>();
        let (before, heard_before) = (cpu_s(), heard());
        std::thread::sleep(Duration::from_secs(seconds));
        let cost = (cpu_s() - before) * 1e3 / seconds as f64 / links.len() as f64;
        println!("{streams:>14} {cost:>24.2} {:>18}", heard() - heard_before);
    }
    Ok(())
}
