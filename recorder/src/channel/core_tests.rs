//! A camera and a clock as values, and what the state machine makes of them.

use bytes::Bytes;
use framekeeper_crds::ChannelState;
use framekeeper_ingest::{Event, SenderReport, SessionEnd, SessionEndKind, StreamParameters, TickTime};
use framekeeper_media::aac::AacParameters;
use framekeeper_media::h264::H264Parameters;
use framekeeper_media::{AccessUnit, AudioFrame, FrameFlags, FrameIdentity, MediaTime, WallTime};
use framekeeper_store::{Fragment, GapReason};
use proptest::prelude::*;

use super::core::{Action, Core, Report};

const TICK_US: u64 = 100_000;
const PART_US: u64 = 500_000;
/// From libx264: 160 x 120, High profile.
pub(super) const SPS: &[u8] = &[
    0x67, 0x64, 0x00, 0x0b, 0xac, 0xd9, 0x42, 0x84, 0x7e, 0x5c, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00,
    0x0c, 0x83, 0xc5, 0x0a, 0x65, 0x80,
];
pub(super) const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
const OTHER_PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc1];
const AUDIO_RATE: i64 = 48_000;

fn parameters(pps: &[u8], audio: bool) -> Box<StreamParameters> {
    let mut video = H264Parameters::from_sps_pps(SPS, &[pps]).expect("a good SPS");
    // As a camera without B-frames says.
    video.max_num_reorder_frames = Some(0);
    // AAC-LC, 48 kHz, mono.
    let aac = || AacParameters::from_audio_specific_config(&[0x11, 0x88]).expect("a good config");
    Box::new(StreamParameters { video, audio: audio.then(aac), audio_left_out: None })
}

/// A camera at 25 frames/s with a key frame each second, and what came of it.
struct Bench {
    core: Core,
    now_us: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC.
    wall_less_monotonic_us: i64,
    /// RTP time at monotonic 0.
    rtp_zero: i64,
    frames: i64,
    got: Vec<Got>,
}

/// What came out.
enum Got {
    Run(Option<GapReason>),
    Parameters,
    Fragment(Fragment),
    Report(Report),
}

impl Bench {
    fn new() -> Self {
        let core = Core::new(PART_US, TICK_US, 1, None);
        let wall_less_monotonic_us = 1_790_000_000_000_000;
        Self { core, now_us: 1_000_000, wall_less_monotonic_us, rtp_zero: 4_000_000_000, frames: 0, got: Vec::new() }
    }

    fn playing(audio: bool) -> Self {
        let mut bench = Self::new();
        bench.event(Event::Connecting);
        bench.event(Event::Playing(parameters(PPS, audio)));
        bench
    }

    fn at(&self) -> TickTime {
        TickTime { monotonic_us: self.now_us, wall: WallTime(self.now_us as i64 + self.wall_less_monotonic_us) }
    }

    fn collect(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.got.push(match action {
                Action::BeginRun { gap, .. } => Got::Run(gap),
                Action::Parameters(_) => Got::Parameters,
                Action::Append(fragment, _) => Got::Fragment(fragment),
                Action::Report(report) => Got::Report(report),
            });
        }
    }

    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.core.event(self.at(), event, &mut actions);
        self.collect(actions);
    }

    fn tick(&mut self) {
        let mut actions = Vec::new();
        self.core.tick(self.at(), &mut actions);
        self.collect(actions);
        self.now_us += TICK_US;
    }

    /// One tick: the frames that the camera made in it, and the tick.
    fn frames_and_tick(&mut self) {
        while self.frames * 40_000 < self.now_us as i64 {
            let key = self.frames % 25 == 0;
            self.frame(self.frames * 40_000, key);
        }
        self.tick();
    }

    fn frame(&mut self, made_us: i64, key: bool) {
        let flags = if key { FrameFlags::RANDOM_ACCESS.with(FrameFlags::SYNC) } else { FrameFlags::default() };
        let pts = MediaTime(self.rtp_zero + made_us * 9 / 100);
        // The identity tells which frame it is.
        let identity = FrameIdentity(self.frames as u64);
        self.frames += 1;
        self.event(Event::Video(AccessUnit { data: Bytes::from_static(&[0; 100]), pts, flags, identity }));
    }

    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.frames_and_tick();
        }
    }

    fn ended(&mut self, kind: SessionEndKind) {
        self.event(Event::Ended(SessionEnd { kind, message: format!("{kind:?}"), retry_in_us: Some(500_000) }));
    }

    /// The source was removed.
    fn stopped(&mut self) {
        let message = "removed".to_owned();
        self.event(Event::Ended(SessionEnd { kind: SessionEndKind::Stopped, message, retry_in_us: None }));
    }

    fn runs(&self) -> Vec<Option<GapReason>> {
        self.got.iter().filter_map(|got| if let Got::Run(gap) = got { Some(*gap) } else { None }).collect()
    }

    fn fragments(&self) -> impl Iterator<Item = &Fragment> {
        self.got.iter().filter_map(|got| if let Got::Fragment(fragment) = got { Some(fragment) } else { None })
    }

    fn identities(&self) -> Vec<u64> {
        self.fragments().flat_map(|fragment| &fragment.video).map(|frame| frame.identity.0).collect()
    }

    fn states(&self) -> Vec<(ChannelState, &'static str)> {
        let report = |got: &Got| if let Got::Report(report) = got { Some((report.state, report.reason)) } else { None };
        self.got.iter().filter_map(report).collect()
    }

    /// What holds whatever happened.
    fn check(&self) {
        let mut run: Option<Vec<&Fragment>> = None;
        for got in &self.got {
            match got {
                Got::Run(_) => run = Some(Vec::new()),
                Got::Parameters => assert!(run.is_some(), "parameters outside a run"),
                Got::Fragment(fragment) => {
                    let run = run.as_mut().expect("a fragment before its run");
                    let before = run.iter().rev().find_map(|fragment| fragment.video.last());
                    let mut frames: Vec<_> = before.into_iter().collect();
                    frames.extend(&fragment.video);
                    for pair in frames.windows(2) {
                        assert!(pair[0].dts < pair[1].dts, "decode times go back");
                        assert!(pair[0].wall < pair[1].wall, "wall times go back");
                    }
                    for pair in fragment.video.windows(2) {
                        assert_eq!(
                            pair[0].dts.0 + i64::from(pair[0].duration),
                            pair[1].dts.0,
                            "durations leave a hole"
                        );
                    }
                    let key = |frame: &&framekeeper_store::VideoFrame| frame.flags.contains(FrameFlags::RANDOM_ACCESS);
                    assert_eq!(fragment.video.iter().skip(1).find(key).map(|frame| frame.identity), None);
                    assert_eq!(fragment.begins_random_access, fragment.video.first().as_ref().is_some_and(key));
                    run.push(fragment);
                }
                Got::Report(_) => {}
            }
        }
    }
}

#[test]
fn a_steady_camera_is_one_run_without_a_frame_missing() {
    let mut bench = Bench::playing(false);
    bench.frames = 25;
    bench.seconds(10);
    bench.stopped();
    bench.check();
    assert_eq!(bench.runs(), [None]);
    assert_eq!(bench.identities(), (25..bench.frames as u64).collect::<Vec<_>>());
    assert_eq!(
        bench.states(),
        [(ChannelState::Connecting, "WaitingForKeyFrame"), (ChannelState::Recording, "Recording")]
    );
    for fragment in bench.fragments() {
        let length: u32 = fragment.video.iter().map(|frame| frame.duration).sum();
        assert!(length <= 45_000 + 3_600, "{length} ticks in one fragment");
    }
}

#[test]
fn what_comes_before_a_sessions_first_key_frame_cannot_be_decoded() {
    let mut bench = Bench::playing(false);
    bench.frames = 30;
    bench.seconds(2);
    assert_eq!(bench.identities().first(), Some(&50));
}

#[test]
fn a_reconnect_is_a_run_behind_a_gap_with_the_latest_reason() {
    let mut bench = Bench::playing(false);
    bench.seconds(3);
    bench.ended(SessionEndKind::ClosedByCamera);
    for _ in 0..3 {
        bench.tick();
        bench.event(Event::Connecting);
        bench.ended(SessionEndKind::Unreachable);
    }
    bench.rtp_zero += 123_456_789;
    bench.event(Event::Playing(parameters(PPS, false)));
    bench.seconds(3);
    bench.check();
    assert_eq!(bench.runs(), [None, Some(GapReason::CameraUnreachable)]);
    assert_eq!(
        bench.states().into_iter().skip(1).collect::<Vec<_>>(),
        [
            (ChannelState::Recording, "Recording"),
            (ChannelState::Backoff, "SessionEnded"),
            (ChannelState::Backoff, "CameraUnreachable"),
            (ChannelState::Recording, "Recording"),
        ]
    );
}

#[test]
fn a_source_that_is_changed_connects_anew() {
    let mut bench = Bench::playing(false);
    bench.seconds(2);
    bench.ended(SessionEndKind::Stopped);
    bench.event(Event::Connecting);
    bench.event(Event::Playing(parameters(PPS, false)));
    bench.seconds(2);
    bench.check();
    assert_eq!(bench.runs(), [None, Some(GapReason::SourceChanged)]);
    let states: Vec<_> = bench.states().into_iter().skip(1).collect();
    assert_eq!(
        states,
        [
            (ChannelState::Recording, "Recording"),
            (ChannelState::Connecting, "Connecting"),
            (ChannelState::Connecting, "WaitingForKeyFrame"),
            (ChannelState::Recording, "Recording"),
        ]
    );
}

#[test]
fn a_step_of_the_hosts_clock_begins_a_run_and_drops_nothing() {
    for step_us in [3_600_000_000, -3_600_000_000, 600_000] {
        let mut bench = Bench::playing(false);
        bench.frames = 25;
        bench.seconds(3);
        // In the middle of a GOP.
        (0..3).for_each(|_| bench.frames_and_tick());
        bench.wall_less_monotonic_us += step_us;
        bench.seconds(3);
        bench.check();
        assert_eq!(bench.runs(), [None, Some(GapReason::ClockStep)]);
        let behind = bench.got.iter().skip_while(|got| !matches!(got, Got::Run(Some(_))));
        let first = behind.into_iter().find_map(|got| if let Got::Fragment(one) = got { Some(one) } else { None });
        assert!(first.is_some_and(|fragment| fragment.begins_random_access), "the run can be decoded by itself");
        let identities = bench.identities();
        assert_eq!(identities, (25..25 + identities.len() as u64).collect::<Vec<_>>());
        let last = bench.fragments().last().and_then(|fragment| fragment.video.last()).expect("frames");
        assert!((last.wall.0 - bench.at().wall.0).abs() < 1_000_000, "{step_us}: {last:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_within_a_gop_begins_no_run() {
    let mut bench = Bench::playing(false);
    bench.seconds(3);
    (0..2).for_each(|_| bench.frames_and_tick());
    bench.wall_less_monotonic_us += 3_600_000_000;
    (0..2).for_each(|_| bench.frames_and_tick());
    bench.wall_less_monotonic_us -= 3_600_000_000;
    bench.seconds(3);
    bench.check();
    assert_eq!(bench.runs(), [None]);
}

#[test]
fn gops_that_a_camera_had_kept_get_the_times_at_which_they_were_made() {
    let mut bench = Bench::playing(false);
    // Four GOPs arrive in one tick.
    bench.now_us = 4_000_000;
    bench.seconds(2);
    bench.check();
    for frame in bench.fragments().flat_map(|fragment| &fragment.video) {
        let made_us = frame.identity.0 as i64 * 40_000;
        let late_us = frame.wall.0 - bench.wall_less_monotonic_us - made_us;
        assert!((0..=TICK_US as i64).contains(&late_us), "frame {}: {late_us} µs", frame.identity.0);
    }
}

#[test]
fn the_slow_hand_of_ntp_is_no_step() {
    let mut bench = Bench::playing(false);
    for _ in 0..100 {
        bench.wall_less_monotonic_us += 50_000;
        bench.frames_and_tick();
    }
    bench.check();
    assert_eq!(bench.runs(), [None]);
}

#[test]
fn a_jump_of_rtp_time_begins_a_run_and_drops_nothing() {
    // A jump that ingest noticed, and one back that is too small for it.
    for (jump, told) in [(900_000_000, true), (-135_000, false)] {
        let mut bench = Bench::playing(false);
        bench.frames = 25;
        bench.seconds(2);
        (0..3).for_each(|_| bench.frames_and_tick());
        bench.rtp_zero += jump;
        if told {
            bench.event(Event::TimeJump);
        }
        bench.seconds(2);
        bench.check();
        assert_eq!(bench.runs(), [None, Some(GapReason::MediaTimeJump)]);
        let identities = bench.identities();
        assert_eq!(identities, (25..25 + identities.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn another_epoch_is_another_run_without_a_gap() {
    let mut bench = Bench::playing(false);
    bench.frames = 25;
    bench.seconds(2);
    let mut actions = Vec::new();
    bench.core.set_epoch(2, &mut actions);
    bench.core.set_epoch(2, &mut actions);
    bench.collect(actions);
    bench.seconds(2);
    bench.check();
    assert_eq!(bench.runs(), [None, Some(GapReason::NoGap)]);
    let identities = bench.identities();
    assert_eq!(identities, (25..25 + identities.len() as u64).collect::<Vec<_>>());
}

#[test]
fn other_parameters_go_on_in_the_same_run() {
    let mut bench = Bench::playing(false);
    bench.frames = 25;
    bench.seconds(2);
    bench.event(Event::Parameters(parameters(PPS, false))); // the same again: nothing
    bench.event(Event::Parameters(parameters(OTHER_PPS, false)));
    bench.seconds(2);
    bench.check();
    assert_eq!(bench.runs(), [None]);
    let changes = bench.got.iter().filter(|got| matches!(got, Got::Parameters)).count();
    assert_eq!(changes, 1);
    // Audio with a clock of its own cannot go on.
    bench.event(Event::Parameters(parameters(OTHER_PPS, true)));
    bench.seconds(1);
    assert_eq!(bench.runs(), [None, Some(GapReason::ParametersChanged)]);
}

#[test]
fn audio_is_placed_beside_the_video_by_sender_reports() {
    let mut bench = Bench::playing(true);
    bench.frames = 25;
    let ntp = |us: i64| (3_900_000_000_u64 << 32) + ((us as u64) << 32) / 1_000_000;
    let audio_pts = |us: i64| MediaTime(777 + us * AUDIO_RATE / 1_000_000);
    // Many cameras send them before anything else: the first picture may still be a second away.
    let media_time = MediaTime(bench.rtp_zero + 1_000_000 * 9 / 100);
    bench.event(Event::VideoReport(SenderReport { ntp: ntp(1_000_000), media_time }));
    bench.event(Event::AudioReport(SenderReport { ntp: ntp(1_000_000), media_time: audio_pts(1_000_000) }));
    bench.frame(1_000_000, true);
    for tick in 0..20 {
        // Audio reaches us 300 ms late: arrival would place it wrongly.
        let made_us = (bench.now_us as i64) - 300_000;
        for n in 0..5 {
            let pts = audio_pts(made_us + n * 21_333);
            bench.event(Event::Audio(AudioFrame { data: Bytes::from_static(&[0; 9]), pts, duration: 1024 }));
        }
        if tick > 0 {
            bench.frame(bench.now_us as i64, false);
        }
        bench.tick();
    }
    bench.check();
    let fragment = bench.fragments().nth(2).expect("fragments");
    let (video, audio) = (&fragment.video[0], &fragment.audio[0]);
    let video_made_us = (video.pts.0 - bench.rtp_zero) * 100 / 9;
    let audio_made_us = (audio.pts.0 - 777) * 1_000_000 / AUDIO_RATE;
    let off_us = (audio.wall.0 - video.wall.0) - (audio_made_us - video_made_us);
    assert!(off_us.abs() < 200, "{off_us}");
    let (audio_clock, video_clock) = fragment.av_sync.expect("a pair");
    let pair_off_us = (audio_clock.0 - 777) * 1_000_000 / AUDIO_RATE - (video_clock.0 - bench.rtp_zero) * 100 / 9;
    assert!(pair_off_us.abs() < 200, "{pair_off_us}");
    assert!(bench.fragments().all(|other| other.av_sync.is_none_or(|pair| pair == (audio_clock, video_clock))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_frames_are_kept_once_and_in_order(script in proptest::collection::vec(0_u8..20, 10..120)) {
        let mut bench = Bench::new();
        let (mut expected, mut playing, mut started) = (Vec::new(), false, false);
        for step in script {
            match step {
                0 => {
                    bench.event(Event::Connecting);
                    bench.event(Event::Playing(parameters(PPS, false)));
                    (playing, started) = (true, false);
                }
                1 if playing => {
                    bench.ended(SessionEndKind::Silence);
                    playing = false;
                }
                2 if playing => {
                    bench.rtp_zero += 7_000_000;
                    bench.event(Event::TimeJump);
                }
                3 => bench.wall_less_monotonic_us += 2_000_000,
                4 if playing => bench.event(Event::Parameters(parameters(OTHER_PPS, false))),
                5 => bench.tick(),
                _ if playing => {
                    while bench.frames * 40_000 < bench.now_us as i64 {
                        let key = bench.frames % 25 == 0;
                        started |= key;
                        if started {
                            expected.push(bench.frames as u64);
                        }
                        bench.frame(bench.frames * 40_000, key);
                    }
                    bench.tick();
                }
                _ => {
                    bench.frames = bench.now_us as i64 / 40_000;
                    bench.tick();
                }
            }
        }
        bench.stopped();
        bench.check();
        prop_assert_eq!(bench.identities(), expected);
    }
}
