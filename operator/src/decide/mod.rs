//! What the control plane decides and says, with a cluster or without: plain values in, plain values out.

pub mod assign;
pub mod cameras;
pub mod capacity;
pub mod caution;
pub mod holders;
pub mod holds;
pub mod learn;
pub mod moves;
pub mod observe;
pub mod place;
pub mod pool_status;
pub mod protection;
pub mod recorder_notes;
pub mod refusals;
pub mod report;
mod said;
pub mod seen;
mod settled;
pub mod size;
pub mod standing;
pub mod state;
pub mod status;
pub mod wanted;
