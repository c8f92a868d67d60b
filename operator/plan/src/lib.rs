//! Which recorder records what: pure functions of what is wanted, what there is, and what was decided before.
//!
//! ```text
//! Promise (M, f, K), recorders, mix of classes ──> divide ──> normal and reserved slots
//!                                                   │ formula, then the checker on a full pool
//! demands, previous plan ───────────────────────> Planner ──> Plan: primary, ranked standbys, class, protected
//!                                                   │ primaries.rs, standbys.rs, over ledger.rs (the checker's books)
//!                                                   ├──> Shortage: what could not be done, what would help
//!                                                   └──> Record: versions, epochs, retired holders
//! ```

mod ledger;
mod model;
mod peers;
mod planner;
mod primaries;
mod reserve;
mod shortage;
mod standbys;
mod takeovers;
#[cfg(test)]
mod tests;
mod versions;

pub use model::{Assigned, Class, Condition, Demand, Held, Lack, NoReserve, Promise, Recorder, Slots};
pub use peers::MAX_PEERS;
pub use planner::{Load, Plan, Planner, mix};
pub use reserve::{Division, Mix, divide};
pub use shortage::{Help, Shortage};
pub use versions::Record;
