//! Writing boxes so that the file is valid at every moment (`docs/format.md` §6, "order of writing").

use std::io::{self, IoSlice};

use bytes::Bytes;
use framekeeper_media::boxes::index::mfra;
use framekeeper_media::boxes::segment::Sealed;

use crate::env::{File, write_all, write_all_vectored};
use crate::segment::live::LiveSegment;

/// A `free` box of so many bytes, 0 or from 8 up, for the place between `moov` and the segment box.
pub(crate) fn pad(bytes: u64) -> Bytes {
    if bytes == 0 {
        return Bytes::new();
    }
    let mut pad = free_header(bytes).to_vec();
    pad.resize(usize::try_from(bytes).unwrap_or(8), 0);
    Bytes::from(pad)
}

/// The header of a `free` box of so many bytes.
pub(crate) fn free_header(bytes: u64) -> [u8; 8] {
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut header = *b"\0\0\0\0free";
    for (to, from) in header.iter_mut().zip(length) {
        *to = from;
    }
    header
}

/// Writes boxes at `offset` in the always-valid order; `rest` bytes of the file lie behind them. Returns the bytes written.
///
/// The `free` header behind and the body go out together: until the last 8 bytes are written, the old `free` header at `offset`
/// covers both.
pub(crate) fn write_unit(file: &dyn File, parts: &[Bytes], offset: u64, rest: u64) -> io::Result<u64> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "a unit begins with a whole box header");
    let (first, others) = parts.split_first().ok_or_else(invalid)?;
    let (header, first_rest) = first.split_at_checked(8).ok_or_else(invalid)?;
    let free = free_header(rest);
    let mut slices = Vec::with_capacity(parts.len() + 1);
    slices.push(IoSlice::new(first_rest));
    slices.extend(others.iter().map(|part| IoSlice::new(part)));
    if rest > 0 {
        slices.push(IoSlice::new(&free));
    }
    let bytes: usize = slices.iter().map(|s| s.len()).sum();
    write_all_vectored(file, &slices, offset + 8)?;
    write_all(file, header, offset)?;
    Ok(bytes as u64 + 8)
}

/// Writes the index box, `mfra` and the last `free` of a segment at `offset`. Returns the bytes written.
pub(crate) fn seal_file(live: &LiveSegment, offset: u64) -> io::Result<u64> {
    let fixed = &live.fixed;
    let (index, end) = live.with_index(|index| {
        let (whole, points) = index.seal(fixed.nonce, offset);
        (whole.encode().map(|bytes| [bytes, mfra(points)]), index.end())
    });
    let parts = index.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let [index_box, mfra_box] = &parts;
    let bytes = (index_box.len() + mfra_box.len()) as u64;
    let rest = fixed.file_bytes.checked_sub(offset + bytes);
    let rest = rest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no room for the index"))?;
    let sealed = Sealed { index_offset: offset, index_length: index_box.len() as u64, end_wall: end };
    let written = write_unit(fixed.file.as_ref(), &parts, offset, rest)?;
    live.indexed(sealed);
    Ok(written)
}
