//! Volumes, segments, frame index, recovery, retention: footage on disks, as `docs/format.md` says.
//!
//! The store knows nothing of RTSP or Kubernetes. What goes in are [`Fragment`]s of a stream; what comes out are runs, segments,
//! index entries and bytes. Everything of the outside world enters through [`env::Env`].
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::sync::Arc;
//! # use framekeeper_store::*;
//! # use framekeeper_media::WallTime;
//! # fn init() -> Arc<framekeeper_media::init::InitSegment> { unimplemented!() }
//! # fn a_tick_later() -> Fragment { Fragment::default() }
//! let volume = VolumeConfig { dir: "/data/0".into(), uuid: None, segment_bytes: 64 << 20, budget_bytes: 100 << 30 };
//! let recorder_uid = uuid::Uuid::new_v4();
//! let store = Store::open(StoreConfig::new("default/main", "main-recorder-0", recorder_uid, vec![volume]), env::Env::real())?;
//!
//! // Writing. Nothing here blocks but `finish` and `close`.
//! let ident = StreamIdent { uid: uuid::Uuid::new_v4(), namespace: "default".into(), name: "door".into() };
//! let stream = ident.uid;
//! let mut writer = store.stream(ident)?;
//! writer.begin_run(RunStart {
//!     run: uuid::Uuid::new_v4(),
//!     epoch: 1,
//!     rank: 0,
//!     plan_version: PlanVersion { term: 1, sequence: 1 },
//!     gap: None, // the store knows: first run, stopped in order, or killed
//!     init: init(),
//!     audio_timescale: 0,
//!     sender_report: None,
//! });
//! writer.append(a_tick_later()); // queues, or drops the rest of the GOP and counts it
//! store.flush_tick(); // once a tick, for all streams
//! println!("durable up to {:?}", store.durable(stream));
//!
//! // Reading, from any thread; never in the way of writers.
//! let reader = store.reader();
//! let (from, to) = (WallTime(0), WallTime(i64::MAX));
//! let runs = reader.coverage(stream, from, to)?;
//! let segments = reader.segments(stream, from, to)?;
//! let lease = reader.lease(&segments); // for 60 s at most, none of them is reused
//! for segment in &segments {
//!     let index = reader.index(segment)?;
//!     let init = reader.init(segment)?;
//!     let Some(frame) = index.entries.first() else { continue };
//!     let mut bytes = vec![0; frame.data_length as usize];
//!     reader.read_at(segment, frame.data_offset.into(), &mut bytes)?; // checked: all of its fragment, and that the file is still this segment
//! }
//!
//! writer.finish(); // all of this stream written and synced
//! store.close(); // all streams; leaves the mark of an orderly end
//! # Ok(())
//! # }
//! ```
#![deny(clippy::indexing_slicing)] // lengths and offsets in here come from disks and cameras

mod backlog;
mod catalogue;
#[cfg(test)]
mod catalogue_tests;
mod checked;
#[cfg(test)]
mod closing_tests;
pub mod damage;
pub mod env;
mod error;
#[cfg(test)]
mod failing_tests;
pub mod frames;
mod identity;
mod inner;
pub mod inspect;
#[cfg(test)]
mod keeping_tests;
mod manifest;
mod manifest_log;
mod names;
mod outlook;
mod rate;
mod reach;
mod reader;
mod retention;
#[cfg(test)]
mod retired_tests;
mod segment;
mod stats;
#[doc(hidden)]
pub mod stepped;
mod store;
mod stream;
#[doc(hidden)]
pub mod synthetic;
mod threads;
mod types;
mod volume;

// The helpers of the integration tests are used by tests in here as well.
#[cfg(test)]
extern crate self as framekeeper_store;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::{HoldError, OpenError, ReadError, StreamError, VolumeError};
pub use framekeeper_media::boxes::index::{EntryKind, IndexEntry, SegmentIndex};
pub use framekeeper_media::boxes::run::RunBox;
pub use identity::KnownOpens;
pub use outlook::{Crowding, Foreign, Outlook};
pub use reach::StreamDamage;
pub use reader::{Lease, Reader, SegmentDamage, SegmentInit, StreamInfo};
pub use retention::{Limits, Retention};
pub use stats::{CatalogueProgress, CatalogueStage, DropReason, SYNC_BUCKETS_US, ScrubStats, StreamStats, VolumeStats};
pub use store::Store;
pub use stream::{Appended, StreamWriter};
pub use types::*;
pub use volume::rot::{DamageSummary, DamagedPlace};

/// A thread that panicked with a lock held is reported where it is joined; what it guarded is still better than nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
