//! The control plane without a cluster, for one machine.

pub mod assign;
pub mod check;
pub mod cross;
pub mod files;
pub mod manifest;
pub mod mistake;
pub mod secret;
pub mod state;
pub mod yaml;
