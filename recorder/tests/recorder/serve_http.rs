//! The footage routes over HTTP: statuses, headers, ranges, problems; and pictures from the real child process.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use crate::serve_footage::*;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use framekeeper_recorder::serve::{ServeState, router};
use framekeeper_recorder::still::{EXIT_MEMORY, StillRequest, StillSample};
use framekeeper_store::GapReason;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

static SOURCE: LazyLock<Source> = LazyLock::new(|| {
    encode(6, "160x96", "-preset ultrafast -bf 2 -g 25 -keyint_min 25 -sc_threshold 0", Some("-b:a 64k"))
});

/// 5 s of footage, a gap of 5 s, and 1 s of footage.
fn memory() -> Memory {
    let first = RunSpec {
        source: &SOURCE,
        frames: 0..125,
        wall_us: START,
        gops_per_segment: 2,
        fills_on: false,
        gap: GapReason::FirstRun,
    };
    let mut footage = Memory::new();
    footage.record(&first);
    footage.record(&RunSpec { frames: 125..150, wall_us: START + 5 * S, gap: GapReason::Silence, ..first });
    footage
}

fn app(footage: &Arc<Memory>) -> Router {
    router(ServeState::of(Arc::clone(footage) as _, PathBuf::from(env!("CARGO_BIN_EXE_framekeeper-recorder")), 64))
}

/// A time `ms` behind the beginning of the footage.
fn at(ms: i64) -> String {
    framekeeper_recorder::serve::query::format_time(framekeeper_media::WallTime(START + ms * 1000))
}

fn door(what: &str, from_ms: i64, to_ms: i64) -> String {
    format!("/v1/streams/default/door/{what}?from={}&to={}", at(from_ms), at(to_ms))
}

async fn ask(app: &Router, method: &str, uri: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn problem(app: &Router, uri: &str, status: u16) -> Value {
    let response = ask(app, "GET", uri, &[]).await;
    assert_eq!(response.status(), status, "{uri}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    assert_eq!(problem["status"], status);
    problem
}

fn header(response: &Response<Body>, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn ranges_of_a_clip_are_parts_of_it() {
    let app = app(&Arc::new(memory()));
    let uri = door("clip.mp4", 500, 4500);
    let whole = ask(&app, "GET", &uri, &[]).await;
    assert_eq!(whole.status(), StatusCode::OK);
    let etag = header(&whole, "etag");
    assert!(etag.starts_with('"'), "{etag} is not strong");
    assert_eq!(header(&whole, "content-type"), "video/mp4");
    assert_eq!(header(&whole, "accept-ranges"), "bytes");
    assert_eq!(header(&whole, "framekeeper-first-frame-time"), at(520));
    assert_eq!(
        header(&whole, "content-disposition"),
        "attachment; filename=\"default_door_2026-11-21T140300.500Z_2026-11-21T140304.500Z.mp4\""
    );
    let length: usize = header(&whole, "content-length").parse().unwrap();
    let whole = bytes(whole).await;
    assert_eq!(whole.len(), length);

    let head = ask(&app, "HEAD", &uri, &[]).await;
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, length.to_string()));
    assert!(bytes(head).await.is_empty());

    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes={}-", length - 10), length - 10, length),
        ("bytes=-100".to_owned(), length - 100, length),
        ("bytes=100-40000".to_owned(), 100, length.min(40_001)),
    ] {
        let part = ask(&app, "GET", &uri, &[("range", &range), ("if-range", &etag)]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(header(&part, "content-range"), format!("bytes {from}-{}/{length}", to - 1));
        assert_eq!(header(&part, "etag"), etag);
        assert_eq!(bytes(part).await, whole[from..to]);
    }
    let changed = ask(&app, "GET", &uri, &[("range", "bytes=0-0"), ("if-range", "\"another\"")]).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let beyond = ask(&app, "GET", &uri, &[("range", &format!("bytes={length}-"))]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&beyond, "content-range"), format!("bytes */{length}"));
    let known = ask(&app, "GET", &uri, &[("if-none-match", &etag)]).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_entity_tag_names_the_bytes() {
    let tag = |footage: Memory, uri: String| async move {
        header(&ask(&app(&Arc::new(footage)), "HEAD", &uri, &[]).await, "etag")
    };
    let mut footage = memory();
    footage.stream = uuid::Uuid::from_u128(5);
    let same = || {
        let mut same = memory();
        same.stream = uuid::Uuid::from_u128(5);
        same
    };
    let all = tag(footage, door("clip.mp4", 0, 20_000)).await;
    let keep = door("clip.mp4", 0, 20_000) + "&gaps=keep";
    assert_ne!(tag(same(), keep).await, all);
    assert_ne!(tag(same(), door("clip.mp4", 0, 4_000)).await, all);
    let mut reused = same();
    Arc::get_mut(&mut reused.segments[1]).unwrap().info.nonce += 1;
    assert_ne!(tag(reused, door("clip.mp4", 0, 20_000)).await, all);
}

#[tokio::test]
async fn wrong_requests_say_what_would_be_right() {
    let app = app(&Arc::new(memory()));
    let field = |problem: &Value| problem["field"].as_str().unwrap().to_owned();
    assert_eq!(field(&problem(&app, &door("clip.mp4", 2000, 1000), 400).await), "to");
    assert_eq!(field(&problem(&app, &door("clip.mp4", 1000, 1000), 400).await), "to");
    assert_eq!(field(&problem(&app, "/v1/streams/default/door/clip.mp4?from=now", 400).await), "from");
    assert_eq!(field(&problem(&app, "/v1/streams/default/door/clip.mp4", 400).await), "from");
    assert_eq!(field(&problem(&app, &(door("clip.mp4", 0, 1000) + "&gaps=some"), 400).await), "gaps");
    assert_eq!(field(&problem(&app, "/v1/streams/default/door/coverage?since=1", 400).await), "query");
    assert_eq!(field(&problem(&app, "/v1/streams/default/door/frame.jpg?at=1", 400).await), "at");
    let wide = format!("/v1/streams/default/door/frame.jpg?at={}&width=100000", at(0));
    assert_eq!(field(&problem(&app, &wide, 400).await), "width");
    for what in ["coverage", "clip.mp4"] {
        let uri = door(what, 0, 1000).replace("door", "window");
        assert!(problem(&app, &uri, 404).await["detail"].as_str().unwrap().contains("default/window"));
    }
}

#[tokio::test]
async fn a_range_without_footage_names_the_nearest() {
    let app = app(&Arc::new(memory()));
    let gap = problem(&app, &door("clip.mp4", 6_000, 9_000), 404).await;
    assert_eq!(gap["nearest"]["before"]["to"], at(5_000));
    assert_eq!(gap["nearest"]["after"]["from"], at(10_000));
    let future = problem(&app, &door("clip.mp4", 60_000, 61_000), 404).await;
    assert_eq!(future["nearest"]["before"]["to"], at(11_000));
    assert!(future["nearest"]["after"].is_null());
    let before = problem(&app, &format!("/v1/streams/default/door/frame.jpg?at={}", at(-1)), 404).await;
    assert_eq!(before["nearest"]["after"]["from"], at(0));
}

#[tokio::test]
async fn coverage_names_runs_and_gaps() {
    let app = app(&Arc::new(memory()));
    let get = |uri: String| {
        let app = app.clone();
        async move { serde_json::from_slice::<Value>(&bytes(ask(&app, "GET", &uri, &[]).await).await).unwrap() }
    };
    let all = get("/v1/streams/default/door/coverage".to_owned()).await;
    assert_eq!(all["runs"].as_array().unwrap().len(), 2);
    assert_eq!((&all["runs"][0]["from"], &all["runs"][0]["to"]), (&at(0).into(), &at(5_000).into()));
    assert_eq!(
        (&all["runs"][0]["frames"], &all["runs"][0]["epoch"], &all["runs"][0]["rank"]),
        (&125.into(), &1.into(), &0.into())
    );
    let gap = serde_json::json!([{"from": at(5_000), "to": at(10_000), "reason": "Silence"}]);
    assert_eq!(all["gaps"], gap);
    let inside_the_gap = get(door("coverage", 6_000, 7_000)).await;
    assert_eq!((inside_the_gap["runs"].as_array().unwrap().len(), &inside_the_gap["gaps"]), (0, &gap));
    assert_eq!(get(door("coverage", 0, 1_000)).await["gaps"], serde_json::json!([]));
}

#[tokio::test]
async fn footage_that_is_retired_while_it_is_sent_ends_the_response() {
    let footage = Arc::new(memory());
    let app = app(&footage);
    let response = ask(&app, "GET", &door("clip.mp4", 0, 20_000), &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let length: usize = header(&response, "content-length").parse().unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.len() <= 4096, "the first step is small");
    footage.gone.store(true, Ordering::SeqCst);
    let mut received = first.len();
    let error = loop {
        match body.frame().await {
            Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
            Some(Err(error)) => break error,
            None => panic!("the body ended as if it were whole"),
        }
    };
    assert!(received < length, "{error}");
    drop(body);
    let gone = problem(&app, &door("clip.mp4", 0, 20_000), 500).await;
    assert!(gone["detail"].as_str().unwrap().contains("retired"));
}

#[tokio::test]
async fn clips_have_a_limit_and_leases_end() {
    let footage = Arc::new(memory());
    let app = app(&footage);
    let mut open = Vec::new();
    let refused = loop {
        let response = ask(&app, "GET", &door("clip.mp4", 0, 20_000), &[]).await;
        if response.status() != StatusCode::OK {
            break response;
        }
        open.push(response);
        assert!(open.len() <= 1000);
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(header(&refused, "retry-after").parse::<u32>().unwrap() > 0);
    // Each is one step ahead of its client at most, and then waits.
    let whole = bytes(open.pop().unwrap()).await;
    assert!(whole.len() > 100_000);
    let again = ask(&app, "GET", &door("clip.mp4", 0, 20_000), &[]).await;
    assert_eq!(bytes(again).await, whole);
    drop(open);
    // The tasks notice when they try to hand on their next bytes.
    while footage.leases.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pictures() {
    let app = app(&Arc::new(memory()));
    let folder = tempfile::tempdir().unwrap();
    for (query, time, size) in [
        (format!("at={}", at(2_345)), 2_000, (160, 96)),
        (format!("at={}&exact=1", at(2_345)), 2_320, (160, 96)),
        (format!("at={}&exact=1&width=80", at(4_999)), 4_960, (80, 48)),
        // In the gap, and behind the end: the last there is.
        (format!("at={}&exact=1", at(7_000)), 4_960, (160, 96)),
        (format!("at={}", at(70_000)), 10_000, (160, 96)),
    ] {
        let response = ask(&app, "GET", &format!("/v1/streams/default/door/frame.jpg?{query}"), &[]).await;
        let status = response.status();
        let headers = response.headers().clone();
        let jpeg = bytes(response).await;
        assert_eq!(status, StatusCode::OK, "{query}: {}", String::from_utf8_lossy(&jpeg));
        assert_eq!(headers["framekeeper-frame-time"], at(time), "{query}");
        assert_eq!(headers["content-type"], "image/jpeg");
        assert!(headers["last-modified"].to_str().unwrap().starts_with("Sat, 21 Nov 2026 14:03:"));
        let file = folder.path().join("frame.jpg");
        std::fs::write(&file, &jpeg).unwrap();
        let probed = probe(file.to_str().unwrap(), &["-show_streams"]);
        assert_eq!((&probed["streams"][0]["width"], &probed["streams"][0]["height"]), (&size.0.into(), &size.1.into()));
        // The second run begins at 10 s with the source's 126th picture.
        let number = if time >= 10_000 { 125 + (time - 10_000) / 40 } else { time / 40 } as usize;
        let like = |number| likeness(file.to_str().unwrap(), number);
        let (before, itself, after) = (like(number - 1), like(number), like(number + 1));
        assert!(itself > before && itself > after, "{query}: {before} {itself} {after}");
    }
}

/// How much a JPEG is like picture `number` of the source, in dB.
fn likeness(jpeg: &str, number: usize) -> f64 {
    let picture = format!("testsrc2=size=160x96:rate=25:duration=7,select=eq(n\\,{number})");
    let output = Command::new("ffmpeg")
        .args(["-v", "info", "-i", jpeg, "-f", "lavfi", "-i", &picture])
        .args([
            "-lavfi",
            "[0]scale=160:96,format=yuv420p,setpts=0[a];[1]setpts=0[b];[a][b]psnr",
            "-frames:v",
            "1",
            "-f",
            "null",
            "-",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let average = said.split("average:").nth(1).and_then(|rest| rest.split_whitespace().next());
    average.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

#[tokio::test]
async fn a_picture_that_cannot_be_decoded_is_an_error_and_nothing_more() {
    let mut footage = memory();
    for stored in &mut footage.segments {
        let stored = Arc::get_mut(stored).unwrap();
        let head = stored.init.bytes.len();
        stored.bytes[head..].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(3));
    }
    let app = app(&Arc::new(footage));
    let uri = format!("/v1/streams/default/door/frame.jpg?at={}", at(1_000));
    assert!(problem(&app, &uri, 500).await["detail"].as_str().unwrap().contains("decode"));
}

#[tokio::test]
async fn a_missing_decoder_program_is_an_error_with_its_reason() {
    let footage = Arc::new(memory());
    let app = router(ServeState::of(footage as _, PathBuf::from("/nowhere/framekeeper-recorder"), 64));
    let uri = format!("/v1/streams/default/door/frame.jpg?at={}", at(1_000));
    assert!(problem(&app, &uri, 500).await["detail"].as_str().unwrap().contains("decoder"));
}

#[tokio::test]
async fn a_picture_is_made_within_the_memory_that_is_left_or_not_at_all() {
    let footage = Arc::new(memory());
    let with = |left: u64| {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_framekeeper-recorder"));
        ServeState::of(Arc::clone(&footage) as _, program, 64).with_memory_left(Arc::new(move || Some(left)))
    };
    let uri = format!("/v1/streams/default/door/frame.jpg?at={}", at(1_000));
    let state = with(90 << 20);
    let app = router(state.clone());
    let response = ask(&app, "GET", &uri, &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(header(&response, "retry-after").parse::<u32>().unwrap() > 0);
    let refused: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("90 MiB are left") && detail.contains("MiB are missing"), "{detail}");
    assert!(detail.contains("template.resources.limits.memory"), "{detail}");
    assert_eq!(state.numbers().refused_stills, 1);

    let response = ask(&router(with(2 << 30)), "GET", &uri, &[]).await;
    let status = response.status();
    let jpeg = bytes(response).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&jpeg));
    assert!(jpeg.starts_with(&[0xff, 0xd8]), "no JPEG");
}

#[test]
fn a_decoder_that_may_not_have_the_memory_it_takes_says_so() {
    let sample = StillSample { len: 64 << 20, pts_us: 0 };
    let request = StillRequest { width: None, wanted_pts_us: 0, configuration: Vec::new(), samples: vec![sample] };
    let mut child = Command::new(env!("CARGO_BIN_EXE_framekeeper-recorder"))
        .args(["decode-still", "--memory=33554432"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&request.encode().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(EXIT_MEMORY), "{said}");
    assert!(said.contains("memory") && output.stdout.is_empty(), "{said}");
}
