//! Leaders that are lost, and a control plane that is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::{count, get};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::refusals::policy;
use super::site::{RECORDED_WITHIN, RELEASE, Site, is_true, operators_ready};
use super::struck::{self, Fault, Place};

/// One leader again within a lease and two seconds.
const LED_WITHIN: Duration = Duration::from_secs(15 + 2);
/// What looking at who leads takes, at most.
const LOOKING: Duration = Duration::from_secs(10);
/// A recorder whose process was killed records again within this time.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// The same where the kubelet has to make its sandbox anew; it looks for that each second, and waits for what it can't ask.
const SANDBOX_WITHIN: Duration = Duration::from_secs(60);

/// The Recorder of a pool that nobody may write to.
const CLOSED: &str = "closed-recorder-0";

/// Who leads, and in which term.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    holder: String,
    term: u64,
    pod: String,
    node: String,
}

/// The one that the Lease names, which may have ended since.
fn leader(cluster: &Cluster) -> Result<Option<Leader>> {
    Ok(named(cluster)?.map(|(leader, _)| leader))
}

/// The same, and the version of the Lease.
fn named(cluster: &Cluster) -> Result<Option<(Leader, String)>> {
    let lease = cluster.get(&["lease", RELEASE, "-n", RELEASE])?;
    let text = |path: &str| lease.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let holder = text("/spec/holderIdentity");
    let term = text("/metadata/annotations/framekeeper.dev~1term").parse().unwrap_or(0);
    let pods = cluster.list(&["pods", "-n", RELEASE])?;
    let own = pods.iter().find(|pod| {
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("?");
        holder.starts_with(uid)
    });
    let Some(pod) = own else { return Ok(None) };
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let node = text("/spec/nodeName").trim_start_matches("node").to_owned();
    let version = lease.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some((Leader { holder, term, pod: text("/metadata/name"), node }, version)))
}

/// Waits until another one than the last leads, and fails unless it did so in time; by what the Lease says, so that looking takes no part in it.
fn succeeds(cluster: &Cluster, last: &Leader, struck_ns: i64) -> Result<(Leader, Duration)> {
    let (next, _) = cluster.wait("another operator leads", LED_WITHIN + LOOKING, || {
        Ok(leader(cluster)?.filter(|next| next.holder != last.holder && next.term > last.term))
    })?;
    let lease = cluster.get(&["lease", RELEASE, "-n", RELEASE])?;
    let acquired = lease.pointer("/spec/acquireTime").and_then(Value::as_str).context("a Lease without acquireTime")?;
    let acquired: jiff::Timestamp = acquired.parse().with_context(|| format!("acquireTime {acquired:?}"))?;
    let took = i64::try_from(acquired.as_nanosecond())? - struck_ns;
    let took = Duration::from_nanos(u64::try_from(took).context("it led before the other one was lost")?);
    ensure!(took <= LED_WITHIN, "another operator leads after {took:?}, not within {LED_WITHIN:?}");
    Ok((next, took))
}

/// Waits until an operator leads. A Lease names who held it also when that has ended: only one that is renewed counts.
fn wait_led(cluster: &Cluster) -> Result<Leader> {
    let mut first = None;
    let (leader, _) = cluster.wait("an operator leads", Duration::from_secs(60), || {
        let Some((leader, version)) = named(cluster)? else { return Ok(None) };
        let is_renewed = *first.get_or_insert_with(|| version.clone()) != version;
        Ok(is_renewed.then_some(leader))
    })?;
    Ok(leader)
}

fn generations(site: &Site) -> Result<Vec<(String, i64)>> {
    let of = |object: &Value| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        (name, object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0))
    };
    let (recorders, sets) = (site.list("recorders")?, site.list("statefulsets")?);
    Ok(recorders.iter().chain(&sets).map(of).collect())
}

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    /// Longer than its Lease holds, and then it goes on.
    StoodStill,
    /// Its node does not reach the API server, for longer than its Lease holds.
    CutOff,
}

impl Loss {
    fn begin(self, cluster: &Cluster, leader: &Leader) -> Result<()> {
        match self {
            Self::Killed => signal(cluster, leader, "-KILL"),
            Self::StoodStill => signal(cluster, leader, "-STOP"),
            Self::CutOff => cluster.fault(&["api-cut", &leader.node]).map(drop),
        }
    }

    fn end(self, cluster: &Cluster, leader: &Leader) -> Result<()> {
        match self {
            Self::Killed => Ok(()),
            Self::StoodStill => signal(cluster, leader, "-CONT"),
            Self::CutOff => cluster.fault(&["link-heal"]).map(drop),
        }
    }
}

fn signal(cluster: &Cluster, leader: &Leader, signal: &str) -> Result<()> {
    let pids = struck::some_processes(cluster, &leader.node, "^framekeeper-operator run")?;
    for pid in &pids {
        cluster.fault(&["node-exec", &leader.node, "kill", signal, pid])?;
    }
    Ok(())
}

/// What a leader of an earlier term is about to write, as it would: with the operators' own token, their field manager, and what it knew then.
struct Late {
    recorder: Value,
    set: Value,
}

impl Late {
    fn new(site: &Site) -> Result<Self> {
        let of = |kind: &str| site.cluster.get(&[kind, "main-recorder-0", "-n", &site.namespace]);
        Ok(Self { recorder: of("recorder")?, set: of("statefulset")? })
    }

    fn apply(site: &Site, mut object: Value) -> Result<String> {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        let file = site.ledgers.join("late.json");
        std::fs::write(&file, object.to_string())?;
        let token = site.cluster.kubectl(&["create", "token", RELEASE, "-n", RELEASE])?;
        let (token, file) = (format!("--token={}", token.trim()), file.display().to_string());
        let server =
            ["--kubeconfig=/dev/null", "--server=https://10.200.0.1:6443", "--insecure-skip-tls-verify", &token];
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--field-manager=framekeeper-operator", "-f", &file];
        site.cluster.kubectl(&[&server[..], &apply[..]].concat())
    }

    /// Sends it now. Nothing of it takes effect.
    fn send(mut self, site: &Site) -> Result<()> {
        // It would have taken a stream away.
        self.recorder["spec"]["channels"] = Value::Array(Vec::new());
        let said = Self::apply(site, self.recorder.clone()).err().context("a Recorder of an earlier term was taken")?;
        ensure!(
            format!("{said:#}").contains("Conflict") || format!("{said:#}").contains("the object has been modified"),
            "{said:#}"
        );
        // Without saying which version it means, it is a decision of a term that is over: the definition's own rule refuses it.
        let mut blind = self.recorder;
        if let Some(metadata) = blind.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        let term = blind.pointer("/spec/term").and_then(Value::as_u64).unwrap_or(0);
        blind["spec"]["term"] = (term.saturating_sub(1)).into();
        let said = Self::apply(site, blind).err().context("a Recorder of an earlier term was taken")?;
        ensure!(format!("{said:#}").contains("term"), "{said:#}");
        // Of a StatefulSet nobody says which version is meant. The leader puts right what somebody else made of it, and no pod is made anew meanwhile.
        let pods = || -> Result<Vec<String>> {
            let pods = site.cluster.list(&["pods", "-n", &site.namespace, "-l", "framekeeper.dev/pool=main"])?;
            Ok(pods.iter().filter_map(|pod| Some(pod.pointer("/metadata/uid")?.as_str()?.to_owned())).collect())
        };
        let before = pods()?;
        let image = "/spec/template/spec/containers/0/image";
        let right = self.set.pointer(image).cloned();
        if let Some(metadata) = self.set.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        *self.set.pointer_mut(image).context("a container")? = "an-older-image:1".into();
        // Its mark is of what it wrote: whoever begins to lead believes an object that has the mark of what it would write itself.
        let mark = self.set.pointer_mut("/metadata/annotations/framekeeper.dev~1applied");
        *mark.context("a StatefulSet without a mark")? = "an-older-one".into();
        Self::apply(site, self.set)?;
        let (_, took) = site.cluster.wait("the leader puts it right", Duration::from_secs(10), || {
            let now = site.cluster.get(&["statefulset", "main-recorder-0", "-n", &site.namespace])?;
            ensure!(now.pointer(image) == right.as_ref(), "{:?}", now.pointer(image));
            Ok(Some(()))
        })?;
        judge::result(&format!(
            "late requests: refused, and a StatefulSet put right after {:.1} s",
            took.as_secs_f64()
        ));
        ensure!(before == pods()?, "pods were made anew");
        Ok(())
    }
}

/// What was decided, and what pods are made from. Addresses of peers are neither: a recorder whose sandbox was made anew has another one.
fn decisions(site: &Site) -> Result<Vec<(String, Value)>> {
    let of = |paths: &'static [&'static str]| {
        move |object: &Value| {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            (name, paths.iter().map(|path| object.pointer(path).cloned().unwrap_or_default()).collect())
        }
    };
    let (recorders, sets) = (site.list("recorders")?, site.list("statefulsets")?);
    let decided = of(&["/spec/channels", "/spec/retired", "/spec/slots", "/spec/volumes"]);
    Ok(recorders.iter().map(decided).chain(sets.iter().map(of(&["/metadata/generation"]))).collect())
}

#[test]
fn a_leader_that_is_killed_or_stands_still_or_is_cut_off_has_a_successor_and_nobody_notices() -> Result<()> {
    let site = Site::new("leaders", 3)?;
    let cluster = site.cluster;
    let first: String = ["cam-1", "cam-2"].iter().map(|name| site.stream(name, "")).collect();
    site.cluster.apply(&format!("{}  maxChannels: 4\n{first}", site.pool(2, "")))?;
    site.wait_recorded(RECORDED_WITHIN, 2)?;
    close(&site)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let before = generations(&site)?;
    let late = Late::new(&site)?;
    let mut last = leader(cluster)?.context("nobody leads")?;
    for round in 0..count(1, 10) {
        for loss in [Loss::Killed, Loss::StoodStill, Loss::CutOff] {
            // One at a time: who follows is there.
            operators_ready(cluster)?;
            let struck_ns = judge::now_ns()?;
            loss.begin(cluster, &last)?;
            let next = succeeds(cluster, &last, struck_ns);
            loss.end(cluster, &last)?;
            let (next, took) = next?;
            judge::result(&format!(
                "round {round}: leader {loss:?}: another one led after {:.1} s",
                took.as_secs_f64()
            ));
            if loss != Loss::Killed {
                // What it was about to do it does not do any more.
                std::thread::sleep(Duration::from_secs(3));
                let still = leader(cluster)?.context("nobody leads")?;
                ensure!(still == next, "the one that was lost leads again: {still:?} after {next:?}");
            }
            last = next;
        }
    }
    // A Lease that is deleted turns no term back.
    cluster.kubectl(&["delete", "lease", RELEASE, "-n", RELEASE])?;
    let (next, _) = cluster.wait("one leads again", LED_WITHIN + Duration::from_secs(15), || {
        Ok(leader(cluster)?.filter(|next| next.term >= last.term))
    })?;
    judge::result(&format!("Lease deleted: term {} after {}", next.term, last.term));
    site.wait_as_planned(Duration::from_secs(30))?;
    ensure!(before == generations(&site)?, "what is as it should be was changed: {before:?} {:?}", generations(&site)?);
    // Whoever leads decides, though there is a Recorder that nobody may write to, and takes that one over when it may.
    cluster.apply(&site.stream("cam-3", ""))?;
    site.wait_recorded(Duration::from_secs(30), 3)?;
    // Only now: a leader that has not decided yet would take what comes late for what a former one left.
    late.send(&site)?;
    open(&site)?;
    site.wait_as_planned(Duration::from_secs(30))?;
    let _came_late = std::fs::remove_file(site.ledgers.join("cam-3.ledger"));
    site.judge(&[])?;
    site.clean()
}

/// A second pool, whose Recorder nobody may change from now on.
fn close(site: &Site) -> Result<()> {
    site.cluster.apply(&site.pool(1, "").replace("{name: main,", "{name: closed,"))?;
    site.cluster.wait("the second pool's recorder is ready", RECORDED_WITHIN, || {
        let recorders = site.list("recorders")?;
        Ok((recorders.len() == 3 && recorders.iter().all(|recorder| is_true(recorder, "Ready"))).then_some(()))
    })?;
    site.cluster.apply(&policy(&site.namespace, "closed", "UPDATE"))?;
    let probe = ["annotate", "recorder", CLOSED, "probe=yes", "--dry-run=server"];
    site.cluster.wait("the policy holds", Duration::from_secs(20), || {
        let refused = site.kubectl(&probe).err();
        Ok(refused.filter(|error| format!("{error:#}").contains("no room for closed")).map(drop))
    })?;
    Ok(())
}

/// It may be changed again: whoever leads writes its term onto it, by itself.
fn open(site: &Site) -> Result<()> {
    let term = || -> Result<u64> {
        let recorder = site.cluster.get(&["recorder", CLOSED, "-n", &site.namespace])?;
        let term = recorder.pointer("/metadata/annotations/framekeeper.dev~1term").and_then(Value::as_str);
        Ok(term.context("no term")?.parse()?)
    };
    let now = leader(site.cluster)?.context("nobody leads")?.term;
    let before = term()?;
    ensure!(before < now, "it was written in term {before}, and {now} leads");
    site.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "no-closed"])?;
    let taken = || Ok((term()? >= now).then_some(()));
    site.cluster.wait("the leader has taken it over", Duration::from_secs(20), taken)?;
    site.kubectl(&["delete", "storagepool", "closed", "--cascade=foreground", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn a_control_plane_that_is_restored_from_a_backup_turns_no_decision_back() -> Result<()> {
    let site = Site::new("restored", 3)?;
    let cluster = site.cluster;
    let first: String = ["cam-1", "cam-2"].iter().map(|name| site.stream(name, "")).collect();
    cluster.apply(&format!("{}  maxChannels: 6\n{first}", site.pool(2, "")))?;
    site.wait_recorded(RECORDED_WITHIN, 2)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let backup = leader(cluster)?.context("nobody leads")?;
    cluster.fault(&["etcd-save"])?;
    // What the backup knows nothing of: another leader, and a decision of its.
    let before = wait_led(cluster)?;
    let struck_ns = judge::now_ns()?;
    Loss::Killed.begin(cluster, &before)?;
    let (last, _) = succeeds(cluster, &before, struck_ns)?;
    cluster.apply(&site.stream("cam-3", ""))?;
    site.wait_recorded(Duration::from_secs(30), 3)?;
    cluster.fault(&["etcd-restore"])?;
    let restored = Instant::now();
    let (next, _) = cluster.wait("an operator leads in a later term than any", Duration::from_secs(90), || {
        Ok(leader(cluster)?.filter(|next| next.term > last.term))
    })?;
    judge::result(&format!(
        "restored to term {}, recorders knew term {}: led in term {} after {:.1} s",
        backup.term,
        last.term,
        next.term,
        restored.elapsed().as_secs_f64()
    ));
    ensure!(site.list("camerastreams")?.len() == 2, "the backup did not know of the third stream");
    // Whoever was told of the third obeys a later term than its object knew of: it is told anew, though what it is to do is as in the backup.
    cluster.wait("nobody records what the backup knows nothing of", Duration::from_secs(60), || {
        for recorder in site.list("recorders")? {
            let address = recorder.pointer("/status/addresses/http").and_then(Value::as_str).context("no address")?;
            let channels = get(address.parse()?, "/v1/channels")?.text();
            ensure!(!channels.contains("cam-3"), "{channels}");
        }
        Ok(Some(()))
    })?;
    site.wait_as_planned(Duration::from_secs(60))?;
    // Decisions take effect again, and the two lacked nothing meanwhile.
    cluster.apply(&site.stream("cam-3", ""))?;
    site.wait_recorded(Duration::from_secs(60), 3)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let _came_and_went = std::fs::remove_file(site.ledgers.join("cam-3.ledger"));
    site.judge(&[])?;
    site.clean()
}

/// What a recorder says of its channels, to whoever asks it.
fn recording(address: &str) -> Result<usize> {
    let answer = get(format!("{address}:8080").parse()?, "/v1/channels")?.json()?;
    let channels = answer.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
    let state = |channel: &&Value| channel.get("state").and_then(Value::as_str) == Some("Recording");
    Ok(channels.iter().filter(state).count())
}

#[test]
fn with_the_control_plane_gone_recording_goes_on_and_recorders_come_back() -> Result<()> {
    let site = Site::new("outage", 3)?;
    let cluster = site.cluster;
    cluster.apply(&format!("{}  maxChannels: 6\n  toleratedFailures: 1\n{}", site.pool(3, ""), site.streams()))?;
    site.wait_recorded(RECORDED_WITHIN, 3)?;
    site.wait_as_planned(Duration::from_secs(60))?;
    let before = decisions(&site)?;
    let pod = site.pod(0)?;
    let address = pod.pointer("/status/podIP").and_then(Value::as_str).context("no address")?.to_owned();
    let struck = Place::of(&site, 0)?;
    let began = Instant::now();
    cluster.fault(&["apiserver-stop"])?;
    let result = (|| -> Result<()> {
        for kill in 1..=5 {
            let worker = struck.worker(&site)?;
            cluster.fault(&["node-exec", &struck.node, "kill", "-KILL", &worker])?;
            let (_, took) = cluster
                .wait("the recorder records again", BACK_WITHIN, || Ok((recording(&address)? > 0).then_some(())))?;
            judge::result(&format!(
                "kill {kill} with no API server: recording again after {:.1} s",
                took.as_secs_f64()
            ));
            std::thread::sleep(Duration::from_secs(2));
        }
        Fault::SandboxKilled.begin(&site, &struck, "")?;
        let (_, took) = cluster.wait("the recorder records again in another sandbox", SANDBOX_WITHIN, || {
            Ok((!struck.records(&site)?.is_empty()).then_some(()))
        })?;
        judge::result(&format!(
            "its sandbox killed with no API server: recording again after {:.1} s",
            took.as_secs_f64()
        ));
        // Recorders that are silent for 340 s count as gone: an outage must not pass for that.
        let outage = Duration::from_secs(count(40, 400) as u64);
        std::thread::sleep(outage.saturating_sub(began.elapsed()));
        Ok(())
    })();
    cluster.fault(&["apiserver-start"])?;
    result?;
    site.wait_as_planned(Duration::from_secs(120))?;
    site.wait_recorded(Duration::from_secs(60), 3)?;
    // Leader's Leases ran out meanwhile; there is one again, which has nothing to do.
    wait_led(cluster)?;
    std::thread::sleep(Duration::from_secs(10));
    ensure!(before == decisions(&site)?, "changed without need: {before:?} {:?}", decisions(&site)?);
    site.judge(&[])?;
    site.clean()
}
