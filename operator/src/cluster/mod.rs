//! The control plane in a cluster.
//!
//! ```text
//! watching ──► gather ──► decide::assign ──► make ──► apply ──► Recorders, StatefulSets, claims, …
//! (one watch    (objects    (who records        (builds        (server-side apply, only
//!  a kind)       to state)   what)               objects)       while it leads)
//!     ▲                                                              │
//!     └── alive, reports ──► decide::report ──► sink ──► send ──► statuses, events
//! ```
//! What an operator remembers is in these objects alone: another one begins where it was.

pub mod alive;
pub mod apply;
pub mod build;
pub mod check;
mod events;
mod former;
pub mod gather;
pub mod guarded;
pub mod http;
pub mod lead;
pub mod make;
pub mod metrics;
pub mod options;
pub mod owned;
pub mod pace;
pub mod plane;
pub mod reports;
pub mod rollout;
pub mod run;
pub mod secrets;
pub mod send;
pub mod sink;
pub mod streams;
mod succession;
pub mod watching;
pub mod world;
