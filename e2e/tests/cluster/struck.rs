//! Recorders of a site by the nodes that they run on, what they say there, and how they are struck. None of it asks the API server, once it is known
//! where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use framekeeper_e2e::cluster::Cluster;
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{Site, rfc3339};

/// The node that cameras are on where others are hurt.
pub(super) const CAMERAS_ON: &str = "3";
/// It is looked for this long whether others record the streams of a recorder that is struck.
const LOOK_FOR: Duration = Duration::from_secs(15);
/// They record them within this time, by what they say themselves.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// The same where it is a disk that fails, or hangs.
const DISK_TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// A clip ends where all is durable.
const CLIP_ENDS_BEFORE_NS: i64 = 5_000_000_000;
/// Who was struck stands by, or records, again within this time. In it are a kubelet's pause before it starts again what ended several times, up to five minutes
/// (`CrashLoopBackOff`) and no deadline of ours, and a hold that has doubled.
pub(super) const PROTECTED_WITHIN: Duration = Duration::from_secs(360);
/// A clip is whole when all recorders answered in time, which those do that have nothing else to do.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// A recorder answers within this time, whatever was done to it before. A single question may come while its worker is being started again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Processes that are there are seen within this time.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

/// The processes with this in their command line on a node, as that node numbers them.
pub(super) fn processes(cluster: &Cluster, node: &str, command: &str) -> Result<Vec<String>> {
    let said = cluster.fault(&["node-exec", node, "pgrep", "-f", "--", command]).unwrap_or_default();
    Ok(said.split_whitespace().map(str::to_owned).collect())
}

/// The same; they are looked for until there is one.
pub(super) fn some_processes(cluster: &Cluster, node: &str, command: &str) -> Result<Vec<String>> {
    let (found, _) = cluster.wait(&format!("{command} runs on node {node}"), LISTED_WITHIN, || {
        Ok(Some(processes(cluster, node, command)?).filter(|pids| !pids.is_empty()))
    })?;
    Ok(found)
}

/// A recorder, where it runs, and where it writes to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) ordinal: usize,
    pub(super) node: String,
    /// Name of its PersistentVolume.
    pub(super) volume: String,
}

impl Place {
    /// Where a recorder is.
    pub(super) fn of(site: &Site, ordinal: usize) -> Result<Self> {
        let claim = format!("footage-main-recorder-{ordinal}");
        let claim = site.cluster.get(&["pvc", &claim, "-n", &site.namespace])?;
        let volume = claim.pointer("/spec/volumeName").and_then(Value::as_str).context("an unbound claim")?;
        Ok(Self { ordinal, node: site.node(ordinal)?, volume: volume.to_owned() })
    }

    /// The recorder's name.
    pub(super) fn name(&self) -> String {
        format!("main-recorder-{}", self.ordinal)
    }

    /// The number of its disk on its node.
    fn disk(&self) -> &str {
        self.volume.rsplit_once("disk").map_or("1", |(_, number)| number)
    }

    /// What the supervisor and its worker have in their command lines, and nobody else.
    fn command(&self, site: &Site) -> String {
        format!("--cluster {}/main-recorder-{} ", site.namespace, self.ordinal)
    }

    /// The supervisor and its worker, as its node numbers them.
    pub(super) fn processes(&self, site: &Site) -> Result<Vec<String>> {
        processes(site.cluster, &self.node, &self.command(site))
    }

    /// The worker: the one whose parent is the other one. That need not be the one with the higher number, since numbers begin anew at their end.
    pub(super) fn worker(&self, site: &Site) -> Result<String> {
        // The list of processes is no snapshot: one look may miss one that is there, or see one twice that is only being started.
        let (both, _) = site.cluster.wait("a supervisor and its worker", LISTED_WITHIN, || {
            let both = self.processes(site)?;
            ensure!(both.len() == 2, "not {both:?}");
            Ok(Some(both))
        })?;
        let (parents, command) = (both.join(","), self.command(site));
        let said = site.cluster.fault(&["node-exec", &self.node, "pgrep", "-P", &parents, "-f", "--", &command])?;
        Ok(said.split_whitespace().next().context("neither is the other one's child")?.to_owned())
    }

    /// What it answers to a request: asked on its node, wherever it is by now and whoever reaches it.
    pub(super) fn ask(&self, site: &Site, path: &str) -> Result<String> {
        let pids = self.processes(site)?;
        // Both are where it listens.
        let one = pids.last().context("no recorder runs")?;
        let url = format!("http://127.0.0.1:8080{path}");
        let ask = ["nsenter", "-t", one, "-n", "curl", "-sf", "--max-time", "1", &url];
        site.cluster.fault(&[&["node-exec", &self.node][..], &ask[..]].concat())
    }

    /// What it says of its channels.
    pub(super) fn says(&self, site: &Site) -> Result<Vec<Says>> {
        let said: Value = serde_json::from_str(&self.ask(site, "/v1/channels")?)?;
        let channels = said.get("channels").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |channel: &Value, key: &str| channel.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let says = |channel: &Value| Says {
            stream: text(channel, "name"),
            role: text(channel, "role"),
            state: text(channel, "state"),
            reason: text(channel, "reason"),
            since: text(channel, "since"),
        };
        Ok(channels.iter().map(says).collect())
    }

    /// The streams that it records.
    pub(super) fn records(&self, site: &Site) -> Result<BTreeSet<String>> {
        Ok(self.records_since(site)?.into_keys().collect())
    }

    /// The same, each with when that began, Unix nanoseconds.
    fn records_since(&self, site: &Site) -> Result<BTreeMap<String, i64>> {
        let says = self.says(site)?.into_iter().filter(|says| says.state == "Recording");
        let since = |says: Says| -> Result<(String, i64)> {
            let since: jiff::Timestamp = says.since.parse().with_context(|| format!("since {:?}", says.since))?;
            Ok((says.stream, i64::try_from(since.as_nanosecond())?))
        };
        says.map(since).collect()
    }

    /// The streams that it records, if any; it is asked until it answers.
    pub(super) fn wait_records(&self, site: &Site) -> Result<BTreeSet<String>> {
        let what = format!("{} says what it records", self.name());
        let (streams, _) = site.cluster.wait(&what, ANSWERS_WITHIN, || Ok(Some(self.records(site)?)))?;
        Ok(streams)
    }

    /// The value of a metric without labels.
    pub(super) fn metric(&self, site: &Site, name: &str) -> Result<f64> {
        let text = self.ask(site, "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no metric {name}"))?.trim().parse()?)
    }

    /// Fails unless it has links to so many recorders, and hears all of them.
    pub(super) fn hears(&self, site: &Site, peers: u32) -> Result<()> {
        let (linked, alive) = (self.metric(site, "framekeeper_peers")?, self.metric(site, "framekeeper_peers_alive")?);
        ensure!(linked == f64::from(peers) && alive == linked, "{self:?} hears {alive} of {linked} recorders");
        Ok(())
    }

    /// Waits until that is so.
    pub(super) fn wait_hears(&self, site: &Site, peers: u32) -> Result<()> {
        let what = format!("{} hears {peers} recorders", self.name());
        site.cluster.wait(&what, ANSWERS_WITHIN, || self.hears(site, peers).map(Some))?;
        Ok(())
    }
}

/// A clip that was taken.
pub(super) struct Clip {
    stream: String,
    from: String,
    to: String,
    path: PathBuf,
}

/// What a recorder says of a stream.
#[derive(Clone, Debug)]
pub(super) struct Says {
    pub(super) stream: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) reason: String,
    /// Since when it is in this state, RFC 3339.
    since: String,
}

/// How a recorder is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its supervisor and its worker.
    Killed,
    /// All processes of its pod: the kubelet makes another sandbox, with another address.
    SandboxKilled,
    /// Its node's cable is out: it sees no camera and no other recorder.
    Partitioned,
    /// Its node does not reach the cameras' node, and reaches the others.
    Blind,
    /// Its node and another one, that the cameras are not on, do not reach each other: all see the cameras.
    LinkCut,
    /// Writing blocks.
    DiskHangs,
    /// No byte is left on its disk.
    DiskFull,
    /// Its node loses its power, and what was not synced.
    NodeKilled,
    /// All access to its disk fails, up to when its node is started anew.
    DiskFails,
}

impl Fault {
    /// Those that pass with no API server. A node that was started anew has no pods until that is back.
    pub(super) const WITHOUT_API_SERVER: [Self; 7] = [
        Self::Killed,
        Self::Partitioned,
        Self::DiskHangs,
        Self::SandboxKilled,
        Self::Blind,
        Self::LinkCut,
        Self::DiskFull,
    ];

    /// Whether others have to record instead.
    pub(super) fn is_taken_over(self) -> bool {
        !matches!(self, Self::LinkCut | Self::DiskFull)
    }

    /// Others record instead within this time.
    pub(super) fn is_taken_within(self) -> Duration {
        if matches!(self, Self::DiskFails | Self::DiskHangs) { DISK_TAKEN_WITHIN } else { TAKEN_WITHIN }
    }

    /// Whether it has a duration.
    pub(super) fn lasts(self) -> bool {
        !matches!(self, Self::Killed | Self::SandboxKilled)
    }

    /// Strikes; says when it struck, Unix nanoseconds, as near as that is known, and never later: to find whom it strikes takes a while. A disk hangs from
    /// when it stands: before that it is synced. `other`: another node, that the cameras are not on.
    pub(super) fn begin(self, site: &Site, struck: &Place, other: &str) -> Result<i64> {
        let node = struck.node.as_str();
        let fault = |arguments: &[&str]| -> Result<i64> {
            let before = judge::now_ns()?;
            let said = site.cluster.fault(arguments)?;
            Ok(said.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(before))
        };
        match self {
            Self::Killed => {
                let pids = some_processes(site.cluster, node, &struck.command(site))?;
                // The second may end with the first.
                fault(&["node-exec", node, "sh", "-c", &format!("date +%s%N; kill -KILL {} || true", pids.join(" "))])
            }
            Self::SandboxKilled => {
                let pids = some_processes(site.cluster, node, &struck.command(site))?;
                let recorder = pids.first().context("no recorder runs")?;
                // All that is in the control group of its pod, by the path that its own has.
                let kill = format!(
                    "path=$(sed -n 's|^[0-9]*:pids:\\(.*\\)/[^/]*$|\\1|p' /proc/{recorder}/cgroup); \
                     cat $(find /sys/fs/cgroup/pids -path \"*$(basename $path)*\" -name cgroup.procs) | sort -u | xargs kill -KILL || true"
                );
                fault(&["node-exec", node, "sh", "-c", &kill])
            }
            Self::Partitioned => fault(&["node-partition", node]),
            Self::Blind => fault(&["link-cut", node, CAMERAS_ON]),
            Self::LinkCut => fault(&["link-cut", node, other]),
            Self::DiskHangs => fault(&["disk-hang", node, struck.disk()]),
            Self::DiskFull => fault(&["disk-fill", node, struck.disk()]),
            Self::NodeKilled => fault(&["node-kill", node]),
            Self::DiskFails => fault(&["disk-fail", node, struck.disk()]),
        }
    }

    pub(super) fn end(self, cluster: &Cluster, struck: &Place) -> Result<()> {
        let node = struck.node.as_str();
        match self {
            Self::Killed | Self::SandboxKilled => Ok(()),
            Self::Partitioned => cluster.fault(&["node-heal", node]).map(drop),
            Self::Blind | Self::LinkCut => cluster.fault(&["link-heal"]).map(drop),
            Self::DiskHangs => cluster.fault(&["disk-unhang", node, struck.disk()]).map(drop),
            Self::DiskFull => cluster.fault(&["disk-unfill", node, struck.disk()]).map(drop),
            Self::NodeKilled => cluster.fault(&["node-start", node]).map(drop),
            Self::DiskFails => {
                cluster.fault(&["node-kill", node])?;
                cluster.fault(&["node-start", node]).map(drop)
            }
        }
    }
}

/// The recorders of a pool, and what they record.
pub(super) struct Recorders<'s> {
    pub(super) site: &'s Site,
    /// The one beside the cameras last.
    pub(super) places: Vec<Place>,
    /// From when on, Unix nanoseconds, nothing may be missing.
    since: i64,
    /// Streams that all of their recorders record, all the time.
    pub(super) mirrored: BTreeSet<String>,
    /// How long each takeover took, in seconds, by what made it necessary.
    pub(super) took: Vec<(String, f64)>,
}

impl<'s> Recorders<'s> {
    /// Finds them. All of their streams are recorded by now.
    pub(super) fn find(site: &'s Site, recorders: usize) -> Result<Self> {
        let mut places: Vec<Place> = (0..recorders).map(|ordinal| Place::of(site, ordinal)).collect::<Result<_>>()?;
        places.sort_by_key(|place| (place.node == CAMERAS_ON, place.node.clone()));
        let nodes: BTreeSet<&str> = places.iter().map(|place| place.node.as_str()).collect();
        ensure!(nodes.len() == recorders, "recorders are not spread over the nodes: {places:?}");
        Ok(Self { site, places, since: judge::now_ns()?, mirrored: BTreeSet::new(), took: Vec::new() })
    }

    /// One of them.
    pub(super) fn at(&self, at: usize) -> Result<&Place> {
        self.places.get(at).context("there is no such recorder")
    }

    /// Waits until these streams are recorded by others than those at `struck`, and fails where that took longer than `within` from `struck_ns` on (Unix
    /// nanoseconds): by what they say themselves, so that looking takes no part in it.
    pub(super) fn taken_over(
        &mut self,
        what: &str,
        struck: &[usize],
        streams: &BTreeSet<String>,
        when: (i64, Duration),
    ) -> Result<()> {
        let others = (0..self.places.len()).filter(|at| !struck.contains(at)).map(|at| (at, i64::MIN));
        self.recorded_by(what, &others.collect::<Vec<_>>(), streams, when)
    }

    /// The same where the one that was struck may be the first to record again. What it has recorded since before it was struck it was not struck in.
    pub(super) fn recorded_again(
        &mut self,
        what: &str,
        struck: usize,
        streams: &BTreeSet<String>,
        when: (i64, Duration),
    ) -> Result<()> {
        let all = (0..self.places.len()).map(|at| (at, if at == struck { when.0 } else { i64::MIN }));
        self.recorded_by(what, &all.collect::<Vec<_>>(), streams, when)
    }

    /// `by`: the recorders that count, each with the Unix nanoseconds from which on what it records must have begun.
    fn recorded_by(
        &mut self,
        what: &str,
        by: &[(usize, i64)],
        streams: &BTreeSet<String>,
        (struck_ns, within): (i64, Duration),
    ) -> Result<()> {
        let by = by.iter().map(|(at, begun)| Ok((self.at(*at)?, *begun))).collect::<Result<Vec<_>>>()?;
        let (last, _) = self
            .site
            .cluster
            .wait("others record what was struck", LOOK_FOR, || {
                let mut recorded = BTreeMap::new();
                for (place, begun) in &by {
                    // One that is being started again is waited for by nobody.
                    let records = place.records_since(self.site).unwrap_or_default();
                    for (stream, since) in records.into_iter().filter(|(_, since)| since >= begun) {
                        recorded
                            .entry(stream)
                            .and_modify(|first: &mut i64| *first = since.min(*first))
                            .or_insert(since);
                    }
                }
                let left: Vec<&String> = streams.iter().filter(|stream| !recorded.contains_key(*stream)).collect();
                ensure!(left.is_empty(), "nobody else records {left:?}");
                // None where it recorded nothing any more.
                Ok(Some(streams.iter().filter_map(|stream| recorded.get(stream)).max().copied().unwrap_or(struck_ns)))
            })
            .with_context(|| what.to_owned())?;
        // Some record all the time.
        let took = Duration::from_nanos(u64::try_from(last - struck_ns).unwrap_or(0));
        ensure!(took <= within, "{what}: recorded by others after {took:?}, not within {within:?}");
        self.took.push((what.to_owned(), took.as_secs_f64()));
        Ok(())
    }

    /// Waits until each stream is recorded by somebody, and `standbys` more recorders record it or are ready to.
    pub(super) fn protected(&self, what: &str, standbys: usize) -> Result<()> {
        let (_, took) = self.site.cluster.wait(&format!("{what}: all protected again"), PROTECTED_WITHIN, || {
            let mut said = Vec::new();
            for place in &self.places {
                said.extend(place.says(self.site)?);
            }
            for camera in &self.site.cameras {
                let of = || said.iter().filter(|says| says.stream == *camera);
                let recording = of().filter(|says| says.state == "Recording").count();
                let ready = of().filter(|says| says.state == "Standby" && says.reason == "StandingBy").count();
                ensure!(recording > 0 && recording + ready > standbys, "{:?}", of().collect::<Vec<_>>());
            }
            Ok(Some(()))
        })?;
        judge::result(&format!("{what}: all protected again {:.1} s after it ended", took.as_secs_f64()));
        Ok(())
    }

    /// Waits until each stream is recorded by the recorder that it is planned for, and by no other but those that mirror it.
    pub(super) fn handed_back(&self, what: &str) -> Result<()> {
        let (_, took) = self.site.cluster.wait(&format!("{what}: all is handed back"), PROTECTED_WITHIN, || {
            let mut said = Vec::new();
            for place in &self.places {
                said.extend(place.says(self.site)?.into_iter().map(|says| (place.name(), says)));
            }
            let mut primaries = BTreeSet::new();
            for (_, says) in &said {
                let is_primary = says.role == "Primary";
                let records = is_primary || self.mirrored.contains(&says.stream);
                let state = if records { "Recording" } else { "Standby" };
                let is_good = says.state == state && says.reason != "TakenOver";
                let of = || said.iter().filter(|(_, other)| other.stream == says.stream).collect::<Vec<_>>();
                ensure!(is_good && (!is_primary || primaries.insert(&says.stream)), "{:?}", of());
            }
            ensure!(primaries.len() == self.site.cameras.len(), "only {primaries:?} are recorded");
            Ok(Some(()))
        })?;
        judge::result(&format!("{what}: all handed back {:.1} s after it ended", took.as_secs_f64()));
        Ok(())
    }

    /// What a recorder records; it is waited for until that is something.
    pub(super) fn records(&self, at: usize) -> Result<BTreeSet<String>> {
        let place = self.at(at)?;
        let (found, _) = self.site.cluster.wait("it records something", PROTECTED_WITHIN, || {
            Ok(Some(place.records(self.site)?).filter(|streams| !streams.is_empty()))
        })?;
        Ok(found)
    }

    /// Ends all recording in order, and counts: of what was sent since these recorders were found, nothing is missing.
    pub(super) fn judge(&self) -> Result<()> {
        self.site.judge(&["--from", &rfc3339(self.since)?])
    }

    /// Asks recorders, one after the other, for a clip of each stream from `since` on up to a moment ago, whoever recorded it when.
    pub(super) fn take_clips(&self, since: i64) -> Result<Vec<Clip>> {
        let site = self.site;
        let (from, to) = (rfc3339(since)?, rfc3339(judge::now_ns()? - CLIP_ENDS_BEFORE_NS)?);
        let mut clips = Vec::new();
        for (number, stream) in site.cameras.iter().enumerate() {
            let name = self.at(number % self.places.len())?.name();
            let recorder = site.cluster.get(&["recorder", &name, "-n", &site.namespace])?;
            let address = recorder.pointer("/status/addresses/http").and_then(Value::as_str);
            let address = address.context("a recorder without an address")?;
            let path = site.ledgers.join(format!("{stream}.mp4"));
            let target = format!("/v1/streams/{}/{stream}/clip.mp4?from={from}&to={to}", site.namespace);
            // Who does not answer in time is left out, and that is said: asked before and after.
            let coverage =
                format!("http://{address}/v1/streams/{}/{stream}/coverage?from={from}&to={to}", site.namespace);
            let is_whole = || -> Result<()> {
                let said = judge::silent(Command::new("curl").args(["-sS", "--fail", "--max-time", "10", &coverage]))?;
                let said: Value = serde_json::from_str(&said)?;
                ensure!(said.get("complete") == Some(&Value::Bool(true)), "{name} does not hear all others: {said}");
                Ok(())
            };
            site.cluster.wait(&format!("a whole clip of {stream}"), WHOLE_WITHIN, || {
                is_whole()?;
                let mut curl = Command::new("curl");
                curl.args(["-sS", "--fail-with-body", "--max-time", "120", "-o"]).arg(&path);
                judge::silent(curl.arg(format!("http://{address}{target}")))?;
                is_whole().map(Some)
            })?;
            clips.push(Clip { stream: stream.clone(), from: from.clone(), to: to.clone(), path });
        }
        Ok(clips)
    }

    /// Each clip has all frames of its time, each once, in order. Where nobody records any more.
    pub(super) fn judge_clips(&self, clips: &[Clip]) -> Result<()> {
        for Clip { stream, from, to, path } in clips {
            let name = format!("{}/{stream}", self.site.namespace);
            let path = path.display().to_string();
            let volumes: Vec<&str> = self.places.iter().map(|place| place.volume.as_str()).collect();
            let more = ["--clip", &path, "--from", from, "--to", to, "--stream", &name];
            self.site.count_on(&volumes, judge::now_ns()?, &more).with_context(|| format!("the clip of {name}"))?;
        }
        judge::result(&format!("{} clips over all of it, each with each frame once", clips.len()));
        Ok(())
    }

    /// Says how long takeovers took: the median and the longest, of all and of each fault.
    pub(super) fn tell(&self, what: &str) {
        let mut kinds: Vec<&str> = self.took.iter().map(|(kind, _)| kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let spread = |kind: Option<&str>| {
            let of = self.took.iter().filter(|(other, _)| kind.is_none_or(|kind| kind == other));
            let mut took: Vec<f64> = of.map(|(_, seconds)| *seconds).collect();
            took.sort_by(f64::total_cmp);
            let (middle, longest) = (took.get(took.len() / 2), took.last());
            format!(
                "{} {:.1} / {:.1} s",
                took.len(),
                middle.copied().unwrap_or_default(),
                longest.copied().unwrap_or_default()
            )
        };
        let each: Vec<String> = kinds.iter().map(|kind| format!("{kind} {}", spread(Some(kind)))).collect();
        judge::result(&format!(
            "{what}: takeovers of all that a recorder recorded, after (median / longest): {}; all {}",
            each.join(", "),
            spread(None)
        ));
    }
}
