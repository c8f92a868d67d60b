//! Which recorder records what: pure functions of what is wanted, what there is, and what was decided before.

pub mod placement;
