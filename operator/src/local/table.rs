//! The live table: lines of text from what is known, at most as many and as wide as the terminal holds.

use framekeeper_crds::k8s_openapi::jiff::Timestamp;

/// One stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Name, with its namespace where that is not `default`.
    pub stream: String,
    /// Name of the recorder that records it, and for which one if that is another's.
    pub recorder: String,
    /// What it is doing.
    pub state: String,
    /// Whether that is as it should be.
    pub good: bool,
    /// Why not, if it is not.
    pub why: String,
    /// Codecs, RFC 6381.
    pub codec: String,
    /// Size of the picture.
    pub resolution: String,
    /// Frames a second.
    pub fps: Option<f64>,
    /// Bits a second.
    pub bitrate: Option<f64>,
    /// Wall-clock time of the last frame.
    pub last_frame: Option<Timestamp>,
    /// Bytes recorded since the recorder started.
    pub bytes: u64,
}

const HEADINGS: [&str; 9] =
    ["STREAM", "RECORDER", "STATE", "CODEC", "RESOLUTION", "FPS", "BITRATE", "LAST FRAME", "BYTES"];
/// Headings, summary, recorders, and a line that says what is not shown.
const FRAME_LINES: usize = 4;

/// The table. What is not as it should be comes first when not all fit.
pub fn lines(rows: &[Row], recorders: &str, now: Timestamp, height: usize, width: usize) -> Vec<String> {
    let room = height.saturating_sub(FRAME_LINES + 1).max(1);
    let mut shown: Vec<&Row> = rows.iter().collect();
    let hidden = shown.len().saturating_sub(room);
    if hidden > 0 {
        shown.sort_by_key(|row| row.good);
        shown.truncate(room);
    }
    let cells: Vec<[String; 9]> = shown.iter().map(|row| cells(row, now)).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 9], rest: &str| {
        let mut line: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        line.push_str(rest);
        clip(line.trim_end(), width)
    };
    let mut lines = vec![line(&HEADINGS.map(str::to_owned), "")];
    lines.extend(cells.iter().zip(&shown).map(|(cells, row)| line(cells, &row.why)));
    if hidden > 0 {
        lines.push(clip(&format!("… and {hidden} more"), width));
    }
    lines.push(clip(&summary(rows), width));
    lines.push(clip(recorders, width));
    lines
}

/// All streams in one line.
pub fn summary(rows: &[Row]) -> String {
    let good = rows.iter().filter(|row| row.good).count();
    let rate: f64 = rows.iter().filter_map(|row| row.bitrate).fold(0.0, |sum, rate| sum + rate);
    let bytes: u64 = rows.iter().map(|row| row.bytes).sum();
    let word = if rows.len() == 1 { "stream" } else { "streams" };
    format!("{} {word}, {good} as planned, {}, {} recorded", rows.len(), bits(rate), size(bytes))
}

fn cells(row: &Row, now: Timestamp) -> [String; 9] {
    let ago = row.last_frame.map(|at| {
        let seconds = now.duration_since(at).as_secs_f64();
        match seconds {
            s if s < 10.0 => format!("{:.1} s ago", s.max(0.0)),
            s if s < 120.0 => format!("{s:.0} s ago"),
            s if s < 7200.0 => format!("{:.0} min ago", s / 60.0),
            s => format!("{:.0} h ago", s / 3600.0),
        }
    });
    [
        row.stream.clone(),
        row.recorder.clone(),
        row.state.clone(),
        row.codec.clone(),
        row.resolution.clone(),
        row.fps.map(|fps| format!("{fps:.1}")).unwrap_or_default(),
        row.bitrate.map(bits).unwrap_or_default(),
        ago.unwrap_or_default(),
        if row.bytes > 0 { size(row.bytes) } else { String::new() },
    ]
}

fn clip(line: &str, width: usize) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width.max(20)).collect()
}

fn bits(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.1} Mbit/s", rate / 1e6) } else { format!("{:.0} kbit/s", rate / 1e3) }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 100.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, good: bool) -> Row {
        Row { stream: name.into(), state: if good { "Recording" } else { "Failed" }.into(), good, ..Row::default() }
    }

    #[test]
    fn columns_line_up_and_values_have_units() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let full = Row {
            recorder: "main-recorder-0".into(),
            codec: "avc1.64001f".into(),
            resolution: "1920x1080".into(),
            fps: Some(25.0),
            bitrate: Some(4_023_000.0),
            last_frame: Some(Timestamp::from_millisecond(1_799_999_999_600).unwrap()),
            bytes: 3 << 30,
            ..row("gate", true)
        };
        let lines = lines(&[full, row("a-long-name", false)], "r0 :8080", now, 24, 200);
        assert_eq!(lines.len(), 5);
        let column = lines[0].find("RECORDER").unwrap();
        assert_eq!(lines[1].find("main-recorder-0"), Some(column));
        for word in ["25.0", "4.0 Mbit/s", "0.4 s ago", "3.0 GiB", "1920x1080"] {
            assert!(lines[1].contains(word), "{word}: {}", lines[1]);
        }
        assert_eq!(lines[3..], ["2 streams, 1 as planned, 4.0 Mbit/s, 3.0 GiB recorded", "r0 :8080"]);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_trouble_comes_first() {
        let now = Timestamp::from_second(0).unwrap();
        let mut rows: Vec<Row> = (0..50).map(|n| row(&format!("c{n}"), true)).collect();
        rows.push(row("broken", false));
        let lines = lines(&rows, "", now, 10, 30);
        assert!(lines.len() <= 10);
        assert!(lines[1].starts_with("broken"));
        assert!(lines.iter().any(|line| line == "… and 46 more"));
        assert!(lines.iter().all(|line| line.chars().count() <= 30));
    }
}
