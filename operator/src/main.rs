//! `framekeeper-operator`: plans which recorder records what, and runs it.

use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use framekeeper_operator::cluster;
use framekeeper_operator::local::run::{self, Options};
use framekeeper_operator::local::screen::Screen;
use tracing_subscriber::EnvFilter;

/// Ten thousand streams are as many small objects of many kinds, which come and go: the system's allocator keeps half as much again as they need.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How it is set: one arena, for there is one thread that does most, and what is free is given back.
#[expect(unsafe_code, reason = "jemalloc finds its settings by the name of this symbol")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 44] = b"narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0\0";

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
    Run(Run),
    Check(Check),
    Local(Local),
}

/// Runs the control plane of a cluster: it looks after the CameraStreams and StoragePools, one of several operators at a time.
///
/// Where the cluster is it learns from its pod, or from a kubeconfig. It ends in order at SIGTERM or SIGINT, and another operator goes on at once; recorders go on
/// without any.
#[derive(Args)]
struct Run {
    /// Namespaces whose objects are looked after, separated by commas. Without it: all.
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Image of the recorders, with a tag or a digest.
    #[arg(long, value_name = "IMAGE", env = "FRAMEKEEPER_RECORDER_IMAGE")]
    recorder_image: String,
    /// When that image is pulled: Always, IfNotPresent or Never.
    #[arg(long, value_name = "POLICY")]
    recorder_image_pull_policy: Option<String>,
    /// Secrets for its registry, separated by commas; they must be in the namespace of each pool.
    #[arg(long, value_name = "SECRETS", value_delimiter = ',')]
    recorder_image_pull_secrets: Vec<String>,
    /// The Lease by which the operators of an installation find their leader.
    #[arg(long, value_name = "NAME", default_value = "framekeeper-operator")]
    lease_name: String,
    /// Namespace of that Lease.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Who this operator is: what no other one ever is.
    #[arg(long, value_name = "UID", env = "POD_UID", default_value_t = uuid::Uuid::new_v4().to_string())]
    identity: String,
    /// Address and port of /metrics, /livez and /readyz.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

/// Checks that the API server serves the custom resources and that an operator leads. Exit codes: 0 it is so, 1 it is not.
#[derive(Args)]
struct Check {
    /// The Lease by which the operators find their leader.
    #[arg(long, value_name = "NAME", default_value = "framekeeper-operator")]
    lease_name: String,
    /// Namespace of that Lease.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
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
    let done = match cli.command {
        Command::Run(run) => run_in_cluster(run),
        Command::Check(check) => check_cluster(&check),
        Command::Local(local) => run_local(local, screen, cli.log_format),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_in_cluster(run: Run) -> anyhow::Result<ExitCode> {
    let options = cluster::options::Options {
        namespace: run.namespace,
        identity: run.identity,
        watch_namespaces: run.watch_namespaces,
        lease_name: run.lease_name,
        listen: run.listen,
        image: cluster::options::Image {
            name: run.recorder_image,
            pull_policy: run.recorder_image_pull_policy,
            pull_secrets: run.recorder_image_pull_secrets,
        },
    };
    // The election must not wait for a decision about ten thousand streams: that is made in this thread, all else in another. More of them would each keep
    // memory of their own that nobody uses.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(cluster::run::run(options))?;
    Ok(ExitCode::SUCCESS)
}

fn check_cluster(check: &Check) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(cluster::check::check(&check.namespace, &check.lease_name))?;
    writeln!(std::io::stdout(), "{said}")?;
    Ok(ExitCode::SUCCESS)
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

/// What is logged where RUST_LOG says nothing. The client of the API server tells each attempt to connect as an error; we tell what it means, once.
const DEFAULT_FILTER: &str = "info,kube_client=off";

fn start_log(format: LogFormat, screen: &Screen) {
    let terminal = std::io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let screen = screen.clone();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(move || screen.clone());
    if human {
        builder.with_ansi(terminal).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
