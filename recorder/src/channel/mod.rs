//! One stream on this recorder: from what its source yields to what its volume is given.
//!
//! ```text
//!  ingest ─ Event, TickTime ─► sink ─► core ─ Action ─► sink ─► store
//!                                       ├ wall_clock   when each frame was
//!                                       ├ av_sync      where audio belongs beside the video
//!                                       ├ cutter       where fragments end
//!                                       └ held         whether the camera keeps a session that does not play
//!                              sink ─► stats ─► HTTP, metrics, status
//!                              sink ─► control ─► asker ─► ONVIF    a key frame is wanted
//!           standby ─ Wish ─► control ─► sink ─► ring    the last seconds, while another recorder records
//! ```
//! Everything but `sink` and `asker` is pure: no clock, no I/O, no lock.

mod asker;
mod av_sync;
mod control;
mod core;
#[cfg(test)]
mod core_tests;
mod cutter;
mod ends;
mod gops;
mod held;
mod ring;
mod sink;
#[cfg(test)]
mod sink_tests;
mod slots;
mod stats;
mod wall_clock;

pub(crate) use self::core::{Core, RECORDING, Report};
pub(crate) use asker::Asker;
pub(crate) use control::{Control, Wish};
pub(crate) use sink::ChannelSink;
pub(crate) use slots::SharedSlots;
pub(crate) use stats::{ChannelStats, Condition, Snapshot};
