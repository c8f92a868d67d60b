//! A source against sessions that do as they are told, in virtual time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::{MediaTime, WallTime};
use url::Url;

use super::*;
use crate::spec::Credentials;

const SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03,
    0x20, 0xf1, 0x42, 0xa4, 0x80,
];
const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];
const S: u64 = 1_000_000;

/// What the session does at its next read; when there is nothing left, it goes on silently.
#[derive(Debug)]
enum Do {
    Yield(Item),
    Ready,
    End(SessionEndKind),
    Panic,
}

#[derive(Default)]
struct Script {
    todo: VecDeque<Do>,
    opened: usize,
    playing: bool,
    ready: bool,
    plays: usize,
    traffic: Traffic,
    panic_on_drop: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Script>>);

impl Engine for Fake {
    fn open(&self, _spec: &SourceSpec, _hold: bool) -> Box<dyn Session> {
        self.0.borrow_mut().opened += 1;
        Box::new(self.clone())
    }
    fn drain(&self, _limit: Duration) -> futures::future::LocalBoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Session for Fake {
    fn read(&mut self, _at: TickTime, out: &mut Vec<Item>) -> Progress {
        let mut script = self.0.borrow_mut();
        while let Some(step) = script.todo.pop_front() {
            match step {
                Do::Ready => script.ready = true,
                Do::Yield(item) => {
                    script.playing = true;
                    script.traffic.packets += 1;
                    out.push(item);
                }
                Do::End(kind) => {
                    script.playing = false;
                    return Progress::Ended(Failure::new(kind, "told so with s3cret"));
                }
                Do::Panic => panic!("told so"),
            }
        }
        match (script.playing, script.ready) {
            (true, _) => Progress::Playing,
            (false, true) => Progress::Ready,
            (false, false) => Progress::Opening,
        }
    }
    fn play(&mut self, _at: TickTime) {
        let mut script = self.0.borrow_mut();
        script.ready = false;
        script.plays += 1;
    }
    fn want_key_frame(&mut self) {}
    fn traffic(&self) -> Traffic {
        self.0.borrow().traffic
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // The test holds one, the session is the other.
        let panic_now = std::mem::take(&mut self.0.borrow_mut().panic_on_drop);
        assert!(!panic_now, "told to panic when dropped");
    }
}

/// Passes on what it is told, and when the last of it was.
struct Notes(std::sync::mpsc::Sender<Event>, Arc<AtomicU64>, Arc<AtomicBool>);

impl Sink for Notes {
    fn event(&mut self, at: TickTime, event: Event) {
        self.1.store(at.monotonic_us, Ordering::Relaxed);
        let _ = self.0.send(event);
    }
    fn tick(&mut self, _at: TickTime) {}
    fn holds(&self) -> bool {
        self.2.load(Ordering::Relaxed)
    }
}

struct World {
    engine: Fake,
    source: Source,
    heard: Receiver<Event>,
    heard_us: Arc<AtomicU64>,
    holds: Arc<AtomicBool>,
    limits: Limits,
    now_us: u64,
}

impl World {
    fn new() -> Self {
        let (tx, heard) = channel();
        let mut spec = SourceSpec::new(Url::parse("rtsp://camera/live").unwrap());
        spec.credentials = Some(Credentials::new("bob", "s3cret"));
        let now_us = 1000 * S;
        let heard_us = Arc::new(AtomicU64::new(0));
        let holds = Arc::new(AtomicBool::new(false));
        let notes = Box::new(Notes(tx, Arc::clone(&heard_us), Arc::clone(&holds)));
        let source = Source::new(spec, notes, Arc::new(Counters::default()), at(now_us));
        let limits = Limits {
            silence: SilenceLimits::default(),
            handshake: Duration::from_secs(10),
            backoff: BackoffLimits::default(),
        };
        Self { engine: Fake::default(), source, heard, heard_us, holds, limits, now_us }
    }

    /// One tick later, with `todo` done in it; `random` is 1, so that every delay is the longest.
    fn tick(&mut self, todo: impl IntoIterator<Item = Do>) -> Vec<Event> {
        self.now_us += 100_000;
        self.engine.0.borrow_mut().todo.extend(todo);
        let at = at(self.now_us);
        if self.source.due_us().is_some_and(|due| due <= self.now_us) {
            self.source.start(&self.engine, at, &self.limits, 1.0);
        }
        self.source.read(at, &|| at, &self.limits, 1.0, &mut Vec::new());
        self.source.tick(at, &self.limits, 1.0);
        self.heard.try_iter().collect()
    }

    fn play_for(&mut self, seconds: u64) {
        self.tick([parameters()]);
        for n in 0..seconds * 10 {
            self.tick([frame(n as i64 * 9000)]);
        }
    }

    fn opened(&self) -> usize {
        self.engine.0.borrow().opened
    }
}

#[test]
fn what_is_read_behind_a_standstill_did_not_arrive_before_it() {
    let mut world = World::new();
    world.play_for(1);
    let (before, halted) = (at(world.now_us + 100_000), at(world.now_us + 5 * S));
    world.engine.0.borrow_mut().todo.push_back(frame(11 * 9000));
    world.source.read(before, &|| halted, &world.limits, 1.0, &mut Vec::new());
    assert_eq!(world.heard_us.load(Ordering::Relaxed), halted.monotonic_us);
    // What a tick takes by itself is no standstill.
    let (before, busy) = (at(halted.monotonic_us + 100_000), at(halted.monotonic_us + 110_000));
    world.engine.0.borrow_mut().todo.push_back(frame(60 * 9000));
    world.source.read(before, &|| busy, &world.limits, 1.0, &mut Vec::new());
    assert_eq!(world.heard_us.load(Ordering::Relaxed), before.monotonic_us);
}

fn at(monotonic_us: u64) -> TickTime {
    TickTime { monotonic_us, wall: WallTime(monotonic_us as i64) }
}

fn parameters() -> Do {
    let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
    Do::Yield(Item::Parameters(Box::new(StreamParameters { video, audio: None, audio_left_out: None })))
}

fn frame(pts: i64) -> Do {
    let data = Bytes::from_static(&[0, 0, 0, 5, 0x65, 0x88, 0x84, 0, 1]);
    Do::Yield(Item::Video(VideoUnit { data, pts: MediaTime(pts), lost_packets: 0 }))
}

fn end_of(events: Vec<Event>) -> SessionEnd {
    let ends: Vec<SessionEnd> =
        events.into_iter().filter_map(|e| if let Event::Ended(end) = e { Some(end) } else { None }).collect();
    let [end] = &ends[..] else { panic!("{ends:?}") };
    end.clone()
}

#[test]
fn a_hand_shake_that_takes_too_long_ends_and_is_tried_again_after_the_back_off() {
    let mut w = World::new();
    assert!(matches!(w.tick([])[..], [Event::Connecting]));
    let began_us = w.now_us;
    let end = loop {
        let events = w.tick([]);
        if !events.is_empty() {
            break end_of(events);
        }
    };
    assert_eq!(w.now_us - began_us, 10 * S);
    assert_eq!((end.kind, end.retry_in_us), (SessionEndKind::Unreachable, Some(500_000)));
    for _ in 0..4 {
        assert!(w.tick([]).is_empty());
    }
    assert!(matches!(w.tick([])[..], [Event::Connecting]));
    assert_eq!(w.opened(), 2);
}

#[test]
fn five_seconds_without_a_packet_are_silence() {
    let mut w = World::new();
    w.play_for(1);
    let last_us = w.now_us;
    let end = loop {
        let events = w.tick([]);
        if !events.is_empty() {
            break end_of(events);
        }
    };
    assert_eq!(end.kind, SessionEndKind::Silence);
    assert_eq!(w.now_us - last_us, 5 * S);
}

#[test]
fn a_bad_packet_after_ten_good_seconds_is_answered_with_a_new_session_in_the_next_tick() {
    let mut w = World::new();
    w.play_for(11);
    let end = end_of(w.tick([Do::End(SessionEndKind::Malformed)]));
    assert_eq!(end.retry_in_us, Some(0));
    assert!(matches!(w.tick([])[..], [Event::Connecting]));
    // It ends at once again: now there is a wait.
    assert_eq!(end_of(w.tick([Do::End(SessionEndKind::Malformed)])).retry_in_us, Some(500_000));
}

#[test]
fn delays_start_anew_after_ten_good_seconds_and_not_before() {
    let mut w = World::new();
    for expected in [500_000, 1_000_000, 2_000_000, 4_000_000, 5_000_000, 5_000_000] {
        let end = loop {
            let events = w.tick([]);
            if matches!(events[..], [Event::Connecting]) {
                break end_of(w.tick([Do::End(SessionEndKind::Unreachable)]));
            }
        };
        assert_eq!(end.retry_in_us, Some(expected));
    }
    while !matches!(w.tick([])[..], [Event::Connecting]) {}
    w.play_for(11);
    assert_eq!(end_of(w.tick([Do::End(SessionEndKind::ClosedByCamera)])).retry_in_us, Some(500_000));
}

#[test]
fn new_credentials_are_tried_at_once_by_one_that_waits_and_later_by_one_that_plays() {
    let mut w = World::new();
    w.tick([]);
    assert_eq!(end_of(w.tick([Do::End(SessionEndKind::Unauthorized)])).retry_in_us, Some(6_000_000));
    let changed = SourceSpec { credentials: Some(Credentials::new("bob", "new")), ..w.source.spec.clone() };
    w.source.update(w.source.spec.clone(), at(w.now_us));
    assert!(w.tick([]).is_empty(), "nothing was changed");
    w.source.update(changed.clone(), at(w.now_us));
    assert!(matches!(w.tick([])[..], [Event::Connecting]));
    w.play_for(1);
    w.source.update(SourceSpec { credentials: None, ..changed.clone() }, at(w.now_us));
    assert!(matches!(w.tick([frame(90_000)])[..], [Event::Video(_)]));
    w.source.update(SourceSpec { audio: false, ..changed }, at(w.now_us));
    let end = end_of(w.tick([]));
    assert_eq!((end.kind, end.retry_in_us), (SessionEndKind::Stopped, Some(0)));
    assert_eq!(w.opened(), 3);
}

#[test]
fn panics_are_errors_also_when_a_session_is_dropped() {
    let mut w = World::new();
    w.play_for(1);
    w.engine.0.borrow_mut().panic_on_drop = true;
    let end = end_of(w.tick([Do::Panic]));
    assert_eq!(end.kind, SessionEndKind::Internal);
    assert!(end.message.contains("told so (source_tests.rs:"), "{}", end.message);
    assert_eq!(w.source.published.snapshot().panics, 1);
    for _ in 0..5 {
        w.tick([]);
    }
    assert_eq!(w.opened(), 2);
}

#[test]
fn a_password_in_a_camera_s_words_is_taken_out() {
    let mut w = World::new();
    w.tick([]);
    assert_eq!(end_of(w.tick([Do::End(SessionEndKind::Protocol)])).message, "told so with ***");
}

#[test]
fn counters_go_on_over_sessions() {
    let mut w = World::new();
    w.play_for(1);
    w.tick([Do::End(SessionEndKind::ClosedByCamera)]);
    let first = w.source.published.snapshot();
    assert_eq!((first.video_frames, first.packets, first.sessions, first.playing), (10, 11, 1, false));
    w.engine.0.borrow_mut().traffic = Traffic::default();
    while !matches!(w.tick([])[..], [Event::Connecting]) {}
    w.play_for(1);
    let second = w.source.published.snapshot();
    assert_eq!((second.video_frames, second.packets, second.sessions, second.playing), (20, 22, 2, true));
    assert_eq!(second.last_packet, Some(WallTime(w.now_us as i64)));
}

#[test]
fn the_end_is_told_once() {
    let mut w = World::new();
    w.play_for(1);
    w.source.stop(at(w.now_us));
    let end = end_of(w.heard.try_iter().collect());
    assert_eq!((end.kind, end.retry_in_us), (SessionEndKind::Stopped, None));
}

#[test]
fn a_source_that_is_held_waits_without_limit_and_plays_in_the_same_session() {
    let mut w = World::new();
    w.holds.store(true, Ordering::Relaxed);
    let heard = w.tick([Do::Ready]);
    assert!(matches!(heard[..], [Event::Connecting, Event::Ready]), "{heard:?}");
    assert_eq!(w.source.opening_since_us(), None, "no short ticks for one that waits");
    for _ in 0..1000 {
        assert!(w.tick([]).is_empty(), "neither silence nor a hand-shake that takes too long");
    }
    // What else changes does not make it play.
    w.source.update(SourceSpec { priority: 7, ..w.source.spec.clone() }, at(w.now_us));
    assert!(w.tick([]).is_empty());
    assert_eq!(w.engine.0.borrow().plays, 0);
    w.holds.store(false, Ordering::Relaxed);
    w.tick([]);
    assert!(w.source.opening_since_us().is_some());
    assert_eq!(w.engine.0.borrow().plays, 1, "asked in the tick in which it was wanted");
    assert!(matches!(w.tick([parameters()])[..], [Event::Playing(_)]));
    assert_eq!(w.opened(), 1);
    // To be held again is another session.
    w.holds.store(true, Ordering::Relaxed);
    assert_eq!(end_of(w.tick([])).kind, SessionEndKind::Stopped);
    w.tick([]);
    assert_eq!(w.opened(), 2);
}

#[test]
fn play_that_is_not_answered_after_a_long_hold_is_a_hand_shake_that_takes_too_long() {
    let mut w = World::new();
    w.holds.store(true, Ordering::Relaxed);
    w.tick([Do::Ready]);
    for _ in 0..1000 {
        w.tick([]);
    }
    w.holds.store(false, Ordering::Relaxed);
    for _ in 0..100 {
        assert!(w.tick([]).is_empty());
    }
    assert_eq!(end_of(w.tick([])).kind, SessionEndKind::Unreachable);
}
