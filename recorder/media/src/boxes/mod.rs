//! MP4 boxes (ISO/IEC 14496-12 §4.2) and our own (`docs/format.md` §3–5, §7).

pub mod common;
pub mod index;
pub mod reader;
pub mod run;
pub mod segment;
pub mod walk;
pub mod writer;

pub use common::{BoxError, CommonPart};
pub use reader::{Ended, Reader};
pub use writer::BoxWriter;
