//! The end-to-end tests: one program, because each one more costs a quarter of a minute of linking.

mod bad_input;
mod budgets;
mod clips;
mod clocks;
mod demo;
mod disks;
mod edits;
mod failover;
mod failover_idle;
mod failover_kinds;
mod failover_links;
mod failover_load;
mod failover_planned;
mod failover_returns;
mod files;
mod flips;
mod full;
mod kill;
mod memory;
mod onvif;
mod placement;
mod power;
mod recording;
mod retention;
mod writes;
