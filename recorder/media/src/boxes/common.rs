//! The first 48 bytes that our boxes share (`docs/format.md` §3).

use uuid::{Uuid, uuid};

use super::{BoxWriter, Ended, Reader};
use crate::checksum::Crc32c;

/// Length of the common part, in bytes.
pub const COMMON_LENGTH: usize = 48;
/// Where the CRC32C stands in a box of ours.
pub const CRC_OFFSET: usize = 28;
/// The version of all our boxes.
pub const VERSION: u16 = 1;

/// Extended type of the segment box.
pub const SEGMENT: Uuid = uuid!("cc20bc60-609f-4dd3-a9ea-79e3b78d3280");
/// Extended type of the run box.
pub const RUN: Uuid = uuid!("67fae9ce-c9c3-4b30-9a9e-845f33769685");
/// Extended type of the frames box.
pub const FRAMES: Uuid = uuid!("faf6f56e-93b6-4237-8d8c-c2fbbd99ebb2");
/// Extended type of the index box.
pub const INDEX: Uuid = uuid!("9988df71-ce20-4ffb-8e5d-9a80c1eb7fd2");

/// Why bytes are not the box that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// Another box, or none: go on with what stands elsewhere.
    #[error("no {wanted} box here")]
    NotThere {
        /// Name of the box.
        wanted: &'static str,
    },
    /// Written by a newer Framekeeper: refuse the file.
    #[error("{which} box has version {version}; this program knows version 1: use a newer one")]
    Version {
        /// Name of the box.
        which: &'static str,
        /// What the box says.
        version: u16,
    },
    /// Torn or damaged.
    #[error("{which} box does not check: CRC32C is {computed:08x}, the box says {stored:08x}")]
    Crc {
        /// Name of the box.
        which: &'static str,
        /// Over the bytes.
        computed: u32,
        /// In the box.
        stored: u32,
    },
    /// Checks, but a field makes no sense; or shorter than it says.
    #[error("{which} box: {field}")]
    Field {
        /// Name of the box.
        which: &'static str,
        /// Which field, and what is wrong.
        field: &'static str,
    },
}

/// The fields of the common part that are not fixed by the kind of box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonPart {
    /// Length of the whole box in bytes.
    pub length: u32,
    /// Flags, of that kind of box.
    pub flags: u16,
    /// The stored CRC32C.
    pub crc: u32,
    /// The use of the file that the box belongs to; never 0.
    pub nonce: u64,
    /// Where the box says it stands in the file (a frames box: where its `moof` stands).
    pub offset: u64,
}

impl CommonPart {
    /// Writes the 48 bytes; the CRC as given.
    pub fn write(&self, kind: Uuid, w: &mut BoxWriter) {
        w.u32(self.length);
        w.bytes(b"uuid");
        w.bytes(kind.as_bytes());
        w.u16(VERSION);
        w.u16(self.flags);
        w.u32(self.crc);
        w.u64(self.nonce);
        w.u64(self.offset);
    }

    /// Reads the 48 bytes of a box of type `kind`.
    ///
    /// # Errors
    /// When it is another box, or of a version that is not known.
    pub fn read(reader: &mut Reader<'_>, kind: Uuid, name: &'static str) -> Result<Self, BoxError> {
        let missing = |_: Ended| BoxError::NotThere { wanted: name };
        let length = reader.u32().map_err(missing)?;
        if reader.array::<4>().map_err(missing)? != *b"uuid"
            || reader.array::<16>().map_err(missing)? != *kind.as_bytes()
        {
            return Err(BoxError::NotThere { wanted: name });
        }
        let version = reader.u16().map_err(missing)?;
        if version != VERSION {
            return Err(BoxError::Version { which: name, version });
        }
        let flags = reader.u16().map_err(missing)?;
        let crc = reader.u32().map_err(missing)?;
        let nonce = reader.u64().map_err(missing)?;
        let offset = reader.u64().map_err(missing)?;
        if nonce == 0 {
            return Err(BoxError::Field { which: name, field: "use nonce is 0" });
        }
        Ok(Self { length, flags, crc, nonce, offset })
    }
}

/// CRC32C over `bytes`, the four at `zeroed` taken as zero.
#[must_use]
pub fn crc_without(bytes: &[u8], zeroed: usize) -> u32 {
    let before = bytes.get(..zeroed).unwrap_or(bytes);
    let behind = bytes.get(zeroed.saturating_add(4)..).unwrap_or_default();
    let mut crc = Crc32c::default();
    [before, &[0; 4], behind].into_iter().for_each(|part| crc.update(part));
    crc.value()
}

/// Checks `stored` against the CRC of `bytes`.
pub(crate) fn check_crc(which: &'static str, bytes: &[u8], zeroed: usize, stored: u32) -> Result<(), BoxError> {
    let computed = crc_without(bytes, zeroed);
    if computed == stored { Ok(()) } else { Err(BoxError::Crc { which, computed, stored }) }
}
