//! `framekeeper-recorder volume …`: footage without a recorder, an operator or a network. Works on a volume, on a plain copy of its files,
//! on a part of `streams/`, and on a single segment; only `repair` opens anything for writing.
//!
//! ```text
//! mod ── arguments, exit statuses        output ── progress, lines, JSON
//! places ── several as one
//!  ├─ ls      heads and indexes ─► streams, runs, gaps        ┐
//!  ├─ check   every byte ─► findings                          ├─ framekeeper_store::inspect
//!  ├─ repair  every byte ─► findings ─► what can be made good ┘
//!  └─ export  shelf (footage out of files) ─► serve::clip ─► one MP4
//! ```

mod check;
mod export;
mod ls;
mod output;
mod places;
mod repair;
mod shelf;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use framekeeper_media::WallTime;
use framekeeper_store::inspect::PlaceError;

use crate::serve::query::parse_time;

/// Nothing is damaged; the export is whole.
pub const CLEAN: u8 = 0;
/// Something is damaged; the export lacks what is damaged.
pub const DAMAGED: u8 = 1;
/// Wrong command line, or the place cannot be read or written.
pub const CANNOT: u8 = 2;
/// There is no such footage.
pub const NOTHING: u8 = 3;

const EXIT_STATUS: &str = "Exit status: 0 nothing is damaged, 1 something is damaged (check), could not be made good (repair) or was left \
out (export), 2 wrong command line or the folder cannot be read or written, 3 there is no such footage.";

/// What can be done with footage that lies in files.
#[derive(Subcommand)]
pub enum VolumeCommand {
    /// List streams, their runs, gaps with reasons, and segments.
    #[command(after_help = EXIT_STATUS)]
    Ls(Ls),
    /// Check every box and checksum, the indexes against the fragments, and the manifest against the files. Writes nothing.
    #[command(after_help = EXIT_STATUS)]
    Check(Check),
    /// Make good what can be made good, and mark what cannot: manifest and catalogue, heads, indexes, ends of files.
    #[command(after_help = EXIT_STATUS)]
    Repair(Repair),
    /// Write a range of one stream to an MP4 file.
    #[command(after_help = EXIT_STATUS)]
    Export(Export),
}

#[derive(Args)]
struct Common {
    /// A volume, a copy of one, a part of its streams/ folder, or a segment file.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Several {
    /// A volume, a copy of one, a part of its streams/ folder, or a segment file. Several are looked at as one: give all volumes of a recorder.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Arguments of `ls`.
#[derive(Args)]
pub struct Ls {
    #[command(flatten)]
    several: Several,
    /// Only this stream.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = stream_name)]
    stream: Option<String>,
    /// Only what is at or behind this time, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<WallTime>,
    /// Only what is before this time, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<WallTime>,
    /// List the segment files too.
    #[arg(long)]
    segments: bool,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    common: Common,
}

/// Arguments of `repair`.
#[derive(Args)]
pub struct Repair {
    #[command(flatten)]
    common: Common,
    /// Pool of the volume, where framekeeper.json is lost: it is in no other file.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = stream_name, requires = "recorder")]
    pool: Option<String>,
    /// Recorder of the volume, where framekeeper.json is lost.
    #[arg(long, value_name = "NAME", requires = "pool")]
    recorder: Option<String>,
}

/// Arguments of `export`.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    several: Several,
    /// The stream.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = stream_name)]
    stream: String,
    /// From this time on, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: WallTime,
    /// Up to this time, RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: WallTime,
    /// What becomes of the time in which nothing was recorded, or what was is damaged.
    #[arg(long, value_enum, default_value_t)]
    gaps: GapChoice,
    /// The file to write; it must not be there.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum GapChoice {
    /// What comes next follows at once.
    #[default]
    Close,
    /// The last frame before it lasts until what comes next.
    Keep,
}

fn time(text: &str) -> Result<WallTime, String> {
    parse_time(text).ok_or_else(|| "expected an RFC 3339 time such as 2026-11-21T14:03:00.000Z".to_owned())
}

fn stream_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("expected namespace/name, such as default/door".to_owned()),
    }
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
    #[error("{0}")]
    Footage(String),
    #[error("{0}")]
    Nothing(String),
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: &VolumeCommand) -> ExitCode {
    let done = match command {
        VolumeCommand::Ls(ls) => ls::run(ls),
        VolumeCommand::Check(check) => check::run(check),
        VolumeCommand::Repair(repair) => repair::run(repair),
        VolumeCommand::Export(export) => export::run(export),
    };
    let code = done.unwrap_or_else(|failure| {
        output::complain(&failure.to_string());
        if matches!(failure, Failure::Nothing(_)) { NOTHING } else { CANNOT }
    });
    ExitCode::from(code)
}
