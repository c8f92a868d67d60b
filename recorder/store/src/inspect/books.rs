//! What a volume keeps besides segments: identity, manifest, catalogue, pool. All of it can be made again from the segments, but the
//! identity and the holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::finding::{Finding, Kind, Severity};
use super::look::Seen;
use super::place::Place;
use crate::catalogue;
use crate::env::read_exact;
use crate::identity;
use crate::manifest::{Checked, Damage, HEADER_BYTES, Record, SealedSegment};
use crate::manifest_log::{self, Replayed};
use crate::names;
use crate::types::Hold;

/// What the manifest says, once all of it was read.
#[derive(Default)]
pub(super) struct Books {
    /// By file number.
    pub(super) sealed: BTreeMap<u64, SealedSegment>,
    pub(super) holds: Vec<Hold>,
    /// Damage that is known.
    pub(super) damage: Vec<Damage>,
    /// The newest of each file.
    pub(super) checked: BTreeMap<u64, Checked>,
    /// There is a manifest, and every record of it checks.
    pub(super) whole: bool,
}

/// Reads the manifest; what is wrong with it goes into `findings`.
pub(super) fn read(place: &Place, findings: &mut Vec<Finding>) -> io::Result<Books> {
    let path = manifest_log::NAME;
    let mut books = Books::default();
    let wrong = |what: String| Finding::new(Severity::Damage, Kind::Manifest, path, what);
    let file = match place.folder.open(Path::new(path), false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            findings
                .push(wrong("there is none; holds that it told of are lost, segments are found without it".to_owned()));
            return Ok(books);
        }
        other => other?,
    };
    let size = file.size()?;
    if manifest_log::read_header(file.as_ref(), size)?.is_none() {
        findings.push(
            wrong("its header does not check; holds that it told of may be lost".to_owned()).at(&(0..HEADER_BYTES)),
        );
    }
    if size < HEADER_BYTES {
        return Ok(books);
    }
    let Replayed { good, damage } =
        manifest_log::replay(file.as_ref(), HEADER_BYTES, size, |record, _| match record {
            Record::Sealed(segment) => {
                books.sealed.insert(segment.file_number, segment);
            }
            Record::Retired { file_number, nonce } => {
                if books.sealed.get(&file_number).is_some_and(|segment| segment.nonce == nonce) {
                    books.sealed.remove(&file_number);
                }
            }
            Record::Hold(hold) => {
                books.holds.retain(|known| known.hold != hold.hold);
                books.holds.push(hold);
            }
            Record::HoldReleased { hold } => books.holds.retain(|known| known.hold != hold),
            Record::Damaged(damage) => books.damage.push(damage),
            Record::Checked(checked) => {
                books.checked.insert(checked.file_number, checked);
            }
        })?;
    for range in &damage {
        findings.push(wrong("records that do not check; a hold among them would be lost".to_owned()).at(range));
    }
    if good < size {
        let what = "it ends in bytes that are no record; a recorder cuts them off".to_owned();
        findings.push(wrong(what).at(&(good..size)));
    }
    books.whole = findings.iter().all(|finding| finding.kind != Kind::Manifest);
    Ok(books)
}

/// Looks at all of them.
pub(super) fn look(place: &Place, seen: &mut Seen) -> io::Result<()> {
    match &place.identity {
        None => seen.findings.push(Finding::new(
            Severity::Damage,
            Kind::Identity,
            identity::NAME,
            "there is none: no recorder opens this volume",
        )),
        Some(Err(reason)) => {
            let what = format!("cannot be understood, and no recorder opens this volume: {reason}");
            seen.findings.push(Finding::new(Severity::Damage, Kind::Identity, identity::NAME, what));
        }
        Some(Ok(identity)) => whose(identity, seen),
    }
    let books = read(place, &mut seen.findings)?;
    let in_use = place.in_use();
    against_files(place, &books, in_use, seen)?;
    pool(place, seen)?;
    catalogue(place, in_use, seen)
}

/// Segments that name another volume, or are of another size.
fn whose(identity: &identity::Identity, seen: &mut Seen) {
    for segment in &seen.segments {
        let head = &segment.head.segment;
        if head.volume != identity.volume {
            let what = format!("it was written on volume {}, this is {}", head.volume, identity.volume);
            seen.findings.push(Finding::new(Severity::Note, Kind::Identity, &segment.info.path, what));
        }
    }
}

fn against_files(place: &Place, books: &Books, in_use: bool, seen: &mut Seen) -> io::Result<()> {
    let there: BTreeMap<(u64, u64), &Path> =
        seen.segments.iter().map(|s| ((s.info.file_number, s.info.nonce), s.info.path.as_path())).collect();
    let elsewhere: BTreeSet<u64> = [names::POOL, names::RETIRED]
        .iter()
        .flat_map(|folder| crate::volume::pool::list(place.folder.as_ref(), folder).unwrap_or_default())
        .collect();
    let reused: BTreeSet<u64> = seen.segments.iter().map(|s| s.info.file_number).collect();
    let mut findings = Vec::new();
    for segment in books.sealed.values() {
        match there.get(&(segment.file_number, segment.nonce)) {
            Some(path) if *path == Path::new(&segment.path) => {}
            Some(path) => {
                let what = format!("the manifest says that it is {}", segment.path);
                findings.push(Finding::new(Severity::Note, Kind::Unlisted, *path, what));
            }
            // What is headless was named already.
            None if seen.headless.iter().any(|path| path == Path::new(&segment.path)) => {}
            None => {
                // The file was retired, and the record of it did not get here.
                let known = in_use || elsewhere.contains(&segment.file_number) || reused.contains(&segment.file_number);
                let severity = if known { Severity::Note } else { Severity::Loss };
                let mut finding =
                    Finding::new(severity, Kind::Missing, &segment.path, "the manifest has it, the volume has not");
                finding.stream = Some(segment.stream_name.clone());
                finding.span = Some((segment.first, segment.end));
                finding.video_frames = if known { 0 } else { segment.counts.video_frames };
                findings.push(finding);
            }
        }
    }
    for segment in seen.segments.iter().filter(|segment| segment.info.sealed) {
        let known = books.sealed.get(&segment.info.file_number).is_some_and(|s| s.nonce == segment.info.nonce);
        if !known {
            let what = "sealed, and not in the manifest; a recorder adds it";
            findings.push(Finding::new(Severity::Note, Kind::Unlisted, &segment.info.path, what));
        }
    }
    seen.findings.extend(findings);
    Ok(())
}

fn pool(place: &Place, seen: &mut Seen) -> io::Result<()> {
    let Some(Ok(identity)) = &place.identity else { return Ok(()) };
    for number in crate::volume::pool::list(place.folder.as_ref(), names::POOL).unwrap_or_default() {
        let path = names::numbered(names::POOL, number);
        // Taken since it was listed.
        let Ok(file) = place.folder.open(&path, false) else { continue };
        let size = file.size()?;
        let mut first = [0; 8];
        let empty = size >= 8 && read_exact(file.as_ref(), &mut first, 0).is_ok() && first == [0; 8];
        if size != identity.segment_bytes {
            let what =
                format!("it has {size} bytes, files of this volume have {}; it is never used", identity.segment_bytes);
            seen.findings.push(Finding::new(Severity::Note, Kind::Pool, path, what));
        } else if !empty {
            let what = "it is not empty; a recorder empties it before it is used";
            seen.findings.push(Finding::new(Severity::Note, Kind::Pool, path, what));
        }
    }
    Ok(())
}

/// The catalogue, on a copy in memory: opening one may write.
fn catalogue(place: &Place, in_use: bool, seen: &mut Seen) -> io::Result<()> {
    let file = match place.folder.open(Path::new(catalogue::NAME), false) {
        // It is made when the volume is opened.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if in_use {
        // What of it is on disk is in between two states.
        return Ok(());
    }
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
    let reason = match read_exact(file.as_ref(), &mut bytes, 0) {
        Err(error) => Some(error.to_string()),
        // The library is not made for bytes that somebody else changed.
        Ok(()) => match catch_unwind(AssertUnwindSafe(|| catalogue::check(bytes))) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("its pages make no sense".to_owned()),
        },
    };
    if let Some(reason) = reason {
        let what = format!("cannot be used, and is made anew when the volume is opened: {reason}");
        seen.findings.push(Finding::new(Severity::Damage, Kind::Catalogue, catalogue::NAME, what));
    }
    Ok(())
}
