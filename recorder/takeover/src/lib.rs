//! Who records a stream, decided by each of its holders alone, from what it hears of the others.
//!
//! Every stream has holders in a fixed order: rank 0 is the primary, the others stand by. No vote is taken and no server asked: the
//! holder of the lowest rank that can records when nobody does, and a holder that records in another's place goes on until that one has
//! proven, by frames that are durable, that it is back. So the worst that anything can cause here, a lost message or a torn network, is that two record
//! for a while what is later read as one.
//!
//! ```text
//!  heartbeats ──► Link     one for each peer: alive, failed, or not yet known; as bytes: heartbeat
//!     │            │
//!     └─► PeerClock│       its times on the clock that decisions go by, and how far its time of day is from ours
//!            │     │
//!         reports ─► Stream ──► Action      one for each stream that is held
//!                      ▲                    Begin, End, Release
//!     own condition ───┘
//! ```
//! Nothing here has a clock, a socket or a thread: times are values, so a simulator can play any course of events again.
#![deny(clippy::indexing_slicing)]

mod clock;
pub mod heartbeat;
mod link;
mod report;
mod rules;
mod stream;
#[cfg(test)]
mod stream_tests;

pub use clock::{Moment, Offset, PeerClock, SteadyTime};
pub use link::{Link, Liveness};
pub use report::{Assignment, Class, Footage, Own, Peer, Report, Standing};
pub use rules::Rules;
pub use stream::{Action, Stream};
