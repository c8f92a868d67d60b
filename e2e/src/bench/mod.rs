//! Benchmarks against peers and floors, measured side by side in one run, by CPU time.

pub mod floor;
pub mod process;
pub mod stamps;
