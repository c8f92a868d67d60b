//! The control plane: which recorder records what (`framekeeper_plan`), and how that is made so without a cluster ([`local`]).
//!
//! ```text
//! YAML files --> local::manifest --> local::assign --> Recorder objects --> child processes
//!                (every mistake)     (plan, Planner)   (assignment.yaml)         |
//!                                                                                v
//!                       table, statuses, events <-- local::status <-- status.yaml, GET /v1/channels
//! ```

pub mod local;
