//! `volume ls`.

use std::io::Write;

use framekeeper_media::WallTime;
use framekeeper_store::Hold;
use framekeeper_store::inspect::{Depth, Filter, Place, SeenSegment, SeenStream};
use serde_json::{Value, json};

use super::output::{finding_json, finding_line, print_json, size, time_or, volume_json, volume_line};
use super::places::{Gathered, Places};
use super::shelf::Shelf;
use super::{CLEAN, Failure, Ls, NOTHING};
use crate::run::control::HoldView;
use crate::serve::coverage::{Coverage, coverage};
use crate::serve::query::format_time;

pub(super) fn run(arguments: &Ls) -> Result<u8, Failure> {
    let places = Places::open(&arguments.several.paths)?;
    let filter = Filter {
        stream: arguments.stream.clone(),
        from: arguments.from.unwrap_or(WallTime(i64::MIN)),
        to: arguments.to.unwrap_or(WallTime(i64::MAX)),
    };
    let Gathered { segments, findings } = places.look(Depth::Heads, &filter)?;
    let of_place = |number| segments.iter().filter(move |(at, _)| *at == number).map(|(_, segment)| segment);
    let heads: Vec<Head<'_>> =
        places.all().iter().enumerate().map(|(number, place)| Head::of(place, of_place(number))).collect();
    let segments = segments.into_iter().map(|(number, mut segment)| {
        segment.info.path = places.name(number, segment.info.path);
        segment
    });
    let shelf = Shelf::new(segments.collect()).with_holds(places.holds()?);
    let code = if shelf.streams().is_empty() { NOTHING } else { CLEAN };
    let coverage_of = |stream: &SeenStream| {
        let names = (stream.ident.namespace.as_str(), stream.ident.name.as_str());
        coverage(&shelf, stream.ident.uid, names, (filter.from, filter.to)).map_err(|e| Failure::Footage(e.to_string()))
    };
    let streams: Vec<(&SeenStream, Coverage)> =
        shelf.streams().iter().map(|stream| Ok((stream, coverage_of(stream)?))).collect::<Result<_, Failure>>()?;
    if arguments.several.json {
        let streams = streams
            .iter()
            .map(|(stream, coverage)| stream_json(&shelf, stream, coverage))
            .collect::<Result<Vec<_>, _>>();
        print_json(&json!({
            "places": heads.iter().map(Head::json).collect::<Vec<_>>(),
            "holds": shelf.all_holds().iter().map(|hold| hold_view(&shelf, hold)).collect::<Vec<_>>(),
            "streams": streams.map_err(std::io::Error::from)?,
            "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    let mut out = std::io::stdout().lock();
    for head in &heads {
        head.write(&mut out, heads.len() > 1)?;
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

/// A place, and, of a volume, how far its recorder got with reading all footage again.
struct Head<'p> {
    place: &'p Place,
    sealed: usize,
    found_whole: usize,
    oldest: Option<WallTime>,
}

impl<'p> Head<'p> {
    fn of<'s>(place: &'p Place, segments: impl Iterator<Item = &'s SeenSegment>) -> Self {
        let mut head = Self { place, sealed: 0, found_whole: 0, oldest: None };
        for segment in segments {
            head.sealed += usize::from(segment.info.sealed);
            if let Some((at, _)) = segment.found_whole {
                head.found_whole += 1;
                head.oldest = Some(head.oldest.map_or(at, |oldest| oldest.min(at)));
            }
        }
        head
    }

    fn json(&self) -> Value {
        let volume = self.place.volume();
        let whole = || json!({"segments": self.found_whole, "of": self.sealed, "oldest": self.oldest.map(format_time)});
        json!({
            "path": self.place.path(), "volume": volume.as_ref().map(volume_json), "inUse": self.place.in_use(),
            "foundWhole": volume.as_ref().map(|_| whole()),
        })
    }

    fn write(&self, out: &mut impl Write, named: bool) -> std::io::Result<()> {
        let Some(facts) = self.place.volume() else { return Ok(()) };
        if named {
            write!(out, "{}: ", self.place.path().display())?;
        }
        writeln!(out, "{}", volume_line(&facts))?;
        let oldest = self.oldest.map(|at| format!(", the first of them at {}", format_time(at))).unwrap_or_default();
        writeln!(out, "{} of {} sealed segments were read again and found whole{oldest}", self.found_whole, self.sealed)
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
