//! What is wrong with a link, in words for whoever has to do something about it.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error as TlsError, OtherError};

use crate::connection::Ended;
use crate::key::PublicKey;

/// A key that no recorder is known by here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its key is {0}, which this recorder was not told of")]
pub(crate) struct UnknownKey(pub(crate) PublicKey);

impl From<UnknownKey> for TlsError {
    fn from(key: UnknownKey) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(key))))
    }
}

/// Why there is no link with a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Who answers where it should be is not it, or has another key by now.
    #[error(
        "who answers at {address} has the key {key}, which is not the one that the assignment has of it; where its key was made anew the operator \
         passes on the new one, else another program has its address"
    )]
    OtherKey {
        /// Where.
        address: String,
        /// The key there.
        key: PublicKey,
    },
    /// It does not let this recorder in.
    #[error(
        "it does not take this recorder's key: its assignment has another one, or none; the operator passes on a key that was made anew as soon \
         as it reaches both"
    )]
    NotKnown,
    /// What it says is no heartbeat of its, or one of a version that is too new.
    #[error("{0}")]
    NotUnderstood(String),
    /// It was never heard of.
    #[error("its key is not known yet: it is told when it has started for the first time")]
    NoKey,
    /// Nobody answers as a recorder does.
    #[error("it cannot be reached at {address}: {why}")]
    NotReached {
        /// Where.
        address: String,
        /// Why, as the system says.
        why: String,
    },
}

impl Trouble {
    /// Of dialling `address`.
    pub(crate) fn of_dial(address: &str, error: &io::Error) -> Self {
        let address = address.to_owned();
        match unknown_key(error) {
            Some(UnknownKey(key)) => Self::OtherKey { address, key },
            None if is_refusal(error) => Self::NotKnown,
            None => Self::NotReached { address, why: error.to_string() },
        }
    }

    /// Of the end of a connection that was let in; `None` where that is nothing to do something about.
    pub(crate) fn of_end(why: &Ended) -> Option<Self> {
        match why {
            Ended::Io(error) if is_refusal(error) => Some(Self::NotKnown),
            Ended::Malformed(_) | Ended::Impostor(_) => Some(Self::NotUnderstood(why.to_string())),
            Ended::Io(_) | Ended::Idle | Ended::Closed => None,
        }
    }

    /// Somebody has to do something about it: it does not pass by itself, as with one that is starting.
    pub(crate) fn needs_somebody(&self) -> bool {
        !matches!(self, Self::NotReached { .. } | Self::NoKey)
    }
}

/// Why somebody who came was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// By its key.
    #[error(
        "{0}; if it is a recorder of this pool whose key was made anew, the operator passes the key on, else find out who dials from there"
    )]
    Key(UnknownKey),
    /// It does not take the key here.
    #[error(
        "it does not take this recorder's key; the operator passes on a key that was made anew as soon as it reaches both"
    )]
    NotKnown,
    /// Too many come who do not say who they are.
    #[error("{0} others came before it had said who it is; find out who dials from there")]
    PushedOut(usize),
    /// It does not speak as a recorder does, or not at all.
    #[error("it is no recorder: {0}; find out who dials from there")]
    Other(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match unknown_key(&error) {
            Some(key) => Self::Key(key),
            None if is_refusal(&error) => Self::NotKnown,
            None => Self::Other(error),
        }
    }
}

/// The key that an error of a handshake is about.
fn unknown_key(error: &io::Error) -> Option<UnknownKey> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<TlsError>() {
        Some(TlsError::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.downcast_ref().copied(),
        Some(_) => None,
        None => inner.downcast_ref().copied(),
    }
}

/// The other side said that it does not take the key here.
fn is_refusal(error: &io::Error) -> bool {
    let alert = match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(TlsError::AlertReceived(alert)) => *alert,
        _ => return false,
    };
    matches!(
        alert,
        AlertDescription::CertificateUnknown | AlertDescription::UnknownCA | AlertDescription::BadCertificate
    )
}

/// From one line of the same kind in the log to the next, microseconds.
const APART_US: u64 = 10_000_000;

/// A line in the log that must not come each time: anybody may knock, as often as they like.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    next: u64,
    left_out: u64,
}

impl Seldom {
    /// Whether it is to be written at `now` (monotonic microseconds): how many were left out since the last one was.
    pub(crate) fn now(&mut self, now: u64) -> Option<u64> {
        if now < self.next {
            self.left_out += 1;
            return None;
        }
        self.next = now.saturating_add(APART_US);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_in_ten_seconds_and_tells_of_the_others() {
        let mut seldom = Seldom::default();
        let lines: Vec<_> = (0..30).map(|second| seldom.now(second * 1_000_000)).collect();
        let written: Vec<_> = lines.iter().enumerate().filter_map(|(at, left_out)| Some((at, (*left_out)?))).collect();
        assert_eq!(written, [(0, 0), (10, 9), (20, 9)]);
    }
}
