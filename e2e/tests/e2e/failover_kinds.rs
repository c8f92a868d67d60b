//! A recorder fails, and cameras out of the ordinary go on being recorded: scenes that stand still, a camera that codes for each session, pictures out
//! of display order, key frames that are 20 s apart, and cameras that have one session to give.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
use framekeeper_e2e::harness::{Cameras, count, get, poll, signal, soak};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System, with_pool_spec};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::failover::{ASK_AGAIN, COMPLETE_WITHIN, calm_down, coverage_of, is_complete, whole_clip};

const RECORDERS: usize = 3;
/// Of each kind of camera there are so many: one for each recorder to be the primary of.
const OF_EACH: usize = RECORDERS;
/// The kinds that class `Playing` protects.
const PROTECTED: [&str; 5] = ["black", "coded", "frozen", "long", "reordered"];
/// Key frames 20 s apart. How long it takes until a stream of this kind is as planned again is told in `docs/failover.md`: longer than `make test`
/// waits.
const LONG: &str = "long";
/// It refuses a second session, and nobody was told of that.
const REFUSING: &str = "refusing";
/// It ends its session when a second one comes; `maxSessions: 1` says so.
const SINGLE: &str = "single";

const PICTURES: &str = "width=192,height=160,fps=25,bitrate=150k";
const SECOND_NS: i64 = 1_000_000_000;
/// Until all is as planned again: behind a kill with key frames each 20 s it takes three groups of pictures.
const CALM: Duration = Duration::from_secs(90);
/// Looking more often would cost more than it finds.
const LOOK: Duration = Duration::from_millis(100);

/// What a recorder says of a stream.
#[derive(Debug)]
struct Said {
    ordinal: usize,
    role: String,
    state: String,
    reason: String,
    message: String,
}

/// What all recorders say, by stream.
type AllSaid = BTreeMap<String, Vec<Said>>;

/// A run: its epoch, who recorded it, and when it begins.
type Run = (u64, String, String);

/// A clip that was taken, to be judged when all is at rest.
struct Taken {
    stream: String,
    from_ns: i64,
    to_ns: i64,
    path: PathBuf,
}

struct Site {
    system: System,
    cameras: Cameras,
    names: Vec<String>,
    folder: tempfile::TempDir,
}

/// The kind of a camera named `<kind>-<number>`.
fn kind(name: &str) -> &str {
    name.split_once('-').map_or(name, |(kind, _)| kind)
}

fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&kind(name))
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Site {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let film = folder.path().join("film.mp4");
        let scene = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=192x160:r=25", "-t", "6"];
        judge::silent(Command::new("ffmpeg").args(scene).arg(&film))?;
        let of_each = format!("count={OF_EACH},{PICTURES}");
        let cameras = Cameras::start(
            folder.path(),
            0,
            &[
                format!("name=black,kind=black,gop=25,{of_each}"),
                format!("name=coded,per_session=true,gop=25,audio=aac,{of_each}"),
                format!("name=frozen,kind=frozen,gop=25,audio=aac,{of_each}"),
                format!("name={LONG},gop=500,{of_each}"),
                format!("name=reordered,kind=clip,file={},bframes=3,gop=25,audio=tone,{of_each}", film.display()),
                format!("name={REFUSING},max_sessions=1,gop=25,{PICTURES}"),
                format!("name={SINGLE},max_sessions=1,replace=true,gop=25,{PICTURES}"),
            ],
        )?;
        let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
        let plan = PoolPlan {
            recorders: RECORDERS,
            max_channels: names.len() * 2,
            // All that a test records must be there at its end.
            budget: if soak() { "1200Mi" } else { "300Mi" }.to_owned(),
            segment_bytes: "4Mi".to_owned(),
            streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
        };
        let url = format!("    url: {}\n", cameras.url(SINGLE));
        let manifest = plan.manifest().replace(&url, &format!("{url}    maxSessions: 1\n"));
        let path = folder.path().join("pool.yaml");
        std::fs::write(&path, with_pool_spec(&manifest, "toleratedFailures: 1")?)?;
        let environment = [("FRAMEKEEPER_STABLE", "3".to_owned())];
        let system = System::start_on_under(folder.path(), path, RECORDERS, &environment, &[])?;
        Ok(Self { system, cameras, names, folder })
    }

    fn said(&self) -> Result<AllSaid> {
        let mut said = AllSaid::new();
        for ordinal in 0..RECORDERS {
            for channel in self.system.channels(ordinal)?.unwrap_or_default() {
                let text = |key| text(&channel, key);
                let (role, state, reason, message) = (text("role"), text("state"), text("reason"), text("message"));
                said.entry(text("name")).or_default().push(Said { ordinal, role, state, reason, message });
            }
        }
        Ok(said)
    }

    /// Waits until what recorders say of these streams is as wanted.
    fn wait(&self, what: &str, streams: &[&String], wanted: impl Fn(&[Said]) -> bool) -> Result<AllSaid> {
        let mut said = AllSaid::new();
        let done = poll(CALM, LOOK, || {
            said = self.said()?;
            let holders = |name: &str| said.get(name).map(Vec::as_slice).unwrap_or_default();
            Ok(streams.iter().all(|name| wanted(holders(name))).then_some(()))
        })?;
        said.retain(|name, holders| done.is_some() || streams.contains(&name) && !wanted(holders));
        ensure!(done.is_some(), "not {what} after {CALM:?}: {said:?}\n{}", self.system.operator.log_tail());
        Ok(said)
    }

    /// Waits until each of these streams' primary records it, and its standby is ready to.
    fn wait_protected(&self, streams: &[&String]) -> Result<AllSaid> {
        self.wait("protected", streams, |holders| {
            let as_planned = |said: &Said| said.state == if said.role == "Primary" { "Recording" } else { "Standby" };
            holders.len() == 2 && holders.iter().all(as_planned)
        })
    }

    fn names_of(&self, wanted: impl Fn(&str) -> bool) -> Vec<&String> {
        self.names.iter().filter(|name| wanted(name)).collect()
    }

    /// The worker of a recorder.
    fn worker(&self, ordinal: usize) -> Result<u32> {
        Ok(supervisor_and_worker(self.system.operator.pid(), self.system.http(ordinal))?.1)
    }

    /// Kills the worker of a recorder, and waits until another one answers; when it was.
    fn kill(&self, ordinal: usize) -> Result<i64> {
        let worker = self.worker(ordinal)?;
        let killed_ns = now_ns()?;
        signal(worker, Signal::KILL);
        let another = poll(Duration::from_secs(20), LOOK, || {
            // Its supervisor has none for a while.
            let is_another = self.worker(ordinal).is_ok_and(|now| now != worker);
            Ok((is_another && self.system.channels(ordinal)?.is_some()).then_some(()))
        })?;
        ensure!(another.is_some(), "recorder {ordinal} does not answer again: {}", self.system.operator.log_tail());
        Ok(killed_ns)
    }

    /// A condition of a stream: status, reason and message.
    fn condition(&self, stream: &str, wanted: &str) -> Result<Option<[String; 3]>> {
        let path = self.folder.path().join(format!("data/status/camerastreams/default/{stream}.yaml"));
        let object: Value =
            framekeeper_crds::yaml::read(&std::fs::read_to_string(path).unwrap_or_default()).unwrap_or_default();
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| text(condition, "type") == wanted);
        Ok(found.map(|condition| ["status", "reason", "message"].map(|key| text(condition, key))))
    }

    /// Waits until a stream says that it is not protected, and why.
    fn wait_unprotected(&self, stream: &str, reason: &str, words: &str) -> Result<()> {
        let mut last = None;
        let said = poll(Duration::from_secs(10), LOOK, || {
            last = self.condition(stream, "Protected")?;
            let fits =
                |[status, why, message]: &[String; 3]| status == "False" && why == reason && message.contains(words);
            Ok(last.as_ref().is_some_and(fits).then_some(()))
        })?;
        ensure!(said.is_some(), "{stream} should not be protected, {reason}: {last:?}");
        Ok(())
    }

    /// Sessions of a camera: set up, refused, and ended because another one came.
    fn sessions(&self, camera: &str) -> Result<[u64; 3]> {
        let answer = get(self.cameras.control, "/cameras")?.json()?;
        let cameras = answer.as_array().context("no cameras")?;
        let found = cameras.iter().find(|one| text(one, "name") == camera).context("no such camera")?;
        let counts = found.get("counts").context("no counts")?;
        Ok(["begun", "refused", "replaced"].map(|key| counts.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX)))
    }

    /// The runs of a stream, as a recorder that hears all others tells, and why there are gaps.
    fn coverage(&self, ordinal: usize, stream: &str) -> Result<(Vec<Run>, Vec<String>)> {
        let json = poll(COMPLETE_WITHIN, ASK_AGAIN, || {
            Ok(Some(coverage_of(&self.system, ordinal, stream)?).filter(is_complete))
        })?;
        let json = json.with_context(|| format!("{stream} is not complete at recorder {ordinal}"))?;
        let list = |key: &str| json.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let epoch = |run: &Value| run.get("epoch").and_then(Value::as_u64).unwrap_or(0);
        let runs = list("runs").iter().map(|run| (epoch(run), text(run, "recorder"), text(run, "from"))).collect();
        Ok((runs, list("gaps").iter().map(|gap| text(gap, "reason")).collect()))
    }

    /// Whoever is asked: one coverage of each protected stream, in order, without a gap, no two runs in the same epoch of the same recorder. (One that is
    /// back begins before it has heard of the others' epochs. Two that begin with the same key frame may begin at the same moment.) Of those that were
    /// `struck`, several recorders have some.
    fn check_coverage(&self, struck: &[&String]) -> Result<()> {
        for name in self.names_of(is_protected) {
            let mut all = Vec::new();
            let same = poll(COMPLETE_WITHIN, ASK_AGAIN, || {
                all.clear();
                for ordinal in 0..RECORDERS {
                    let (runs, gaps) = self.coverage(ordinal, name)?;
                    ensure!(gaps.is_empty(), "{name} has gaps at recorder {ordinal}: {gaps:?} between {runs:?}");
                    let epochs: BTreeSet<(u64, String)> =
                        runs.iter().map(|(epoch, recorder, _)| (*epoch, recorder.clone())).collect();
                    let in_order = runs.is_sorted_by(|(.., one), (.., next)| one <= next);
                    ensure!(
                        in_order && epochs.len() == runs.len() && runs.len() > usize::from(struck.contains(&name)),
                        "{name} at recorder {ordinal}: {runs:?}"
                    );
                    all.push(runs);
                }
                // A run may begin between two answers.
                Ok(all.windows(2).all(|pair| pair.first() == pair.last()).then_some(()))
            })?;
            ensure!(same.is_some(), "{name} has not the same runs at all recorders: {all:?}");
        }
        Ok(())
    }

    /// Clips over a kill of all protected streams, each from another recorder than the one before.
    fn take_clips(&self, killed_ns: i64, calm_ns: i64) -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        for (number, name) in self.names_of(is_protected).into_iter().enumerate() {
            // Its ends lie where one recorder alone recorded: with a key frame each 20 s from the first one on, and until the next one.
            let (from_ns, to_ns) = match kind(name) {
                LONG => (killed_ns - 60 * SECOND_NS, killed_ns + SECOND_NS),
                _ => (killed_ns - 6 * SECOND_NS, calm_ns - 3 * SECOND_NS),
            };
            let time = |ns: i64| jiff::Timestamp::from_nanosecond(ns.into()).map(|time| format!("{time:.6}"));
            let target = format!("/v1/streams/default/{name}/clip.mp4?from={}&to={}", time(from_ns)?, time(to_ns)?);
            let body = whole_clip(&self.system, number % RECORDERS, name, &target)?;
            let path = self.folder.path().join(format!("{name}-{killed_ns}.mp4"));
            std::fs::write(&path, body)?;
            taken.push(Taken { stream: name.clone(), from_ns, to_ns, path });
        }
        Ok(taken)
    }

    /// Each clip shows all pictures of its time, each once, in order, with their sound, and ffmpeg decodes it.
    fn judge_clips(&self, clips: &[Taken]) -> Result<()> {
        for Taken { stream, from_ns, to_ns, path } in clips {
            let mut arguments = judge::volumes(&self.cameras.ledgers, &self.system.volumes());
            let (from, to) = (from_ns.to_string(), to_ns.to_string());
            let stream = format!("default/{stream}");
            arguments.extend(["--clip".to_owned(), path.display().to_string(), "--stream".to_owned(), stream]);
            arguments.extend(["--from".to_owned(), from, "--to".to_owned(), to]);
            judge::check(&arguments)?;
        }
        Ok(())
    }

    /// Stops everything and has all frames of all cameras looked for, on all volumes together. Of cameras whose `one_session` was cut with a kill, what
    /// class `None` does not promise may be missing: 0.6 s before a kill, and 5 s behind it.
    fn judge(&mut self, kills_ns: &[i64], one_session: &BTreeSet<&str>) -> Result<()> {
        let stop_ns = now_ns()?;
        // Up to here everything is to be durable.
        let streams = self.names.clone();
        let reached = poll(Duration::from_secs(10), LOOK, || {
            let mut behind: BTreeSet<&String> = streams.iter().collect();
            for ordinal in 0..RECORDERS {
                for channel in self.system.channels(ordinal)?.unwrap_or_default() {
                    let durable = text(&channel, "durable").parse::<jiff::Timestamp>();
                    if durable.is_ok_and(|durable| durable.as_nanosecond() > i128::from(stop_ns)) {
                        behind.remove(&text(&channel, "name"));
                    }
                }
            }
            Ok(behind.is_empty().then_some(()))
        })?;
        ensure!(reached.is_some(), "not all streams are durable up to now: {:?}", self.said()?);
        self.system.stop()?;
        let report = self.folder.path().join("report.json");
        let mut arguments = judge::volumes(&self.cameras.ledgers, &self.system.volumes());
        arguments.extend(["--union", "--max-missing-ms", "600", "--max-back-ms", "5000"].map(str::to_owned));
        arguments.extend(["--stop".to_owned(), stop_ns.to_string()]);
        arguments.extend(["--json".to_owned(), report.display().to_string()]);
        arguments.extend(kills_ns.iter().flat_map(|kill| ["--kill".to_owned(), kill.to_string()]));
        judge::check(&arguments)?;
        all_found(&report, self.names.len(), one_session)
    }
}

/// Of all streams but those whose session was cut no frame is missing, by the checker's report.
fn all_found(report: &Path, streams: usize, one_session: &BTreeSet<&str>) -> Result<()> {
    let report: Value = serde_json::from_slice(&std::fs::read(report)?)?;
    let judged = report.get("streams").and_then(Value::as_array).context("no streams")?;
    ensure!(judged.len() == streams, "{} streams were judged", judged.len());
    for stream in judged.iter().filter(|stream| !one_session.contains(text(stream, "camera").as_str())) {
        for track in ["video", "audio"] {
            let missing = stream.pointer(&format!("/{track}/missing")).and_then(Value::as_u64).unwrap_or(0);
            ensure!(missing == 0, "{missing} frames missing: {stream}");
        }
    }
    Ok(())
}

/// Which recorder has a stream, by what was said.
fn primary_of(said: &AllSaid, stream: &str) -> Option<usize> {
    said.get(stream)?.iter().find(|said| said.role == "Primary").map(|said| said.ordinal)
}

#[test]
fn cameras_out_of_the_ordinary_lose_no_frame_when_their_recorder_is_killed() -> Result<()> {
    let mut site = Site::start()?;
    // Nobody shall have to wait 20 s for the first key frame of these.
    let long = site.names_of(|name| kind(name) == LONG);
    site.wait("played", &long, |holders| {
        let plays = |said: &Said| said.state != "Backoff" && said.reason != "Connecting";
        holders.len() == 2 && holders.iter().all(plays)
    })?;
    for name in long {
        site.cameras.fault(name, &json!({"fault": "key"}))?;
    }
    let playing = site.names_of(is_protected);
    let said = site.wait_protected(&playing)?;

    // A camera with one session: class None, with the reason, and nobody else tries.
    let holders = said.get(SINGLE).context("nobody has the camera with one session")?;
    ensure!(matches!(&holders[..], [one] if one.state == "Recording"), "{holders:?}");
    site.wait_unprotected(SINGLE, "Sessions", "spec.source.maxSessions")?;
    // Where nobody said so, it is found out, and told; the recorder that came first has the session, and keeps it.
    let holders = said.get(REFUSING).context("nobody has the camera that refuses")?;
    let (having, lacking): (Vec<&Said>, Vec<_>) = holders.iter().partition(|said| said.state == "Recording");
    let ([having], [lacking]) = (&having[..], &lacking[..]) else { anyhow::bail!("{holders:?}") };
    ensure!(
        lacking.state == "Backoff" && lacking.reason == "TooManySessions" && lacking.message.contains("maxSessions"),
        "{lacking:?}"
    );
    match having.role.as_str() {
        "Primary" => site.wait_unprotected(REFUSING, "StandbyNotReady", "is refused a session by the camera")?,
        _ => site.wait_unprotected(REFUSING, "TakenOver", "records it until")?,
    }

    // It is the primary of one of each kind, too.
    let victim = primary_of(&said, SINGLE).context("no primary")?;
    let struck = site.names_of(|name| is_protected(name) && primary_of(&said, name) == Some(victim));
    let kinds: BTreeSet<&str> = struck.iter().map(|name| kind(name)).collect();
    let struck_kinds = kinds.len();
    ensure!(struck_kinds == PROTECTED.len(), "recorder {victim} has only {kinds:?}: {said:?}");
    let mut one_session = BTreeSet::from([SINGLE]);
    if having.ordinal == victim {
        one_session.insert(REFUSING);
    }

    let kills = count(1, 20);
    let (mut kills_ns, mut clips) = (Vec::new(), Vec::new());
    for number in 0..kills {
        let killed_ns = site.kill(victim)?;
        kills_ns.push(killed_ns);
        let waited_for = site.names_of(|name| is_protected(name) && (soak() || kind(name) != LONG));
        let begun = Instant::now();
        site.wait_protected(&waited_for).with_context(|| format!("kill {number} of recorder {victim}"))?;
        site.wait("recording", &site.names_of(|_| true), |holders| {
            holders.iter().any(|said| said.state == "Recording")
        })?;
        if number + 1 < kills {
            calm_down(begun.elapsed());
        }
        site.check_coverage(&struck)?;
        if number == 0 {
            clips = site.take_clips(killed_ns, now_ns()?)?;
        }
    }
    let (_, gaps) = site.coverage(victim, SINGLE)?;
    ensure!(gaps == vec!["RecorderCrashed"; kills], "{SINGLE} has gaps: {gaps:?}");
    let [begun, refused, replaced] = site.sessions(SINGLE)?;
    ensure!((begun, refused, replaced) == (1 + kills as u64, 0, 0), "sessions of {SINGLE}: {begun}, {replaced} cut");
    let [begun, refused, _] = site.sessions(REFUSING)?;
    let cut = if one_session.contains(REFUSING) { kills as u64 } else { 0 };
    ensure!(begun <= 1 + cut && refused > 0, "sessions of {REFUSING}: {begun}, {refused} refused");

    site.judge(&kills_ns, &one_session)?;
    site.judge_clips(&clips)?;
    judge::result(&format!("{kills} kills of a recorder with cameras of {struck_kinds} kinds: 0 frames missing"));
    Ok(())
}
