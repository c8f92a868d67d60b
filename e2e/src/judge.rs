//! Asks the judges: `ledger-check`, ffprobe, and the reader in Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::harness::program;

/// Nanoseconds since 1970 now.
///
/// # Errors
/// When the clock stands before 1970.
pub fn now_ns() -> Result<i64> {
    Ok(i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_nanos())?)
}

/// `ledger-check` with these arguments; its table goes to the test's output.
///
/// # Errors
/// When anything is wrong with what was recorded.
pub fn check(arguments: &[String]) -> Result<()> {
    let output = Command::new(program("ledger-check")?).args(arguments).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        // The rest of a long command line is kills and times, which what it said names as far as they matter.
        let shown: Vec<&str> = arguments.iter().take(24).map(String::as_str).collect();
        bail!("ledger-check {} … ({} arguments): {}\n{said}", shown.join(" "), arguments.len(), output.status);
    }
    say(&said);
    Ok(())
}

/// Arguments that check `volumes` against the ledgers in `ledgers`.
#[must_use]
pub fn volumes(ledgers: &Path, volumes: &[PathBuf]) -> Vec<String> {
    volumes_of(&[ledgers.to_owned()], volumes)
}

/// The same with several folders, or with ledgers one by one.
#[must_use]
pub fn volumes_of(ledgers: &[PathBuf], volumes: &[PathBuf]) -> Vec<String> {
    let mut arguments = vec!["--ledger".to_owned()];
    arguments.extend(ledgers.iter().map(|ledger| ledger.display().to_string()));
    arguments.push("--volume".to_owned());
    arguments.extend(volumes.iter().map(|volume| volume.display().to_string()));
    arguments
}

/// Runs a command that must say nothing on its error output and succeed; returns its standard output.
///
/// # Errors
/// When it fails or says a word.
pub fn silent(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !complaint.is_empty() {
        bail!("{command:?}: {}: {complaint}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The reader that was written in Python from `docs/format.md` alone, over a volume.
///
/// # Errors
/// When it finds anything wrong.
pub fn python_reader(volume: &Path) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/read_volume.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg(volume).arg("--json").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "read_volume.py {}: {}\n{}\n{}",
            volume.display(),
            output.status,
            said,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(serde_json::from_str(&said)?)
}

/// A line of a test's result, kept by `make soak`.
#[expect(clippy::print_stdout, reason = "what a test measured is part of its output")]
pub fn result(text: &str) {
    println!("result: {text}");
}

/// A line of a test's output, for whoever looks why it failed.
#[expect(clippy::print_stdout, reason = "a judge's table is part of a test's output")]
pub fn say(text: &str) {
    println!("{text}");
}

/// All files below `folder` whose name ends in `.mp4`, sorted.
///
/// # Errors
/// When a folder can't be read.
pub fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "mp4") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
