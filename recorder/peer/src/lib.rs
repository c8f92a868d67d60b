//! The links between recorders that share streams: heartbeats both ways, over TLS 1.3, four times a second.
//!
//! A recorder is known by its key and by nothing else. There is no authority that signs keys and none of them expires: an outage, or a clock
//! that was set, cannot cut all links at once. Keys are told by the plan; whoever has another one is refused in the handshake. Either side
//! dials, so one address that is right, of the two, is enough; and where neither has one, a third recorder that both reach passes them on.
//!
//! ```text
//!  Brain ◄── hear, close ── Links ◄──────── connections (dialled or accepted; more than one with a peer does no harm)
//!    └────── what to tell ───►└─ heartbeat ──►
//! ```
//! All of it is on one thread that does nothing else: neither a slow disk nor a slow client makes a recorder silent.
#![deny(clippy::indexing_slicing)]

mod connection;
mod dialler;
mod key;
mod links;
mod places;
#[cfg(test)]
mod strangers_tests;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

pub use key::{Identity, KeyError, PublicKey};
pub use links::{Brain, Clock, LinkStats, Links, Peer, PeerState};
pub use trouble::Trouble;
