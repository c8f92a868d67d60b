//! The control plane without a cluster, for one machine.

pub mod assign;
pub mod backoff;
pub mod check;
pub mod child;
pub mod cross;
pub mod error;
pub mod files;
pub mod folder;
pub mod holds;
pub mod log_tail;
pub mod manifest;
pub mod mistake;
pub mod objects;
pub mod observe;
pub mod ports;
pub mod recorder_notes;
pub mod report;
pub mod run;
pub mod running;
pub mod screen;
pub mod secret;
pub mod sources;
pub mod state;
pub mod status;
pub mod table;
pub mod yaml;
