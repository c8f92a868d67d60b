//! A recorder comes back: it has its streams again when it has proven itself, and what others were given meanwhile it lets go of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use framekeeper_crds::{Channel, PlanVersion, Role};
use framekeeper_e2e::harness::{count, poll, program, signal};
use framekeeper_e2e::judge;
use rustix::process::Signal;

use super::failover::{Setting, Site};

/// How often recorders are asked.
const LOOK: Duration = Duration::from_millis(100);
/// For a recorder that failed to be missed, and to be started again.
const SOON: Duration = Duration::from_secs(15);
/// The hold that is the default.
const HOLD: Duration = Duration::from_secs(30);
/// That a recorder is back is seen here a little later than by whom stands in for it.
const SEEN_LATER: Duration = Duration::from_secs(1);
/// With what comes behind the hold: a group of pictures, and the next key frame. No promise: what is promised is that it is not sooner than [`HOLD`].
const GIVEN_BACK: Duration = Duration::from_secs(50);

/// The spec of cameras like those of other tests.
fn cameras(count: usize) -> Vec<String> {
    vec![format!("name=cam,count={count},width=320,height=180,fps=25,bitrate=300k,gop=50,audio=aac")]
}

#[test]
fn a_stream_is_given_back_when_its_recorder_has_been_back_for_30_s() -> Result<()> {
    let runs = count(2, 3);
    let setting = Setting {
        recorders: 3,
        at_first: 3,
        cameras: cameras(count(6, 60)),
        pool: "toleratedFailures: 1",
        stable: HOLD.as_secs() as u32,
        wrapper: &[],
    };
    let mut site = Site::set_up(tempfile::tempdir()?, &setting)?;
    site.wait_protected()?;
    let (mut soonest, mut latest) = (Duration::MAX, Duration::ZERO);
    let first = site.some_recorder();
    for number in 0..runs {
        site.pause(500..2_500);
        // Each another one: a stream that was taken over twice within a minute is held for longer.
        let victim = (first + number) % setting.recorders;
        let streams: BTreeSet<String> =
            site.primaries.iter().filter(|(_, primary)| **primary == victim).map(|(name, _)| name.clone()).collect();
        ensure!(!streams.is_empty(), "recorder {victim} has no stream");
        let (supervisor, worker) = site.processes(victim)?;
        // Nobody starts it again before its streams are taken over; or its supervisor does at once, maybe before it is missed.
        let operator = site.system.operator.pid();
        signal(operator, Signal::STOP);
        if number % 2 == 0 {
            signal(supervisor, Signal::KILL);
        }
        signal(worker, Signal::KILL);
        let taken = wait_taken_over(&site, victim, &streams);
        signal(operator, Signal::CONT);
        taken.with_context(|| format!("run {number}"))?;
        for (name, held) in wait_given_back(&site, victim, &streams).with_context(|| format!("run {number}"))? {
            ensure!(
                held + SEEN_LATER >= HOLD,
                "{name} was given back {held:.1?} after recorder {victim} was back\n{}",
                site.system.operator.log_tail()
            );
            (soonest, latest) = (soonest.min(held), latest.max(held));
        }
        site.wait_protected()?;
        site.ask_for_coverage()?;
    }
    site.judge()?;
    judge::result(&format!(
        "{runs} kills: streams were given back {:.1} s to {:.1} s after their recorder was back, 0 frames missing",
        soonest.as_secs_f64(),
        latest.as_secs_f64()
    ));
    Ok(())
}

/// Waits until each of these streams is recorded in its primary's place.
fn wait_taken_over(site: &Site, victim: usize, streams: &BTreeSet<String>) -> Result<()> {
    let mut said = BTreeMap::new();
    let all = poll(SOON, LOOK, || {
        said = site.said()?;
        let taken = |name: &String| {
            let mut holders = said.get(name).into_iter().flatten();
            holders.any(|said| said.ordinal != victim && said.reason == "TakenOver")
        };
        Ok(streams.iter().all(taken).then_some(()))
    })?;
    all.with_context(|| format!("not taken over: {said:?}"))
}

/// How long after its primary was back each of these streams was given back by whoever had taken it over.
fn wait_given_back(site: &Site, victim: usize, streams: &BTreeSet<String>) -> Result<BTreeMap<String, Duration>> {
    let mut back = BTreeMap::new();
    let mut given_back = BTreeMap::new();
    let mut said = BTreeMap::new();
    let all = poll(SOON + GIVEN_BACK, LOOK, || {
        said = site.said()?;
        for name in streams {
            let holders = || said.get(name).into_iter().flatten();
            if !holders().any(|said| said.ordinal == victim && said.state == "Recording") {
                continue;
            }
            let since = *back.entry(name.clone()).or_insert_with(Instant::now);
            if holders().any(|said| said.ordinal != victim) && holders().all(|said| said.reason != "TakenOver") {
                given_back.entry(name.clone()).or_insert_with(|| since.elapsed());
            }
        }
        Ok((given_back.len() == streams.len()).then_some(()))
    })?;
    ensure!(all.is_some(), "not given back: {given_back:?} of {streams:?}; back: {back:?}; {said:?}");
    Ok(given_back)
}

/// Half of these streams is left in the end: enough for each recorder to share one with each other, so that whichever is asked knows of all footage.
const STREAMS: usize = 12;
/// Recorder of [`with_a_kept_assignment`].
const VICTIM: usize = 0;
/// Plans come, are read and put into force.
const IN_FORCE: Duration = Duration::from_secs(20);

/// A program in the place of the recorder's: recorder 0 reads the assignment that is kept for it.
fn with_a_kept_assignment(folder: &Path) -> Result<PathBuf> {
    let script = folder.join("recorder-with-a-kept-assignment");
    // The arguments one by one, each put back behind the others.
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *main-recorder-{VICTIM}/*)\n  for word; do\n    shift\n    case $word in */assignment.yaml) word={} ;; esac\n    \
         set -- \"$@\" \"$word\"\n  done\nesac\nexec {} \"$@\"\n",
        kept(folder).display(),
        program("framekeeper-recorder")?.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// What recorder 0 reads.
fn kept(folder: &Path) -> PathBuf {
    folder.join("kept.yaml")
}

/// What the operator writes for it.
fn newest(folder: &Path) -> PathBuf {
    folder.join(format!("data/run/main-recorder-{VICTIM}/assignment.yaml"))
}

/// What recorder 0 reads is what the operator writes from now on.
fn read_the_newest(folder: &Path) -> Result<()> {
    let next = kept(folder).with_extension("next");
    std::os::unix::fs::symlink(newest(folder), &next)?;
    Ok(fs::rename(next, kept(folder))?)
}

/// What recorder 0 reads stays as it is.
fn keep_the_present(folder: &Path) -> Result<()> {
    let next = kept(folder).with_extension("next");
    fs::copy(newest(folder), &next)?;
    Ok(fs::rename(next, kept(folder))?)
}

/// What the operator tells recorder 0.
#[derive(Debug)]
struct Told {
    /// Of the newest plan for a stream that it has or had.
    version: PlanVersion,
    /// Streams of which it is the primary.
    primary: BTreeSet<String>,
    /// Streams that it holds.
    held: BTreeSet<String>,
}

impl Told {
    fn read(folder: &Path) -> Result<Self> {
        let spec = framekeeper_crds::yaml::read_recorder(&fs::read_to_string(newest(folder))?)?.spec;
        let retired = spec.retired.iter().map(|it| it.plan_version);
        let versions = spec.channels.iter().map(|it| it.plan_version).chain(retired);
        let name = |channel: &Channel| channel.stream.name.clone();
        let primary = |channel: &&Channel| channel.role == Role::Primary;
        Ok(Self {
            version: versions.max().context("recorder 0 holds nothing")?,
            primary: spec.channels.iter().filter(primary).map(name).collect(),
            held: spec.channels.iter().map(name).collect(),
        })
    }
}

/// The manifest without these streams, and with so many channels a recorder.
fn without(manifest: &str, gone: &[&String], max_channels: usize) -> String {
    let is_gone = |document: &&str| gone.iter().any(|name| document.contains(&format!("\n  name: {name}\n")));
    let documents: Vec<&str> = manifest.split("---\n").filter(|document| !is_gone(document)).collect();
    let line = |line: &str| match line.trim_start().starts_with("maxChannels: ") {
        true => format!("  maxChannels: {max_channels}\n"),
        false => format!("{line}\n"),
    };
    documents.join("---\n").lines().map(line).collect()
}

/// Waits until each stream is recorded by those that it is to be recorded by.
fn wait_recorded(site: &Site, recorders: Range<usize>, wanted: impl Fn(&str, &[usize]) -> bool) -> Result<()> {
    let mut said = BTreeMap::new();
    let as_wanted = poll(IN_FORCE, LOOK, || {
        said = site.said_by(recorders.clone())?;
        let is_wanted = |name: &String| {
            let recording = said.get(name).into_iter().flatten().filter(|said| said.state == "Recording");
            wanted(name, &recording.map(|said| said.ordinal).collect::<Vec<_>>())
        };
        Ok(site.names.iter().all(is_wanted).then_some(()))
    })?;
    as_wanted.with_context(|| format!("not recorded as wanted: {said:?}\n{}", site.system.operator.log_tail()))
}

#[test]
fn a_recorder_that_comes_back_two_plans_late_lets_go_and_loses_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let script = with_a_kept_assignment(&path)?.display().to_string();
    read_the_newest(&path)?;
    let setting = Setting {
        recorders: 3,
        at_first: 3,
        cameras: cameras(STREAMS),
        pool: "toleratedFailures: 1",
        stable: 3,
        wrapper: &["sh", "-c", "exec \"$@\" --recorder-bin \"$0\"", &script],
    };
    let mut site = Site::set_up(folder, &setting)?;
    site.wait_protected()?;
    let first = Told::read(&path)?;
    let had = first.primary.clone();
    ensure!(had.len() == STREAMS / 3, "recorder {VICTIM} has {had:?}");
    let standbys: BTreeMap<String, usize> = site
        .said()?
        .into_iter()
        .filter_map(|(name, holders)| Some((name, holders.iter().find(|said| said.role == "Standby")?.ordinal)))
        .collect();
    keep_the_present(&path)?;
    let (supervisor, worker) = site.processes(VICTIM)?;
    for process in [supervisor, worker] {
        signal(process, Signal::STOP);
    }

    // Streams of the others go, and with them slots, until it has more than its share: twice it has to give one away, to
    // one that has nothing of it, so that nobody whom it knows to hold it records it. What it had at first is recorded all the time.
    let mut last = Told::read(&path)?;
    for share in [STREAMS / 3 - 1, STREAMS / 3 - 2] {
        // What comes last by name moves first; of the two others, one stands by for it.
        let moves = last.primary.last().context("it has nothing")?;
        let receiver = 3 - standbys.get(moves).context("a stream without a standby")?;
        let mut gone = Vec::new();
        for recorder in 0..3 {
            let mut its: Vec<&String> =
                site.primaries.iter().filter(|(_, primary)| **primary == recorder).map(|(name, _)| name).collect();
            its.sort_by_key(|name| !had.contains(*name));
            let stay = if recorder == VICTIM { its.len() } else { share - usize::from(recorder == receiver) };
            gone.extend(its.into_iter().skip(stay));
        }
        let manifest = without(&fs::read_to_string(&site.system.manifest)?, &gone, 2 * share + 1);
        let gone: BTreeSet<String> = gone.into_iter().cloned().collect();
        site.system.edit(&manifest)?;
        site.names.retain(|name| !gone.contains(name));
        let before = last.version;
        let moved = poll(IN_FORCE, LOOK, || {
            last = Told::read(&path)?;
            Ok((last.version > before && last.primary.len() == share).then_some(()))
        })?;
        ensure!(moved.is_some(), "no stream was taken from recorder {VICTIM}: {last:?}\n{manifest}");
        // By those that live, all of them.
        wait_recorded(&site, 1..3, |_, by| by.len() == 1)?;
        site.primaries.retain(|name, _| !gone.contains(name));
        for (name, holders) in site.said_by(1..3)? {
            let primary = holders.iter().find(|said| said.role == "Primary").map(|said| said.ordinal);
            site.primaries.insert(name, primary.unwrap_or(VICTIM));
        }
    }
    ensure!(had.iter().all(|name| site.names.contains(name)), "recorder {VICTIM} had {had:?}, of {:?}", site.names);
    let lost: Vec<&String> = had.iter().filter(|name| !last.held.contains(*name)).collect();
    ensure!(!lost.is_empty(), "recorder {VICTIM} holds all that it had: {last:?}");

    // It comes back, and knows neither of the two plans.
    signal(worker, Signal::KILL);
    for process in [supervisor, worker] {
        signal(process, Signal::CONT);
    }
    site.system.wait_ready(VICTIM, SOON)?;
    // Others tell it: what it does not hold any more it lets go of. Where it is to stand by only, it records until it is told.
    wait_recorded(&site, 0..3, |name, by| {
        let by_victim = by.contains(&VICTIM);
        match last.primary.contains(name) {
            true => by == [VICTIM],
            false => by.len() == 1 + usize::from(by_victim) && (!by_victim || last.held.contains(name)),
        }
    })?;
    ensure!(fs::read(kept(&path))? != fs::read(newest(&path))?, "it was given the newest assignment");
    read_the_newest(&path)?;
    site.wait_protected()?;
    site.ask_for_coverage()?;
    let stop = site.end()?;
    let mut arguments = vec!["--ledger".to_owned()];
    arguments.extend(
        site.names.iter().map(|name| site.cameras.ledgers.join(format!("{name}.ledger")).display().to_string()),
    );
    arguments.push("--volume".to_owned());
    arguments.extend(site.system.volumes().iter().map(|volume| volume.display().to_string()));
    arguments.extend(["--union", "--ignore-others", "--stop"].map(str::to_owned));
    arguments.push(stop.to_string());
    judge::check(&arguments)?;
    judge::result(&format!(
        "a recorder came back with plan {} for {} streams, where plan {} left it {}: it let go of {}, 0 frames missing, one coverage",
        first.version.sequence,
        had.len(),
        last.version.sequence,
        last.primary.len(),
        lost.len()
    ));
    Ok(())
}
