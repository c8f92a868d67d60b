//! Links between recorders that are cut, keys that are not what they were, clocks that are wrong: nobody's frame is missing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use framekeeper_e2e::harness::{count, get, poll, program, signal};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::network::{Network, Packets};
use rustix::process::Signal;

use super::failover::Site;

/// More than it takes to notice a failure, or to be heard again.
const NOTICED: Duration = Duration::from_secs(20);
/// After this much time without a takeover a stream is given back as soon as ever.
const CALM: Duration = Duration::from_secs(61);
/// Debian's libfaketime: the wall clock that a process sees is off by what a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Where its peers reach a recorder.
fn peer_port(site: &Site, ordinal: usize) -> Result<u16> {
    let (_, worker) = site.processes(ordinal)?;
    let line = fs::read_to_string(format!("/proc/{worker}/cmdline"))?;
    let words: Vec<&str> = line.split('\0').collect();
    let at = words.iter().position(|word| *word == "--peer-listen").context("no --peer-listen")?;
    let port = words.get(at + 1).and_then(|address| address.rsplit_once(':')).context("no address")?.1;
    Ok(port.parse()?)
}

/// Waits until both recorders record every stream.
fn wait_both_record(site: &Site) -> Result<()> {
    let mut said = Default::default();
    let both = poll(NOTICED, Duration::from_millis(50), || {
        said = site.said()?;
        let record = |name: &String| {
            let holders = said.get(name).map(Vec::as_slice).unwrap_or_default();
            holders.len() == 2 && holders.iter().all(|said| said.state == "Recording")
        };
        Ok(site.names.iter().all(record).then_some(()))
    })?;
    both.with_context(|| format!("not recorded by both: {said:?}\n{}", site.system.operator.log_tail()))
}

/// A condition of a recorder, as it says itself: status, reason, message.
fn condition(site: &Site, ordinal: usize, kind: &str) -> Result<Option<(String, String, String)>> {
    let path = site.system.data.join(format!("run/main-recorder-{ordinal}/status.yaml"));
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    let status = framekeeper_crds::yaml::read_recorder(&text)?.status;
    let found = status.into_iter().flat_map(|status| status.conditions).find(|condition| condition.type_ == kind);
    Ok(found.map(|found| (found.status, found.reason, found.message)))
}

/// Waits until a condition's reason is this, and its message is as wanted.
fn wait_told(site: &Site, ordinal: usize, kind: &str, reason: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut last = None;
    let so = poll(NOTICED, Duration::from_millis(100), || {
        last = condition(site, ordinal, kind)?;
        let is = |(_, its, message): &(String, String, String)| its == reason && wanted(message);
        Ok(last.as_ref().filter(|last| is(last)).map(drop))
    })?;
    so.with_context(|| format!("{kind} of recorder {ordinal} is not {reason} as wanted, but {last:?}"))
}

/// Waits until a condition's reason is this, and its message says all of `words`.
fn wait_condition(site: &Site, ordinal: usize, kind: &str, reason: &str, words: &[&str]) -> Result<()> {
    wait_told(site, ordinal, kind, reason, |message| words.iter().all(|word| message.contains(word)))
        .with_context(|| format!("{words:?}"))
}

/// By how much a message says that `other`'s clock is not this one's, in seconds: "main-recorder-1 is 5.0 s behind this one".
fn said_to_be_apart(message: &str, other: &str) -> Option<f64> {
    let (seconds, _) = message.split_once(&format!("{other} is "))?.1.split_once(" s ")?;
    seconds.parse().ok()
}

#[test]
fn links_that_are_cut_and_a_key_that_is_another_cost_no_frame() -> Result<()> {
    // A network of its own is that of a thread.
    std::thread::spawn(links).join().map_err(|_| anyhow!("the test panicked"))?
}

fn links() -> Result<()> {
    let network = Network::enter()?;
    let mut site = Site::start(2, count(4, 20), "toleratedFailures: 1")?;
    let (a, b) = (peer_port(&site, 0)?, peer_port(&site, 1)?);
    // What either sends to the other, whoever dialled.
    let (from_a, from_b) = ([Packets::From(a), Packets::To(b)], [Packets::From(b), Packets::To(a)]);
    let cuts = [[from_a, from_b].concat(), from_a.to_vec(), from_b.to_vec()];
    let times = count(1, 10);
    let mut clips = Vec::new();
    for cut in cuts.iter().cycle().take(times * cuts.len()) {
        site.pause(500..2_500);
        let cut_ns = now_ns()?;
        network.cut(cut)?;
        wait_both_record(&site).with_context(|| format!("{cut:?}"))?;
        for ordinal in [0, 1] {
            wait_condition(&site, ordinal, "PeersReachable", "PeersNotHeard", &["main-recorder-"])?;
        }
        site.pause(1_000..6_000);
        network.heal()?;
        site.wait_protected().with_context(|| format!("{cut:?} was healed"))?;
        site.ask_for_coverage()?;
        if clips.is_empty() {
            clips = site.take_clips(cut_ns)?;
        }
    }
    if times > 1 {
        // As many takeovers in a row are flapping, and the next hold would be ten minutes: a minute has to pass without one.
        std::thread::sleep(CALM);
    }
    other_key(&mut site)?;
    site.ask_for_coverage()?;
    site.judge()?;
    site.judge_clips(&clips)?;
    judge::result(&format!(
        "{} times the way between two recorders was cut, in one direction or both, and once a key was another: 0 frames missing, one coverage",
        times * cuts.len()
    ));
    Ok(())
}

/// A recorder comes back with another key, and the operator does not know yet.
fn other_key(site: &mut Site) -> Result<()> {
    let victim = site.some_recorder();
    let other = 1 - victim;
    let key = site.system.data.join(format!("run/main-recorder-{victim}/peer.key"));
    let operator = site.system.operator.pid();
    signal(operator, Signal::STOP);
    fs::rename(&key, key.with_extension("old"))?;
    let (_, worker) = site.processes(victim)?;
    signal(worker, Signal::KILL);
    wait_both_record(site)?;
    let name = format!("main-recorder-{victim}");
    wait_condition(site, other, "PeersReachable", "PeersNotHeard", &[&name, "has the key MCow", "operator"])?;
    let said = ["does not take this recorder's key", "operator"];
    wait_condition(site, victim, "PeersReachable", "PeersNotHeard", &said)?;
    ensure!(site.counted("framekeeper_peer_refused_total")? > 0, "nobody was refused");
    signal(operator, Signal::CONT);
    for ordinal in [0, 1] {
        wait_condition(site, ordinal, "PeersReachable", "AllAlive", &[])?;
    }
    site.wait_protected().context("the key was told")?;
    Ok(())
}

/// A program in the place of the recorder's: recorder 1 sees the clock that a file tells of.
fn with_a_clock(folder: &Path) -> Result<PathBuf> {
    let recorder = program("framekeeper-recorder")?;
    let script = folder.join("recorder-with-a-clock");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *main-recorder-1/*)\n  export LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\nesac\nexec {} \"$@\"\n",
        folder.join("offset").display(),
        recorder.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn a_recorder_whose_clock_is_wrong_costs_no_frame() -> Result<()> {
    let folder = tempfile::tempdir()?;
    ensure!(Path::new(FAKETIME).is_file(), "{FAKETIME} is missing: apt-get install libfaketime");
    let offset = folder.path().join("offset");
    let set_clock = |seconds: i64| -> Result<()> {
        // By rename: the reader must never see half a number.
        let next = offset.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        Ok(fs::rename(&next, &offset)?)
    };
    set_clock(5)?;
    let script = with_a_clock(folder.path())?.display().to_string();
    let wrapper = ["sh", "-c", "exec \"$@\" --recorder-bin \"$0\"", &script];
    let mut site = Site::under(folder, 2, count(4, 20), "toleratedFailures: 1", &wrapper)?;
    // Right at last.
    let mut clocks = vec![5, -5, 3_600, -86_400, 7, 0];
    clocks.truncate(count(3, clocks.len()));
    clocks.push(0);
    let mut killed = BTreeSet::new();
    for (number, seconds) in clocks.iter().enumerate() {
        set_clock(*seconds)?;
        for (ordinal, other) in ["main-recorder-1", "main-recorder-0"].into_iter().enumerate() {
            match seconds {
                0 => wait_condition(&site, ordinal, "ClocksInStep", "InStep", &[])?,
                _ => wait_told(&site, ordinal, "ClocksInStep", "ClocksApart", |message| {
                    let apart = said_to_be_apart(message, other);
                    // What was told first is told until it is another by half a second, and a message on its way is a clock that is behind.
                    apart.is_some_and(|apart| (apart - seconds.unsigned_abs() as f64).abs() < 0.5)
                        && message.contains("NTP")
                })?,
            }
        }
        // First the one whose clock is ahead, so that what is durable there is said to be later than it is.
        let victim = (number + 1) % 2;
        killed.insert(victim);
        let (_, worker) = site.processes(victim)?;
        signal(worker, Signal::KILL);
        std::thread::sleep(Duration::from_millis(300));
        site.wait_protected().with_context(|| format!("clock {seconds:+} s, recorder {victim} killed"))?;
    }
    ensure!(killed.len() == 2);
    let offset_metric = get(site.system.http(0), "/metrics")?.text();
    ensure!(offset_metric.contains("framekeeper_peer_clock_offset_seconds "), "no clock offset: {offset_metric}");
    site.judge()?;
    judge::result(&format!(
        "{} kills while two recorders' clocks were up to a day apart: 0 frames missing",
        clocks.len()
    ));
    Ok(())
}
