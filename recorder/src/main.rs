//! `framekeeper-recorder`: the command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use framekeeper_recorder::cluster::{ClusterOptions, Own};
use framekeeper_recorder::run::control::{self, Verb, command};
use framekeeper_recorder::run::{PeerOptions, RunOptions, Writes, run};
use framekeeper_recorder::volume_cmd::{self, VolumeCommand};
use framekeeper_recorder::{Exit, LogFormat, start_logging, still, supervisor};

/// Records cameras to plain MP4 files, and serves what it recorded.
#[derive(Parser)]
#[command(version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "Exit status: 0 stopped as asked, 64 wrong command line, 65 no assignment can be used, 70 internal error, \
73 no volume can be used, 75 the address to listen on is taken.";

#[derive(Subcommand)]
enum Command {
    /// Record the channels of an assignment until SIGTERM.
    Run(Run),
    /// Look at recorded footage, check, repair and export it, with no recorder; or change what a running recorder does with a volume.
    #[command(subcommand)]
    Volume(VolumeChange),
    /// Make a JPEG of the coded frames on standard input.
    #[command(hide = true)]
    DecodeStill {
        /// Take no more memory than so much. Default: what decoding takes.
        #[arg(long, value_name = "BYTES")]
        memory: Option<u64>,
    },
}

#[derive(Subcommand)]
enum VolumeChange {
    /// Record no stream to the volume any more, where another one takes it; its footage stays readable.
    Drain(VolumeNamed),
    /// Drain the volume and close it: when this returns, its disk may be taken away.
    Stop(VolumeNamed),
    /// Use the volume again, opened anew where it had failed or was stopped.
    Start(VolumeNamed),
    /// List what a running recorder holds: footage that is never given up.
    Holds(HoldsOf),
    /// Release a hold whose CameraStream is gone, so that its footage may be given up. What an annotation holds is released there.
    Release(HoldNamed),
    #[command(flatten)]
    Footage(VolumeCommand),
}

#[derive(Args)]
struct VolumeNamed {
    /// Name of the volume in its pool.
    #[arg(value_name = "NAME")]
    volume: String,
    /// Folder in which the running recorder's volumes are: its `--volumes`.
    #[arg(long, value_name = "DIR")]
    volumes: PathBuf,
    /// How long to wait until it is done.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

#[derive(Args)]
struct HoldsOf {
    /// Folder in which the running recorder's volumes are: its `--volumes`.
    #[arg(long, value_name = "DIR")]
    volumes: PathBuf,
    /// Print a JSON array instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct HoldNamed {
    /// The hold, as `volume holds` lists it.
    #[arg(value_name = "HOLD")]
    hold: String,
    /// Folder in which the running recorder's volumes are: its `--volumes`.
    #[arg(long, value_name = "DIR")]
    volumes: PathBuf,
    /// How long to wait until it is done.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

#[derive(Args)]
struct Run {
    /// File with the assignment: one Recorder object as YAML, replaced by rename when it changes.
    #[arg(long, value_name = "FILE")]
    assignment: PathBuf,
    /// Folder with the cameras' credentials: DIR/<namespace>/<Secret>/{username,password}.
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Folder in which the assignment's volumes are, each by its name.
    #[arg(long, value_name = "DIR")]
    volumes: PathBuf,
    /// File that the Recorder object with its status is written to.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
    /// Address and port of the HTTP server; port 0 takes a free one and says which in the status.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How logs are written.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// How footage is written: past the page cache (O_DIRECT through io_uring) or through it.
    #[arg(long, value_enum, default_value_t, env = "FRAMEKEEPER_WRITES")]
    writes: Writes,
    /// All footage is read again and checked within so many seconds, where that takes no more than a twentieth of the disk's time.
    /// Default: 25 days.
    #[arg(long, value_name = "SECONDS", default_value_t = framekeeper_recorder::run::SCRUB_ROUND.as_secs(), env = "FRAMEKEEPER_SCRUB_ROUND")]
    scrub_round: u64,
    /// File with the key that other recorders know this one by; made there, readable for its owner only, where there is none. Without it the key is
    /// another one after each start, and other recorders must be told.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Address and port where other recorders that share streams reach this one. Without it, this one dials them.
    #[arg(long, value_name = "ADDR:PORT")]
    peer_listen: Option<SocketAddr>,
    /// A recorder that failed has its streams back when it has recorded them for so many seconds without a fault.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "FRAMEKEEPER_STABLE")]
    stable: u64,
    /// Name of the Recorder of this recorder, in a cluster: then --assignment and what is in --secrets come from the API server, and --status goes there.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    cluster: Option<Own>,
    /// Folder where the recorder's Secret is mounted, for when the API server does not answer.
    #[arg(long, value_name = "DIR", requires = "cluster")]
    mounted_secrets: Option<PathBuf>,
    /// Address that others reach this recorder at, where it is not the one it listens on.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// Record in this very process: nobody restarts it when it crashes.
    #[arg(long)]
    no_supervisor: bool,
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli { command: Command::Run(arguments) }) => start(arguments),
        Ok(Cli { command: Command::Volume(change) }) => change_volume(change),
        Ok(Cli { command: Command::DecodeStill { memory } }) => still::main(memory),
        Err(error) => {
            // Nowhere to tell when even this fails.
            let _ = error.print();
            // Help and version are asked for; everything else is a mistake.
            if !error.use_stderr() {
                return Exit::Ok.into();
            }
            let is_volume = std::env::args_os().nth(1).is_some_and(|word| word == "volume");
            if is_volume { volume_cmd::CANNOT.into() } else { Exit::Usage.into() }
        }
    }
}

fn change_volume(change: VolumeChange) -> ExitCode {
    let (verb, VolumeNamed { volume, volumes, wait }) = match change {
        VolumeChange::Drain(named) => (Verb::Drain, named),
        VolumeChange::Stop(named) => (Verb::Stop, named),
        VolumeChange::Start(named) => (Verb::Start, named),
        VolumeChange::Holds(of) => return say(list_holds(&of)),
        VolumeChange::Release(HoldNamed { hold, volumes, wait }) => {
            return say(control::release(&volumes, &hold, Duration::from_secs(wait)));
        }
        VolumeChange::Footage(command) => return volume_cmd::run(&command),
    };
    say(command(&volumes, verb, &volume, Duration::from_secs(wait)))
}

fn list_holds(of: &HoldsOf) -> Result<String, String> {
    let holds = control::holds(&of.volumes)?;
    if of.json {
        return serde_json::to_string_pretty(&holds).map_err(|error| error.to_string());
    }
    if holds.is_empty() {
        return Ok("nothing is held".to_owned());
    }
    Ok(holds.iter().map(control::HoldView::line).collect::<Vec<_>>().join("\n"))
}

fn say(done: Result<String, String>) -> ExitCode {
    // Nowhere to tell when even this fails.
    let _ = match &done {
        Ok(sentence) => writeln!(std::io::stdout(), "{sentence}"),
        Err(sentence) => writeln!(std::io::stderr(), "{sentence}"),
    };
    ExitCode::from(u8::from(done.is_err()))
}

fn start(arguments: Run) -> ExitCode {
    start_logging(arguments.log_format);
    if !arguments.no_supervisor && !supervisor::is_worker() {
        let own: Vec<OsString> = std::env::args_os().skip(1).collect();
        return match supervisor::run(&own) {
            Ok(code) => code.into(),
            Err(error) => {
                tracing::error!(%error, "the supervisor cannot work");
                Exit::Internal.into()
            }
        };
    }
    if !supervisor::follow_supervisor() {
        return Exit::Internal.into();
    }
    let options = RunOptions {
        assignment: arguments.assignment,
        secrets: arguments.secrets,
        volumes: arguments.volumes,
        status: arguments.status,
        listen: arguments.listen,
        writes: arguments.writes,
        scrub_round: Duration::from_secs(arguments.scrub_round),
        peers: PeerOptions {
            key: arguments.key,
            listen: arguments.peer_listen,
            hold: Duration::from_secs(arguments.stable),
        },
        advertise: arguments.advertise,
        cluster: arguments.cluster.map(|own| ClusterOptions { own, mounted_secrets: arguments.mounted_secrets }),
    };
    run(&options).into()
}
