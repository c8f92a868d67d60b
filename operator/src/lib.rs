//! The control plane: which recorder records what (`framekeeper_plan`), what is said of it
//! ([`decide`]), and how that is made so: without a cluster ([`local`]), where several operators may
//! run, one of them leads ([`election`]).
//!
//! ```text
//! YAML files --> local::manifest --> decide::assign -> Recorder objects --> child processes
//!                (every mistake)     (plan, Planner)   (assignment.yaml)         |
//!                                                                                v
//!                       table, statuses, events <-- decide::status <-- status.yaml, GET /v1/channels
//! ```

pub mod cluster;
pub mod decide;
pub mod election;
pub mod local;
