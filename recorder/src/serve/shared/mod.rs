//! One coverage: footage of this recorder and of those that it shares streams with, as if it were all here.
//!
//! ```text
//!  coverage, clip.mp4, frame.jpg ──► Union (Footage) ─┬─► Stored           here
//!                                                     └─► Remote ── HTTP ──► /v1/peer of another recorder ──► its Stored
//! ```
//! Whoever is asked asks each of the others once, and no further. One that does not answer is left out for a while, and what is answered then
//! says that it is not complete.

mod answer;
mod leases;
mod remote;
#[cfg(test)]
mod tests;
mod union;
mod wire;

pub(super) use answer::answer;
pub(super) use leases::Leases;
pub use remote::Remotes;
pub(super) use union::Union;
