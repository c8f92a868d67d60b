//! The control plane without a cluster, for one machine.

pub mod backoff;
pub mod check;
pub mod child;
pub mod cross;
pub mod error;
pub mod files;
pub mod folder;
pub mod log_tail;
pub mod manifest;
pub mod mistake;
pub mod objects;
pub mod ports;
pub mod report;
pub mod run;
pub mod running;
pub mod screen;
pub mod secret;
pub mod sources;
pub mod table;
pub mod yaml;
