//! Clips of footage that went through the real store: sealed segments, the one being written, a restart in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::serve_footage::recorded::{open, record};
use crate::serve_footage::*;
use framekeeper_media::WallTime;
use framekeeper_recorder::serve::clip::file::ClipFile;
use framekeeper_recorder::serve::clip::layout::Layout;
use framekeeper_recorder::serve::clip::plan::{Gaps, Request, plan};
use framekeeper_recorder::serve::coverage::coverage;
use framekeeper_recorder::serve::footage::{Footage, FootageError};
use framekeeper_recorder::serve::stored::Stored;
use framekeeper_store::{GapReason, SegmentInfo, StreamIdent};
use uuid::Uuid;

/// The clip's frames, and how far each is from its time, in seconds, at most.
fn clip(footage: &Arc<Stored>, stream: Uuid, from_us: i64, to_us: i64) -> (Vec<String>, Vec<f64>, Vec<f64>) {
    let request = Request { stream, from: WallTime(from_us), to: WallTime(to_us), gaps: Gaps::Keep };
    let plan = plan(footage.as_ref(), request).unwrap();
    let layout = Arc::new(Layout::new(&plan).unwrap());
    let mut file = ClipFile::new(Arc::clone(footage) as _, Arc::new(plan), Arc::clone(&layout));
    let mut bytes = Vec::new();
    file.read(0, usize::MAX, &mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, layout.len);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    (pictures(path), times(path, "v"), times(path, "a"))
}

fn check(footage: &Arc<Stored>, stream: Uuid, specs: &[&RunSpec<'_>], from_us: i64, to_us: i64) {
    let expected: Vec<Shown> = specs.iter().flat_map(|spec| shown(spec, from_us, to_us)).collect();
    let (pictures, video, audio) = clip(footage, stream, from_us, to_us);
    let wanted: Vec<&str> = expected.iter().map(|shown| shown.picture.as_str()).collect();
    let differs = pictures.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
    assert_eq!((pictures.len(), differs), (wanted.len(), None), "{from_us} to {to_us}");
    for (got, shown) in video.iter().zip(&expected) {
        let wanted = (shown.wall_us - expected[0].wall_us) as f64 / 1e6;
        assert!((got - wanted).abs() < 0.001, "{wanted} s is shown at {got} s");
    }
    assert!(audio[0].abs() < 0.022, "audio begins at {}", audio[0]);
}

#[test]
fn footage_of_a_real_store() {
    let source =
        encode(20, "480x288", "-preset ultrafast -qp 6 -bf 2 -g 25 -keyint_min 25 -sc_threshold 0", Some("-b:a 64k"));
    let folder = tempfile::tempdir().unwrap();
    let ident = StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: "door".into() };
    let first = RunSpec {
        source: &source,
        frames: 0..300,
        wall_us: START,
        gops_per_segment: 0,
        fills_on: false,
        gap: GapReason::FirstRun,
    };
    let second = RunSpec { frames: 300..500, wall_us: START + 7 * S, gap: GapReason::SessionEnded, ..first };

    let store = open(folder.path());
    record(&store, &ident, &first);
    let footage = Arc::new(Stored::new(store.reader(), 16 << 20));
    assert_eq!(footage.find("default", "door").unwrap(), Some(ident.uid));
    let segments = footage.segments(ident.uid, WallTime(0), WallTime(i64::MAX)).unwrap();
    assert!(segments.len() > 3, "{} segments are too few for this test", segments.len());
    for (from, to) in [(0, 60 * S), (1_234_000, 1_235_000 + 4 * S), (11 * S, 12 * S), (5 * S, 5 * S + 40_000)] {
        check(&footage, ident.uid, &[&first], START + from, START + to);
    }
    drop(footage);
    store.close();
    drop(store);

    let store = open(folder.path());
    record(&store, &ident, &second);
    let footage = Arc::new(Stored::new(store.reader(), 16 << 20));
    // What the first store recorded is read while the second one records already.
    eventually("the catalogue is complete", || footage.is_complete());
    let runs = footage.coverage(ident.uid, WallTime(0), WallTime(i64::MAX)).unwrap();
    assert_eq!(runs.iter().map(|run| run.frames).collect::<Vec<_>>(), [300, 200]);
    for (from, to) in [(0, 60 * S), (10_520_000, 21_880_000), (18_990_000, 20 * S)] {
        check(&footage, ident.uid, &[&first, &second], START + from, START + to);
    }
    drop(footage);
    store.close();
}

fn whole(footage: &Arc<Stored>, request: Request) -> Result<Vec<u8>, (Vec<u8>, FootageError)> {
    let plan = plan(footage.as_ref(), request).unwrap();
    let layout = Arc::new(Layout::new(&plan).unwrap());
    let mut file = ClipFile::new(Arc::clone(footage) as _, Arc::new(plan), Arc::clone(&layout));
    let mut bytes = Vec::new();
    match file.read(0, usize::MAX, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err((bytes, error)),
    }
}

/// The segments, once the catalogue has all of them but the one that is being written. What was recorded is durable before it has.
fn once_sealed(footage: &Stored, stream: Uuid) -> Vec<SegmentInfo> {
    let segments = || footage.segments(stream, WallTime(0), WallTime(i64::MAX)).unwrap();
    let are_sealed = || segments().split_last().is_some_and(|(_, before)| before.iter().all(|segment| segment.sealed));
    eventually("segments are sealed", are_sealed);
    segments()
}

/// Waits until `done`, which some thread of the store brings about without telling.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "this did not happen: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn what_rots_is_never_sent_and_the_rest_is() {
    let source =
        encode(12, "480x288", "-preset ultrafast -qp 6 -bf 2 -g 25 -keyint_min 25 -sc_threshold 0", Some("-b:a 64k"));
    let folder = tempfile::tempdir().unwrap();
    let ident = StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: "door".into() };
    let spec = RunSpec {
        source: &source,
        frames: 0..300,
        wall_us: START,
        gops_per_segment: 0,
        fills_on: false,
        gap: GapReason::FirstRun,
    };
    let store = open(folder.path());
    record(&store, &ident, &spec);
    let footage = Arc::new(Stored::new(store.reader(), 16 << 20));
    let all = Request { stream: ident.uid, from: WallTime(START), to: WallTime(START + 60 * S), gaps: Gaps::Close };
    let before = whole(&footage, all).unwrap();
    let expected: Vec<String> = shown(&spec, START, START + 60 * S).into_iter().map(|shown| shown.picture).collect();
    let segments = once_sealed(&footage, ident.uid);
    assert!(segments.len() > 3, "{} segments are too few for this test", segments.len());

    // In the middle of a frame of the second segment, and at the start of one of the segment that is being written.
    for (number, segment) in [&segments[1], segments.last().unwrap()].into_iter().enumerate() {
        let path = folder.path().join(&segment.path);
        let mut bytes = std::fs::read(&path).unwrap();
        let mdat = bytes.windows(4).enumerate().filter(|(_, word)| *word == b"mdat").nth(1).unwrap().0;
        bytes[mdat + 4 + 700 * (1 - number)] ^= 0x20;
        std::fs::write(&path, bytes).unwrap();
        // A reader that has read none of it yet.
        let footage = Arc::new(Stored::new(store.reader(), 16 << 20));
        let (sent, error) = whole(&footage, all).unwrap_err();
        assert!(matches!(error, FootageError::Damaged(_)), "{error}");
        if number == 0 {
            assert!(before.starts_with(&sent) && !sent.is_empty(), "other bytes than before");
        }
        let damage = footage.damage(ident.uid).unwrap();
        assert_eq!(damage.len(), number + 1, "{damage:?}");
        let (pictures, ..) = clip(&footage, ident.uid, START, START + 60 * S);
        let lost: u32 = damage.iter().map(|hole| hole.video_frames).sum();
        assert_eq!(pictures.len(), expected.len() - lost as usize);
        let mut rest = expected.iter();
        assert!(pictures.iter().all(|picture| rest.any(|wanted| wanted == picture)), "a picture that is none");
        assert!((1..=25 * (number as u32 + 1)).contains(&lost), "{lost} frames are lost");
        // Pictures of damaged stretches are those before.
        let runs = footage.coverage(ident.uid, WallTime(0), WallTime(i64::MAX)).unwrap();
        assert!(runs.iter().any(|run| run.gap == GapReason::Damaged), "{runs:?}");
        let names = ("default", "door");
        let always = (WallTime(i64::MIN), WallTime(i64::MAX));
        let told = coverage(footage.as_ref(), ident.uid, names, always).unwrap();
        let told = serde_json::to_value(told).unwrap();
        let reasons = told["gaps"].as_array().unwrap().iter().filter(|gap| gap["reason"] == "Damaged");
        assert_eq!(reasons.count(), number + 1, "{told}");
    }
    drop(footage);
    store.close();
}
