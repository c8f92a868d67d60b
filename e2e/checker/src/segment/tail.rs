//! What lies behind the fragments (format.md §7): index, `mfra`, `free`; and the sealed part of the segment box.

use super::{Broken, INDEX, Walker, check_crc, common};
use crate::bytes::Box4;

/// The sealed part of the segment box (format.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Offset of the index box.
    pub index_at: u64,
    /// Its length.
    pub index_bytes: u64,
    /// Wall time at which the last frame ends, microseconds since 1970.
    pub last_wall_us: i64,
}

/// The index box's own fields (format.md §7); its entries are compared with the fragments while reading.
#[derive(Debug, Clone)]
pub struct Index {
    /// Its offset.
    pub at: usize,
    /// Its length.
    pub bytes: usize,
    /// Video frames.
    pub video: u32,
    /// Audio frames.
    pub audio: u32,
    /// Random access points.
    pub random_access: u32,
    /// Bytes of all video samples.
    pub video_bytes: u64,
    /// Bytes of all audio samples.
    pub audio_bytes: u64,
    /// Wall time at which the last frame ends, microseconds since 1970.
    pub last_wall_us: i64,
    /// For each run: wall time of its first frame and at which its last one ends.
    pub runs: Vec<(i64, i64)>,
}

impl Walker<'_> {
    pub(super) fn read_sealed(&mut self) -> Result<(), Broken> {
        let (bytes, at) = (self.bytes, self.segment.header.at);
        if bytes.u32(at + 448)? != 1 {
            self.findings.check(bytes.is_zero(at + 448, at + 512)?, at + 448, || {
                "not sealed, but its sealed part is not zero".into()
            });
            return Ok(());
        }
        // Torn, it would count as not sealed; but nothing here tears it (files are read from a living page cache).
        if let Err(broken) = check_crc(bytes, (at + 448, at + 512), at + 452, "sealed part") {
            self.findings.broken(broken);
            return Ok(());
        }
        let nonce = bytes.u64(at + 456)?;
        let right = self.segment.header.nonce;
        self.findings.check(nonce == right, at + 456, || format!("sealed part: use nonce {nonce:016x}"));
        if nonce == right {
            self.segment.sealed = Some(Sealed {
                index_at: bytes.u64(at + 464)?,
                index_bytes: bytes.u64(at + 472)?,
                last_wall_us: bytes.i64(at + 480)?,
            });
        }
        Ok(())
    }

    /// The boxes behind the fragments: nothing or `free`; or, sealed or about to be, index, `mfra`, nothing or `free`.
    pub(super) fn read_tail(&mut self, boxes: &[Box4]) -> Result<(), Broken> {
        let names: Vec<_> = boxes.iter().map(Box4::name).collect();
        let kinds: Vec<_> = names.iter().map(String::as_str).collect();
        let at = boxes.first().map_or(self.bytes.len(), |first| first.start);
        match kinds.as_slice() {
            [] | ["free"] | ["uuid", "mfra"] | ["uuid", "mfra", "free"] => {}
            _ => self.findings.add(at, format!("boxes {kinds:?} behind the fragments")),
        }
        for one in boxes {
            match &one.kind {
                b"uuid" => self.read_index(one)?,
                b"mfra" => self.read_mfra(one)?,
                b"free" => {
                    self.findings.check(one.body - one.start == 8, one.start, || "free with a long header".into())
                }
                _ => {}
            }
        }
        if let Some(sealed) = self.segment.sealed {
            let right =
                self.segment.index.as_ref().map(|index| (index.at as u64, index.bytes as u64, index.last_wall_us));
            let says = (sealed.index_at, sealed.index_bytes, sealed.last_wall_us);
            self.findings.check(right == Some(says), self.segment.header.at + 448, || {
                format!("sealed part: index and end {says:?}, the index box {right:?}")
            });
        }
        Ok(())
    }

    fn read_index(&mut self, one: &Box4) -> Result<(), Broken> {
        let (bytes, at) = (self.bytes, one.start);
        let nonce = self.segment.header.nonce;
        common(bytes, at, INDEX, Some(nonce), at, 0, &mut self.findings)?;
        check_crc(bytes, (at, one.end), at + 28, "index box")?;
        let (runs, entries) = (bytes.u32(at + 48)? as usize, bytes.u32(at + 52)? as usize);
        let index = Index {
            at,
            bytes: one.size(),
            video: bytes.u32(at + 56)?,
            audio: bytes.u32(at + 60)?,
            random_access: bytes.u32(at + 64)?,
            video_bytes: bytes.u64(at + 72)?,
            audio_bytes: bytes.u64(at + 80)?,
            last_wall_us: bytes.i64(at + 88)?,
            runs: (0..runs)
                .map(|run| Ok((bytes.i64(at + 112 + 32 * run)?, bytes.i64(at + 120 + 32 * run)?)))
                .collect::<Result<_, Broken>>()?,
        };
        let used = 96 + 32 * runs + 40 * entries + 2 * index.audio as usize;
        if one.size() != used.next_multiple_of(8) {
            return Err(Broken::new(at, format!("index of {} bytes, its counts ask for {used}", one.size())));
        }
        self.findings.check(bytes.is_zero(at + used, one.end)?, at + used, || "index: padding is not zero".into());
        let segment = &self.segment;
        let counts = [
            ("runs", runs as u64, segment.runs.len() as u64),
            ("video frames", index.video.into(), segment.video().count() as u64),
            ("audio frames", index.audio.into(), segment.audio().count() as u64),
            (
                "random access points",
                index.random_access.into(),
                segment.fragments.iter().filter(|fragment| fragment.random_access).count() as u64,
            ),
            ("fragments", bytes.u32(at + 68)?.into(), segment.fragments.len() as u64),
            ("bytes of video", index.video_bytes, segment.video().map(|frame| u64::from(frame.bytes)).sum()),
            ("bytes of audio", index.audio_bytes, segment.audio().map(|frame| u64::from(frame.bytes)).sum()),
        ];
        for (what, says, is) in counts {
            self.findings.check(says == is, at, || format!("index: {says} {what}, the fragments have {is}"));
        }
        self.segment.index = Some(index);
        self.check_entries(at, runs, entries)
    }

    /// 12 §8.8.9 to §8.8.11.
    fn read_mfra(&mut self, one: &Box4) -> Result<(), Broken> {
        let bytes = self.bytes;
        let children = bytes.children(one)?;
        let names: Vec<_> = children.iter().map(Box4::name).collect();
        let (Some(tfra), Some(mfro)) = (children.first(), children.last()) else {
            return Err(Broken::new(one.start, "empty mfra"));
        };
        let padded = names == ["tfra", "free", "mfro"];
        if !padded && names != ["tfra", "mfro"] {
            return Err(Broken::new(one.start, format!("mfra holds {names:?}")));
        }
        self.findings.check(!padded || children.get(1).is_some_and(|free| free.size() == 12), one.start, || {
            "the free in mfra has not 12 bytes".into()
        });
        let fixed = (bytes.u32(tfra.body)?, bytes.u32(tfra.body + 4)?, bytes.u32(tfra.body + 8)?);
        if fixed != (0x0100_0000, 1, 0x3F) {
            return Err(Broken::new(tfra.start, format!("tfra: version, track, lengths {fixed:x?}")));
        }
        let count = bytes.u32(tfra.body + 12)? as usize;
        self.findings.check(tfra.size() == 24 + 28 * count, tfra.start, || "tfra: wrong length".into());
        let starts: Vec<_> = self.segment.fragments.iter().filter(|fragment| fragment.random_access).collect();
        self.findings.check(count == starts.len(), tfra.start, || {
            format!("tfra: {count} entries for {} random access points", starts.len())
        });
        for (number, fragment) in starts.iter().take(count).enumerate() {
            let at = tfra.body + 16 + 28 * number;
            let time = fragment.video.first().map_or(0, super::VideoFrame::presentation);
            let says = (bytes.i64(at)?, bytes.u64(at + 8)?);
            self.findings.check(says == (time, fragment.at as u64), at, || {
                format!("tfra: time and offset {says:?}, the fragment has {time}, {}", fragment.at)
            });
            let numbers = (bytes.u32(at + 16)?, bytes.u32(at + 20)?, bytes.u32(at + 24)?);
            self.findings.check(numbers == (1, 1, 1), at, || format!("tfra: traf, trun, sample {numbers:?}"));
        }
        let size = (mfro.size(), bytes.u32(mfro.body)?, bytes.u32(mfro.body + 4)? as usize);
        self.findings.check(size == (16, 0, one.size()), mfro.start, || format!("mfro: {size:?}"));
        Ok(())
    }
}
