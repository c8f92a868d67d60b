//! Why the local control plane can't start, by what its user can do about it.

use std::io;
use std::path::PathBuf;

use super::folder::FolderError;
use super::ports::PortError;
use crate::decide::state::StateError;

/// Why the local control plane can't start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Correct the manifests.
    #[error("{}", mistakes.join("\n"))]
    Manifests {
        /// Everything that is wrong.
        mistakes: Vec<String>,
    },
    /// Say where the recorder is, or build it.
    #[error(
        "cannot find the program framekeeper-recorder ({searched}); build it with `cargo build --release`, or say where it is \
         with --recorder-bin"
    )]
    NoRecorder {
        /// Where it was looked for.
        searched: String,
    },
    /// Choose another data folder, or free this one.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Choose another port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Repair or remove the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Make room, or repair what is broken.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something that it normally gives.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl LocalError {
    /// The exit code: 2 when the manifests are wrong, 3 when this machine is not as it must be, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Manifests { .. } => 2,
            Self::NoRecorder { .. } | Self::Folder(_) | Self::Port(_) | Self::State(_) | Self::Write { .. } => 3,
            Self::System { .. } => 1,
        }
    }
}
