//! Writing boxes so that the file is valid at every moment (`docs/format.md` §6, "order of writing").

use std::io;

use bytes::Bytes;
use framekeeper_media::boxes::index::mfra;
use framekeeper_media::boxes::segment::Sealed;

use crate::env::{Batch, File, Target, Write, cut, read_exact};
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

/// Boxes as they go into a file: whole blocks, from the start of the one that the first box begins in.
///
/// The always-valid order is: the bodies, with the `free` headers behind them; only when all of these are written, the heads. Until then
/// the old `free` headers cover everything else. Nothing of a head's block but its last box changes, and that box is not seen before its
/// header, so it does not matter in which order a disk writes the inside of a block.
pub(crate) struct Image {
    offset: u64,
    parts: Vec<Bytes>,
    block_bytes: usize,
    bytes: u64,
}

/// The first block of an image, in which the header of the first box is.
pub(crate) struct Head {
    target: Target,
    offset: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Begins to write all but the first block: what may be written while the old `free` header still covers it. Gives the first block.
    pub(crate) fn send(self, batch: &mut dyn Batch, target: Target) -> io::Result<Head> {
        let slices: Vec<&[u8]> = self.parts.iter().map(|part| part.as_ref()).collect();
        let (first, parts) = cut(&slices, self.block_bytes);
        if !parts.is_empty() {
            batch.send(&Write { target, offset: self.offset + self.block_bytes as u64, parts })?;
        }
        Ok(Head { target, offset: self.offset, bytes: first.concat() })
    }

    /// How many bytes are written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Waits for the bodies, and writes the heads.
pub(crate) fn write_heads<'a>(batch: &mut dyn Batch, heads: impl IntoIterator<Item = &'a Head>) -> io::Result<()> {
    batch.finish()?;
    for Head { target, offset, bytes } in heads {
        batch.send(&Write { target: *target, offset: *offset, parts: vec![bytes] })?;
    }
    batch.finish()
}

/// The block of a file that the next box begins in, up to where it begins: it is written again with that box, the same bytes.
pub(crate) struct Tail {
    block_bytes: usize,
    bytes: Bytes,
}

impl Tail {
    /// Reads what is before `position`.
    pub(crate) fn read(file: &dyn File, position: u64, block_bytes: usize) -> io::Result<Self> {
        // The header of a box is 8 bytes, at a multiple of 8: as good as a block where blocks do not matter.
        let block_bytes = block_bytes.max(8);
        let used = position % block_bytes as u64;
        let mut bytes = vec![0; usize::try_from(used).unwrap_or_default()];
        read_exact(file, &mut bytes, position - used)?;
        Ok(Self { block_bytes, bytes: Bytes::from(bytes) })
    }

    /// Boxes that go in at `offset`, behind the tail; `rest` bytes of the file lie behind them.
    pub(crate) fn image(&mut self, parts: Vec<Bytes>, offset: u64, rest: u64) -> Image {
        let start = offset - self.bytes.len() as u64;
        let mut all = Vec::with_capacity(parts.len() + 2);
        if !self.bytes.is_empty() {
            all.push(std::mem::take(&mut self.bytes));
        }
        all.extend(parts.into_iter().filter(|part| !part.is_empty()));
        let used: usize = all.iter().map(Bytes::len).sum();
        self.bytes = last(&all, used % self.block_bytes);
        if rest > 0 {
            let whole = (used + 8).next_multiple_of(self.block_bytes);
            let mut free = free_header(rest).to_vec();
            free.resize(whole - used, 0);
            all.push(Bytes::from(free));
        }
        let bytes = all.iter().map(|part| part.len() as u64).sum();
        Image { offset: start, parts: all, block_bytes: self.block_bytes, bytes }
    }
}

/// The last `count` bytes of `parts`.
fn last(parts: &[Bytes], count: usize) -> Bytes {
    let mut bytes = vec![0; count];
    let mut end = count;
    for part in parts.iter().rev() {
        let n = part.len().min(end);
        if let (Some(to), Some(from)) = (bytes.get_mut(end - n..end), part.get(part.len() - n..)) {
            to.copy_from_slice(from);
        }
        end -= n;
    }
    Bytes::from(bytes)
}

/// What a file is sealed with: index box and `mfra`, to be written at `offset`, and what the segment box will say then.
pub(crate) struct Seal {
    pub(crate) parts: Vec<Bytes>,
    pub(crate) rest: u64,
    pub(crate) sealed: Sealed,
}

impl Seal {
    pub(crate) fn new(live: &LiveSegment, offset: u64) -> io::Result<Self> {
        let fixed = &live.fixed;
        let (index, end) = live.with_index(|index| {
            let (whole, points) = index.seal(fixed.nonce, offset);
            (whole.encode().map(|bytes| (bytes, mfra(points))), index.end())
        });
        let (index_box, mfra_box) = index.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let bytes = (index_box.len() + mfra_box.len()) as u64;
        let rest = fixed.file_bytes.checked_sub(offset + bytes);
        let rest = rest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no room for the index"))?;
        let sealed = Sealed { index_offset: offset, index_length: index_box.len() as u64, end_wall: end };
        Ok(Self { parts: vec![index_box, mfra_box], rest, sealed })
    }
}

/// Writes index and `mfra` of a segment that nobody writes at `offset`. Returns the bytes written.
pub(crate) fn seal_file(live: &LiveSegment, batch: &mut dyn Batch, offset: u64) -> io::Result<u64> {
    let seal = Seal::new(live, offset)?;
    let image = Tail::read(live.fixed.file.as_ref(), offset, batch.block_bytes())?.image(seal.parts, offset, seal.rest);
    let target = batch.open(&live.fixed.path)?;
    let bytes = image.bytes();
    let written = image.send(batch, target).and_then(|head| write_heads(batch, [&head]));
    batch.close(target);
    written?;
    live.indexed(seal.sealed);
    Ok(bytes)
}
