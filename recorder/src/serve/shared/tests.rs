//! Two recorders, over loopback: one asks for what the other has.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use framekeeper_media::{FrameFlags, WallTime};
use framekeeper_store::GapReason;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use uuid::Uuid;

use super::wire::Name;
use super::{Leases, Remotes, Union};
use crate::serve::coverage::coverage;
use crate::serve::footage::{
    AudioEntry, Counts, Footage, FootageError, Hole, Init, Lease, Run, RunPart, Segment, SegmentFrames, VideoEntry,
};
use crate::serve::{ServeState, router};

const STREAM: Uuid = Uuid::from_u128(7);
const ALWAYS: (WallTime, WallTime) = (WallTime(i64::MIN), WallTime(i64::MAX));

/// One segment of one run, whose bytes count up.
struct One {
    number: u128,
    from: i64,
    leased: Leased,
}

/// Says how many segments are leased.
type Leased = Arc<watch::Sender<usize>>;

/// Some of them.
struct Held(Leased, usize);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|leased| *leased -= self.1);
    }
}

impl One {
    fn new(number: u128, from: i64) -> Self {
        Self { number, from, leased: Arc::new(watch::Sender::new(0)) }
    }

    fn run(&self) -> Uuid {
        Uuid::from_u128(100 + self.number)
    }
}

impl Footage for One {
    fn find(&self, _namespace: &str, name: &str) -> Result<Option<Uuid>, FootageError> {
        Ok((name == format!("cam-{}", self.number)).then_some(STREAM))
    }
    fn coverage(&self, _stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Run>, FootageError> {
        let run = Run {
            run: self.run(),
            recorder: Uuid::from_u128(self.number),
            epoch: 3,
            rank: 1,
            from: WallTime(self.from),
            to: WallTime(self.from + 10),
            frames: 2,
            gap: GapReason::Takeover,
            previous_run: Uuid::nil(),
            previous_end: Some(WallTime(-5)),
            active: true,
        };
        Ok(Some(run).into_iter().filter(|run| run.from < to && run.to > from).collect())
    }
    fn segments(&self, stream: Uuid, from: WallTime, to: WallTime) -> Result<Vec<Segment>, FootageError> {
        let segment = Segment {
            volume: Uuid::from_u128(200 + self.number),
            path: PathBuf::from("secret/place.mp4"),
            file_number: 4,
            nonce: u64::MAX - 1,
            stream,
            number: 1,
            init_hash: u64::MAX,
            first: WallTime(self.from),
            end: WallTime(self.from + 10),
            sealed: true,
            used_bytes: 5_000,
            counts: Counts { video_frames: 2, video_bytes: 30, ..Counts::default() },
        };
        Ok(Some(segment).into_iter().filter(|segment| segment.first < to && segment.end > from).collect())
    }
    fn frames(&self, _segment: &Segment) -> Result<Arc<SegmentFrames>, FootageError> {
        let frame = |at: i64| VideoEntry {
            wall: WallTime(self.from + at),
            dts: -at,
            identity: u64::MAX - at as u64,
            offset: 40,
            len: 15,
            composition_offset: -3,
            flags: FrameFlags::RANDOM_ACCESS,
        };
        Ok(Arc::new(SegmentFrames {
            runs: vec![RunPart {
                run: self.run(),
                video_offset: -9,
                video: 0..2,
                audio: 0..1,
                end: WallTime(9),
                camera_zero_us: Some(-4),
            }],
            video: vec![frame(0), frame(5)],
            audio: vec![AudioEntry { time: -1, duration: 1024, offset: 70, len: 8 }],
            fragments: vec![(2, 1)],
        }))
    }
    fn init(&self, _segment: &Segment) -> Result<Init, FootageError> {
        Ok(Init { bytes: Bytes::from_static(b"ftyp\nmoov"), reorders: true })
    }
    fn read_at(&self, _segment: &Segment, offset: u64, buf: &mut [u8]) -> Result<(), FootageError> {
        if offset > 1_000 {
            return Err(FootageError::Damaged("it rotted".to_owned()));
        }
        (offset..).zip(buf).for_each(|(at, byte)| *byte = at as u8);
        Ok(())
    }
    fn damage(&self, _stream: Uuid) -> Result<Vec<Hole>, FootageError> {
        let hole = Hole { run: self.run(), from: WallTime(1), to: WallTime(2), bytes: 3..u64::MAX, video_frames: 1 };
        Ok(vec![hole])
    }
    fn lease(&self, segments: &[Segment]) -> Box<dyn Lease> {
        self.leased.send_modify(|leased| *leased += segments.len());
        Box::new(Held(Arc::clone(&self.leased), segments.len()))
    }
    fn durable_until(&self, _stream: Uuid) -> Option<WallTime> {
        Some(WallTime(self.from + 8))
    }
}

/// Footage of recorder 1, with that of recorder 2, which answers at an address, and of recorder 3 at another one.
fn site(third: Option<String>) -> (Runtime, Union, Arc<Remotes>) {
    site_with(One::new(2, 100), third)
}

fn site_with(second: One, third: Option<String>) -> (Runtime, Union, Arc<Remotes>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let other = router(ServeState::of(Arc::new(second), PathBuf::new(), 1));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    runtime.spawn(async move { axum::serve(listener, other).await });
    let remotes = Arc::new(Remotes::default());
    let mut all = vec![("second".to_owned(), address)];
    all.extend(third.map(|address| ("third".to_owned(), address)));
    remotes.set(&all, runtime.handle());
    let union = Union::new(Arc::new(One::new(1, 50)), Arc::clone(&remotes));
    (runtime, union, remotes)
}

#[test]
fn what_another_one_has_is_as_if_it_were_here() {
    let (_runtime, union, _) = site(None);
    let theirs = One::new(2, 100);
    assert_eq!(union.find("default", "cam-1").unwrap(), Some(STREAM));
    assert_eq!(union.find("default", "cam-2").unwrap(), Some(STREAM));
    assert_eq!(union.find("default", "cam-3").unwrap(), None);
    let runs = union.coverage(STREAM, ALWAYS.0, ALWAYS.1).unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1], theirs.coverage(STREAM, ALWAYS.0, ALWAYS.1).unwrap()[0]);
    assert!(union.is_complete());
    assert_eq!(union.durable_until(STREAM), Some(WallTime(108)));
    assert_eq!(union.damage(STREAM).unwrap().len(), 2);

    let segments = union.segments(STREAM, ALWAYS.0, ALWAYS.1).unwrap();
    let [own, other] = &segments[..] else { panic!("{segments:?}") };
    assert_eq!((own.first, other.first), (WallTime(50), WallTime(100)));
    assert_eq!(other.path, PathBuf::new(), "where it is there is not told");
    let known = theirs.segments(STREAM, ALWAYS.0, ALWAYS.1).unwrap().remove(0);
    assert_eq!(Segment { path: known.path.clone(), ..other.clone() }, known);
    for _ in 0..2 {
        let (got, known) = (union.frames(other).unwrap(), theirs.frames(other).unwrap());
        assert_eq!(format!("{got:?}"), format!("{known:?}"));
    }
    let init = union.init(other).unwrap();
    assert_eq!((&init.bytes[..], init.reorders), (&b"ftyp\nmoov"[..], true));
    let mut buf = [0; 3];
    union.read_at(other, 7, &mut buf).unwrap();
    assert_eq!(buf, [7, 8, 9]);
    assert!(matches!(union.read_at(other, 2_000, &mut buf), Err(FootageError::Damaged(why)) if why == "it rotted"));
    let gone = Segment { nonce: 5, ..other.clone() };
    assert!(matches!(union.read_at(&gone, 7, &mut buf), Err(FootageError::Gone)));
}

#[test]
fn one_that_does_not_answer_is_left_out_and_that_is_said() {
    // Nobody is there; nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for third in [closed, silent.local_addr().unwrap().to_string()] {
        let (_runtime, union, _) = site(Some(third));
        let asked = Instant::now();
        assert_eq!(union.coverage(STREAM, ALWAYS.0, ALWAYS.1).unwrap().len(), 2);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(!union.is_complete());
        // It is not asked again at once.
        let asked = Instant::now();
        assert_eq!(union.segments(STREAM, ALWAYS.0, ALWAYS.1).unwrap().len(), 2);
        assert!(asked.elapsed() < Duration::from_millis(700), "{:?}", asked.elapsed());
    }
}

#[test]
fn coverage_is_not_complete_when_one_does_not_answer_this_very_question() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (_runtime, union, _) = site(Some(silent.local_addr().unwrap().to_string()));
    // Nobody was asked before.
    assert!(union.is_complete());
    let told = coverage(&union, STREAM, ("default", "cam-1"), ALWAYS).unwrap();
    assert_eq!(serde_json::to_value(&told).unwrap()["complete"], serde_json::Value::Bool(false));
}

#[test]
fn what_comes_is_understood_or_refused() {
    let (runtime, _union, remotes) = site(None);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = remotes.all()[0].url_for_tests();
    let ask = |body: &'static str| {
        let (client, url) = (client.clone(), url.clone());
        runtime.block_on(async move {
            let request = client.post(url).header("content-type", "application/json").body(body);
            request.send().await.unwrap().status().as_u16()
        })
    };
    assert_eq!(ask("{\"find\":{\"namespace\":\"default\",\"name\":\"cam-2\"}}"), 200);
    assert_eq!(
        ask(
            "{\"bytes\":{\"segment\":{\"stream\":\"00000000-0000-0000-0000-000000000007\",\"volume\":\"00000000-0000-0000-0000-0000000000ca\",\"file_number\":4,\"nonce\":18446744073709551614,\"first\":100},\"offset\":0,\"length\":4294967295}}"
        ),
        503
    );
    assert_eq!(ask("{\"dance\":{}}"), 422);
    assert_eq!(ask("{"), 400);
}

#[test]
fn what_is_read_of_another_one_stays_until_it_was_read() {
    let second = One::new(2, 100);
    let leased = Arc::clone(&second.leased);
    let (runtime, union, _) = site_with(second, None);
    let mut segments = union.segments(STREAM, ALWAYS.0, ALWAYS.1).unwrap();
    // One of them is gone already, which is no reason not to keep the other.
    segments.push(Segment { nonce: 5, ..segments[1].clone() });
    let lease = union.lease(&segments);
    assert_eq!(*leased.borrow(), 1);
    let again = union.lease(&segments);
    drop(lease);
    let mut leased = leased.subscribe();
    let fell_to = |leased: &mut watch::Receiver<usize>, number: usize| {
        runtime.block_on(async {
            let fell = leased.wait_for(|now| *now == number);
            tokio::time::timeout(Duration::from_secs(20), fell).await.unwrap().unwrap();
        });
    };
    fell_to(&mut leased, 1);
    drop(again);
    fell_to(&mut leased, 0);
}

#[test]
fn leases_of_others_are_limited_and_end() {
    let (one, leases) = (One::new(1, 50), Leases::default());
    let name = Name::from(&one.segments(STREAM, ALWAYS.0, ALWAYS.1).unwrap()[0]);
    let full = (0..2_000).find(|lease| leases.hold(&one, Uuid::from_u128(*lease), &[name]).is_err()).unwrap();
    assert_eq!((full, *one.leased.borrow()), (1_000, 1_000));
    leases.release(Uuid::from_u128(3));
    leases.release(Uuid::from_u128(3));
    assert_eq!(leases.hold(&one, Uuid::from_u128(5_000), &[name]).unwrap(), 1);
    drop(leases);
    assert_eq!(*one.leased.borrow(), 0);
}
