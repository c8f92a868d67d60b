//! How the commands talk: results on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use framekeeper_store::inspect::{Finding, Place, VolumeFacts};
use serde::Serialize;
use serde_json::{Value, json};

use crate::serve::query::format_time;

/// Between two pictures of the bar.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines, where there is no terminal.
const REPORT: Duration = Duration::from_secs(10);
const WIDTH: usize = 30;

/// Tells how far something is: a bar on a terminal, a line now and then elsewhere.
pub(super) struct Bar {
    what: &'static str,
    terminal: bool,
    last: Option<Instant>,
    begun: Instant,
    drawn: bool,
}

impl Bar {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, terminal: io::stderr().is_terminal(), last: None, begun: Instant::now(), drawn: false }
    }

    pub(super) fn tell(&mut self, done: u64, total: u64, path: &Path) {
        let since = self.last.unwrap_or(self.begun).elapsed();
        if since < if self.terminal { REDRAW } else { REPORT } {
            return;
        }
        self.last = Some(Instant::now());
        let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
        let mut err = io::stderr().lock();
        // Nobody to tell is no reason to stop.
        let _ = if self.terminal {
            self.drawn = true;
            let full = WIDTH * percent as usize / 100;
            let (full, empty) = ("#".repeat(full), " ".repeat(WIDTH - full));
            write!(err, "\r\x1b[K{} [{full}{empty}] {percent:3} % of {}", self.what, size(total))
        } else {
            writeln!(err, "{}: {percent} % of {}, at {}", self.what, size(total), path.display())
        };
        let _ = err.flush();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Something that a person should know, and that is no result.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "framekeeper-recorder volume: {text}");
}

/// Says so when a recorder writes while we read.
pub(super) fn warn_if_in_use(place: &Place) {
    if place.in_use() {
        complain(&format!(
            "{} is in use by a recorder: what is being written may be seen half, and files may go while they are looked at",
            place.path().display()
        ));
    }
}

/// One JSON object, on a line of its own.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

/// What a volume says of itself, as JSON.
pub(super) fn volume_json(facts: &VolumeFacts) -> Value {
    json!({
        "pool": facts.pool, "recorder": facts.recorder, "volume": facts.volume, "segmentBytes": facts.segment_bytes,
        "opens": facts.opens, "closed": facts.closed,
    })
}

/// What a volume says of itself, as a line.
pub(super) fn volume_line(facts: &VolumeFacts) -> String {
    let closed = if facts.closed { "closed in order" } else { "not closed in order, or in use" };
    format!("volume {} of pool {}, recorder {}; {closed}", facts.volume, facts.pool, facts.recorder)
}

/// A finding as JSON.
pub(super) fn finding_json(finding: &Finding) -> Value {
    let mut value = json!({
        "severity": finding.severity.as_str(), "kind": finding.kind.as_str(), "path": finding.path, "what": finding.what,
    });
    let mut put = |key: &str, what: Value| {
        if let Some(object) = value.as_object_mut() {
            object.insert(key.to_owned(), what);
        }
    };
    if let Some(offset) = finding.offset {
        put("offset", offset.into());
        put("bytes", finding.bytes.into());
    }
    if let Some(stream) = &finding.stream {
        put("stream", stream.clone().into());
    }
    if let Some((from, to)) = finding.span {
        put("from", format_time(from).into());
        put("to", format_time(to).into());
        put("videoFrames", finding.video_frames.into());
    }
    value
}

/// A finding as a line.
pub(super) fn finding_line(finding: &Finding) -> String {
    let mut line = format!("{:<6} {:<9} {}", finding.severity.as_str(), finding.kind.as_str(), finding.path.display());
    if let Some(offset) = finding.offset {
        line.push_str(&format!(" at {offset} (+{})", finding.bytes));
    }
    line.push_str(&format!(": {}", finding.what));
    if let Some((from, to)) = finding.span {
        let stream = finding.stream.as_deref().unwrap_or("its stream");
        line.push_str(&format!("; {stream} lacks {} to {}", format_time(from), format_time(to)));
        if finding.video_frames > 0 {
            line.push_str(&format!(", {} frames", finding.video_frames));
        }
    }
    line
}

/// A time, or a word where it is the beginning or the end of all times.
pub(super) fn time_or(time: WallTime, word: &str) -> String {
    if time.0 == i64::MIN || time.0 == i64::MAX { word.to_owned() } else { format_time(time) }
}
