//! From nothing to recorded cameras, and changes while others record.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::harness::{count, get};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition};

/// A change of a stream is to be with its recorder within this time, by what that says itself: between two of its statuses are one to five seconds.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);
/// Nothing is written for this long.
const STILL_FOR: Duration = Duration::from_secs(5);

#[test]
fn cameras_are_recorded_into_claims_from_nothing() -> Result<()> {
    let site = Site::new("first", count(4, 12))?;
    let began = Instant::now();
    site.cluster.apply(&format!(
        "{}  maxChannels: 12\n  toleratedFailures: 1\n{}",
        site.pool(3, ""),
        site.streams()
    ))?;
    site.wait_recorded(RECORDED_WITHIN, site.cameras.len())?;
    judge::result(&format!(
        "{} cameras recorded {:.1} s after the pool was applied",
        site.cameras.len(),
        began.elapsed().as_secs_f64()
    ));
    site.wait_as_planned(Duration::from_secs(60))?;
    std::thread::sleep(Duration::from_secs(count(20, 120) as u64));
    for wide in [false, true] {
        let mut arguments = vec!["get", "cam,sp,rec"];
        arguments.extend(wide.then_some(["-o", "wide"]).into_iter().flatten());
        judge::say(&site.kubectl(&arguments)?);
    }
    for stream in site.list("camerastreams")? {
        let has = |path: &str| stream.pointer(path).is_some();
        ensure!(
            has("/status/codec") && has("/status/resolution") && has("/status/assignment/active"),
            "what people look for first is in the status: {stream}"
        );
    }
    // Nothing is written while nothing changes. That another operator leads, or that a heartbeat came late on a busy machine, is a change, and is written once:
    // what is written all the time is so in the next window as well.
    let mut written = written_meanwhile(&site)?;
    if !written.is_empty() {
        judge::say(&format!("looked at once more, after: {written:?}"));
        written = written_meanwhile(&site)?;
    }
    ensure!(written.is_empty(), "it is written while nothing changes: {written:?}");
    site.judge(&[])?;
    site.clean()
}

/// What was written of all objects while nothing changes: before and after. A leader's mark that it has taken a Recorder over is neither spec nor status.
fn written_meanwhile(site: &Site) -> Result<Vec<(Value, Value)>> {
    let objects = || -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for kind in ["camerastreams", "storagepools", "recorders", "statefulsets"] {
            let part = |object: &Value| -> Value {
                let paths = ["/metadata/name", "/metadata/generation", "/status"];
                paths.iter().map(|path| object.pointer(path).cloned().unwrap_or_default()).collect()
            };
            objects.extend(site.list(kind)?.iter().map(part));
        }
        Ok(objects)
    };
    let before = objects()?;
    std::thread::sleep(STILL_FOR);
    let after = objects()?;
    ensure!(before.len() == after.len(), "objects come or go: {before:?} {after:?}");
    Ok(before.into_iter().zip(after).filter(|(before, after)| before != after).collect())
}

#[test]
fn changes_of_some_cameras_cost_the_others_nothing() -> Result<()> {
    let site = Site::new("changes", 4)?;
    let first: String = ["cam-1", "cam-2"].iter().map(|name| site.stream(name, "")).collect();
    site.cluster.apply(&format!("{}  maxChannels: 6\n{first}", site.pool(2, "")))?;
    site.wait_recorded(RECORDED_WITHIN, 2)?;
    // One of the two may record both, and the other one still be starting: the next stream may be that one's.
    site.wait_as_planned(RECORDED_WITHIN)?;
    let recorders = addresses(&site)?;
    ensure!(recorders.len() == 2, "not two recorders: {recorders:?}");
    // Added.
    let began = Instant::now();
    site.cluster.apply(&site.stream("cam-3", ""))?;
    site.cluster.wait("a recorder has the new stream", CHANGE_WITHIN, || {
        Ok((!said(&recorders, "cam-3")?.is_empty()).then_some(()))
    })?;
    judge::result(&format!("a new stream was with its recorder after {:.2} s", began.elapsed().as_secs_f64()));
    site.wait_recorded(Duration::from_secs(15), 3)?;
    // Another camera.
    let url = format!("{{\"spec\":{{\"source\":{{\"url\":\"rtsp://cam-4.{}.svc:8554/cam-4\"}}}}}}", site.namespace);
    let (began, changed) = (Instant::now(), judge::now_ns()?);
    site.kubectl(&["patch", "camerastream", "cam-3", "--type=merge", "-p", &url])?;
    site.cluster.wait("a recorder has turned to the other camera", CHANGE_WITHIN, || {
        // It ends the session with the first one for that, and says since when it has been connecting, or records, anew.
        let since = said(&recorders, "cam-3")?.iter().map(since).collect::<Result<Vec<_>>>()?;
        ensure!(since.iter().any(|since| *since > changed), "the same since {since:?}, not since {changed}");
        let told = site.list("recorders")?;
        let has = |recorder: &Value| {
            recorder.pointer("/spec/channels").is_some_and(|channels| channels.to_string().contains("cam-4.changes"))
        };
        Ok(told.iter().any(has).then_some(()))
    })?;
    judge::result(&format!("a changed address was in effect after {:.2} s", began.elapsed().as_secs_f64()));
    // Suspended, and removed.
    site.kubectl(&["patch", "camerastream", "cam-3", "--type=merge", "-p", "{\"spec\":{\"suspend\":true}}"])?;
    site.cluster.wait("the stream is suspended", Duration::from_secs(10), || {
        let stream = site.cluster.get(&["camerastream", "cam-3", "-n", &site.namespace])?;
        let phase = stream.pointer("/status/phase").and_then(Value::as_str);
        Ok((phase == Some("Suspended")).then_some(()))
    })?;
    site.kubectl(&["delete", "camerastream", "cam-3"])?;
    site.cluster.wait("nobody has it any more", Duration::from_secs(10), || {
        let told = site.list("recorders")?;
        let let_go = told.iter().all(|recorder| is_observed(recorder) && !has(recorder, "cam-3"));
        Ok((let_go && said(&recorders, "cam-3")?.is_empty()).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    for stream in site.list("camerastreams")? {
        let recording = condition(&stream, "Recording");
        ensure!(recording.is_some(), "{stream}");
    }
    // Those that nobody touched, frame by frame; the others came and went.
    for name in ["cam-3", "cam-4"] {
        let _gone = std::fs::remove_file(site.ledgers.join(format!("{name}.ledger")));
    }
    site.judge(&[])?;
    site.clean()
}

fn is_observed(recorder: &Value) -> bool {
    let generation = |path: &str| recorder.pointer(path).and_then(Value::as_i64);
    generation("/status/observedGeneration") == generation("/metadata/generation")
}

/// Whether a recorder is told to have a stream.
fn has(recorder: &Value, stream: &str) -> bool {
    let channels = recorder.pointer("/spec/channels").and_then(Value::as_array).cloned().unwrap_or_default();
    channels.iter().any(|channel| channel.pointer("/stream/name").and_then(Value::as_str) == Some(stream))
}

/// Where recorders are asked what they do.
fn addresses(site: &Site) -> Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for recorder in site.list("recorders")? {
        let address = recorder.pointer("/status/addresses/http").and_then(Value::as_str);
        addresses.push(address.context("a recorder without an address")?.parse()?);
    }
    Ok(addresses)
}

/// What these recorders say of a stream, as far as they have it.
fn said(recorders: &[SocketAddr], stream: &str) -> Result<Vec<Value>> {
    let mut said = Vec::new();
    for address in recorders {
        let answer = get(*address, "/v1/channels")?.json()?;
        let channels = answer.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_it = |channel: &Value| channel.get("name").and_then(Value::as_str) == Some(stream);
        said.extend(channels.into_iter().filter(is_it));
    }
    Ok(said)
}

/// Since when a channel has been in its state, Unix nanoseconds.
fn since(channel: &Value) -> Result<i64> {
    let since: jiff::Timestamp = channel.get("since").and_then(Value::as_str).context("no since")?.parse()?;
    Ok(i64::try_from(since.as_nanosecond())?)
}
