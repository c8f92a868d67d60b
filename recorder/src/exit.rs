//! What the process says when it ends: the numbers of `sysexits.h`, so that whoever started it knows whether to try again.

use std::process::ExitCode;

/// How a process of this program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Stopped as asked.
    Ok,
    /// Wrong command line (EX_USAGE).
    Usage,
    /// No assignment that can be used: neither the file nor a copy on a volume (EX_DATAERR).
    BadAssignment,
    /// It is another recorder of the same name from now on, and to be started again as that (EX_UNAVAILABLE).
    Replaced,
    /// A bug, or the system refused something it normally gives (EX_SOFTWARE).
    Internal,
    /// No volume can be used (EX_CANTCREAT).
    VolumeRefused,
    /// The address to listen on is taken (EX_TEMPFAIL).
    PortInUse,
}

impl Exit {
    /// The exit status.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 64,
            Self::BadAssignment => 65,
            Self::Replaced => 69,
            Self::Internal => 70,
            Self::VolumeRefused => 73,
            Self::PortInUse => 75,
        }
    }

    /// Whether a new process with the same command line would end the same way, so that restarting it at once only makes noise.
    #[must_use]
    pub fn is_misconfiguration(code: i32) -> bool {
        [Self::Usage, Self::BadAssignment, Self::VolumeRefused, Self::PortInUse]
            .iter()
            .any(|exit| i32::from(exit.code()) == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
