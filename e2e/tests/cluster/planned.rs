//! What people do on purpose: another image and back, a node that is emptied, fewer recorders. Nobody records less for it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::count;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RECORDED_WITHIN, RELEASE, Site, condition, install_chart, is_true};
use super::struck::Place;

/// All recorders are made anew one by one within this time.
const ROLLED_WITHIN: Duration = Duration::from_secs(240);
const NODES: [&str; 3] = ["1", "2", "3"];

/// The same image under another name, on each node.
fn other_image(cluster: &Cluster) -> Result<String> {
    let other = format!("{}-other", cluster.image);
    for node in NODES {
        let tag = ["node-exec", node, "ctr", "-n", "k8s.io", "images", "tag", "--force", &cluster.image, &other];
        cluster.fault(&tag)?;
    }
    Ok(other)
}

fn pods(site: &Site) -> Result<Vec<Value>> {
    site.cluster.list(&["pods", "-n", &site.namespace, "-l", "framekeeper.dev/pool=main"])
}

/// Waits until all recorders run this image. Meanwhile never more than one is away.
fn all_run(site: &Site, image: &str, recorders: usize) -> Result<()> {
    let (mut most_away, mut told) = (0, false);
    let (_, took) = site.cluster.wait(&format!("all recorders run {image}"), ROLLED_WITHIN, || {
        let pods = pods(site)?;
        let is_good = |pod: &&Value| is_true(pod, "Ready") && pod.pointer("/metadata/deletionTimestamp").is_none();
        let good: Vec<&Value> = pods.iter().filter(is_good).collect();
        most_away = most_away.max(recorders.saturating_sub(good.len()));
        let pool = site.cluster.get(&["storagepool", "main", "-n", &site.namespace])?;
        let progress = condition(&pool, "Progressing").cloned().unwrap_or_default();
        told |= progress.get("reason").and_then(Value::as_str) == Some("RollingOut");
        let runs = |pod: &&&Value| {
            pod.pointer("/spec/containers/0/image").and_then(Value::as_str).is_some_and(|it| it.ends_with(image))
        };
        let new = good.iter().filter(runs).count();
        ensure!(new == recorders, "{new} of {recorders}; the pool says {progress}");
        Ok(Some(()))
    })?;
    ensure!(most_away <= 1, "{most_away} recorders were away at once");
    ensure!(told, "the pool does not say that its recorders are made anew");
    judge::result(&format!("{recorders} recorders made anew in {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// How many recorders may be stopped now, as Kubernetes counts them.
fn allowed(site: &Site) -> Result<i64> {
    let budget = site.cluster.get(&["poddisruptionbudget", "main-recorders", "-n", &site.namespace])?;
    let number = |path: &str| budget.pointer(path).and_then(Value::as_i64);
    ensure!(number("/status/observedGeneration") == number("/metadata/generation"), "not counted yet: {budget}");
    number("/status/disruptionsAllowed").context("it does not say how many")
}

fn drain(site: &Site, ordinal: usize, timeout: &str) -> Result<String> {
    let node = format!("node{}", site.node(ordinal)?);
    let timeout = format!("--timeout={timeout}");
    let selector = format!(
        "--pod-selector=framekeeper.dev/pool=main,statefulset.kubernetes.io/pod-name=main-recorder-{ordinal}-0"
    );
    site.cluster.kubectl(&["drain", &node, &selector, "--delete-emptydir-data", &timeout])?;
    Ok(node)
}

fn protected(site: &Site, streams: usize) -> Result<()> {
    let what = format!("{streams} streams are protected, and another recorder may be stopped");
    site.cluster.wait(&what, Duration::from_secs(90), || {
        let all = site.list("camerastreams")?;
        let good = all.iter().filter(|stream| is_true(stream, "Protected") && is_true(stream, "Recording")).count();
        ensure!(good == streams, "{good} of {streams}");
        let allowed = allowed(site)?;
        ensure!(allowed == 1, "{allowed} may be stopped");
        Ok(Some(()))
    })?;
    Ok(())
}

/// The public keys that recorders are known by, by recorder.
fn keys(site: &Site) -> Result<BTreeMap<String, String>> {
    let recorders = site.list("recorders")?;
    let key = |recorder: &Value| {
        let text = |path: &str| recorder.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Some((text("/metadata/name")?, text("/status/publicKey")?))
    };
    let keys: BTreeMap<String, String> = recorders.iter().filter_map(key).collect();
    ensure!(keys.len() == recorders.len(), "only {keys:?} are known");
    Ok(keys)
}

/// Each recorder hears all others, which know it by the key that it has now.
fn all_linked(site: &Site, recorders: usize) -> Result<()> {
    site.cluster.wait("all recorders hear each other", Duration::from_secs(30), || {
        for ordinal in 0..recorders {
            Place::of(site, ordinal)?.hears(site, u32::try_from(recorders)? - 1)?;
        }
        Ok(Some(()))
    })?;
    Ok(())
}

#[test]
fn upgrades_a_drain_and_fewer_recorders_cost_no_frame() -> Result<()> {
    let site = Site::new("planned", count(4, 12))?;
    let cluster = site.cluster;
    let cameras = site.cameras.len();
    let dark = site.stream("dark", "").replace("dark.planned.svc:8554", "127.0.0.1:9");
    let pool = |recorders: usize| {
        let room = format!("  maxChannels: {}\n  toleratedFailures: 1\n", cameras + 1);
        site.pool(recorders, &format!("{room}  redundancy: {{handbackAfter: 3s}}\n"))
    };
    cluster.apply(&format!("{}{}", pool(3), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, cameras)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    protected(&site, cameras)?;
    all_linked(&site, 3)?;
    let before = keys(&site)?;
    // A camera that is off keeps nobody from being upgraded.
    cluster.apply(&dark)?;

    let (image, tag) = other_image(cluster).map(|image| {
        let tag = image.rsplit_once(':').map(|(_, tag)| tag.to_owned()).unwrap_or_default();
        (image, tag)
    })?;
    install_chart(cluster, &["--set", &format!("image.tag={tag}")])?;
    let upgraded = all_run(&site, &image, 3);
    cluster.helm(&["rollback", RELEASE, "-n", RELEASE, "--wait", "--timeout", "90s"])?;
    upgraded?;
    all_run(&site, &cluster.image, 3)?;
    site.kubectl(&["delete", "camerastream", "dark", "--timeout=30s"])?;
    protected(&site, cameras)?;
    // A pod that is made anew makes itself another key.
    let after = keys(&site)?;
    ensure!(before.iter().all(|(name, key)| after.get(name) != Some(key)), "{before:?} {after:?}");
    all_linked(&site, 3)?;

    // A node is emptied; its recorder's disk is there and nowhere else. A second one is not, until the first is back and stands by again.
    let node = drain(&site, 0, "60s")?;
    let second = drain(&site, 1, "5s").err();
    let other = format!("node{}", site.node(1)?);
    cluster.kubectl(&["uncordon", &other])?;
    let said = second.map(|error| format!("{error:#}")).unwrap_or_default();
    let away = pods(&site)?.iter().filter(|pod| !is_true(pod, "Ready")).count();
    cluster.kubectl(&["uncordon", &node])?;
    ensure!(said.contains("disruption budget"), "a second recorder was taken away: {said:?}");
    ensure!(away == 1, "{away} recorders are away");
    protected(&site, cameras)?;
    drain(&site, 1, "60s")?;
    cluster.kubectl(&["uncordon", &other])?;
    protected(&site, cameras)?;

    cluster.apply(&pool(2))?;
    cluster.wait("two recorders are left", Duration::from_secs(90), || {
        let left = site.list("recorders")?.len();
        ensure!(left == 2, "{left}");
        Ok(Some(()))
    })?;
    protected(&site, cameras)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    site.judge(&[])?;
    site.clean()
}
