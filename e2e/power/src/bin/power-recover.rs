//! `power-recover`: lets the store recover a volume and records a second on it; says how long that took.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use framekeeper_e2e_power::recover::{Site, recover};

#[derive(Parser)]
#[command(about = "Lets the store recover a volume, records a second on it, and says how long that took")]
struct Cli {
    /// The volume's folder.
    folder: PathBuf,
    /// Size of its segments.
    #[arg(long)]
    segment_bytes: u64,
    /// Its budget.
    #[arg(long)]
    budget_bytes: u64,
}

fn main() -> Result<()> {
    let Cli { folder, segment_bytes, budget_bytes } = Cli::parse();
    let recovered = recover(&Site { folder, segment_bytes, budget_bytes })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&recovered)?)?;
    Ok(())
}
