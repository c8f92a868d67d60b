//! Ledger cameras from outside: through decoders and RTSP clients that nobody here wrote.

// `cfg(test)` is always so here; it tells clippy that helpers may panic as tests do.
#[cfg(test)]
mod clients;
#[cfg(test)]
mod common;
#[cfg(test)]
mod decodes;
#[cfg(test)]
mod faults;
