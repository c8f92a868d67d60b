//! How segments are written where direct writes are not to be had: told, and recorded all the same. Needs root, for a tmpfs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use framekeeper_e2e::harness::{Cameras, count, get, poll};
use framekeeper_e2e::judge::{self, now_ns};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};

/// A file system in memory on a folder; gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"]).arg(folder).status()?;
        ensure!(done.success(), "cannot mount a tmpfs on {}: {done}; this test needs root", folder.display());
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Best effort: the test may have failed anywhere.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// One way to run a recorder, and what it must say of its writes.
struct Case {
    name: &'static str,
    /// `FRAMEKEEPER_WRITES`; empty: not set.
    writes: &'static str,
    forbidden: bool,
    tmpfs: bool,
    /// Whether it writes directly, and a part of the reason why not.
    direct: bool,
    reason: &'static str,
}

const CASES: [Case; 4] = [
    Case { name: "plain", writes: "", forbidden: false, tmpfs: false, direct: true, reason: "" },
    Case { name: "asked", writes: "buffered", forbidden: false, tmpfs: false, direct: false, reason: "so configured" },
    Case {
        name: "forbidden",
        writes: "auto",
        forbidden: true,
        tmpfs: false,
        direct: false,
        reason: "io_uring is forbidden",
    },
    Case { name: "tmpfs", writes: "", forbidden: false, tmpfs: true, direct: false, reason: "no direct writes" },
];

struct Site {
    system: System,
    // Behind the system: nobody may use it when it goes.
    _tmpfs: Option<Tmpfs>,
}

impl Case {
    fn start(&self, folder: &Path, plan: &PoolPlan) -> Result<Site> {
        let folder = folder.join(self.name);
        std::fs::create_dir_all(&folder)?;
        let tmpfs =
            self.tmpfs.then(|| Tmpfs::mount(&folder.join("data/volumes/main-recorder-0/footage"))).transpose()?;
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("without_io_uring.py").display().to_string();
        let wanted = format!("FRAMEKEEPER_WRITES={}", self.writes);
        let mut wrapper = vec!["/usr/bin/env"];
        if !self.writes.is_empty() {
            wrapper.push(&wanted);
        }
        if self.forbidden {
            wrapper.extend(["/usr/bin/python3", &launcher]);
        }
        Ok(Site { system: System::start_under(&folder, plan, &wrapper)?, _tmpfs: tmpfs })
    }
}

fn plan(cameras: &Cameras, names: &[String]) -> PoolPlan {
    PoolPlan {
        recorders: 1,
        max_channels: names.len(),
        budget: "96Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    }
}

/// What the recorder says of itself.
fn status(system: &System) -> String {
    std::fs::read_to_string(system.data.join("run/main-recorder-0/status.yaml")).unwrap_or_default()
}

fn recorder_log(system: &System) -> String {
    std::fs::read_to_string(system.data.join("run/main-recorder-0/log")).unwrap_or_default()
}

#[test]
fn where_direct_writes_are_refused_it_is_told_and_recorded_all_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=2,kind=synthetic,width=640,height=360,fps=25,bitrate=2M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = plan(&cameras, &names);
    let mut sites = CASES.iter().map(|case| case.start(folder.path(), &plan)).collect::<Result<Vec<_>>>()?;
    for site in &mut sites {
        site.system.wait_recording(&names, Duration::from_secs(30))?;
    }
    // Long enough for segments to be sealed: one lasts 16 s, less the head start of the first.
    std::thread::sleep(Duration::from_secs(count(6, 60) as u64));
    let mut said = Vec::new();
    for (case, site) in CASES.iter().zip(&mut sites) {
        let system = &mut site.system;
        let name = case.name;
        let metrics = get(system.http(0), "/metrics")?.text();
        let line = format!("framekeeper_volume_writes_directly{{volume=\"footage\"}} {}", u8::from(case.direct));
        ensure!(metrics.contains(&line), "{name}: not {line}");
        let status = status(system);
        let way = if case.direct { "writes: Direct" } else { "writes: Buffered" };
        ensure!(status.contains(way), "{name}: no {way:?} in its status: {status}");
        let log = recorder_log(system);
        let way = if case.direct { "past the page cache" } else { "through the page cache" };
        ensure!(
            log.contains(way) && log.contains(case.reason),
            "{name}: no {way:?} with {:?} in its log: {log}",
            case.reason
        );
        if !case.direct {
            let reason = status.lines().find_map(|line| line.trim().strip_prefix("writesReason: "));
            let reason = reason.with_context(|| format!("{name}: no reason: {status}"))?;
            ensure!(reason.contains(case.reason), "{name}: the reason is {reason:?}");
            said.push(format!("{name}: {reason}"));
        }
        let stop = now_ns()?;
        std::thread::sleep(Duration::from_millis(500));
        system.stop()?;
        let mut arguments = judge::volumes(&cameras.ledgers, &system.volumes());
        arguments.extend(["--stop".to_owned(), stop.to_string()]);
        judge::check(&arguments).with_context(|| name.to_owned())?;
        for volume in system.volumes() {
            judge::python_reader(&volume)?;
        }
    }
    judge::result(&format!("0 frames missing in each; {}", said.join("; ")));
    Ok(())
}

#[test]
fn direct_writes_that_are_asked_for_and_refused_are_a_volume_that_is_not_used() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=1,kind=synthetic,width=320,height=240,fps=10,bitrate=200k,gop=10".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    for case in CASES.iter().filter(|case| case.forbidden || case.tmpfs) {
        let case = Case { writes: "direct", ..*case };
        let Site { system, _tmpfs } = case.start(folder.path(), &plan(&cameras, &names))?;
        let refused = poll(Duration::from_secs(30), Duration::from_millis(100), || {
            let status = status(&system);
            Ok((status.contains("state: Refused") && status.contains(case.reason)).then_some(()))
        })?;
        let log = recorder_log(&system);
        ensure!(refused.is_some(), "{}: not refused with a reason: {}\n{log}", case.name, status(&system));
        ensure!(log.contains("write past the page cache") && log.contains(case.reason), "{}: {log}", case.name);
        ensure!(!log.contains("through the page cache"), "{}: it was written all the same: {log}", case.name);
    }
    Ok(())
}
