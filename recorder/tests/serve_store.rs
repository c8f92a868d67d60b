//! Clips of footage that went through the real store: sealed segments, the one being written, a restart in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking, in their helpers too"
)]

#[path = "serve_footage/recorded.rs"]
mod recorded;
mod serve_footage;

use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_recorder::serve::clip::file::ClipFile;
use framekeeper_recorder::serve::clip::layout::Layout;
use framekeeper_recorder::serve::clip::plan::{Gaps, Request, plan};
use framekeeper_recorder::serve::footage::Footage;
use framekeeper_recorder::serve::stored::Stored;
use framekeeper_store::{GapReason, StreamIdent};
use recorded::{open, record};
use serve_footage::*;
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
    let runs = footage.coverage(ident.uid, WallTime(0), WallTime(i64::MAX)).unwrap();
    assert_eq!(runs.iter().map(|run| run.frames).collect::<Vec<_>>(), [300, 200]);
    for (from, to) in [(0, 60 * S), (10_520_000, 21_880_000), (18_990_000, 20 * S)] {
        check(&footage, ident.uid, &[&first, &second], START + from, START + to);
    }
    drop(footage);
    store.close();
}
