//! Clips of footage that ffmpeg encoded, judged by ffmpeg: exactly the frames of the range, each picture bit for bit, at the right time.

use std::sync::{Arc, LazyLock};

use crate::serve_footage::*;
use framekeeper_media::WallTime;
use framekeeper_recorder::serve::clip::PlanError;
use framekeeper_recorder::serve::clip::file::ClipFile;
use framekeeper_recorder::serve::clip::layout::Layout;
use framekeeper_recorder::serve::clip::plan::{Gaps, Plan, Request, plan};
use framekeeper_store::GapReason;
use proptest::prelude::*;

mod several;

const PLAIN: &str = "-preset ultrafast -bf 0 -g 25 -keyint_min 25 -sc_threshold 0";
const REORDERED: &str = "-preset fast -bf 3 -g 50 -keyint_min 50 -sc_threshold 0";
const ANOTHER_PLAIN: &str = "-preset ultrafast -bf 0 -g 40 -keyint_min 40 -sc_threshold 0";
const ANOTHER_REORDERED: &str = "-preset fast -bf 3 -g 40 -keyint_min 40 -sc_threshold 0";
/// Key frames are recovery points with pictures that lead them.
const OPEN_GOP: &str = "-preset fast -bf 3 -g 25 -keyint_min 25 -sc_threshold 0 -x264-params open-gop=1";

static PLAIN_SOURCE: LazyLock<Source> = LazyLock::new(|| encode(12, "160x96", PLAIN, Some("-b:a 64k")));
static REORDERED_SOURCE: LazyLock<Source> =
    LazyLock::new(|| encode(12, "160x96", REORDERED, Some("-b:a 64k -ar 48000")));
/// The same scenes by other encoders: no frame of the time in which both are recorded has the bytes of the other's.
static ANOTHER_PLAIN_SOURCE: LazyLock<Source> = LazyLock::new(|| encode(12, "160x96", ANOTHER_PLAIN, Some("-b:a 64k")));
static ANOTHER_REORDERED_SOURCE: LazyLock<Source> =
    LazyLock::new(|| encode(12, "160x96", ANOTHER_REORDERED, Some("-b:a 64k -ar 48000")));
static LARGER_SOURCE: LazyLock<Source> = LazyLock::new(|| encode(4, "320x192", PLAIN, Some("-b:a 64k -ar 16000")));
static SILENT_SOURCE: LazyLock<Source> = LazyLock::new(|| encode(6, "160x96", PLAIN, None));

fn spec(source: &Source) -> RunSpec<'_> {
    RunSpec {
        source,
        frames: 0..source.video.len(),
        wall_us: START,
        gops_per_segment: 2,
        fills_on: false,
        gap: GapReason::FirstRun,
    }
}

struct Clip {
    folder: tempfile::TempDir,
    plan: Plan,
    bytes: Vec<u8>,
}

impl Clip {
    fn path(&self) -> String {
        self.folder.path().join("clip.mp4").to_str().unwrap().to_owned()
    }
}

fn file(footage: &Arc<Memory>, from_us: i64, to_us: i64, gaps: Gaps) -> Result<(ClipFile, Arc<Layout>), PlanError> {
    let request = Request { stream: footage.stream, from: WallTime(from_us), to: WallTime(to_us), gaps };
    let plan = plan(footage.as_ref(), request)?;
    let layout = Arc::new(Layout::new(&plan)?);
    Ok((ClipFile::new(Arc::clone(footage) as _, Arc::new(plan), Arc::clone(&layout)), layout))
}

fn clip(footage: &Arc<Memory>, from_us: i64, to_us: i64, gaps: Gaps) -> Clip {
    let (mut file, layout) = file(footage, from_us, to_us, gaps).unwrap();
    let mut bytes = Vec::new();
    file.read(0, usize::MAX, &mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, layout.len);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("clip.mp4"), &bytes).unwrap();
    Clip { folder, plan: file.plan().clone(), bytes }
}

/// The clip shows these frames and no other; with `kept` the times between them too.
fn check(clip: &Clip, expected: &[Shown], kept: bool) {
    let got = pictures(&clip.path());
    let wanted: Vec<&str> = expected.iter().map(|shown| shown.picture.as_str()).collect();
    assert_eq!(got, wanted);
    assert_eq!(clip.plan.first_wall.0, expected[0].wall_us);
    if kept {
        for (got, shown) in times(&clip.path(), "v").iter().zip(expected) {
            let wanted = (shown.wall_us - expected[0].wall_us) as f64 / 1e6;
            assert!((got - wanted).abs() < 0.001, "a frame of {wanted} s is shown at {got} s");
        }
    }
}

/// Presentation times, 90 kHz, of the video packets that a player would show.
fn shown_packets(path: &str) -> Vec<i64> {
    let packets = probe(path, &["-select_streams", "v", "-show_packets"]);
    let shown = packets["packets"].as_array().unwrap().iter().filter(|p| !p["flags"].as_str().unwrap().contains('D'));
    let mut times: Vec<i64> = shown.map(|packet| packet["pts"].as_i64().unwrap()).collect();
    times.sort_unstable();
    times
}

/// Audio covers the clip, and begins no further from its beginning than a frame.
fn check_audio(clip: &Clip, seconds: f64) {
    let heard = times(&clip.path(), "a");
    assert!(heard[0].abs() < 0.022, "audio begins at {}", heard[0]);
    let last = heard[heard.len() - 1];
    assert!(last < seconds && last > seconds - 0.075, "last audio frame at {last} of {seconds} s");
    assert!(heard.is_sorted());
}

#[test]
fn the_whole_of_a_run() {
    for source in [&*PLAIN_SOURCE, &*REORDERED_SOURCE] {
        let mut footage = Memory::new();
        footage.record(&spec(source));
        let clip = clip(&Arc::new(footage), START, START + 60 * S, Gaps::Close);
        check(&clip, &shown(&spec(source), START, START + 60 * S), true);
        check_audio(&clip, 12.0);
    }
}

#[test]
fn footage_without_audio() {
    let mut footage = Memory::new();
    footage.record(&spec(&SILENT_SOURCE));
    let (from, to) = (START + 1_333_333, START + 4_444_444);
    check(&clip(&Arc::new(footage), from, to, Gaps::Close), &shown(&spec(&SILENT_SOURCE), from, to), true);
}

#[test]
fn one_frame() {
    for source in [&*PLAIN_SOURCE, &*REORDERED_SOURCE] {
        let mut footage = Memory::new();
        footage.record(&spec(source));
        let footage = Arc::new(footage);
        for at in [0, 40_000, 3_960_000, 4_000_000, 4_040_000, 11_960_000] {
            let expected = shown(&spec(source), START + at, START + at + 1);
            assert_eq!(expected.len(), 1);
            check(&clip(&footage, START + at, START + at + 1, Gaps::Close), &expected, true);
        }
    }
}

#[test]
fn pictures_that_lead_their_key_frame() {
    let source = encode(6, "160x96", OPEN_GOP, None);
    let led = source.video.windows(2).filter(|pair| pair[0].key && pair[1].pts < pair[0].pts).count();
    assert!(led > 2, "the source should have open GOPs");
    let mut footage = Memory::new();
    footage.record(&RunSpec { gops_per_segment: 1, ..spec(&source) });
    let footage = Arc::new(footage);
    for frame in 20..80 {
        let (from, to) = (START + frame * 40_000, START + frame * 40_000 + 200_000);
        let (clip, expected) = (clip(&footage, from, to, Gaps::Close), shown(&spec(&source), from, to));
        let shown = shown_packets(&clip.path());
        let wanted = expected.iter().map(|shown| (shown.wall_us - expected[0].wall_us) * 9 / 100);
        assert_eq!(shown, wanted.collect::<Vec<_>>(), "from frame {frame}");
        if frame < 25 {
            // Decoding begins at an IDR picture. Where it cannot, ffmpeg misses what later frames tell it to forget, and drops some.
            check(&clip, &expected, true);
        }
    }
}

#[test]
fn a_gop_that_began_in_an_earlier_segment() {
    let mut source =
        encode(4, "160x96", "-preset ultrafast -bf 0 -g 100 -keyint_min 100 -sc_threshold 0", Some("-b:a 64k"));
    // Where the fake cuts its segments, without making these frames random access points.
    let cuts = [30, 60, 90];
    cuts.iter().for_each(|at| source.video[*at].key = true);
    let mut footage = Memory::new();
    footage.record(&RunSpec { gops_per_segment: 1, ..spec(&source) });
    for stored in &mut footage.segments[1..] {
        let stored = Arc::get_mut(stored).unwrap();
        stored.frames.video[0].flags.0 = 0;
        stored.info.counts.random_access_points = 0;
    }
    let footage = Arc::new(footage);
    let (from, to) = (START + 3_000_000, START + 3_800_000);
    check(&clip(&footage, from, to, Gaps::Close), &shown(&spec(&source), from, to), true);
}

#[test]
fn gaps_are_closed_or_kept() {
    for source in [&*PLAIN_SOURCE, &*REORDERED_SOURCE] {
        for fills_on in [false, true] {
            let first = RunSpec { frames: 0..130, ..spec(source) };
            let second = RunSpec {
                frames: 150..300,
                wall_us: START + 20 * S,
                fills_on,
                gap: GapReason::Silence,
                ..spec(source)
            };
            let mut footage = Memory::new();
            footage.record(&first);
            footage.record(&second);
            let footage = Arc::new(footage);
            let (from, to) = (START + 1_500_000, START + 28_700_000);
            let mut expected = shown(&first, from, to);
            let before = expected.len();
            expected.extend(shown(&second, from, to));
            check(&clip(&footage, from, to, Gaps::Keep), &expected, true);
            let closed = clip(&footage, from, to, Gaps::Close);
            check(&closed, &expected, false);
            let times = times(&closed.path(), "v");
            let step = times[before] - times[before - 1];
            assert!((step - 0.04).abs() < 0.001, "{step} s across the closed gap");
            check_audio(&closed, expected.len() as f64 * 0.04);
        }
    }
}

#[test]
fn audio_stays_with_its_pictures_across_many_gaps() {
    let mut footage = Memory::new();
    let specs: Vec<RunSpec<'_>> = (0..10)
        .map(|i| RunSpec {
            frames: i * 25..i * 25 + 20,
            wall_us: START + i as i64 * 3 * S,
            fills_on: i % 3 == 1,
            ..spec(&PLAIN_SOURCE)
        })
        .collect();
    specs.iter().for_each(|spec| footage.record(spec));
    let footage = Arc::new(footage);
    let closed = clip(&footage, START, START + 100 * S, Gaps::Close);
    let expected: Vec<Shown> = specs.iter().flat_map(|spec| shown(spec, 0, i64::MAX)).collect();
    check(&closed, &expected, false);
    check_audio(&closed, 200.0 * 0.04);
    check(&clip(&footage, START, START + 100 * S, Gaps::Keep), &expected, true);
}

#[test]
fn parameters_may_change() {
    let (first, second) =
        (RunSpec { frames: 0..150, ..spec(&PLAIN_SOURCE) }, RunSpec { wall_us: START + 8 * S, ..spec(&LARGER_SOURCE) });
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&second);
    let footage = Arc::new(footage);
    let (from, to) = (START + 1_100_000, START + 11_000_000);
    let clip = clip(&footage, from, to, Gaps::Keep);
    assert_eq!(clip.plan.descriptions.video.len(), 2);
    assert_eq!(clip.plan.descriptions.audio.len(), 2);
    // ffmpeg's own listing scales to the first size, so only the count is comparable.
    let expected = shown(&first, from, to).len() + shown(&second, from, to).len();
    assert_eq!(times(&clip.path(), "v").len(), expected);
}

/// The number of the first frame from the 130th on that is shown behind later ones.
fn shown_early(source: &Source) -> usize {
    let mut frames = source.video.iter().enumerate().skip(129);
    frames.find(|(at, frame)| frame.pts / 3_600 > *at as i64).unwrap().0
}

#[test]
fn copies_of_a_frame_are_shown_once() {
    // The second one ends between pictures that are not in display order; the rest of them is where the copies are.
    let cases = [(&*PLAIN_SOURCE, 130), (&*REORDERED_SOURCE, shown_early(&REORDERED_SOURCE) + 1)];
    for (source, end) in cases {
        let first = RunSpec { frames: 0..end, ..spec(source) };
        // The camera begins its second session with the GOP that it has just sent; the two clocks differ by some milliseconds.
        let second = RunSpec { frames: 100..300, wall_us: START + 7_000, ..spec(source) };
        let mut footage = Memory::new();
        footage.record(&first);
        footage.record(&second);
        let footage = Arc::new(footage);
        let all = RunSpec { frames: 0..300, ..spec(source) };
        for gaps in [Gaps::Close, Gaps::Keep] {
            let clip = clip(&footage, START + 2 * S, START + 10 * S, gaps);
            // By the media clock, which both have.
            check(&clip, &shown(&all, START + 2 * S, START + 10 * S), true);
            check_audio(&clip, 8.0);
        }
    }
}

/// Two recorders' footage of a camera that codes for each session; by the second one's clock everything is 7 ms later.
fn coded_apart(frames: std::ops::Range<usize>, reordered: bool) -> (Memory, RunSpec<'static>, RunSpec<'static>) {
    let (one, other) = match reordered {
        false => (&*PLAIN_SOURCE, &*ANOTHER_PLAIN_SOURCE),
        true => (&*REORDERED_SOURCE, &*ANOTHER_REORDERED_SOURCE),
    };
    let first = RunSpec { frames, ..spec(one) };
    let second = RunSpec { frames: 80..300, wall_us: START + 7_000, gap: GapReason::Takeover, ..spec(other) };
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&second);
    footage.of_another_recorder(true);
    (footage, first, second)
}

/// A clip of it goes over from the one to the other behind so many pictures of the scene.
fn goes_over_behind((footage, first, second): (Memory, RunSpec<'_>, RunSpec<'_>), pictures: i64) {
    let footage = Arc::new(footage);
    let seam = START + pictures * 40_000 - 20_000;
    for (from, to, gaps) in [(4 * S, 6 * S, Gaps::Keep), (0, 60 * S, Gaps::Close)] {
        let (from, to) = (START + from, START + to);
        let clip = clip(&footage, from, to, gaps);
        let mut expected = shown(&first, from, seam);
        expected.extend(shown(&second, seam + 7_000, to));
        check(&clip, &expected, false);
        check_audio(&clip, expected.len() as f64 * 0.04);
        let (pictures, heard) = (times(&clip.path(), "v"), times(&clip.path(), "a"));
        let longest = |times: &[f64]| times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!((clip.plan.duration() - expected.len() as i64 * 3_600).abs() < 10, "{:?}", clip.plan.edits);
        // Between pictures that are not in display order ffmpeg is one off.
        let reorders = first.source.reorders;
        assert!(longest(&pictures) < if reorders { 0.081 } else { 0.041 }, "{pictures:?}");
        assert!(longest(&heard) < 0.045, "{heard:?}");
    }
    // Of the sound, too, each frame is there once.
    let whole = clip(&footage, START, START + 60 * S, Gaps::Close);
    let seconds = 0.0..second.source.video.len() as f64 * 0.04;
    let recorded = |sound: &&Coded| seconds.contains(&(sound.pts as f64 / second.source.audio_rate as f64));
    let sounds = second.source.audio.iter().filter(recorded);
    assert_eq!(whole.plan.total().audio, sounds.count() as u64);
}

/// Sender reports tell when a sound was heard and when a picture was seen, each by itself, and not the same to every recorder.
fn with_sound_shifted(
    (mut footage, first, second): (Memory, RunSpec<'static>, RunSpec<'static>),
    by: i64,
) -> (Memory, RunSpec<'static>, RunSpec<'static>) {
    let run = footage.runs[1].run;
    let of_second = |stored: &&mut Arc<Stored>| stored.frames.runs.iter().any(|part| part.run == run);
    for stored in footage.segments.iter_mut().filter(of_second) {
        let frames = &mut Arc::get_mut(stored).unwrap().frames;
        frames.audio.iter_mut().for_each(|entry| entry.time += by);
    }
    (footage, first, second)
}

#[test]
fn of_a_camera_that_codes_for_each_session_each_moment_is_shown_once() {
    goes_over_behind(coded_apart(0..130, false), 130);
    goes_over_behind(coded_apart(0..150, true), 150);
    // Behind 132 pictures it goes over in the very middle of a sound; 48 ticks are a millisecond.
    for by in [-144, -48, 0, 48, 144] {
        goes_over_behind(with_sound_shifted(coded_apart(0..132, false), by), 132);
    }
}

#[test]
fn behind_pictures_that_are_not_shown_gaps_are_kept() {
    let first = RunSpec { frames: 0..130, ..spec(&PLAIN_SOURCE) };
    let second = RunSpec { frames: 80..200, ..spec(&ANOTHER_PLAIN_SOURCE) };
    let third = RunSpec { frames: 0..50, wall_us: START + 20 * S, ..spec(&PLAIN_SOURCE) };
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&second);
    footage.of_another_recorder(true);
    footage.record(&third);
    let seam = START + 130 * 40_000;
    let mut expected = shown(&first, 0, seam);
    expected.extend(shown(&second, seam, i64::MAX).into_iter().chain(shown(&third, 0, i64::MAX)));
    check(&clip(&Arc::new(footage), START, START + 60 * S, Gaps::Keep), &expected, true);
}

#[test]
fn where_the_first_one_lacks_pictures_the_second_one_shows_them() {
    // It ends between pictures that are not in display order: this one's is shown behind others that come later.
    let at = shown_early(&REORDERED_SOURCE);
    goes_over_behind(coded_apart(0..at + 1, true), at as i64);
}

#[test]
fn where_the_first_one_has_less_sound_than_pictures_the_second_one_shows_the_rest() {
    let (mut footage, first, second) = coded_apart(0..130, false);
    let run = footage.runs[0].run;
    let last = footage.segments.iter_mut().rfind(|stored| stored.frames.runs.iter().any(|part| part.run == run));
    let frames = &mut Arc::get_mut(last.unwrap()).unwrap().frames;
    // 10 × 21.3 ms: up to somewhere in the sixth picture from the end.
    let fewer = frames.audio.len() as u32 - 10;
    frames.audio.truncate(fewer as usize);
    frames.runs[0].audio.end = fewer;
    frames.fragments.iter_mut().for_each(|(_, audio)| *audio = fewer.min(*audio));
    goes_over_behind((footage, first, second), 124);
}

#[test]
fn a_run_that_lies_within_another_one_is_not_shown_where_the_camera_codes_for_each_session() {
    let first = RunSpec { frames: 0..250, ..spec(&PLAIN_SOURCE) };
    let second = RunSpec { frames: 80..200, wall_us: START + 7_000, ..spec(&ANOTHER_PLAIN_SOURCE) };
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&second);
    footage.of_another_recorder(true);
    check(&clip(&Arc::new(footage), START, START + 60 * S, Gaps::Close), &shown(&first, START, START + 60 * S), true);
}

#[test]
fn where_nobody_knows_what_shows_the_same_both_are_shown() {
    // The camera tells no time; it is not as far ahead of one recorder as of the other; it is the same recorder.
    for (reports, late_us, another) in [(false, 7_000, true), (true, 1_007_000, true), (true, 7_000, false)] {
        let first = RunSpec { frames: 0..130, ..spec(&PLAIN_SOURCE) };
        let second = RunSpec { frames: 80..300, wall_us: START + late_us, ..spec(&ANOTHER_PLAIN_SOURCE) };
        let mut footage = Memory::new();
        footage.record(&first);
        footage.record(&second);
        if another {
            footage.of_another_recorder(reports);
        }
        let mut expected = shown(&first, START, START + 60 * S);
        expected.extend(shown(&second, START, START + 60 * S));
        check(&clip(&Arc::new(footage), START, START + 60 * S, Gaps::Close), &expected, false);
    }
}

/// The clock of a recorder that took over differs by more than frames are apart: which of them are the same is told by many of them together.
#[test]
fn copies_of_recorders_whose_clocks_differ_are_shown_once() {
    for source in [&*PLAIN_SOURCE, &*REORDERED_SOURCE] {
        for ahead_us in [-700_000, 700_000] {
            let first = RunSpec { frames: 0..150, ..spec(source) };
            let second =
                RunSpec { frames: 100..300, wall_us: START + ahead_us, gap: GapReason::Takeover, ..spec(source) };
            let mut footage = Memory::new();
            footage.record(&first);
            footage.record(&second);
            footage.of_another_recorder(true);
            let clip = clip(&Arc::new(footage), START - S, START + 60 * S, Gaps::Close);
            check(&clip, &shown(&RunSpec { frames: 0..300, ..spec(source) }, 0, i64::MAX), false);
            check_audio(&clip, 300.0 * 0.04);
        }
    }
}

#[test]
fn a_clock_that_was_set_back_hides_no_frame() {
    for of_another_recorder in [false, true] {
        a_clock_that_differs_hides_no_frame(of_another_recorder);
    }
}

fn a_clock_that_differs_hides_no_frame(of_another_recorder: bool) {
    let first = RunSpec { frames: 0..150, ..spec(&PLAIN_SOURCE) };
    let second = RunSpec { frames: 150..300, wall_us: START - 3 * S, ..spec(&PLAIN_SOURCE) };
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&second);
    if of_another_recorder {
        footage.of_another_recorder(true);
    }
    let footage = Arc::new(footage);
    // Both runs reach beyond both ends of the range.
    let (from, to) = (START + 4_100_000, START + 5_500_000);
    let clip = clip(&footage, from, to, Gaps::Close);
    let (mut expected, then) = (shown(&first, from, to), shown(&second, from, to));
    assert!(!expected.is_empty() && !then.is_empty());
    expected.extend(then);
    check(&clip, &expected, false);
}

#[test]
fn what_is_still_being_written_ends_where_it_is_durable() {
    let mut footage = Memory::new();
    footage.record(&spec(&PLAIN_SOURCE));
    footage.unseal_last();
    footage.durable = Some(WallTime(START + 11_200_000));
    let footage = Arc::new(footage);
    let clip = clip(&footage, START + 7_900_000, START + 1000 * S, Gaps::Close);
    check(&clip, &shown(&spec(&PLAIN_SOURCE), START + 7_900_000, START + 11_200_000), true);
    assert!(matches!(file(&footage, START + 11_200_000, START + 12 * S, Gaps::Close), Err(PlanError::NoFrames)));
}

#[test]
fn ranges_without_a_frame() {
    let mut footage = Memory::new();
    footage.record(&RunSpec { frames: 0..100, ..spec(&PLAIN_SOURCE) });
    footage.record(&RunSpec { frames: 100..200, wall_us: START + 10 * S, ..spec(&PLAIN_SOURCE) });
    let footage = Arc::new(footage);
    for (from, to) in [(-S, 0), (5 * S, 9 * S), (100 * S, 101 * S), (1, 40_000), (1_000_001, 1_039_999)] {
        let result = file(&footage, START + from, START + to, Gaps::Keep);
        assert!(matches!(result, Err(PlanError::NoFrames)), "{from} to {to}");
    }
}

#[test]
fn only_the_first_and_the_last_segment_are_read_ahead() {
    let mut footage = Memory::new();
    footage.record(&RunSpec { gops_per_segment: 1, ..spec(&PLAIN_SOURCE) });
    let footage = Arc::new(footage);
    let (mut file, _) = file(&footage, START + 1_500_000, START + 10_500_000, Gaps::Close).unwrap();
    let mut out = Vec::new();
    file.read(0, 600, &mut out).unwrap();
    let mut read = footage.read.lock().unwrap().clone();
    read.sort_unstable();
    read.dedup();
    assert_eq!(read, [1, 10]);
}

#[test]
fn counts_that_were_wrong_are_an_error_and_no_wrong_bytes() {
    let mut footage = Memory::new();
    footage.record(&RunSpec { gops_per_segment: 1, ..spec(&PLAIN_SOURCE) });
    Arc::get_mut(&mut footage.segments[5]).unwrap().info.counts.video_bytes += 1;
    let (mut file, layout) = file(&Arc::new(footage), START, START + 10_500_000, Gaps::Close).unwrap();
    assert!(file.read(0, layout.len as usize, &mut Vec::new()).is_err());
}

/// Footage with B-frames, audio, gaps, and segments with two runs.
static MIXED: LazyLock<Arc<Memory>> = LazyLock::new(|| {
    let mut footage = Memory::new();
    mixed().iter().for_each(|spec| footage.record(spec));
    Arc::new(footage)
});

fn mixed() -> [RunSpec<'static>; 3] {
    [
        RunSpec { frames: 0..170, ..spec(&REORDERED_SOURCE) },
        RunSpec { frames: 200..300, fills_on: true, wall_us: START + S, ..spec(&REORDERED_SOURCE) },
        RunSpec { frames: 50..250, wall_us: START + 15 * S, ..spec(&REORDERED_SOURCE) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_range_shows_exactly_its_frames(from_ms in -500i64..26_000, length_ms in 1i64..27_000, keep: bool) {
        let (from, to) = (START + from_ms * 1000, START + (from_ms + length_ms) * 1000);
        let gaps = if keep { Gaps::Keep } else { Gaps::Close };
        let expected: Vec<Shown> = mixed().iter().flat_map(|spec| shown(spec, from, to)).collect();
        if expected.is_empty() {
            prop_assert!(matches!(file(&MIXED, from, to, gaps), Err(PlanError::NoFrames)));
        } else {
            check(&clip(&MIXED, from, to, gaps), &expected, keep);
        }
    }
}

proptest! {
    #[test]
    fn any_part_of_a_clip_is_that_part_of_the_whole(
        from_ms in 0i64..25_000,
        length_ms in 40i64..26_000,
        parts in proptest::collection::vec((0.0f64..1.0, 1usize..20_000), 1..40),
    ) {
        let (from, to) = (START + from_ms * 1000, START + (from_ms + length_ms) * 1000);
        if let Ok((mut file, layout)) = file(&MIXED, from, to, Gaps::Close) {
            let mut whole = Vec::new();
            file.read(0, usize::MAX, &mut whole).unwrap();
            prop_assert_eq!(whole.len() as u64, layout.len);
            for (at, len) in parts {
                // Half of them in the tables, where the work is.
                let within = if len % 2 == 0 { layout.samples_start } else { layout.len };
                let position = (within as f64 * at) as usize;
                let mut part = Vec::new();
                file.read(position as u64, len, &mut part).unwrap();
                prop_assert_eq!(&part[..], &whole[position..whole.len().min(position + len)]);
            }
        }
    }
}

#[test]
fn equal_clips_are_equal_bytes() {
    let bytes = |gaps| clip(&MIXED, START + S, START + 20 * S, gaps).bytes;
    assert_eq!(bytes(Gaps::Close), bytes(Gaps::Close));
    assert_ne!(bytes(Gaps::Close), bytes(Gaps::Keep));
}
