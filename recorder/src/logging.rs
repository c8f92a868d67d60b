//! Logs: for people on a terminal, as JSON otherwise. On standard error; `RUST_LOG` sets what is shown.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// `human` on a terminal, else `json`.
    #[default]
    Auto,
}

/// What is logged where RUST_LOG says nothing. The client of the API server tells each attempt to connect as an error; we tell what it means, once.
const DEFAULT_FILTER: &str = "info,kube_client=off";

/// Sets up logging for the process. Called once; a second call changes nothing.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Human => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // An error means that a logger is there already (a test): it stays.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.with_ansi(terminal).try_init() };
}
