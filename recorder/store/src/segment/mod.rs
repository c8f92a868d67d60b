//! Segment files: deciding where frames go ([`place`]), what is in a file ([`index`]), finding out after a crash ([`walk`]), and
//! finding out after damage ([`survey`], and what it costs: [`hole`]).

pub(crate) mod fetch;
pub(crate) mod hole;
pub(crate) mod index;
pub(crate) mod live;
pub(crate) mod place;
pub(crate) mod rollover;
pub(crate) mod sealed;
pub(crate) mod survey;
pub(crate) mod walk;
