//! Random faults, one after the other, drawn from one seed: of recorders, nodes, links, disks, and of the control plane beside them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::harness::{count, soak};
use framekeeper_e2e::judge;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::site::{Site, is_true, operators_ready};
use super::struck::{CAMERAS_ON, Fault, Recorders};
use super::takeover::record;

/// What may be done to the control plane while a recorder is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// All operators are killed; their pods start them again.
    OperatorsKilled,
    /// API server, controller manager and scheduler are away.
    ApiServerStopped,
}

impl Beside {
    const ALL: [Self; 4] = [Self::Nothing, Self::Nothing, Self::OperatorsKilled, Self::ApiServerStopped];

    fn begin(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::OperatorsKilled => {
                for node in ["1", "2", CAMERAS_ON] {
                    // Not on each node is one.
                    let kill = "pkill -KILL -f '^framekeeper-operator run' || true";
                    cluster.fault(&["node-exec", node, "sh", "-c", kill])?;
                }
            }
            Self::ApiServerStopped => drop(cluster.fault(&["apiserver-stop"])?),
        }
        Ok(())
    }

    fn end(self, cluster: &Cluster) -> Result<()> {
        if self == Self::ApiServerStopped {
            cluster.fault(&["apiserver-start"])?;
        }
        Ok(())
    }
}

/// The next fault, and whom it strikes.
fn draw(dice: &mut StdRng) -> (Fault, usize, Beside, Duration) {
    let all = [&Fault::WITHOUT_API_SERVER[..], &[Fault::NodeKilled, Fault::DiskFails]].concat();
    let fault = all.choose(dice).copied().unwrap_or(Fault::Killed);
    // The one beside the cameras loses neither its node nor its network: that would be the cameras' failure.
    let anywhere = matches!(fault, Fault::Killed | Fault::SandboxKilled | Fault::DiskHangs | Fault::DiskFull);
    let at = dice.random_range(0..if anywhere { 3 } else { 2 });
    let beside = Beside::ALL.choose(dice).copied().unwrap_or(Beside::Nothing);
    (fault, at, beside, Duration::from_millis(dice.random_range(2_000..10_000)))
}

fn strike(recorders: &mut Recorders<'_>, drawn: (Fault, usize, Beside, Duration)) -> Result<()> {
    let (fault, at, beside, lasts) = drawn;
    let (site, what) = (recorders.site, format!("{fault:?}"));
    let struck = recorders.at(at)?.clone();
    let other = recorders.at(usize::from(at == 0))?.node.clone();
    let streams = struck.wait_records(site)?;
    let (began, is_taken) = (Instant::now(), fault.is_taken_over() && !streams.is_empty());
    beside.begin(site.cluster)?;
    let result = fault.begin(site, &struck, &other).and_then(|struck_ns| {
        if is_taken {
            recorders.taken_over(&what, &[at], &streams, (struck_ns, fault.is_taken_within()))?;
        }
        if fault.lasts() || beside == Beside::ApiServerStopped {
            std::thread::sleep(lasts.saturating_sub(began.elapsed()));
        }
        Ok(())
    });
    // A node that is switched on needs the API server to have its pods.
    beside.end(site.cluster)?;
    fault.end(site.cluster, &struck)?;
    result?;
    recorders.protected(&format!("{what} at {}, {beside:?}", struck.ordinal), 1)
}

/// What our processes begin with: an operator, the supervisor of a recorder, and its worker, which is started by no name.
const PROGRAMS: [&str; 3] = ["framekeeper-operator run", "framekeeper-recorder run", "/proc/self/exe run"];

/// Resident memory of each of our processes, in MiB, by what it runs.
fn memory(site: &Site) -> Result<Vec<(String, f64)>> {
    let mut all = Vec::new();
    for node in ["1", "2", CAMERAS_ON] {
        let [operator, supervisor, worker] = PROGRAMS;
        // From their beginnings: the shell that looks for them has the same words in its own command line.
        let list = format!(
            "for pid in $(pgrep -f -- '^{operator}|^({supervisor}|{worker}) --cluster {}/'); do \
             echo \"$(tr '\\0' ' ' </proc/$pid/cmdline | cut -c 1-90) $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/$pid/status)\"; done",
            site.namespace
        );
        let said = site.cluster.fault(&["node-exec", node, "sh", "-c", &list])?;
        for line in said.lines().filter(|line| PROGRAMS.iter().any(|program| line.starts_with(program))) {
            let (program, kib) = line.trim().rsplit_once(' ').context("a process without a size")?;
            all.push((program.to_owned(), kib.parse::<f64>().with_context(|| line.to_owned())? / 1024.0));
        }
    }
    Ok(all)
}

fn most(all: &[(String, f64)], program: &str) -> f64 {
    all.iter().filter(|(name, _)| name.starts_with(program)).map(|(_, mib)| *mib).fold(0.0, f64::max)
}

/// Every stream is as it is to be, and nothing is left of what was.
fn is_whole(site: &Site) -> Result<()> {
    let cameras = site.cameras.len();
    site.cluster.wait(
        "all streams are protected, and nobody is left who held one",
        Duration::from_secs(120),
        || {
            let streams = site.list("camerastreams")?;
            for stream in &streams {
                let text = |path: &str| stream.pointer(path).and_then(Value::as_str).unwrap_or_default();
                let is_good = ["Ready", "Recording", "Protected"].iter().all(|kind| is_true(stream, kind));
                ensure!(is_good, "{}", stream.pointer("/status").cloned().unwrap_or_default());
                ensure!(text("/status/assignment/active") == text("/status/assignment/primary"), "{stream}");
            }
            ensure!(streams.len() == cameras, "{} streams", streams.len());
            let (mut primaries, mut left) = (Vec::new(), 0);
            for recorder in site.list("recorders")? {
                let list = |path: &str| recorder.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
                left += list("/spec/retired").len() + list("/status/channels").len();
                let primary = |it: &&Value| it.get("role").and_then(Value::as_str) == Some("Primary");
                let name = |it: &Value| it.pointer("/stream/name").and_then(Value::as_str).map(str::to_owned);
                primaries.extend(list("/spec/channels").iter().filter(primary).filter_map(name));
            }
            ensure!(left == 0, "{left} channels are retired, or not as planned");
            let once: BTreeSet<&String> = primaries.iter().collect();
            ensure!(primaries.len() == cameras && once.len() == cameras, "{primaries:?}");
            let (pods, claims) = (site.list("pods")?.len(), site.list("persistentvolumeclaims")?.len());
            ensure!(pods == 3 + 1 && claims == 3, "{pods} pods, {claims} claims");
            Ok(Some(()))
        },
    )?;
    Ok(())
}

#[test]
fn an_hour_of_random_faults_costs_no_frame_and_leaves_nothing_behind() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    judge::result(&format!("seed {seed}"));
    let mut dice = StdRng::seed_from_u64(seed);
    // An hour of it has to fit on the disks, and is decoded at the end.
    let more = if soak() { ",width=160,height=160,fps=10,gop=20,bitrate=100k" } else { ",bitrate=250k" };
    let site = Site::on_node("chaos", count(12, 50), CAMERAS_ON, more)?;
    record(&site, 3, 1, "Playing")?;
    let mut recorders = Recorders::find(&site, 3)?;
    recorders.handed_back("before anything fails")?;
    let before = memory(&site)?;
    let until = Instant::now() + Duration::from_secs(count(300, 3_600) as u64);
    let mut faults = 0;
    while Instant::now() < until {
        let drawn = draw(&mut dice);
        strike(&mut recorders, drawn).with_context(|| format!("seed {seed}, fault {faults}: {drawn:?}"))?;
        faults += 1;
        std::thread::sleep(Duration::from_millis(dice.random_range(0..3_000)));
    }
    recorders.handed_back("all is over")?;
    operators_ready(site.cluster)?;
    is_whole(&site)?;
    recorders.tell(&format!("{faults} random faults"));
    let after = memory(&site)?;
    let grown = PROGRAMS.map(|program| {
        let (before, after) = (most(&before, program), most(&after, program));
        ensure!(before > 1.0 && after > 1.0, "no {program} was looked at: {before} {after}");
        judge::result(&format!("{program}: {before:.0} MiB before, {after:.0} MiB after"));
        Ok(after > 1.5 * before + 16.0)
    });
    let grown = grown.into_iter().collect::<Result<Vec<bool>>>()?;
    ensure!(!grown.contains(&true), "memory has grown: {before:?} {after:?}");
    recorders.judge()?;
    site.clean()
}
