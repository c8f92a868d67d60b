//! The programs that stand beside the code they measure (`examples/` of its crate), and where their output goes in the page.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::harness::{Cameras, program};

/// What is told to the user, and the output as a block of the page.
fn run(title: &str, name: &str, arguments: &[&str], progress: &impl Fn(&str)) -> Result<String> {
    progress(title);
    let mut command = Command::new(program(&format!("examples/{name}"))?);
    let output = command.args(arguments).output().with_context(|| format!("cannot run {name}"))?;
    // One that measures targets says by status 1 that one was missed, behind its table.
    let is_told = output.status.code() == Some(1) && !output.stdout.is_empty();
    if !output.status.success() && !is_told {
        bail!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    let mut text = String::new();
    let _infallible = write!(text, "{title}:\n\n```\n{}```\n\n", String::from_utf8_lossy(&output.stdout));
    Ok(text)
}

fn path_of(folder: &Path) -> Result<&str> {
    folder.to_str().with_context(|| format!("{} is not UTF-8", folder.display()))
}

/// Coverage and clip latency over a synthesised catalogue.
///
/// # Errors
/// When a program fails.
pub fn finding(progress: &impl Fn(&str)) -> Result<String> {
    let coverage = run("Coverage, 10^6 catalogued segments, 10,000 streams", "catalogue_bench", &[], progress)?;
    Ok(coverage + &run("First byte of a clip", "clip_latency", &[], progress)?)
}

/// What heartbeats and planning cost.
///
/// # Errors
/// When a program fails.
pub fn sharing(progress: &impl Fn(&str)) -> Result<String> {
    let links = run("Heartbeats of two recorders over TLS", "heartbeat_bench", &[], progress)?;
    Ok(links + &run("Plans", "plan_bench", &[], progress)?)
}

/// Bytes that [`writing`] takes on the disk at most.
pub const WRITING_BYTES: u64 = 17 << 30;

/// What writing costs without RTSP: both ways beside the same bytes written raw, by sync interval, flat out, and at a low rate.
///
/// # Errors
/// When the program fails.
pub fn writing(folder: &Path, length: Duration, progress: &impl Fn(&str)) -> Result<String> {
    let seconds = (length.as_secs() / 3).clamp(3, 10).to_string();
    let folder = path_of(folder)?;
    let mut text = String::new();
    let mut one = |title: &str, options: &[&str]| -> Result<()> {
        let arguments = [&[folder, "--seconds", &seconds], options].concat();
        text.push_str(&run(&format!("{title}, {seconds} s each"), "write_bench", &arguments, progress)?);
        Ok(())
    };
    for sync_ms in ["100", "500", "2000"] {
        let title = format!("100 streams × 4 Mbit/s, synced every {sync_ms} ms");
        one(&title, &["--sync-ms", sync_ms, "raw", "direct", "buffered"])?;
    }
    one("As fast as it goes, synced every 500 ms", &["--flat-out", "raw", "buffered", "raw-direct", "direct"])?;
    one("100 streams × 128 kbit/s, synced every 500 ms", &["--kbit", "128", "direct", "buffered"])?;
    Ok(text)
}

/// What receiving costs without writing.
///
/// # Errors
/// When the cameras or the program fail.
pub fn receiving(folder: &Path, length: Duration, progress: &impl Fn(&str)) -> Result<String> {
    const STREAMS: usize = 100;
    let spec =
        format!("name=cam,count={STREAMS},spread=true,kind=synthetic,width=1920,height=1080,fps=25,bitrate=4M,gop=50");
    let cameras = Cameras::start(folder, 0, &[spec])?;
    let mut arguments = vec![length.as_secs().min(15).to_string(), "1".to_owned()];
    arguments.extend(super::stamps::ledger_names(&cameras.ledgers)?.iter().map(|name| cameras.url(name)));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run("100 cameras of 4 Mbit/s, received, depacketised, hashed and dropped", "receive", &arguments, progress)
}
