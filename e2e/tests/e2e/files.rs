//! Segment files: valid at every moment, and never a byte of a former stream in them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use framekeeper_e2e::bench::process::supervisor_and_worker;
use framekeeper_e2e::harness::{Cameras, Running, count, get, poll};
use framekeeper_e2e::judge::{self, segments};
use framekeeper_e2e::local::{PoolPlan, StreamPlan, System};
use rand::RngExt as _;

#[test]
fn copies_taken_at_any_moment_are_valid() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let copies = count(24, 200);
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=3,kind=synthetic,width=1280,height=720,fps=25,bitrate=4M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "256Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    // strace sees system calls: what goes through io_uring it could not delay.
    let buffered = [("FRAMEKEEPER_WRITES", "buffered".to_owned())];
    let mut system = System::start_with_env(folder.path(), &plan, &buffered)?;
    system.wait_recording(&names, Duration::from_secs(30))?;

    // Between two writes of one fragment lie microseconds: too few to copy in. With 3 ms behind each, a wrong order shows.
    let (_, worker) = supervisor_and_worker(system.operator.pid(), system.http(0))?;
    let mut command = Command::new("strace");
    let calls = "pwrite64,pwritev,pwritev2";
    command.args([
        "-f",
        "-q",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:delay_exit=3000"),
    ]);
    command.args(["-p", &worker.to_string()]);
    let mut delays = Running::start("strace", &mut command, &folder.path().join("strace.log"))?;
    let attached = poll(Duration::from_secs(10), Duration::from_millis(20), || {
        ensure!(delays.alive(), "strace ended: {}", delays.log_tail());
        let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
        Ok(status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")).then_some(()))
    })?;
    ensure!(attached.is_some(), "strace did not attach: {}", delays.log_tail());

    let mut random = rand::rng();
    let taken = folder.path().join("copies");
    fs::create_dir(&taken)?;
    let volume = system.volumes().remove(0).join("streams");
    let mut files = Vec::new();
    while files.len() < copies {
        std::thread::sleep(Duration::from_millis(random.random_range(5..250)));
        for name in &names {
            // The newest file of each stream is the one being written.
            let Some(newest) = segments(&volume.join("default").join(name))?.pop() else { continue };
            let copy = taken.join(format!("{:04}.mp4", files.len()));
            fs::copy(newest, &copy)?;
            files.push(copy);
        }
    }
    delays.stop(Duration::from_secs(10)).map_or_else(|error| Err(error.context("strace")), |_status| Ok(()))?;
    system.stop()?;

    let mut arguments = vec!["walk".to_owned()];
    arguments.extend(files.iter().map(|file| file.display().to_string()));
    judge::check(&arguments)?;
    for file in &files {
        judge::silent(Command::new("ffprobe").args(["-v", "error", "-show_entries", "stream=codec_name"]).arg(file))?;
    }
    judge::result(&format!("{} copies taken while recording, all valid", files.len()));
    Ok(())
}

#[test]
fn a_reused_file_holds_nothing_of_its_former_stream() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cameras = Cameras::start(
        folder.path(),
        0,
        &["name=cam,count=3,kind=synthetic,width=1280,height=720,fps=25,bitrate=8M,gop=25,audio=aac".to_owned()],
    )?;
    let names = framekeeper_e2e::bench::stamps::ledger_names(&cameras.ledgers)?;
    let plan = PoolPlan {
        recorders: 1,
        max_channels: 4,
        budget: "48Mi".to_owned(),
        segment_bytes: "4Mi".to_owned(),
        streams: names.iter().map(|name| StreamPlan::new(name, cameras.url(name))).collect(),
    };
    let mut system = System::start(folder.path(), &plan)?;
    system.wait_recording(&names, Duration::from_secs(30))?;
    let volume = system.volumes().remove(0);
    let mut first: Vec<_> = segments(&volume.join("streams"))?;
    // Each file holds 4 s of a stream, the budget 12 files: once round for each of them takes about 16 s.
    let rounds = count(2, 12);
    for round in 0..rounds {
        let gone = poll(Duration::from_secs(60), Duration::from_millis(200), || {
            Ok((!first.iter().any(|file| file.exists())).then_some(()))
        })?;
        ensure!(gone.is_some(), "round {round}: the oldest files were not used again: {}", system.operator.log_tail());
        first = segments(&volume.join("streams"))?;
        for name in &names {
            let coverage = get(system.http(0), &format!("/v1/streams/default/{name}/coverage"))?;
            ensure!(coverage.status == 200, "coverage of {name}: {} {}", coverage.status, coverage.text());
        }
    }
    system.stop()?;
    let mut arguments = vec!["foreign".to_owned()];
    arguments.extend(judge::volumes(&cameras.ledgers, std::slice::from_ref(&volume)));
    judge::check(&arguments)?;
    // What is left is whole: from the oldest file on nothing is missing.
    let mut arguments = judge::volumes(&cameras.ledgers, &[volume]);
    arguments.push("--until-last-found".to_owned());
    judge::check(&arguments)?;
    judge::result(&format!("every file used again {rounds} times, no foreign byte"));
    Ok(())
}
