//! A channel that stands by, takes over and gives back, with a store on this machine's disk: what of a camera's frames is recorded.

use std::sync::Arc;

use bytes::Bytes;
use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Event, SenderReport, SessionEnd, SessionEndKind, Sink, StreamParameters, TickTime};
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::{AccessUnit, FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::env::Env;
use framekeeper_store::{GapReason, Store, StoreConfig, StreamIdent, VolumeConfig};
use framekeeper_takeover::{Footage, SteadyTime};
use uuid::Uuid;

use super::core::Core;
use super::core_tests::{PPS, SPS};
use super::{ChannelSink, ChannelStats, Condition, Control, SharedSlots, Wish};
use crate::assignment::{ChannelPlan, Class, Shared};
use crate::view::View;

const TICK_US: u64 = 100_000;
/// The clock as it is at first.
const WALL_US: i64 = 1_790_000_000_000_000;

/// A camera with 10 frames a second and a key frame each second; frame n is made at n · 100 ms.
struct Bench {
    sink: ChannelSink,
    store: Arc<Store>,
    control: Arc<Control>,
    slots: Arc<SharedSlots>,
    stats: Arc<ChannelStats>,
    stream: Uuid,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC.
    wall_us: i64,
    next: u64,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(rank: u32) -> Self {
        let mut bench = Self::of(rank, Class::Playing);
        bench.plays();
        bench
    }

    fn of(rank: u32, class: Class) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("footage");
        std::fs::create_dir(&volume).unwrap();
        let volume = VolumeConfig { dir: volume, uuid: None, segment_bytes: 1 << 20, budget_bytes: 16 << 20 };
        let config = StoreConfig::new("default/main", "r", Uuid::from_u128(2), vec![volume]);
        let store = Arc::new(Store::open(config, Env::real()).unwrap());
        let stream = Uuid::from_u128(7);
        let ident = StreamIdent { uid: stream, namespace: "default".into(), name: "cam".into() };
        let holders = vec![Uuid::from_u128(2), Uuid::from_u128(9)];
        let plan = ChannelPlan {
            stream: ident.clone(),
            epoch: 1,
            rank,
            plan_version: framekeeper_store::PlanVersion { term: 1, sequence: 1 },
            url: "rtsp://camera/1".parse().unwrap(),
            secret: None,
            audio: false,
            onvif: None,
            priority: 0,
            shared: Some(Shared { class, holders, retired: Vec::new() }),
        };
        let control = Control::new(&plan);
        let stats = Arc::new(ChannelStats::new(Condition {
            state: ChannelState::Connecting,
            reason: "Connecting",
            message: String::new(),
            since: WallTime(0),
        }));
        let view = Arc::new(View::new("r".to_owned(), 0));
        let core = Core::new(500_000, TICK_US, plan.epoch, None);
        let writer = store.stream(ident).unwrap();
        let (its_stats, its_control) = (Arc::clone(&stats), Arc::clone(&control));
        let slots = Arc::new(SharedSlots::default());
        let its_slots = Arc::clone(&slots);
        let sink = ChannelSink::new("default/cam".to_owned(), core, writer, its_stats, view, its_control, its_slots);
        Self { sink, store, control, slots, stats, stream, wall_us: WALL_US, next: 0, _folder: folder }
    }

    fn plays(&mut self) {
        let video = H264Parameters::from_sps_pps(SPS, &[PPS]).unwrap();
        let parameters = StreamParameters { video, audio: None, audio_left_out: None };
        self.sink.event(self.at(), Event::Playing(Box::new(parameters)));
    }

    /// One tick in which nothing comes.
    fn idle(&mut self) {
        self.sink.tick(self.at());
        self.next += 1;
    }

    fn sees_camera(&self) -> bool {
        self.control.sees_camera(self.at().monotonic_us)
    }

    fn at(&self) -> TickTime {
        let monotonic_us = 1_000_000 + self.next * TICK_US;
        TickTime { monotonic_us, wall: WallTime(self.wall_us + monotonic_us as i64) }
    }

    /// When frame `number` was, on this machine's monotonic clock.
    fn steady(number: u64) -> SteadyTime {
        SteadyTime(1_000_000 + (number * TICK_US) as i64)
    }

    /// Up to this frame, without it, one each tick.
    fn until(&mut self, number: u64) {
        while self.next < number {
            let key = self.next.is_multiple_of(10);
            let flags = if key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags::default() };
            let pts = MediaTime(4_000_000_000 + self.next as i64 * 9_000);
            let identity = FrameIdentity(self.next);
            let unit = AccessUnit { data: Bytes::from_static(&[0; 1_000]), pts, flags, identity };
            self.sink.event(self.at(), Event::Video(unit));
            self.sink.tick(self.at());
            self.next += 1;
        }
    }

    /// Until so many frames are durable, and decisions are told so.
    fn flush(&mut self, given: u64) {
        self.store.flush_tick();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.store.durable(self.stream).is_none_or(|durable| durable.frames < given) {
            assert!(std::time::Instant::now() < patience, "not durable: {:?}", self.store.durable(self.stream));
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        self.sink.tick(self.at());
    }

    fn wish(&self, wish: Wish) {
        self.control.wish(wish);
    }

    fn state(&self) -> (ChannelState, &'static str) {
        let condition = self.stats.condition();
        (condition.state, condition.reason)
    }

    /// The runs' sender reports, by their NTP timestamps, when all is written.
    fn reports(self) -> Vec<Option<u64>> {
        let Self { sink, store, stream, .. } = self;
        drop(sink);
        store.flush_tick();
        store.close();
        let reader = store.reader();
        let segments = reader.segments(stream, WallTime(i64::MIN), WallTime(i64::MAX)).unwrap();
        let boxes = segments.iter().flat_map(|segment| reader.run_boxes(segment).unwrap().to_vec());
        boxes.map(|run| run.sender_report.map(|report| report.ntp)).collect()
    }

    /// The runs that are recorded, by (epoch, gap, numbers of frames), when all is written.
    fn recorded(self) -> Vec<(u64, GapReason, Vec<u64>)> {
        let Self { sink, store, stream, .. } = self;
        drop(sink);
        store.flush_tick();
        store.close();
        let reader = store.reader();
        let always = (WallTime(i64::MIN), WallTime(i64::MAX));
        let runs = reader.coverage(stream, always.0, always.1).unwrap();
        let mut found: Vec<_> = runs.iter().map(|run| (run.run, run.epoch, run.gap, Vec::new())).collect();
        for segment in reader.segments(stream, always.0, always.1).unwrap() {
            let (index, boxes) = (reader.index(&segment).unwrap(), reader.run_boxes(&segment).unwrap());
            for (run, run_box) in index.runs.iter().zip(boxes.iter()) {
                let of_run = found.iter_mut().find(|(known, ..)| *known == run_box.run).unwrap();
                let first = run.first_entry as usize;
                for entry in &index.entries[first..first + run.entries as usize] {
                    if let framekeeper_media::boxes::index::EntryKind::Video { identity, .. } = entry.kind {
                        of_run.3.push(identity.0);
                    }
                }
            }
        }
        found.into_iter().map(|(_, epoch, gap, frames)| (epoch, gap, frames)).collect()
    }
}

fn frames(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn a_standby_records_from_the_gop_that_holds_what_is_missing() {
    let mut bench = Bench::new(1);
    bench.until(5);
    assert_eq!(bench.state(), (ChannelState::Connecting, "FillingMemory"));
    bench.until(100);
    assert_eq!(bench.state(), (ChannelState::Standby, "StandingBy"));
    // Durable elsewhere up to frame 87: with half a second for clocks that is in the GOP of frame 80.
    bench.wish(Wish::Record { epoch: 4, from: Some(Bench::steady(87)) });
    bench.until(125);
    assert_eq!(bench.state(), (ChannelState::Recording, "TakenOver"));
    assert_eq!(bench.recorded(), [(4, GapReason::Takeover, frames(80..125))]);
}

#[test]
fn a_clock_that_is_set_takes_nothing_from_what_a_standby_records() {
    for (step_us, at) in
        [(3_600_000_000, 75), (-3_600_000_000, 75), (800_000, 115), (-800_000, 115), (-86_400_000_000, 124)]
    {
        let mut bench = Bench::new(1);
        bench.until(at);
        bench.wall_us += step_us;
        bench.until(125);
        bench.wish(Wish::Record { epoch: 4, from: Some(Bench::steady(87)) });
        bench.until(145);
        let frames: Vec<u64> = bench.recorded().into_iter().flat_map(|(.., frames)| frames).collect();
        let mut sorted = frames.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, self::frames(80..145), "{step_us} at {at}");
    }
}

#[test]
fn what_was_durable_before_a_clock_was_set_is_not_taken_for_what_comes_behind() {
    for step_us in [-3_600_000_000, -800_000, 800_000, 3_600_000_000] {
        let mut bench = Bench::new(0);
        bench.wish(Wish::Record { epoch: 2, from: None });
        bench.until(29);
        assert_eq!(bench.control.footage(), None);
        bench.flush(25);
        let (first, durable) = (Bench::steady(0), Bench::steady(24));
        assert_eq!(bench.control.footage(), Some(Footage { first, durable }));
        // By its run's clock, up to the next key frame.
        bench.wall_us += step_us;
        bench.until(30);
        assert_eq!(bench.control.footage(), Some(Footage { first, durable }), "{step_us}");
        bench.until(35);
        let told = bench.control.footage();
        assert!(told.is_none_or(|told| told == Footage { first, durable }), "{told:?}");
        bench.until(39);
        bench.flush(35);
        assert_eq!(bench.control.footage(), Some(Footage { first: Bench::steady(30), durable: Bench::steady(34) }));
    }
}

#[test]
fn a_run_from_memory_knows_what_the_camera_has_reported_of_its_clock() {
    let mut bench = Bench::new(1);
    for (number, ntp) in [(12, 70), (88, 95)] {
        bench.until(number);
        let report = SenderReport { ntp, media_time: MediaTime(4_000_000_000 + number as i64 * 9_000) };
        bench.sink.event(bench.at(), Event::VideoReport(report));
    }
    bench.until(100);
    bench.wish(Wish::Record { epoch: 4, from: Some(Bench::steady(87)) });
    bench.until(105);
    assert_eq!(bench.reports(), [Some(95)]);
}

#[test]
fn who_gives_back_records_up_to_the_key_frame_that_its_memory_begins_with() {
    let mut bench = Bench::new(1);
    bench.until(60);
    bench.wish(Wish::Record { epoch: 4, from: Some(Bench::steady(56)) });
    // In the middle of a fragment that does not begin with a key frame.
    bench.until(77);
    bench.wish(Wish::StandBy);
    bench.until(95);
    assert_eq!(bench.state(), (ChannelState::Connecting, "FillingMemory"));
    // The other one fails again: nothing between the two may be missing.
    bench.wish(Wish::Record { epoch: 6, from: Some(Bench::steady(75)) });
    bench.until(110);
    let expected = [(4, GapReason::Takeover, frames(50..80)), (6, GapReason::Takeover, frames(80..110))];
    assert_eq!(bench.recorded(), expected);
}

#[test]
fn who_is_asked_again_before_it_has_ended_goes_on_without_a_gap() {
    let mut bench = Bench::new(1);
    bench.until(60);
    bench.wish(Wish::Record { epoch: 4, from: None });
    bench.until(76);
    bench.wish(Wish::StandBy);
    bench.until(78);
    bench.wish(Wish::Record { epoch: 6, from: Some(Bench::steady(70)) });
    bench.until(100);
    let recorded = bench.recorded();
    let all: Vec<u64> = recorded.iter().flat_map(|(.., frames)| frames.clone()).collect();
    assert_eq!(all, frames(0..100), "{recorded:?}");
    assert_eq!(
        recorded.iter().map(|(epoch, gap, _)| (*epoch, *gap)).collect::<Vec<_>>(),
        [(4, GapReason::Takeover), (6, GapReason::NoGap)]
    );
}

#[test]
fn an_outage_is_no_group_of_pictures() {
    let mut bench = Bench::new(0);
    bench.wish(Wish::Record { epoch: 2, from: None });
    bench.until(35);
    let second = 900_000..1_100_000;
    assert!(second.contains(&bench.control.gop_us()), "{}", bench.control.gop_us());
    let message = "the connection broke".to_owned();
    let end = SessionEnd { kind: SessionEndKind::ClosedByCamera, message, retry_in_us: Some(500_000) };
    bench.sink.event(bench.at(), Event::Ended(end));
    (35..100).for_each(|_| bench.idle());
    bench.plays();
    bench.until(125);
    assert!(second.contains(&bench.control.gop_us()), "{}", bench.control.gop_us());
    // A clock that is set is none either.
    bench.wall_us += 3_600_000_000;
    bench.until(155);
    assert!(second.contains(&bench.control.gop_us()), "{}", bench.control.gop_us());
}

#[test]
fn a_primary_that_starts_has_its_first_run() {
    let mut bench = Bench::new(0);
    bench.until(3);
    bench.wish(Wish::Record { epoch: 2, from: None });
    bench.until(30);
    assert_eq!(bench.state(), (ChannelState::Recording, "Recording"));
    assert_eq!(bench.recorded(), [(2, GapReason::FirstRun, frames(0..30))]);
}

#[test]
fn a_standby_that_is_held_asks_for_frames_when_it_has_to_record_and_gives_its_slot_back() {
    let mut bench = Bench::of(1, Class::Ready);
    bench.slots.set_room(1);
    bench.idle();
    assert!(bench.sink.holds() && !bench.sees_camera());
    bench.sink.event(bench.at(), Event::Ready);
    bench.idle();
    assert_eq!(bench.state(), (ChannelState::Standby, "StandingBy"));
    assert!(bench.sees_camera() && bench.control.is_held());
    bench.wish(Wish::Record { epoch: 4, from: Some(Bench::steady(1)) });
    bench.idle();
    assert!(!bench.sink.holds());
    assert_eq!(bench.state(), (ChannelState::Connecting, "Connecting"));
    bench.plays();
    bench.idle();
    // Waiting for a key frame, for as long as its GOPs are, is not being blind.
    assert!(bench.sees_camera() && bench.slots.taken() == 0, "taken with the first frame, not with the decision");
    bench.next = 50;
    bench.until(76);
    assert_eq!((bench.state(), bench.slots.taken()), ((ChannelState::Recording, "TakenOver"), 1));
    bench.wish(Wish::StandBy);
    bench.until(79);
    assert!(!bench.sink.holds(), "up to the next key frame");
    bench.until(90);
    assert!(bench.sink.holds() && bench.slots.taken() == 0);
    assert_eq!(bench.control.memory(), None);
    assert_eq!(bench.recorded(), [(4, GapReason::Takeover, frames(50..80))]);
}

#[test]
fn without_a_slot_nothing_is_recorded() {
    let mut bench = Bench::of(1, Class::Ready);
    bench.sink.event(bench.at(), Event::Ready);
    bench.wish(Wish::Record { epoch: 4, from: None });
    bench.plays();
    bench.until(15);
    assert!(!bench.control.has_slot());
    assert_eq!(bench.control.footage(), None);
    // One became free.
    bench.slots.set_room(1);
    bench.until(40);
    assert!(bench.control.has_slot());
    assert_eq!(bench.recorded(), [(4, GapReason::Takeover, frames(20..40))]);
}

#[test]
fn a_camera_that_does_not_keep_idle_sessions_is_found_out() {
    let mut bench = Bench::of(1, Class::Ready);
    for _ in 0..3 {
        bench.sink.event(bench.at(), Event::Ready);
        bench.idle();
        let message = "the connection broke at waiting".to_owned();
        let end = SessionEnd { kind: SessionEndKind::ClosedByCamera, message, retry_in_us: Some(500_000) };
        bench.sink.event(bench.at(), Event::Ended(end));
        bench.idle();
        assert!(!bench.sees_camera());
    }
    assert_eq!(bench.state(), (ChannelState::Backoff, "DropsIdleSessions"));
    bench.sink.event(bench.at(), Event::Ready);
    bench.idle();
    assert_eq!(bench.state(), (ChannelState::Backoff, "DropsIdleSessions"), "until one lasts");
}

#[test]
fn a_camera_that_is_silent_is_not_said_to_be_recorded() {
    let mut bench = Bench::new(0);
    bench.wish(Wish::Record { epoch: 1, from: None });
    bench.until(20);
    assert_eq!((bench.state(), bench.sees_camera()), ((ChannelState::Recording, "Recording"), true));
    // The state and what heartbeats say turn with the same tick.
    for tick in 0..30 {
        bench.idle();
        let says_so = bench.state() == (ChannelState::Recording, "Recording");
        let sees_camera = bench.control.sees_camera(bench.at().monotonic_us - TICK_US);
        assert_eq!(says_so, sees_camera, "tick {tick}");
        assert_eq!(says_so, tick < 19, "tick {tick}");
    }
    assert_eq!(bench.state(), (ChannelState::Backoff, "Silence"));
    bench.until(60);
    assert_eq!((bench.state(), bench.sees_camera()), ((ChannelState::Recording, "Recording"), true));
}
