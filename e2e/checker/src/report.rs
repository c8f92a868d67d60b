//! What a run of the checker found, as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use crate::judge::{StreamReport, TrackReport};
use crate::segment::Finding;

/// Everything that was checked.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Segment files that were walked.
    pub files: usize,
    /// Files that ffmpeg decoded.
    pub decoded: usize,
    /// What is wrong with files.
    pub file_findings: Vec<Finding>,
    /// The streams against their ledgers.
    pub streams: Vec<StreamReport>,
    /// What is wrong with no file or stream in particular.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.file_findings.is_empty()
            && self.findings.is_empty()
            && self.streams.iter().all(|stream| stream.findings.is_empty())
    }

    /// A line for each track, then what is wrong.
    pub fn table(&self) -> String {
        let mut out = String::new();
        if !self.streams.is_empty() {
            self.streams_table(&mut out);
        }
        let _ = writeln!(out, "{} files walked, {} decoded", self.files, self.decoded);
        for finding in &self.file_findings {
            let _ = writeln!(out, "WRONG {finding}");
        }
        for stream in &self.streams {
            for finding in &stream.findings {
                let _ = writeln!(out, "WRONG {}: {finding}", stream.stream);
            }
        }
        for finding in &self.findings {
            let _ = writeln!(out, "WRONG {finding}");
        }
        out
    }

    fn streams_table(&self, out: &mut String) {
        let width = self.streams.iter().map(|stream| stream.stream.len()).max().unwrap_or(0).max(6);
        let _ = writeln!(
            out,
            "{:width$} {:5} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} {:>15}",
            "stream",
            "track",
            "expected",
            "found",
            "missing",
            "doubled",
            "order",
            "altered",
            "media ms",
            "a/v ms",
            "wall ms"
        );
        for stream in &self.streams {
            let tracks = [("video", Some(&stream.video)), ("audio", stream.audio.as_ref())];
            for (name, track) in tracks.into_iter().filter_map(|(name, track)| Some((name, track?))) {
                let av = if name == "audio" { format!("{:.2}", stream.av_deviation_ms) } else { String::new() };
                let _ = writeln!(
                    out,
                    "{:width$} {name:5} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9.3} {av:>9} {:>15}",
                    stream.stream,
                    track.expected,
                    track.found,
                    track.missing,
                    track.doubled,
                    track.out_of_order,
                    track.altered + track.unknown,
                    track.media_deviation_ms,
                    wall(track),
                );
            }
        }
    }
}

fn wall(track: &TrackReport) -> String {
    track.wall_deviation.map_or_else(String::new, |wall| format!("{:.1}..{:.1}", wall.least_ms, wall.largest_ms))
}
