//! Making good what can be made good, and marking what cannot. Never at the cost of a frame that can be read: the bytes of fragments are
//! not touched, but for the header of one that leads nowhere.

use std::io;
use std::path::{Path, PathBuf};

use framekeeper_media::boxes::index::mfra;
use framekeeper_media::boxes::segment::{SEALED_PART_OFFSET, SEGMENT_BOX_LENGTH, Sealed, SegmentBox};
use framekeeper_media::boxes::walk::{BoxHeader, MAX_HEADER_LENGTH};
use framekeeper_media::unit::VIDEO_CLOCK_HZ;

use super::books::{self, Books};
use super::finding::{Finding, Kind, Severity};
use super::look::{Depth, Filter, Progress, Seen, SeenSegment};
use super::place::{Place, PlaceError};
use crate::catalogue::{self, Catalogue};
use crate::env::{Env, File, read_exact, write_all};
use crate::identity::{self, Identity};
use crate::manifest::{Damage, Record};
use crate::manifest_log;
use crate::names;
use crate::segment::sealed::sealed_record;
use crate::segment::walk::{self, Head};
use crate::volume::unit::free_header;

/// Whose volume it is, for one that has lost its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `namespace/name` of the pool.
    pub pool: String,
    /// The recorder.
    pub recorder: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The file.
    pub path: PathBuf,
    /// What was done to it.
    pub what: String,
}

/// What a repair did, and what it could not do.
#[derive(Debug, Default)]
pub struct Repaired {
    /// In the order in which it was done.
    pub actions: Vec<Action>,
    /// What was found and cannot be made good.
    pub left: Vec<Finding>,
    /// Files that were looked at.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Repaired {
    fn did(&mut self, path: impl Into<PathBuf>, what: impl Into<String>) {
        self.actions.push(Action { path: path.into(), what: what.into() });
    }
}

/// Repairs a place.
///
/// # Errors
/// When it cannot be read or written, or a recorder has it.
pub fn repair(
    env: &Env,
    path: &Path,
    owner: Option<&Owner>,
    progress: &mut Progress<'_>,
) -> Result<Repaired, PlaceError> {
    let mut place = Place::open(env, path)?;
    let failed = |source| PlaceError::Io { path: path.to_owned(), source };
    let _lock = if place.is_volume {
        let lock = place.folder.lock(Path::new(identity::LOCK_NAME));
        Some(lock.map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => PlaceError::InUse { path: path.to_owned() },
            _ => failed(e),
        })?)
    } else {
        None
    };
    place.locked = true;
    let mut seen = place.look(Depth::Everything, &Filter::default(), progress)?;
    let mut done = Repaired { files: seen.files, bytes: seen.bytes, ..Repaired::default() };
    let mut notes = Vec::new();
    let books = if place.is_volume { books::read(&place, &mut notes).map_err(failed)? } else { Books::default() };
    heads(&place, &mut seen, &books, &mut done).map_err(failed)?;
    for at in 0..seen.segments.len() {
        let Some(segment) = seen.segments.get(at) else { continue };
        if !mend(&place, segment, &mut done).map_err(failed)? {
            continue;
        }
        let path = segment.info.path.clone();
        seen.findings.retain(|finding| finding.path != path || finding.kind == Kind::Identity);
        if let Some((again, findings)) = place.look_again(&path).map_err(failed)? {
            seen.findings.extend(findings);
            if let Some(segment) = seen.segments.get_mut(at) {
                *segment = again;
            }
        }
    }
    if place.is_volume {
        if !matches!(place.identity, Some(Ok(_))) {
            whose(env, &place, &seen, owner, &mut done).map_err(failed)?;
        }
        manifest(env, &place, &seen, &books, &mut done).map_err(failed)?;
    }
    let mended = |finding: &Finding| match finding.kind {
        Kind::Manifest | Kind::Catalogue => true,
        Kind::Identity => owner.is_some() && finding.path == Path::new(identity::NAME),
        _ => false,
    };
    let left = seen.findings.into_iter().filter(|finding| finding.severity > Severity::Note && !mended(finding));
    done.left.extend(left);
    Ok(done)
}

/// Heads that are damaged: `ftyp` and `moov` are the same bytes in every segment with the same parameters, and the manifest tells what
/// the segment box said.
fn heads(place: &Place, seen: &mut Seen, books: &Books, done: &mut Repaired) -> io::Result<()> {
    for path in std::mem::take(&mut seen.headless) {
        let file = place.folder.open(&path, false)?;
        let (size, from_file) = (file.size()?, walk::segment_box(file.as_ref())?);
        let listed = books.sealed.values().find(|segment| Path::new(&segment.path) == path);
        let init_hash = from_file.as_ref().map(|s| s.init_hash).or_else(|| listed.map(|s| s.init_hash));
        let Some(twin) = seen.segments.iter().find(|s| Some(s.info.init_hash) == init_hash) else { continue };
        let head = twin.init.padded();
        let segment = from_file.or_else(|| {
            let listed = listed?;
            Some(SegmentBox {
                nonce: listed.nonce,
                offset: head.len() as u64,
                begins_inside_gop: false,
                volume: twin.info.volume,
                stream: listed.stream,
                segment_number: listed.number,
                file_number: listed.file_number,
                file_size: size,
                first_wall: listed.first,
                init_hash: listed.init_hash,
                video_timescale: VIDEO_CLOCK_HZ,
                audio_timescale: twin.head.segment.audio_timescale,
                stream_name: listed.stream_name.clone(),
                sealed: Some(Sealed {
                    index_offset: listed.index_offset,
                    index_length: listed.index_length,
                    end_wall: listed.end,
                }),
            })
        });
        let Some(mut segment) = segment.filter(|segment| segment.offset == head.len() as u64) else { continue };
        let end = segment.offset + SEGMENT_BOX_LENGTH as u64;
        let whole = Head { segment: segment.clone(), end, ..twin.head.clone() };
        // Only where what follows belongs to it.
        let Ok(first) = walk::next_box(file.as_ref(), &whole, end, size)? else { continue };
        drop(first);
        segment.begins_inside_gop = walk::first_continues_gop(file.as_ref(), &whole, size)?;
        let Ok(encoded) = segment.encode() else { continue };
        let file = place.folder.open(&path, true)?;
        write_all(file.as_ref(), &encoded, segment.offset)?;
        if let Some(sealed) = segment.sealed {
            write_all(file.as_ref(), &sealed.encode(segment.nonce), segment.offset + SEALED_PART_OFFSET as u64)?;
        }
        write_all(file.as_ref(), &head, 0)?;
        file.sync()?;
        done.did(&path, format!("its head was written anew, as in {}", twin.info.path.display()));
        seen.findings.retain(|finding| finding.path != path);
        if let Some((segment, findings)) = place.look_again(&path)? {
            seen.findings.extend(findings);
            seen.segments.push(segment);
        }
    }
    Ok(())
}

/// Repairs one segment; `true` when the file was changed.
fn mend(place: &Place, segment: &SeenSegment, done: &mut Repaired) -> io::Result<bool> {
    let Some(survey) = segment.survey.as_ref().filter(|survey| !survey.damage.is_empty()) else { return Ok(false) };
    let path = &segment.info.path;
    let size = segment.file.size()?;
    if size != segment.head.segment.file_size {
        // Cut off, by a copy that was not finished: what is there can be played, and nothing can be written behind it.
        return Ok(false);
    }
    let lost = survey.lost();
    let broken: Vec<_> = lost.iter().filter(|range| !chain_holds(segment, range, size)).collect();
    let tail_only = lost.iter().all(|range| range.start >= survey.end);
    let sealed = segment.head.segment.sealed;
    let new_index = match (&survey.index, sealed) {
        // An index that knows more than the fragments stays, so that it tells what was lost.
        (Some(index), _) if !lost.is_empty() => Some((index.clone(), index.offset)).filter(|_| sealed.is_none()),
        (_, Some(sealed)) if survey.damage.iter().any(|damage| damage.spare) => {
            Some((survey.found.seal(segment.info.nonce, sealed.index_offset).0, sealed.index_offset))
        }
        (Some(index), None) => Some((index.clone(), index.offset)),
        (None, None) if !tail_only => Some((survey.found.seal(segment.info.nonce, survey.end).0, survey.end)),
        _ => None,
    };
    let ends = sealed.is_none() && new_index.is_none() && survey.end < size;
    if broken.is_empty() && new_index.is_none() && !ends && survey.mended_runs.is_empty() {
        return Ok(false);
    }
    let file = place.folder.open(path, true)?;
    for run in &survey.mended_runs {
        write_all(file.as_ref(), &run.encode(), run.offset)?;
        done.did(path, format!("one bit of the run box at {} was put right by its checksum", run.offset));
    }
    if let Some((index, offset)) = new_index {
        let (_, points) = survey.found.seal(segment.info.nonce, offset);
        let bytes = index.encode().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let mfra = mfra(points);
        let Some(rest) = size.checked_sub(offset + (bytes.len() + mfra.len()) as u64).filter(|r| *r == 0 || *r >= 8)
        else {
            return Ok(false);
        };
        let end_wall = sealed.map_or(index.totals.end_wall, |sealed| sealed.end_wall);
        let part = Sealed { index_offset: offset, index_length: bytes.len() as u64, end_wall };
        write_boxes(file.as_ref(), &[&bytes, &mfra].map(|part| part.as_ref()).concat(), offset, rest)?;
        file.sync()?;
        let at = segment.head.segment.offset + SEALED_PART_OFFSET as u64;
        write_all(file.as_ref(), &part.encode(segment.info.nonce), at)?;
        done.did(
            path,
            format!("its index at {offset} was written anew from the {} fragments that check", index.totals.fragments),
        );
    }
    for range in broken {
        if !(ends && range.start >= survey.end) {
            let length = range.end - range.start;
            write_all(file.as_ref(), &free_header(length), range.start)?;
            done.did(
                path,
                format!(
                    "{length} bytes at {} that lead nowhere were made a free box, so that players go on behind it",
                    range.start
                ),
            );
        }
    }
    if ends {
        write_all(file.as_ref(), &free_header(size - survey.end), survey.end)?;
        done.did(path, format!("it ends at {} now, behind its last fragment that checks", survey.end));
    }
    file.sync()?;
    Ok(true)
}

/// Writes boxes so that the file is valid at every moment (`docs/format.md` §6): what is behind, the body, last the first header.
fn write_boxes(file: &dyn File, boxes: &[u8], offset: u64, rest: u64) -> io::Result<()> {
    if rest > 0 {
        write_all(file, &free_header(rest), offset + boxes.len() as u64)?;
    }
    let (header, body) = boxes.split_at(boxes.len().min(8));
    write_all(file, body, offset + 8)?;
    write_all(file, header, offset)
}

/// Whether a player gets from the beginning of a damaged range to its end by the lengths of the boxes in it.
fn chain_holds(segment: &SeenSegment, range: &std::ops::Range<u64>, size: u64) -> bool {
    let mut at = range.start;
    while at < range.end {
        let mut bytes = [0; MAX_HEADER_LENGTH];
        let length = usize::try_from(size - at).unwrap_or(MAX_HEADER_LENGTH).min(MAX_HEADER_LENGTH);
        let Some(bytes) = bytes.get_mut(..length) else { return false };
        if read_exact(segment.file.as_ref(), bytes, at).is_err() {
            return false;
        }
        match BoxHeader::parse(bytes, at, size) {
            Ok(header) if header.length > 0 => at = header.end(),
            _ => return false,
        }
    }
    at == range.end
}

fn whose(env: &Env, place: &Place, seen: &Seen, owner: Option<&Owner>, done: &mut Repaired) -> io::Result<()> {
    let (Some(owner), Some(any)) = (owner, seen.segments.first()) else { return Ok(()) };
    let numbers = [names::POOL, names::RETIRED]
        .iter()
        .flat_map(|folder| crate::volume::pool::list(place.folder.as_ref(), folder).unwrap_or_default());
    let highest = numbers.chain(seen.segments.iter().map(|s| s.info.file_number)).max().unwrap_or(0);
    let opens = seen.segments.iter().map(|s| s.info.number >> identity::SEGMENT_NUMBER_BITS).max().unwrap_or(0).max(1);
    let identity = Identity {
        format: identity::FORMAT,
        pool: owner.pool.clone(),
        recorder: owner.recorder.clone(),
        volume: any.info.volume,
        segment_bytes: any.head.segment.file_size,
        created: names::rfc3339(env.clock.wall()),
        opens,
        files: highest,
        made: None,
        closed: false,
    };
    identity::write(place.folder.as_ref(), &identity)?;
    done.did(identity::NAME, format!("written anew: volume {} of pool {}", identity.volume, identity.pool));
    Ok(())
}

/// Manifest and catalogue, where they lack something.
fn manifest(env: &Env, place: &Place, seen: &Seen, books: &Books, done: &mut Repaired) -> io::Result<()> {
    let mut records = Vec::new();
    let mut news = 0;
    for segment in &seen.segments {
        let Some(record) = sealed_record(segment.file.as_ref(), &segment.head, &segment.info.path)? else { continue };
        news += usize::from(books.sealed.get(&record.file_number).is_none_or(|known| *known != record));
        let (file_number, nonce, stream) = (record.file_number, record.nonce, record.stream);
        records.push(Record::Sealed(record));
        for hole in segment.holes.iter().filter(|hole| hole.video_frames > 0 || hole.from < hole.to) {
            let damage = Damage { file_number, nonce, stream, hole: hole.clone() };
            news += usize::from(!books.damage.contains(&damage));
            records.push(Record::Damaged(damage));
        }
        let checked = books.checked.get(&file_number).filter(|checked| checked.nonce == nonce);
        records.extend(checked.map(|checked| Record::Checked(*checked)));
    }
    records.extend(books.holds.iter().map(|hold| Record::Hold(*hold)));
    let sealed = records.iter().filter(|record| matches!(record, Record::Sealed(_))).count();
    let gone = books.sealed.len() > sealed;
    let catalogue_is_bad = seen.findings.iter().any(|finding| finding.kind == Kind::Catalogue);
    if books.whole && news == 0 && !gone && !catalogue_is_bad {
        return Ok(());
    }
    let position = manifest_log::write_anew(place.folder.as_ref(), env.random.u64(), records.iter().cloned())?;
    done.did(manifest_log::NAME, format!("written anew with {sealed} segments and {} holds", books.holds.len()));
    match place.folder.remove(Path::new(catalogue::NAME)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let other = |e: catalogue::CatalogueError| io::Error::other(e.to_string());
    let catalogue = Catalogue::open(place.folder.as_ref()).map_err(other)?.catalogue;
    catalogue.apply(&records, Some(position)).map_err(other)?;
    catalogue.set_scanned(true).map_err(other)?;
    catalogue.persist().map_err(other)?;
    done.did(catalogue::NAME, "built anew");
    Ok(())
}
