//! Power loss, played through on a file system that is really there.
//!
//! ```text
//! recorder ─► ext4 ─► loop device ─► FUSE: one big file            power-disk record
//!                                      │ every write and flush
//!                                      ▼
//!                                    block log                     log
//!                                      │ cut at a moment; what was flushed, and a random part of the rest
//!                                      ▼
//!            image ─► FUSE ─► loop device ─► ext4, journal replayed         image, power-disk images
//!                                              │
//!                                              ▼
//!                            the product recovers it and records again      power-recover, or a recorder
//!                                              │
//!                                              ▼
//!                  ledgers, durable times as they were reported ─► verdict
//! ```
//!
//! A log of the recorder's own writes would miss what the file system writes for itself: its journal, its bitmaps, its folders. The log
//! of blocks misses nothing.

pub mod disk;
pub mod faulty;
pub mod image;
pub mod log;
pub mod mount;
pub mod recover;
pub mod timing;
pub mod verdict;

/// `segment.part` as it is when nobody sets it.
pub const PART_US: i64 = 500_000;

/// Nanoseconds of the monotonic clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

/// Nanoseconds since 1970.
#[must_use]
pub fn wall_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.unsigned_abs())
}
