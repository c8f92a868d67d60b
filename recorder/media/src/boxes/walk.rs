//! Walking box headers (ISO/IEC 14496-12 §4.2), strictly: a box that does not fit where it stands is an error.

/// The longest header: 64-bit length and an extended type.
pub const MAX_HEADER_LENGTH: usize = 32;

/// A box's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxHeader {
    /// Where the box begins, counted as the walk counts.
    pub offset: u64,
    /// Type: `*b"moof"`.
    pub kind: [u8; 4],
    /// Extended type of a `uuid` box.
    pub extended_kind: Option<[u8; 16]>,
    /// Length of the header in bytes, the extended type included.
    pub header_length: u64,
    /// Length of the whole box in bytes.
    pub length: u64,
}

/// Why a walk can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// Fewer bytes than a box header has are left before the end.
    #[error("at {offset}: {left} bytes are left, which is no box")]
    Short {
        /// Where.
        offset: u64,
        /// How many.
        left: u64,
    },
    /// The type is not four printable characters: this is not a box.
    #[error("at {offset}: not a box (type {kind:02x?})")]
    Kind {
        /// Where.
        offset: u64,
        /// What stands in the place of the type.
        kind: [u8; 4],
    },
    /// The length is less than the header's, or reaches past the end.
    #[error("at {offset}: a box of {length} bytes where {left} are left")]
    Length {
        /// Where.
        offset: u64,
        /// What the header says.
        length: u64,
        /// Up to the end of what it stands in.
        left: u64,
    },
}

impl BoxHeader {
    /// Where the box ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// The header at `offset`, from the bytes there (as many as there are, [`MAX_HEADER_LENGTH`] are enough), in a file or box that ends at `end`.
    ///
    /// # Errors
    /// When these bytes are no header, or the box does not fit.
    pub fn parse(bytes: &[u8], offset: u64, end: u64) -> Result<Self, WalkError> {
        let left = end.saturating_sub(offset);
        let short = || WalkError::Short { offset, left };
        let bytes = bytes.get(..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))).unwrap_or_default();
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let (&kind, mut rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        if !kind.iter().all(|byte| (0x20..0x7f).contains(byte) || *byte == 0xa9) {
            return Err(WalkError::Kind { offset, kind });
        }
        let mut header_length = 8;
        let length = match u32::from_be_bytes(*length) {
            0 => left,
            1 => {
                let (long, tail) = rest.split_first_chunk::<8>().ok_or_else(short)?;
                rest = tail;
                header_length = 16;
                u64::from_be_bytes(*long)
            }
            length => u64::from(length),
        };
        let mut extended_kind = None;
        if kind == *b"uuid" {
            extended_kind = Some(*rest.first_chunk::<16>().ok_or_else(short)?);
            header_length += 16;
        }
        if length < header_length || length > left {
            return Err(WalkError::Length { offset, length, left });
        }
        Ok(Self { offset, kind, extended_kind, header_length, length })
    }
}

/// The boxes that lie behind each other in `bytes`: header and body (what is behind the header). Ends behind the first error.
pub fn boxes(bytes: &[u8]) -> impl Iterator<Item = Result<(BoxHeader, &[u8]), WalkError>> {
    let end = bytes.len() as u64;
    let mut next = Some(0u64);
    std::iter::from_fn(move || {
        let offset = next.filter(|&offset| offset < end)?;
        let rest = bytes.get(usize::try_from(offset).ok()?..)?;
        match BoxHeader::parse(rest, offset, end) {
            Ok(header) => {
                next = Some(header.end());
                let length = usize::try_from(header.length).ok()?;
                Some(Ok((header, rest.get(usize::try_from(header.header_length).ok()?..length)?)))
            }
            Err(error) => {
                next = None;
                Some(Err(error))
            }
        }
    })
}

/// The body of the first box of a type.
pub(crate) fn find(bytes: &[u8], kind: [u8; 4]) -> Option<&[u8]> {
    boxes(bytes).map_while(Result::ok).find(|(header, _)| header.kind == kind).map(|(_, body)| body)
}

/// An error of the walk, or of whoever reads the bytes for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkOrRead<E> {
    /// The bytes are no boxes.
    #[error(transparent)]
    Walk(WalkError),
    /// They could not be read.
    #[error("at {offset}: {error}")]
    Read {
        /// Where.
        offset: u64,
        /// What the reader said.
        error: E,
    },
}

/// The headers of the boxes between `start` and `end` of something that is read through a closure: `read(offset, buffer)` fills the whole
/// buffer. Reads headers only. Ends behind the first error.
pub fn walk<E>(
    start: u64,
    end: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> impl Iterator<Item = Result<BoxHeader, WalkOrRead<E>>> {
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let offset = next.take().filter(|&offset| offset < end)?;
        let mut buffer = [0; MAX_HEADER_LENGTH];
        let available = usize::try_from(end - offset).unwrap_or(usize::MAX).min(MAX_HEADER_LENGTH);
        let buffer = buffer.get_mut(..available)?;
        if let Err(error) = read(offset, buffer) {
            return Some(Err(WalkOrRead::Read { offset, error }));
        }
        Some(match BoxHeader::parse(buffer, offset, end) {
            Ok(header) => {
                next = Some(header.end());
                Ok(header)
            }
            Err(error) => Err(WalkOrRead::Walk(error)),
        })
    })
}
