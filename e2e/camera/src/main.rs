//! `ledger-camera`: serves ledger cameras until it is told to stop.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use framekeeper_e2e_camera::{CameraSpec, Server, ServerConfig};

/// RTSP test cameras that number and log every coded frame.
///
/// Prints one line of JSON with its ports and cameras when it is ready.
#[derive(Parser)]
struct Arguments {
    /// Where RTSP is served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8554")]
    listen: SocketAddr,
    /// Where faults are switched and newest frames asked for, over HTTP.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// Folder of the ledgers: <name>.ledger.
    #[arg(long, default_value = "ledgers")]
    log_dir: PathBuf,
    /// Folder in which encoded clips are kept.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Milliseconds from tick to tick.
    #[arg(long, default_value_t = 10)]
    tick_ms: u64,
    /// JSON file with an array of cameras.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Stop when standard input ends, as it does when the parent dies.
    #[arg(long)]
    exit_with_parent: bool,
    /// Cameras, as name=cam01,kind=synthetic|frozen|black|clip,width=1920,height=1080,fps=25,bitrate=4M,gop=50,…
    cameras: Vec<CameraSpec>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut config = ServerConfig::new(arguments.log_dir, arguments.cameras);
    config.listen = arguments.listen;
    config.control = arguments.control;
    config.tick = Duration::from_millis(arguments.tick_ms);
    if let Some(cache) = arguments.cache {
        config.cache_dir = cache;
    }
    if let Some(path) = arguments.config {
        let text = std::fs::read(&path).with_context(|| format!("--config {}", path.display()))?;
        let more: Vec<CameraSpec> =
            serde_json::from_slice(&text).with_context(|| format!("--config {}", path.display()))?;
        config.cameras.extend(more);
    }
    anyhow::ensure!(!config.cameras.is_empty(), "no camera is given");
    let names: Vec<String> = config.cameras.iter().flat_map(CameraSpec::expand).map(|spec| spec.name).collect();
    let server = Server::start(config)?;
    let ready = serde_json::json!({
        "rtsp": server.addr(),
        "control": server.control_addr(),
        "cameras": names.iter().map(|name| server.url(name)).collect::<Vec<_>>(),
    });
    writeln!(std::io::stdout(), "{ready}")?;

    let (stop, stopped) = std::sync::mpsc::channel();
    if arguments.exit_with_parent {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut sink = [0; 256];
            while matches!(std::io::stdin().read(&mut sink), Ok(1..)) {}
            let _ = stop.send(());
        });
    }
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = stop.send(());
        }
    });
    while stopped.recv_timeout(Duration::from_millis(500)).is_err() {
        if !server.is_running() {
            break;
        }
    }
    server.stop()
}
