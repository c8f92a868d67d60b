//! The codec descriptions of a clip: the sample entries of the segments that it reads, each once.

use bytes::Bytes;

use crate::serve::footage::{Footage, FootageError, Segment};

/// Sample entries (ISO/IEC 14496-12 §8.5.2) for the video and the audio track.
#[derive(Clone, Debug, Default)]
pub struct Descriptions {
    /// Whole video sample entry boxes.
    pub video: Vec<Bytes>,
    /// Whole audio sample entry boxes.
    pub audio: Vec<Bytes>,
    /// Some frames may be decoded in another order than they are shown.
    pub reorders: bool,
    /// Timescale of the audio track, ticks a second; 0 when there is no audio.
    pub audio_rate: u32,
    known: Vec<Known>,
}

/// What is known of one init hash.
#[derive(Clone, Copy, Debug)]
struct Known {
    init_hash: u64,
    video: usize,
    audio: usize,
    audio_rate: u32,
}

/// From the ticks of one segment's audio, and of the video, to those of the clip's audio track.
#[derive(Clone, Copy, Debug)]
pub struct AudioClock {
    from_hz: i64,
    to_hz: i64,
}

impl AudioClock {
    /// A length of time of the segment, in ticks of the clip.
    #[must_use]
    pub fn scale(self, ticks: i64) -> i64 {
        if self.from_hz == self.to_hz { ticks } else { rescale(ticks, self.to_hz, self.from_hz) }
    }

    /// 90 kHz ticks in ticks of the clip's audio.
    #[must_use]
    pub fn from_video(self, ticks: i64) -> i64 {
        rescale(ticks, self.to_hz, super::plan::TIMESCALE)
    }

    /// The clip time of a file time, where file time 0 is at clip time `zero` (90 kHz).
    #[must_use]
    pub fn clip_time(self, zero: i64, file_time: i64) -> i64 {
        self.from_video(zero) + self.scale(file_time)
    }
}

/// `value × to / from`, rounded.
fn rescale(value: i64, to: i64, from: i64) -> i64 {
    if from == 0 {
        return 0;
    }
    ((i128::from(value) * i128::from(to) * 2 + i128::from(from)).div_euclid(i128::from(from) * 2)) as i64
}

impl Descriptions {
    /// Takes in the descriptions of a segment, unless they are known.
    ///
    /// # Errors
    /// When the segment's head cannot be read or has no video.
    pub fn add(&mut self, footage: &dyn Footage, segment: &Segment) -> Result<(), FootageError> {
        if self.known.iter().any(|known| known.init_hash == segment.init_hash) {
            return Ok(());
        }
        let init = footage.init(segment)?;
        let entries = sample_entries(&init.bytes)
            .ok_or_else(|| FootageError::Broken(format!("{}: no sample entries in moov", segment.path.display())))?;
        self.reorders |= init.reorders;
        let video = position_of(&mut self.video, entries.video);
        let (audio, audio_rate) = match entries.audio {
            Some((entry, rate)) => (position_of(&mut self.audio, entry), rate),
            None => (0, 0),
        };
        if self.audio_rate == 0 {
            self.audio_rate = audio_rate;
        }
        self.known.push(Known { init_hash: segment.init_hash, video, audio, audio_rate });
        Ok(())
    }

    fn known(&self, init_hash: u64) -> Option<&Known> {
        self.known.iter().find(|known| known.init_hash == init_hash)
    }

    /// Positions of the video and the audio entry of an init hash.
    #[must_use]
    pub fn positions(&self, init_hash: u64) -> (usize, usize) {
        self.known(init_hash).map_or((0, 0), |known| (known.video, known.audio))
    }

    /// The clock of the audio of an init hash.
    #[must_use]
    pub fn audio_clock(&self, init_hash: u64) -> AudioClock {
        let to_hz = i64::from(self.audio_rate);
        let from_hz = self.known(init_hash).map_or(0, |known| i64::from(known.audio_rate));
        AudioClock { from_hz: if from_hz == 0 { to_hz } else { from_hz }, to_hz }
    }

    /// Width and height in pixels, of the first video entry (§12.1.3: at bytes 32 and 34).
    #[must_use]
    pub fn dimensions(&self) -> (u16, u16) {
        let number = |entry: &Bytes, at: usize| entry.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        self.video.first().map_or((0, 0), |entry| (number(entry, 32), number(entry, 34)))
    }

    /// The `avcC` payload (ISO/IEC 14496-15 §5.3.3) of the first video entry.
    #[must_use]
    pub fn avc_configuration(&self) -> Option<Bytes> {
        let entry = self.video.first()?;
        // A visual sample entry has 78 bytes before the boxes in it.
        let boxes = entry.slice(entry.len().min(8 + 78)..);
        child(&boxes, b"avcC")
    }
}

fn position_of(entries: &mut Vec<Bytes>, entry: Bytes) -> usize {
    entries.iter().position(|known| *known == entry).unwrap_or_else(|| {
        entries.push(entry);
        entries.len() - 1
    })
}

struct SampleEntries {
    video: Bytes,
    audio: Option<(Bytes, u32)>,
}

/// The first sample entry of each track, and the audio track's timescale.
fn sample_entries(init: &Bytes) -> Option<SampleEntries> {
    let moov = child(init, b"moov")?;
    let (mut video, mut audio) = (None, None);
    for (kind, trak) in boxes(&moov) {
        if kind != *b"trak" {
            continue;
        }
        let mdia = child(&trak, b"mdia")?;
        let stsd = child(&child(&child(&mdia, b"minf")?, b"stbl")?, b"stsd")?;
        // Version, flags and entry count precede the entries (§8.5.2.2).
        let entries = stsd.slice(stsd.len().min(8)..);
        let length = entries.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)? as usize;
        let entry = (8..=entries.len()).contains(&length).then(|| entries.slice(..length))?;
        let handler = child(&mdia, b"hdlr")?;
        match handler.get(8..12)? {
            b"vide" => video = Some(entry),
            b"soun" => {
                let mdhd = child(&mdia, b"mdhd")?;
                let at = if *mdhd.first()? == 1 { 20 } else { 12 };
                let rate = u32::from_be_bytes(mdhd.get(at..at + 4)?.try_into().ok()?);
                audio = (rate > 0).then_some((entry, rate));
            }
            _ => {}
        }
    }
    Some(SampleEntries { video: video?, audio })
}

/// The payload of the first box of a kind.
fn child(bytes: &Bytes, kind: &[u8; 4]) -> Option<Bytes> {
    boxes(bytes).find(|(found, _)| found == kind).map(|(_, payload)| payload)
}

/// Kinds and payloads of boxes with 32-bit lengths, up to the first that does not fit.
fn boxes(bytes: &Bytes) -> impl Iterator<Item = ([u8; 4], Bytes)> {
    let mut rest = bytes.clone();
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind: [u8; 4] = rest.get(4..8)?.try_into().ok()?;
        if !(8..=rest.len()).contains(&length) {
            return None;
        }
        let whole = rest.split_to(length);
        Some((kind, whole.slice(8..)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_heads_are_no_panic() {
        for bytes in [&b""[..], b"\0\0\0\x07moov", b"\xff\xff\xff\xffmoov", b"\0\0\0\x10moov\0\0\0\x08trak"] {
            assert!(sample_entries(&Bytes::copy_from_slice(bytes)).is_none());
        }
    }

    #[test]
    fn audio_times_are_rounded_to_the_nearest_tick() {
        let clock = AudioClock { from_hz: 48_000, to_hz: 48_000 };
        assert_eq!((clock.from_video(90_000), clock.from_video(-1), clock.from_video(1)), (48_000, -1, 1));
        assert_eq!(AudioClock { from_hz: 16_000, to_hz: 48_000 }.clip_time(90_000, 16), 48_048);
    }
}
