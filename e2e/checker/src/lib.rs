//! The frame ledger's judge: reads recorded media with a parser of its own.
//!
//! It is written from docs/format.md and ISO/IEC 14496-12 and knows nothing of the code that records: where both are wrong
//! in the same way, they are so independently.
//!
//! ```text
//! files ──► segment (strict walk) ──► volume (identity, pool, manifest) ──┐
//!           movie (progressive MP4) ──────────────────────────────────────┤
//!                                                                         ▼
//! cameras' ledgers ──► ledger ───────────────► judge ◄──────────────── found
//!                        │                       │      (unstamped: numbers by hash)
//!                        ├──► lag                ▼
//!                        └──► foreign         report        decode: ffmpeg as a second judge
//! ```
//!
//! The program `ledger-check` is a thin shell around it; tests use [`volume::Volume::read`], [`found::Found::on_volume`],
//! [`judge::judge`], [`clip::check`], [`lag::largest_lag`], [`foreign::search`] and [`decode::number_in_jpeg`].
pub mod bytes;
pub mod clip;
pub mod decode;
pub mod foreign;
pub mod found;
pub mod judge;
pub mod lag;
pub mod ledger;
pub mod manifest;
pub mod movie;
pub mod report;
pub mod segment;
pub mod stamp;
pub mod unstamped;
pub mod volume;
