//! `framekeeper-operator`: plans which recorder records what, and runs it.

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use framekeeper_operator::local::run::{self, Options};
use framekeeper_operator::local::screen::Screen;
use tracing_subscriber::EnvFilter;

/// Plans which recorder records what, and runs it.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How logs are written, on standard error; RUST_LOG says which.
    #[arg(long, value_enum, default_value_t = LogFormat::Auto, global = true)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    Local(Local),
}

/// Runs recorders on this machine from manifests in files, without a cluster.
///
/// Reads CameraStream, StoragePool and Secret objects as kubectl would, starts the recorders, restarts them when they fail, and
/// follows changes of the files until it gets SIGINT (Ctrl-C) or SIGTERM; then it stops the recorders in order. A second start with
/// the same data folder goes on where the first stopped.
///
/// Exit codes: 0 stopped when told to, 2 the command line or the manifests are wrong, 3 something on this machine is not as it
/// must be (the data folder, a port, the recorder program), 1 anything else.
#[derive(Args)]
struct Local {
    /// YAML or JSON files of manifests, or folders of such files.
    #[arg(required = true, value_name = "FILE")]
    manifests: Vec<PathBuf>,
    /// Folder for footage, statuses, logs and what must be remembered. Made where there is none.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The recorder program [default: framekeeper-recorder beside this program, then in PATH].
    #[arg(long, value_name = "PATH")]
    recorder_bin: Option<PathBuf>,
    /// First port of the recorders' HTTP servers, which get one each from there on. 0: any free ports, the same at the next
    /// start where they are still free.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    http_base_port: u16,
    /// Address of the recorders' HTTP servers.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let screen = Screen::new();
    start_log(cli.log_format, &screen);
    let Command::Local(local) = cli.command;
    match run_local(local, screen, cli.log_format) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_local(local: Local, screen: Screen, log_format: LogFormat) -> anyhow::Result<ExitCode> {
    let options = Options {
        manifests: local.manifests,
        data: local.data,
        recorder_bin: local.recorder_bin,
        http_base_port: local.http_base_port,
        listen: local.listen,
    };
    // One thread, the main one: recorders are its children, and the kernel ends them with the thread that made them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match runtime.block_on(run::run(options, screen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                if log_format == LogFormat::Json {
                    tracing::error!("{line}");
                } else {
                    // Whoever reads this gave a command a moment ago, also where it goes into a pipe.
                    writeln!(std::io::stderr(), "error: {line}")?;
                }
            }
            ExitCode::from(error.exit_code())
        }
    })
}

fn start_log(format: LogFormat, screen: &Screen) {
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let screen = screen.clone();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(move || screen.clone());
    if human {
        builder.with_ansi(terminal).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
