//! Very many objects at once, and objects that are nearly too large.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use framekeeper_e2e::harness::count;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, Site, condition};

/// Streams of cameras that are nowhere.
fn nowhere(site: &Site, pool: &str, names: impl Iterator<Item = String>, path: &str) -> String {
    let mut text = String::new();
    for name in names {
        let _infallible = writeln!(
            text,
            "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}, namespace: {}}}\n\
             spec: {{source: {{url: \"rtsp://127.0.0.1:9/{path}\"}}, poolRef: {{name: {pool}}}}}",
            site.namespace
        );
    }
    text
}

/// How many of a namespace's streams are as `is`.
fn how_many(site: &Site, is: impl Fn(&Value) -> bool) -> Result<usize> {
    Ok(site.list("camerastreams")?.iter().filter(|stream| is(stream)).count())
}

fn has_reason(stream: &Value, kind: &str, reason: &str) -> bool {
    let found = condition(stream, kind).and_then(|it| it.get("reason")).and_then(Value::as_str);
    found == Some(reason)
}

#[test]
fn very_many_streams_at_once_are_each_told_how_they_stand_and_harm_nobody() -> Result<()> {
    let site = Site::new("many", 1)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 16\n{}", site.pool(1, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    let many = count(200, 2_000);
    let began = Instant::now();
    cluster.create(&nowhere(&site, "main", (1..=many).map(|number| format!("many-{number}")), "nothing"))?;
    let made = began.elapsed();
    let patience = Duration::from_secs(60);
    let (_, took) = cluster.wait("all are told how they stand", patience, || {
        let waiting = how_many(&site, |stream| has_reason(stream, "Ready", "NoSlot"))?;
        // Those with a slot are tried, and fail.
        let failing =
            how_many(&site, |stream| stream.pointer("/status/phase").and_then(Value::as_str) == Some("Failed"))?;
        ensure!(waiting + 16 == many + 1 && failing == 15, "{waiting} wait, {failing} fail of {many}");
        Ok(Some(()))
    })?;
    judge::result(&format!(
        "{many} streams at once: made in {:.1} s, all told {:.1} s later",
        made.as_secs_f64(),
        took.as_secs_f64()
    ));
    let began = Instant::now();
    site.kubectl(&["delete", "camerastreams", "--field-selector=metadata.name!=cam-1", "--wait=false"])?;
    cluster.wait("none but the first is left", patience, || {
        let left = site.list("camerastreams")?.len();
        ensure!(left == 1, "{left} are left");
        Ok(Some(()))
    })?;
    judge::result(&format!("all but one gone again {:.1} s later", began.elapsed().as_secs_f64()));
    site.wait_recorded(Duration::from_secs(10), 1)?;
    site.wait_as_planned(Duration::from_secs(30))?;
    // The one that was right all the time.
    site.judge(&[])?;
    site.clean()
}

#[test]
fn five_hundred_channels_fit_and_where_they_do_not_it_is_said_why() -> Result<()> {
    let site = Site::new("large", 1)?;
    let cluster = site.cluster;
    // One whose claims no disk can hold: its objects are what is looked at here.
    let pool = |name: &str| {
        let text = site.pool(1, "").replace("name: main", &format!("name: {name}")).replace("200Mi", "100Gi");
        format!("{text}  maxChannels: 500\n")
    };
    cluster.apply(&format!("{}  maxChannels: 4\n---\n{}---\n{}", site.pool(1, ""), pool("short"), pool("long")))?;
    cluster.apply(&site.streams())?;
    site.wait_recorded(RECORDED_WITHIN, 1)?;
    let names = |of: &'static str| (1..=500).map(move |number| format!("{of}-{number}"));
    cluster.create(&nowhere(&site, "short", names("short"), "nothing"))?;
    cluster.create(&nowhere(&site, "long", names("long"), &"x".repeat(2_000)))?;
    let channels = |pool: &str| -> Result<usize> {
        let recorder = cluster.get(&["recorder", &format!("{pool}-recorder-0"), "-n", &site.namespace])?;
        Ok(recorder.pointer("/spec/channels").and_then(Value::as_array).map_or(0, Vec::len))
    };
    let ((short, long), took) =
        cluster.wait("both recorders have what they have room for", Duration::from_secs(60), || {
            let waiting: usize = how_many(&site, |stream| {
                let said = condition(stream, "Ready").map(Value::to_string).unwrap_or_default();
                said.contains("NoSlot") && said.contains("spec.source.url") && said.contains("Recorder object")
            })?;
            let (short, long) = (channels("short")?, channels("long")?);
            ensure!(
                short == 500 && long > 300 && long + waiting == 500,
                "{short} and {long}, {waiting} told that they have no room"
            );
            Ok(Some((short, long)))
        })?;
    judge::result(&format!(
        "maxChannels 500: {short} channels with short addresses, {long} with addresses of 2 kB, and the others told why, after {:.1} s",
        took.as_secs_f64()
    ));
    site.judge(&[])?;
    site.clean()
}
