//! Segment files: deciding where frames go ([`place`]), what is in a file ([`index`]), and finding out after a crash ([`walk`]).

pub(crate) mod index;
pub(crate) mod live;
pub(crate) mod place;
pub(crate) mod rollover;
pub(crate) mod walk;
