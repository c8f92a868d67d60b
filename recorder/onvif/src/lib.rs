//! Asks a camera for a key frame over ONVIF: `SetSynchronizationPoint` of its media service (ONVIF Media Service Specification, "Set synchronization
//! point"), for cameras that cannot be asked over RTCP.
//!
//! ```text
//! camera ── what is asked in which order, over HTTP
//!   └ messages ── the envelopes, and what answers mean; pure
//! ```

mod camera;
mod messages;

pub use camera::{Camera, Client, OnvifError};
pub use messages::Login;
