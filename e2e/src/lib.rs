//! End-to-end tests, fault tests and benchmarks: the harness that starts cameras, recorders and judges.

pub mod bench;
pub mod cgroup;
pub mod cluster;
pub mod disk;
pub mod harness;
pub mod judge;
pub mod local;
pub mod network;
pub mod power;
pub mod shelf;
