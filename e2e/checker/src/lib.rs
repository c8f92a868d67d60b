//! The frame ledger's judge: reads recorded media with a parser of its own.
pub mod bytes;
pub mod clip;
pub mod decode;
pub mod foreign;
pub mod found;
pub mod judge;
pub mod lag;
pub mod ledger;
pub mod manifest;
pub mod movie;
pub mod report;
pub mod segment;
pub mod stamp;
pub mod unstamped;
pub mod volume;
