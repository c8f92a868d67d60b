//! Which frames are in anybody's recording: by searching its bytes for the cameras' stamps, whatever the container.
//!
//! The judge of our own recordings is `ledger-check`, which reads containers strictly. This only lets peers be compared.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use framekeeper_e2e_camera::{SEI_UUID, read_sei};

/// The names of the cameras that have a ledger in `folder`, sorted.
///
/// # Errors
/// When the folder can't be read.
pub fn ledger_names(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".ledger")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// "missing of expected": the video frames that the ledgers say were emitted in `from..to` (nanoseconds since 1970), and that are in no
/// file below `recordings` whose path names the camera.
///
/// # Errors
/// When a ledger or a recording can't be read.
pub fn missing(ledgers: &Path, recordings: &Path, from_ns: i64, to_ns: i64) -> Result<String> {
    let mut files = Vec::new();
    collect(recordings, &mut files)?;
    let (mut expected, mut found) = (0_usize, 0_usize);
    for name in ledger_names(ledgers)? {
        let mut numbers = HashSet::new();
        for file in files.iter().filter(|file| file.components().any(|part| part.as_os_str() == name.as_str())) {
            stamps(&fs::read(file).with_context(|| file.display().to_string())?, &mut numbers);
        }
        let ledger = framekeeper_e2e_camera::Ledger::read(ledgers.join(format!("{name}.ledger")))?;
        for frame in ledger.video().filter(|frame| (from_ns..to_ns).contains(&frame.wall_ns)) {
            expected += 1;
            found += usize::from(numbers.contains(&frame.number));
        }
    }
    Ok(format!("{} of {expected}", expected - found))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Adds the numbers of all stamps in `bytes`.
fn stamps(bytes: &[u8], numbers: &mut HashSet<u64>) {
    // The stamp's NAL unit begins 3 bytes before the UUID: header, payload type, payload size.
    for at in memchr::memmem::find_iter(bytes, &SEI_UUID) {
        let nal = at.checked_sub(3).and_then(|begin| bytes.get(begin..(begin + 96).min(bytes.len())));
        numbers.extend(nal.and_then(read_sei).map(|(number, _)| number));
    }
}
