//! `volume export`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use framekeeper_media::WallTime;
use framekeeper_store::inspect::{Depth, Filter, Finding, SeenSegment};
use serde_json::json;

use super::output::{Bar, complain, finding_json, finding_line, print_json, size};
use super::places::{Gathered, Places};
use super::shelf::Shelf;
use super::{CLEAN, DAMAGED, Export, Failure, GapChoice};
use crate::serve::clip::PlanError;
use crate::serve::clip::file::ClipFile;
use crate::serve::clip::layout::Layout;
use crate::serve::clip::plan::{Gaps, Request, plan};
use crate::serve::coverage::nearest;
use crate::serve::footage::Footage;
use crate::serve::query::format_time;

/// Made and written at a time.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn run(arguments: &Export) -> Result<u8, Failure> {
    let (from, to) = (arguments.from, arguments.to);
    if from >= to {
        let (from, to) = (format_time(from), format_time(to));
        return Err(Failure::Footage(format!("--to is {to}, expected a time later than --from ({from})")));
    }
    let path = &arguments.output;
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let places = Places::open(&arguments.several.paths)?;
    let (segments, findings) = segments(&places, &arguments.stream, from, to)?;
    let shelf = Arc::new(Shelf::new(segments));
    let (namespace, name) = arguments.stream.split_once('/').unwrap_or_default();
    let footage = |e: crate::serve::footage::FootageError| Failure::Footage(e.to_string());
    let stream = shelf.find(namespace, name).map_err(footage)?;
    let stream = stream.ok_or_else(|| Failure::Nothing(format!("there is no footage of {} here", arguments.stream)))?;
    let gaps = match arguments.gaps {
        GapChoice::Close => Gaps::Close,
        GapChoice::Keep => Gaps::Keep,
    };
    let planned =
        plan(shelf.as_ref(), Request { stream, from, to, gaps }).and_then(|plan| Ok((Layout::new(&plan)?, plan)));
    let (layout, plan) = match planned {
        Ok(planned) => planned,
        Err(PlanError::NoFrames) => {
            let near = nearest(shelf.as_ref(), stream, from, to).map_err(footage)?;
            let span = |span: Option<crate::serve::problem::Span>, word: &str| {
                span.map(|span| format!("; {word} it from {} to {}", span.from, span.to)).unwrap_or_default()
            };
            let near = format!("{}{}", span(near.before, "before"), span(near.after, "behind"));
            let (from, to) = (format_time(from), format_time(to));
            return Err(Failure::Nothing(format!("{} has no frame from {from} to {to}{near}", arguments.stream)));
        }
        Err(other) => return Err(Failure::Footage(other.to_string())),
    };
    let (first, frames, bytes) = (plan.first_wall, plan.total().video, layout.len);
    let clip = ClipFile::new(shelf, Arc::new(plan), Arc::new(layout));
    let hash = write(path, clip, bytes)?;

    let lost = |finding: &&Finding| finding.span.is_some_and(|(lost_from, lost_to)| lost_from < to && lost_to > from);
    let lost: Vec<&Finding> = findings.iter().filter(lost).collect();
    let code = if lost.is_empty() { CLEAN } else { DAMAGED };
    if arguments.several.json {
        print_json(&json!({
            "output": path, "bytes": bytes, "blake3": hash, "stream": arguments.stream, "from": format_time(from),
            "to": format_time(to), "firstFrame": format_time(first), "videoFrames": frames,
            "leftOut": lost.iter().map(|finding| finding_json(finding)).collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    let mut out = io::stdout().lock();
    for finding in lost {
        writeln!(out, "left out: {}", finding_line(finding))?;
    }
    let (bytes, first) = (size(bytes), format_time(first));
    writeln!(
        out,
        "{}: {frames} frames of {} from {first} on, {bytes}, BLAKE3 {hash}",
        path.display(),
        arguments.stream
    )?;
    Ok(code)
}

fn exists(path: &Path) -> Failure {
    let source = io::Error::new(io::ErrorKind::AlreadyExists, "is there already; nothing is overwritten");
    Failure::File { path: path.to_owned(), source }
}

/// The segments that the range needs, every byte of them checked.
fn segments(
    places: &Places,
    stream: &str,
    from: WallTime,
    to: WallTime,
) -> Result<(Vec<SeenSegment>, Vec<Finding>), Failure> {
    // All of the stream: the first GOP may have begun in an earlier segment, and what is near is told where there is nothing.
    let filter = Filter { stream: Some(stream.to_owned()), ..Filter::default() };
    let Gathered { mut segments, findings: mut all } = places.look(Depth::Heads, &filter)?;
    segments.sort_by_key(|(_, segment)| (segment.info.first, segment.info.number));
    let inside = segments.iter().position(|(_, segment)| segment.info.end > from).unwrap_or(segments.len());
    let begun = segments.get(..=inside.min(segments.len().saturating_sub(1))).unwrap_or_default();
    let needed = begun.iter().rposition(|(_, segment)| !segment.begins_inside_gop()).unwrap_or(0).min(inside);
    let until = segments.partition_point(|(_, segment)| segment.info.first < to);
    let total = until.saturating_sub(needed);
    let mut bar = Bar::new("reading");
    for (done, (place, segment)) in segments.iter_mut().skip(needed).take(total).enumerate() {
        bar.tell(done as u64, total as u64, &segment.info.path);
        let (before, known) = (segment.found_whole, all.len());
        places.survey(*place, segment, &mut all)?;
        // Every fragment was checked by itself. The hash tells of the rest of the file.
        if let Some((at, hash)) = before.filter(|_| all.len() == known)
            && segment.hash().is_ok_and(|now| now != hash)
        {
            let (path, at) = (places.name(*place, segment.info.path.clone()), format_time(at));
            let path = path.display();
            complain(&format!("{path} is not what it was when it was found whole at {at}; all footage in it checks"));
        }
    }
    Ok((segments.into_iter().map(|(_, segment)| segment).collect(), all))
}

/// Writes the clip to a file that was not there; none is left behind when that fails. Returns its BLAKE3.
fn write(path: &Path, mut clip: ClipFile, bytes: u64) -> Result<String, Failure> {
    let mut file = File::create_new(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::File { path: path.to_owned(), source: e },
    })?;
    let mut bar = Bar::new("writing");
    let mut hasher = blake3::Hasher::new();
    let mut work = || -> Result<(), Failure> {
        let failed = |source| Failure::File { path: path.to_owned(), source };
        let (mut position, mut chunk) = (0, Vec::with_capacity(CHUNK_BYTES));
        while position < bytes {
            bar.tell(position, bytes, path);
            chunk.clear();
            clip.read(position, CHUNK_BYTES, &mut chunk).map_err(|e| Failure::Footage(e.to_string()))?;
            if chunk.is_empty() {
                return Err(Failure::Footage("the clip is shorter than was planned".to_owned()));
            }
            hasher.update(&chunk);
            file.write_all(&chunk).map_err(failed)?;
            position += chunk.len() as u64;
        }
        file.sync_all().map_err(failed)
    };
    let done = work();
    if done.is_err() {
        // It would look like a clip. That it cannot be removed is told by its being there.
        let _ = std::fs::remove_file(path);
    }
    done.map(|()| hasher.finalize().to_hex().to_string())
}
