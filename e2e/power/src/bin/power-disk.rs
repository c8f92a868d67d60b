//! `power-disk`: serves one file that a loop device can stand on.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use framekeeper_e2e_power::disk::{LoggedDisk, serve};
use framekeeper_e2e_power::faulty::FaultyDisk;
use framekeeper_e2e_power::image::{Cut, ImageDisk};
use framekeeper_e2e_power::log::Log;

#[derive(Parser)]
#[command(
    about = "Serves a file for a loop device: logs all that is done to it, or shows what a loss of power leaves of it"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// An empty disk that logs every write and flush.
    Record {
        #[command(flatten)]
        common: Common,
        /// The file that holds the blocks.
        #[arg(long)]
        blocks: PathBuf,
    },
    /// An empty disk that dies when told: a line of standard input is {"kind":"Write","after":5}, {"kind":"Flush","after":0} or null.
    Faulty {
        /// Size of the disk.
        #[arg(long)]
        bytes: u64,
        /// The file that holds the blocks.
        #[arg(long)]
        blocks: PathBuf,
        /// Folder that the file is to appear in, as `disk`.
        #[arg(long)]
        mount: PathBuf,
    },
    /// A disk that shows an image for each line of standard input, such as {"records":1234,"seed":5}; answers what survived.
    Images {
        #[command(flatten)]
        common: Common,
        /// Show this one from the start.
        #[arg(long, value_parser = cut)]
        cut: Option<Cut>,
    },
}

#[derive(Args)]
struct Common {
    /// Size of the disk.
    #[arg(long)]
    bytes: u64,
    /// The log.
    #[arg(long)]
    log: PathBuf,
    /// Folder that the file is to appear in, as `disk`.
    #[arg(long)]
    mount: PathBuf,
}

fn cut(text: &str) -> Result<Cut, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Record { common, blocks } => {
            serve(LoggedDisk::create(common.bytes, &blocks, &common.log)?, &common.mount)?;
        }
        Command::Faulty { bytes, blocks, mount } => {
            let disk = FaultyDisk::create(bytes, &blocks)?;
            let told = disk.clone();
            // Ends with the process: it waits for lines.
            let _detached = std::thread::spawn(move || listen(&told));
            serve(disk, &mount)?;
        }
        Command::Images { common, cut } => {
            let disk = ImageDisk::new(Arc::new(Log::read(&common.log)?), common.bytes);
            if let Some(cut) = cut {
                let _survival = disk.show(cut);
            }
            let asked = disk.clone();
            // Ends with the process: it waits for lines.
            let _detached = std::thread::spawn(move || answer(&asked));
            serve(disk, &common.mount)?;
        }
    }
    Ok(())
}

/// Each line is answered, so that whoever sent it knows that it holds.
fn listen(disk: &FaultyDisk) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        disk.set(serde_json::from_str(&line?).context("not a way to die")?);
        let mut out = std::io::stdout().lock();
        writeln!(out, "null")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(disk: &ImageDisk) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let cut: Cut = serde_json::from_str(&line?).context("not a cut")?;
        let survival = serde_json::to_string(&disk.show(cut))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{survival}")?;
        out.flush()?;
    }
    Ok(())
}
