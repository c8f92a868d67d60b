//! What a volume's manifest tells of its segments: all that were ever sealed, and in which order they went.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use framekeeper_e2e_checker::manifest::{Record, read};

/// A sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// Its volume's folder.
    pub volume: PathBuf,
    /// `namespace/name` of the stream.
    pub stream: String,
    /// This use of its file.
    pub nonce: u64,
    /// Wall time of its first frame, and that at which the last ends, microseconds.
    pub first_us: i64,
    /// See above.
    pub end_us: i64,
    /// The file.
    pub path: PathBuf,
    /// When it was given up: its place among those of its volume that were.
    pub gone: Option<usize>,
}

/// Every segment that was sealed on these volumes, oldest first.
///
/// # Errors
/// When a manifest cannot be read.
pub fn shelved(volumes: &[PathBuf]) -> Result<Vec<Shelved>> {
    let mut all = Vec::new();
    for volume in volumes {
        all.extend(of_volume(volume)?);
    }
    all.sort_by_key(|segment| (segment.first_us, segment.end_us));
    Ok(all)
}

fn of_volume(volume: &Path) -> Result<Vec<Shelved>> {
    let path = volume.join("manifest.log");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let (records, wrong) = read(&bytes);
    ensure!(wrong.is_empty(), "{}: {wrong:?}", path.display());
    let (mut segments, mut gone) = (Vec::<Shelved>::new(), 0);
    for record in records {
        match record {
            Record::Sealed(sealed) => {
                let wall = |at: usize| sealed.numbers.get(at).map_or(0, |us| us.cast_signed());
                segments.push(Shelved {
                    volume: volume.to_path_buf(),
                    stream: sealed.name.clone(),
                    nonce: sealed.file_use.1,
                    first_us: wall(2),
                    end_us: wall(3),
                    path: volume.join(&sealed.path),
                    gone: None,
                });
            }
            Record::Retired(_, nonce) => {
                let segment = segments.iter_mut().find(|segment| segment.nonce == nonce && segment.gone.is_none());
                segment.with_context(|| format!("{nonce:x} was retired and never sealed"))?.gone = Some(gone);
                gone += 1;
            }
            Record::Hold | Record::Damaged | Record::Checked => {}
        }
    }
    Ok(segments)
}
