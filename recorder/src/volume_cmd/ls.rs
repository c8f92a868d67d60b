//! `volume ls`.

use std::io::Write;

use framekeeper_media::WallTime;
use framekeeper_store::Hold;
use framekeeper_store::env::Env;
use framekeeper_store::inspect::{Depth, Filter, Place, SeenSegment, SeenStream};
use serde_json::{Value, json};

use super::output::{
    Bar, finding_json, finding_line, print_json, size, time_or, volume_json, volume_line, warn_if_in_use,
};
use super::shelf::Shelf;
use super::{CLEAN, Failure, Ls, NOTHING};
use crate::run::control::HoldView;
use crate::serve::coverage::{Coverage, coverage};
use crate::serve::query::format_time;

pub(super) fn run(arguments: &Ls) -> Result<u8, Failure> {
    let place = Place::open(&Env::real(), &arguments.common.path)?;
    warn_if_in_use(&place);
    let filter = Filter {
        stream: arguments.stream.clone(),
        from: arguments.from.unwrap_or(WallTime(i64::MIN)),
        to: arguments.to.unwrap_or(WallTime(i64::MAX)),
    };
    let mut bar = Bar::new("reading");
    let seen = place.look(Depth::Heads, &filter, &mut |done, total, path| bar.tell(done, total, path))?;
    drop(bar);
    let findings = seen.findings;
    let whole = place.volume().map(|_| Whole::of(&seen.segments));
    let holds = place.holds().map_err(|source| Failure::File { path: place.path().to_owned(), source })?;
    let shelf = Shelf::new(seen.segments).with_holds(holds);
    let code = if shelf.streams().is_empty() { NOTHING } else { CLEAN };
    let coverage_of = |stream: &SeenStream| {
        let names = (stream.ident.namespace.as_str(), stream.ident.name.as_str());
        coverage(&shelf, stream.ident.uid, names, (filter.from, filter.to)).map_err(|e| Failure::Footage(e.to_string()))
    };
    let streams: Vec<(&SeenStream, Coverage)> =
        shelf.streams().iter().map(|stream| Ok((stream, coverage_of(stream)?))).collect::<Result<_, Failure>>()?;
    if arguments.common.json {
        let streams = streams
            .iter()
            .map(|(stream, coverage)| stream_json(&shelf, stream, coverage))
            .collect::<Result<Vec<_>, _>>();
        print_json(&json!({
            "path": place.path(), "volume": place.volume().as_ref().map(volume_json), "inUse": place.in_use(),
            "holds": shelf.all_holds().iter().map(|hold| hold_view(&shelf, hold)).collect::<Vec<_>>(),
            "streams": streams.map_err(std::io::Error::from)?, "foundWhole": whole.as_ref().map(Whole::json),
            "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    let mut out = std::io::stdout().lock();
    if let Some(facts) = place.volume() {
        writeln!(out, "{}", volume_line(&facts))?;
    }
    if let Some(whole) = &whole {
        writeln!(out, "{}", whole.line())?;
    }
    for (stream, coverage) in &streams {
        let (count, bytes) = (stream.segments.len(), size(stream.bytes));
        writeln!(out, "{}/{}: {count} segments, {bytes}", stream.ident.namespace, stream.ident.name)?;
        let runs =
            coverage.runs.iter().map(|run| (&run.from, format!("{}  run {}, {} frames", run.to, run.run, run.frames)));
        let gaps = coverage.gaps.iter().map(|gap| (&gap.from, format!("{}  gap: {}", gap.to, gap.reason)));
        let mut lines: Vec<_> = runs.chain(gaps).collect();
        lines.sort();
        for (from, line) in lines {
            writeln!(out, "  {from}  {line}")?;
        }
        for segment in shelf.segments_of(stream).filter(|_| arguments.segments) {
            let (info, bytes) = (&segment.info, size(segment.info.used_bytes));
            let state = if info.sealed { "sealed" } else { "not sealed" };
            let (from, to) = (format_time(info.first), format_time(info.end));
            writeln!(
                out,
                "  {from}  {to}  {}: {bytes}, {} frames, {state}",
                info.path.display(),
                info.counts.video_frames
            )?;
        }
    }
    for hold in shelf.all_holds() {
        writeln!(out, "hold {}", hold_view(&shelf, hold).line())?;
    }
    for finding in &findings {
        writeln!(out, "{}", finding_line(finding))?;
    }
    if code == NOTHING {
        let (from, to) = (time_or(filter.from, "the beginning"), time_or(filter.to, "the end"));
        let what = filter.stream.as_deref().unwrap_or("any stream");
        writeln!(out, "no footage of {what} from {from} to {to}")?;
    }
    Ok(code)
}

/// Whether it is annotated, the volume does not tell.
fn hold_view(shelf: &Shelf, hold: &Hold) -> HoldView {
    let stream = shelf.streams().iter().find(|stream| stream.ident.uid == hold.stream);
    let name = stream.map(|stream| format!("{}/{}", stream.ident.namespace, stream.ident.name));
    HoldView::new(hold, name.unwrap_or_else(|| hold.stream.to_string()), false)
}

/// How far a recorder got with reading all footage again.
struct Whole {
    sealed: usize,
    found_whole: usize,
    oldest: Option<WallTime>,
}

impl Whole {
    fn of(segments: &[SeenSegment]) -> Self {
        let found = segments.iter().filter_map(|segment| segment.found_whole);
        Self {
            sealed: segments.iter().filter(|segment| segment.info.sealed).count(),
            found_whole: found.clone().count(),
            oldest: found.map(|(at, _)| at).min(),
        }
    }

    fn json(&self) -> Value {
        json!({"segments": self.found_whole, "of": self.sealed, "oldest": self.oldest.map(format_time)})
    }

    fn line(&self) -> String {
        let oldest = self.oldest.map(|at| format!(", the first of them at {}", format_time(at))).unwrap_or_default();
        format!("{} of {} sealed segments were read again and found whole{oldest}", self.found_whole, self.sealed)
    }
}

fn stream_json(shelf: &Shelf, stream: &SeenStream, coverage: &Coverage) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(coverage)?;
    let segments = shelf.segments_of(stream).map(|segment| {
        let info = &segment.info;
        json!({
            "path": info.path, "number": info.number, "from": format_time(info.first), "to": format_time(info.end),
            "sealed": info.sealed, "usedBytes": info.used_bytes, "videoFrames": info.counts.video_frames,
            "audioFrames": info.counts.audio_frames, "runs": info.counts.runs,
        })
    });
    if let Some(object) = value.as_object_mut() {
        object.insert("bytes".to_owned(), stream.bytes.into());
        object.insert("segments".to_owned(), segments.collect());
    }
    Ok(value)
}
