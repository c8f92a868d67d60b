//! `framekeeper-bench`: what recording costs, beside peers and floors, in one run; what writing and receiving alone cost; and how fast
//! footage is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use framekeeper_e2e::bench::floor::{self, Floor};
use framekeeper_e2e::bench::room::{self, Scratch};
use framekeeper_e2e::bench::{operator, page, programs, recording, standing_by};

#[derive(Parser)]
#[command(about = "Measures Framekeeper beside ffmpeg and two floors, by CPU time, in one run")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Mode>,
    /// Numbers of streams to measure recording with.
    #[arg(long, value_delimiter = ',', default_value = "20,100")]
    streams: Vec<usize>,
    /// Length of each measurement in seconds, after 6 s of settling. Shorter ones are good for trying.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measure these only; the page keeps what it has of the others.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "recording,standbys,writing,receiving,finding,operator"
    )]
    only: Vec<Section>,
    /// Where recordings go: a folder on the disk to measure. The system's temporary folder if not given.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Put what was measured between the markers of this page, too.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What there is to measure, in the order of the page. Each is a section between markers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Framekeeper beside ffmpeg and floors.
    Recording,
    /// What standbys of each class add.
    Standbys,
    /// The store alone.
    Writing,
    /// Ingest alone.
    Receiving,
    /// Coverage and clips.
    Finding,
    /// The operator in a cluster; needs root.
    Operator,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Standbys => "standbys",
            Self::Writing => "writing",
            Self::Receiving => "receiving",
            Self::Finding => "finding",
            Self::Operator => "operator",
        }
    }

    /// Bytes that it takes on the disk at most.
    fn bytes_needed(self, arguments: &Arguments) -> u64 {
        let window = Duration::from_secs(arguments.seconds);
        match self {
            Self::Recording => {
                arguments.streams.iter().map(|n| recording::bytes_needed(*n, window)).max().unwrap_or_default()
            }
            Self::Standbys => standing_by::bytes_needed(),
            Self::Writing => programs::WRITING_BYTES,
            Self::Receiving => 0,
            Self::Finding => 1 << 30,
            Self::Operator => operator::BYTES_NEEDED,
        }
    }

    fn measure(self, arguments: &Arguments, scratch: &Path, progress: &impl Fn(&str)) -> Result<String> {
        let window = Duration::from_secs(arguments.seconds);
        match self {
            Self::Recording => {
                let mut text = recording::preface(window);
                for &streams in &arguments.streams {
                    let folder = scratch.join(format!("n{streams}"));
                    fs::create_dir_all(&folder)?;
                    let rows = recording::measure(&folder, streams, window, progress)?;
                    text.push_str(&recording::table(streams, &rows));
                    fs::remove_dir_all(&folder)?;
                }
                Ok(text)
            }
            Self::Standbys => {
                let text = standing_by::measure(scratch, window, progress)?;
                say(&text);
                Ok(format!("{text}\n{}", programs::sharing(progress)?))
            }
            Self::Writing => programs::writing(scratch, window, progress),
            Self::Receiving => programs::receiving(scratch, window, progress),
            Self::Finding => programs::finding(progress),
            Self::Operator => operator::measure(scratch, window.max(STEADY), progress),
        }
    }
}

/// The operator's steady state is looked at for so long at least: much of what it does, it does each ten seconds or less often.
const STEADY: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
enum Mode {
    /// Only receive, for the given seconds; used by the benchmark itself.
    #[command(hide = true)]
    Floor {
        /// Where to append; without it, bytes are dropped.
        #[arg(long)]
        append: Option<PathBuf>,
        /// How long.
        #[arg(long)]
        seconds: u64,
        /// Cameras.
        urls: Vec<String>,
    },
    /// Measures an operator with the API server that this process can reach; used by the benchmark itself.
    #[command(hide = true)]
    InsideCluster {
        /// Where logs go.
        folder: PathBuf,
        /// How long steady state is looked at, seconds.
        seconds: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let progress = |text: &str| tell(&format!("bench, {:4} s: {text}", began.elapsed().as_secs()));
    if let Some(Mode::InsideCluster { folder, seconds }) = &arguments.command {
        say(&operator::run(folder, Duration::from_secs(*seconds), &progress)?);
        return Ok(());
    }
    if let Some(Mode::Floor { append, seconds, urls }) = &arguments.command {
        let sync = Duration::from_millis(500);
        let floor = append.as_ref().map_or(Floor::Drop, |folder| Floor::Append { folder: folder.clone(), sync });
        let bytes = floor::run(&floor, urls, Duration::from_secs(*seconds))?;
        say(&format!("{bytes}"));
        return Ok(());
    }
    let scratch = Scratch::new(&arguments.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let needed = arguments.only.iter().map(|section| section.bytes_needed(&arguments)).max().unwrap_or_default();
    room::check(scratch.path(), needed)?;
    if arguments.only.contains(&Section::Operator) {
        operator::check()?;
    }
    publish(&arguments, "machine", &machine()?)?;
    for section in &arguments.only {
        let text = section.measure(&arguments, scratch.path(), &progress)?;
        publish(&arguments, section.name(), &text)?;
    }
    progress("done");
    Ok(())
}

/// Says what was measured, and puts it into the page at once: what comes behind may break off.
fn publish(arguments: &Arguments, section: &str, text: &str) -> Result<()> {
    say(text);
    let Some(path) = &arguments.write else { return Ok(()) };
    let old = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let new = page::put(&old, section, text).with_context(|| path.display().to_string())?;
    fs::write(path, new).with_context(|| path.display().to_string())
}

#[expect(clippy::print_stdout, reason = "a command's report goes to its standard output")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "progress of a long measurement, apart from the report")]
fn tell(text: &str) {
    eprintln!("{text}");
}

fn machine() -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(" unknown")
        .trim_start_matches([' ', '\t', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{cores} cores of {processor}, kernel {kernel}, ext4 on a virtual disk. Numbers of different machines, or of different runs, do not compare; the ratios in one table do."
    ))
}
