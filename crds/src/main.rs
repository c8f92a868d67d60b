//! Writes the YAML of the custom resources into a folder: by default the one of this crate, from where it is committed.
//! A test fails when what is committed is stale.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a generator that is run by hand speaks to its user")]
            {
                eprintln!("{}: {error}", folder.display());
            }
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    for (name, text) in framekeeper_crds::schema::files()? {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
