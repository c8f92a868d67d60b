//! The identity of a frame, and everything else that one look at its bytes tells (`docs/format.md` §6).

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::h264::{NalSummary, random_access_flags, split_nals, strip_trailing_zeros};
use crate::unit::{FrameFlags, FrameIdentity};

/// What one pass over a frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Random access, sync; incomplete when NAL lengths do not add up or there is no slice.
    pub flags: FrameFlags,
    /// Hash of the VCL NAL units; 0 when there are none.
    pub identity: FrameIdentity,
    /// NAL units of types 1 to 5.
    pub vcl_nals: u32,
    /// Everything that the NAL units' types tell, for instance whether parameter sets are inside.
    pub nals: NalSummary,
}

/// Most frames have one slice, which is hashed in one call; the state for more is only made when a second comes.
enum Hash<'a> {
    None,
    One(&'a [u8]),
    Many(Box<XxHash3_64>),
}

/// Classifies and hashes a frame whose NAL units stand behind 4-byte lengths.
#[must_use]
pub fn inspect(data: &[u8]) -> Inspected {
    let mut nals = NalSummary::default();
    let mut hash = Hash::None;
    for nal in split_nals(data) {
        let Ok(nal) = nal else {
            nals.malformed = true;
            break;
        };
        if !nals.add(nal) {
            continue;
        }
        let slice = strip_trailing_zeros(nal);
        hash = match hash {
            Hash::None => Hash::One(slice),
            Hash::One(first) => {
                let mut state = Box::new(XxHash3_64::new());
                state.write(first);
                state.write(slice);
                Hash::Many(state)
            }
            Hash::Many(mut state) => {
                state.write(slice);
                Hash::Many(state)
            }
        };
    }
    let identity = FrameIdentity(match hash {
        Hash::None => 0,
        Hash::One(slice) => XxHash3_64::oneshot(slice),
        Hash::Many(state) => state.finish(),
    });
    Inspected { flags: random_access_flags(&nals), identity, vcl_nals: nals.vcl_nals, nals }
}

/// XXH3-64 of the VCL NAL units, in order, without length prefixes and trailing zero bytes; 0 when there are none.
#[must_use]
pub fn frame_identity(data: &[u8]) -> FrameIdentity {
    inspect(data).identity
}
