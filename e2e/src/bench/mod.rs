//! Benchmarks against peers and floors, measured side by side in one run, by CPU time.

pub mod floor;
pub mod operator;
pub mod page;
pub mod process;
pub mod programs;
pub mod recording;
pub mod room;
pub mod stamps;
pub mod standing_by;
