//! `ledger-check`: recorded media against the ledgers of the cameras that made it.
//!
//! Ends with 0 when all is right, 1 when something is not, 2 when it was asked something impossible.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use framekeeper_e2e_checker::clip;
use framekeeper_e2e_checker::decode;
use framekeeper_e2e_checker::foreign::{self, Searched};
use framekeeper_e2e_checker::found::Found;
use framekeeper_e2e_checker::judge::{From, Rules, Until, judge};
use framekeeper_e2e_checker::ledger::Ledger;
use framekeeper_e2e_checker::movie::{Handler, Movie};
use framekeeper_e2e_checker::report::Report;
use framekeeper_e2e_checker::segment::{Finding, Segment, Tail};
use framekeeper_e2e_checker::volume::{State, Volume};

#[derive(Parser)]
#[command(about = "Checks recorded media against the ledgers of the cameras that made it", version)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    check: Check,
}

#[derive(Subcommand)]
enum Command {
    /// Walk segment files (also copies taken while they are written), and decode them; no ledger needed.
    Walk {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Do not decode.
        #[arg(long)]
        no_decode: bool,
    },
    /// Search every byte of volumes for footage of another stream than the file's own.
    Foreign {
        #[command(flatten)]
        sources: Sources,
        /// The volumes.
        #[arg(long, required = true, num_args = 1..)]
        volume: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Sources {
    /// Ledgers, or folders of `*.ledger`.
    #[arg(long, num_args = 1..)]
    ledger: Vec<PathBuf>,
    /// A stream whose camera has another name than the stream: `namespace/name=camera`.
    #[arg(long, value_parser = pair)]
    map: Vec<(String, String)>,
}

/// Wall times may be so much off: a file is decoded when in doubt.
const DEVIATION_US: i64 = 10_000_000;

#[derive(Args)]
struct Check {
    #[command(flatten)]
    sources: Sources,
    /// Volumes to check.
    #[arg(long, num_args = 1..)]
    volume: Vec<PathBuf>,
    /// The volumes together hold the streams; each frame counts once.
    #[arg(long)]
    union: bool,
    /// A recorder has the volumes open.
    #[arg(long)]
    live: bool,
    /// Those of the volumes whose power was lost while they were recorded to, and which nobody has opened since.
    #[arg(long, num_args = 1..)]
    unopened: Vec<PathBuf>,
    /// A clip to check; with `--volume` against the wall times recorded there.
    #[arg(long, requires_all = ["from", "to", "stream"])]
    clip: Option<PathBuf>,
    /// With `--volume`: a stretch of the clip's stream that is said to be damaged, `FROM/TO`; its pictures may not be shown.
    #[arg(long, value_parser = stretch)]
    damaged: Vec<(i64, i64)>,
    /// Stream of the clip.
    #[arg(long)]
    stream: Option<String>,
    /// Begin of the clip's range, or of the time from which on frames are expected (default: the first that is found).
    #[arg(long, value_parser = moment_ns)]
    from: Option<i64>,
    /// End of the clip's range.
    #[arg(long, value_parser = moment_ns)]
    to: Option<i64>,
    /// Frames emitted later are not expected (default: all of the ledger are).
    #[arg(long, value_parser = moment_ns, conflicts_with = "until_last_found")]
    stop: Option<i64>,
    /// Frames behind the last one that is found are not expected.
    #[arg(long)]
    until_last_found: bool,
    /// First expected picture.
    #[arg(long, conflicts_with = "from")]
    from_number: Option<u64>,
    /// Expect only what was emitted while a session was playing, but for so many milliseconds before its end.
    #[arg(long, value_name = "GRACE_MS")]
    sessions: Option<i64>,
    /// A moment at which the recorder was killed.
    #[arg(long, value_parser = moment_ns)]
    kill: Vec<i64>,
    /// A wall time up to which a recorder said a stream was durable: `namespace/name=RFC3339`. The frame must be there.
    #[arg(long, value_parser = durable)]
    durable: Vec<(String, i64)>,
    /// What may be missing before a kill; without kills: in one hole.
    #[arg(long, default_value_t = 0.0)]
    max_missing_ms: f64,
    /// When it must be recording again after a kill.
    #[arg(long, default_value_t = 5_000.0)]
    max_back_ms: f64,
    /// How far presentation times may deviate.
    #[arg(long, default_value_t = 1.0)]
    max_media_ms: f64,
    /// How far recorded wall times may be from the moments of emission.
    #[arg(long)]
    max_wall_ms: Option<f64>,
    /// Cameras whose streams are not on the volumes are no finding.
    #[arg(long)]
    ignore_absent: bool,
    /// Streams on the volumes whose cameras have no ledger here are no finding.
    #[arg(long)]
    ignore_others: bool,
    /// Without volumes: pictures so close to the ends of a clip's range may be there or not.
    #[arg(long, default_value_t = 20)]
    edge_ms: i64,
    /// Do not decode with ffmpeg.
    #[arg(long)]
    no_decode: bool,
    /// Write the report as JSON here.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .ok_or_else(|| format!("`{text}` is not STREAM=CAMERA"))
}

/// Two wall times in microseconds since 1970.
fn stretch(text: &str) -> Result<(i64, i64), String> {
    let (from, to) = text.split_once('/').ok_or_else(|| format!("`{text}` is not FROM/TO"))?;
    Ok((moment_ns(from)?.div_euclid(1_000), moment_ns(to)?.div_euclid(1_000)))
}

/// A stream, and a wall time in microseconds since 1970.
fn durable(text: &str) -> Result<(String, i64), String> {
    let (stream, time) = pair(text).map_err(|_| format!("`{text}` is not STREAM=TIME"))?;
    Ok((stream, moment_ns(&time)?.div_euclid(1_000)))
}

/// RFC 3339, or nanoseconds since 1970.
fn moment_ns(text: &str) -> Result<i64, String> {
    if let Ok(ns) = text.parse() {
        return Ok(ns);
    }
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{error}; RFC 3339 or nanoseconds since 1970"))?;
    i64::try_from(time.as_nanosecond()).map_err(|_| "out of range".to_owned())
}

impl Sources {
    fn ledgers(&self) -> anyhow::Result<Vec<Ledger>> {
        let ledgers = Ledger::read_all(&self.ledger)?;
        if ledgers.is_empty() {
            bail!("--ledger: no ledger in {:?}; see --help", self.ledger);
        }
        Ok(ledgers)
    }

    fn camera_of(&self, stream: &str) -> String {
        let mapped = self.map.iter().find(|(name, _)| name == stream).map(|(_, camera)| camera.as_str());
        mapped.unwrap_or_else(|| stream.rsplit('/').next().unwrap_or(stream)).to_owned()
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ledger-check: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Some(Command::Walk { files, no_decode }) => walk(&files, no_decode),
        Some(Command::Foreign { sources, volume }) => search(&sources, &volume),
        None => check_all(&cli.check),
    }
}

fn walk(files: &[PathBuf], no_decode: bool) -> anyhow::Result<bool> {
    let mut report = Report { files: files.len(), ..Report::default() };
    let mut segments = Vec::new();
    for file in files {
        match Segment::read(file, Tail::Whole).with_context(|| file.display().to_string())? {
            Ok(segment) => segments.push(segment),
            Err(finding) => report.file_findings.push(finding),
        }
    }
    report.file_findings.extend(segments.iter().flat_map(|segment| segment.findings.iter().cloned()));
    if !no_decode {
        decode_all(segments.iter(), (false, false), &mut report)?;
    }
    finish(&report, None)
}

fn search(sources: &Sources, volumes: &[PathBuf]) -> anyhow::Result<bool> {
    let ledgers = sources.ledgers()?;
    let mut clean = true;
    let mut out = std::io::stdout().lock();
    for volume in volumes {
        let Searched { files, stamps, findings } =
            foreign::search(volume, &ledgers, |stream| sources.camera_of(stream))?;
        writeln!(out, "{}: {files} files, {stamps} stamps, {} wrong", volume.display(), findings.len())?;
        for finding in &findings {
            writeln!(out, "WRONG {finding}")?;
        }
        clean &= findings.is_empty();
    }
    Ok(clean)
}

fn check_all(check: &Check) -> anyhow::Result<bool> {
    // Once for what is wrong with the command line, before anything is read.
    check.sources.ledgers()?;
    if check.volume.is_empty() && check.clip.is_none() {
        bail!("--volume or --clip must be given");
    }
    let mut report = Report::default();
    if let Some(path) = check.unopened.iter().find(|path| !check.volume.contains(path)) {
        bail!("--unopened {}: not among those of --volume", path.display());
    }
    let state = |path: &PathBuf| match (check.unopened.contains(path), check.live) {
        (true, _) => State::Unopened,
        (false, true) => State::Live,
        (false, false) => State::AtRest,
    };
    let read = |path: &PathBuf| match (&check.clip, &check.stream) {
        (Some(_), Some(stream)) => Volume::read_streams(path, stream, state(path)),
        _ => Volume::read(path, state(path)),
    };
    let volumes = check.volume.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    // Again: cameras that go on have emitted since what the volumes hold by now.
    let ledgers = check.sources.ledgers()?;
    for volume in &volumes {
        report.files += volume.segments.len();
        report.file_findings.extend(volume.findings.iter().cloned());
    }
    let found: Vec<Vec<Found>> = volumes.iter().map(Found::on_volume).collect();
    match &check.clip {
        Some(path) => check_clip(check, path, &ledgers, &found, &mut report)?,
        None => {
            if !check.no_decode {
                let all = volumes.iter().flat_map(|volume| &volume.segments);
                decode_all(all.filter(|segment| is_looked_at(check, segment)), (check.live, check.union), &mut report)?;
            }
            check_streams(check, &ledgers, &found, &mut report);
        }
    }
    finish(&report, check.json.as_deref())
}

/// Whether a file is decoded. Of recorders that record, that are asked again and again, only what is not older than the time from which on frames are expected.
fn is_looked_at(check: &Check, segment: &Segment) -> bool {
    let newest_us = segment.video().map(|frame| frame.wall_us).max().unwrap_or(i64::MAX);
    check.from.filter(|_| check.live).is_none_or(|from_ns| newest_us >= from_ns / 1_000 - DEVIATION_US)
}

fn check_streams(check: &Check, ledgers: &[Ledger], found: &[Vec<Found>], report: &mut Report) {
    let from = match (check.from, check.from_number) {
        (Some(ns), _) => From::EmittedNs(ns),
        (None, Some(number)) => From::Number(number),
        (None, None) => From::FirstFound,
    };
    let until = match check.stop {
        Some(ns) => Until::EmittedNs(ns),
        None if check.until_last_found => Until::LastFound,
        None => Until::EndOfLedger,
    };
    let mut kills_ns = check.kill.clone();
    kills_ns.sort_unstable();
    let rules = Rules {
        from,
        until,
        decodable: check.union,
        sessions_grace_ms: check.sessions,
        kills_ns,
        max_missing_ms: check.max_missing_ms,
        max_back_ms: check.max_back_ms,
        max_media_ms: check.max_media_ms,
        max_wall_ms: check.max_wall_ms,
        ..Rules::default()
    };
    let mut by_camera = BTreeMap::<String, Vec<&Found>>::new();
    for one in found.iter().flatten() {
        by_camera.entry(check.sources.camera_of(&one.stream)).or_default().push(one);
    }
    for ledger in ledgers {
        let of_camera = |(stream, _): &&(String, i64)| check.sources.camera_of(stream) == ledger.camera;
        let durable_us = check.durable.iter().filter(of_camera).map(|&(_, time)| time).collect();
        let rules = Rules { durable_us, ..rules.clone() };
        match by_camera.remove(&ledger.camera) {
            Some(copies) if check.union => report.streams.push(judge(&copies, ledger, &rules)),
            Some(copies) => report.streams.extend(copies.iter().map(|copy| judge(&[copy], ledger, &rules))),
            None if check.ignore_absent => {}
            None => report.findings.push(format!("camera {}: no stream of it on the volumes", ledger.camera)),
        }
    }
    for (camera, found) in by_camera.into_iter().filter(|_| !check.ignore_others) {
        let streams: Vec<_> = found.iter().map(|one| one.stream.as_str()).collect();
        report.findings.push(format!("streams {streams:?}: no ledger of a camera {camera}"));
    }
}

fn check_clip(
    check: &Check,
    path: &Path,
    ledgers: &[Ledger],
    found: &[Vec<Found>],
    report: &mut Report,
) -> anyhow::Result<()> {
    let (Some(from), Some(to), Some(stream)) = (check.from, check.to, &check.stream) else {
        bail!("--clip needs --from, --to and --stream");
    };
    let camera = check.sources.camera_of(stream);
    let ledger = ledgers
        .iter()
        .find(|ledger| ledger.camera == camera)
        .with_context(|| format!("--ledger: none of a camera {camera}"))?;
    report.files += 1;
    let movie = match Movie::read(path).with_context(|| path.display().to_string())? {
        Ok(movie) => movie,
        Err(finding) => {
            report.file_findings.push(finding);
            return Ok(());
        }
    };
    report.file_findings.extend(movie.findings.iter().cloned());
    let copies: Vec<&Found> = found.iter().flatten().filter(|one| one.stream == *stream).collect();
    let walls = (!copies.is_empty()).then(|| clip::Recorded::of(&copies).without(&check.damaged));
    let range = (from.div_euclid(1_000), to.div_euclid(1_000));
    report.streams.push(clip::check(stream, &movie, ledger, range, walls.as_ref(), check.edge_ms));
    if !check.no_decode {
        let shown = movie
            .track(Handler::Video)
            .map_or(0, |track| track.samples.iter().filter(|sample| sample.movie_seconds.is_some()).count());
        report.decoded += 1;
        if let Some(what) = decode::undecodable(path, shown as u64..=shown as u64, false)? {
            report.file_findings.push(Finding { file: path.to_owned(), at: None, what });
        }
    }
    Ok(())
}

/// Decodes files on all processors. `grows`: they are being written; `others`: what is behind a loss counts only where another file has it whole.
fn decode_all<'a>(
    segments: impl Iterator<Item = &'a Segment>,
    (grows, others): (bool, bool),
    report: &mut Report,
) -> anyhow::Result<()> {
    // What begins inside a GOP cannot be decoded alone.
    let segments: Vec<_> =
        segments.filter(|segment| !segment.header.begins_inside_gop && segment.video().next().is_some()).collect();
    let (next, findings) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> std::io::Result<()> {
        while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let all = segment.video().count() as u64;
            let lost = segment.behind_loss().filter(|lost| others && *lost).count() as u64;
            let pictures = all - lost..=all;
            let undecodable = match segment.torn_at {
                Some(end) => decode::undecodable_up_to(&segment.path, end, pictures)?,
                None => decode::undecodable(&segment.path, pictures, grows)?,
            };
            if let Some(what) = undecodable
                && let Ok(mut findings) = findings.lock()
            {
                findings.push(Finding { file: segment.path.clone(), at: None, what });
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(std::io::Error::other("panic"))))
    })
    .context("ffmpeg")?;
    report.decoded += segments.len();
    report.file_findings.extend(findings.into_inner().unwrap_or_default());
    Ok(())
}

fn finish(report: &Report, json: Option<&Path>) -> anyhow::Result<bool> {
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())?;
    }
    std::io::stdout().write_all(report.table().as_bytes())?;
    Ok(report.is_clean())
}
