//! `ftyp` and `moov`: a function of the codec parameters only (`docs/format.md` §3).

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::aac::{AacError, AacParameters};
use crate::boxes::walk::{boxes, find};
use crate::boxes::{BoxWriter, Reader};
use crate::h264::{H264Error, H264Parameters};
use crate::unit::VIDEO_CLOCK_HZ;

/// Track of the video.
pub const VIDEO_TRACK: u32 = 1;
/// Track of the audio.
pub const AUDIO_TRACK: u32 = 2;
/// Longest `ftyp` + `moov` that is accepted, in bytes.
pub const MAX_INIT_BYTES: usize = 1 << 20;

/// The head of every segment with the same codec parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitSegment {
    /// `ftyp` and `moov`.
    pub bytes: Bytes,
    /// XXH3-64 of `bytes`: names the parameters everywhere.
    pub hash: u64,
}

/// Why bytes are not the head of a segment of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// `ftyp` and `moov` do not stand first, or a box in them is missing or malformed.
    #[error("the file does not begin with ftyp and moov as they should be: {what}")]
    Malformed {
        /// The box, and what is wrong.
        what: &'static str,
    },
    /// The video's parameters.
    #[error(transparent)]
    Video(#[from] H264Error),
    /// The audio's parameters.
    #[error(transparent)]
    Audio(#[from] AacError),
}

impl InitSegment {
    /// For video and, where there is any, audio.
    #[must_use]
    pub fn new(video: &H264Parameters, audio: Option<&AacParameters>) -> Self {
        let mut w = BoxWriter::with_capacity(1400);
        w.boxed(*b"ftyp", |w| {
            w.bytes(b"iso6");
            w.u32(0);
            w.bytes(b"iso6iso5mp41");
        });
        w.boxed(*b"moov", |w| {
            movie_header(w);
            video_track(w, video);
            if let Some(audio) = audio {
                audio_track(w, audio);
            }
            w.boxed(*b"mvex", |w| {
                track_extends(w, VIDEO_TRACK);
                if audio.is_some() {
                    track_extends(w, AUDIO_TRACK);
                }
            });
        });
        Self::of(w.finish())
    }

    /// `ftyp`, `moov`, and the `free` box that brings them to a multiple of 8, where one is needed: what a segment file begins with.
    #[must_use]
    pub fn padded(&self) -> Bytes {
        let past = self.bytes.len() % 8;
        if past == 0 {
            return self.bytes.clone();
        }
        let mut w = BoxWriter::with_capacity(self.bytes.len() + 16);
        w.bytes(&self.bytes);
        w.boxed(*b"free", |w| w.zeros(8 - past));
        w.finish()
    }

    fn of(bytes: Bytes) -> Self {
        let hash = XxHash3_64::oneshot(&bytes);
        Self { bytes, hash }
    }

    /// From the first bytes of a segment file: the head (what is behind it is left out) and the parameters in it.
    ///
    /// # Errors
    /// When the head is cut, malformed or not ours.
    pub fn parse(file: &[u8]) -> Result<(Self, H264Parameters, Option<AacParameters>), InitError> {
        let malformed = |what| InitError::Malformed { what };
        let file = file.get(..file.len().min(MAX_INIT_BYTES)).unwrap_or_default();
        // `free` behind moov may reach past these bytes, so only two boxes are looked at.
        let mut top = boxes(file);
        let mut next = |kind: [u8; 4], what| match top.next() {
            Some(Ok((header, body))) if header.kind == kind => Ok((header, body)),
            _ => Err(malformed(what)),
        };
        next(*b"ftyp", "ftyp")?;
        let (moov, body) = next(*b"moov", "moov")?;
        let length = usize::try_from(moov.end()).map_err(|_| malformed("moov"))?;
        let mut video = None;
        let mut audio = None;
        for child in boxes(body) {
            let (header, trak) = child.map_err(|_| malformed("a box in moov"))?;
            if header.kind != *b"trak" {
                continue;
            }
            let mdia = find(trak, *b"mdia").ok_or_else(|| malformed("mdia"))?;
            let stsd = [*b"minf", *b"stbl", *b"stsd"].iter().try_fold(mdia, |body, &kind| find(body, kind));
            // Version, flags and the number of entries stand before the entry.
            let entry = stsd.and_then(|stsd| boxes(stsd.get(8..)?).next()?.ok()).ok_or_else(|| malformed("stsd"))?;
            match (track_id(trak), entry) {
                (Some(VIDEO_TRACK), (header, body)) if header.kind == *b"avc1" => {
                    let config = body.get(78..).and_then(|boxes| find(boxes, *b"avcC"));
                    video = Some(H264Parameters::from_avcc(config.ok_or_else(|| malformed("avcC"))?)?);
                }
                (Some(AUDIO_TRACK), (header, body)) if header.kind == *b"mp4a" => {
                    let esds = body.get(28..).and_then(|boxes| find(boxes, *b"esds"));
                    let esds = esds.and_then(|esds| esds.get(4..)).ok_or_else(|| malformed("esds"))?;
                    audio = Some(AacParameters::from_esds(esds)?);
                }
                _ => return Err(malformed("a track that is neither video 1 with avc1 nor audio 2 with mp4a")),
            }
        }
        let head = file.get(..length).ok_or_else(|| malformed("moov"))?;
        Ok((Self::of(Bytes::copy_from_slice(head)), video.ok_or_else(|| malformed("no video track"))?, audio))
    }
}

/// track_ID of a `trak` body.
fn track_id(trak: &[u8]) -> Option<u32> {
    let tkhd = find(trak, *b"tkhd")?;
    let mut r = Reader::new(tkhd);
    let version = r.u8().ok()?;
    r.take(3 + if version == 1 { 16 } else { 8 }).ok()?;
    r.u32().ok()
}

/// The identity matrix of ISO/IEC 14496-12 §8.2.2.3.
fn unity_matrix(w: &mut BoxWriter) {
    for value in [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000] {
        w.u32(value);
    }
}

fn movie_header(w: &mut BoxWriter) {
    w.full_box(*b"mvhd", 0, 0, |w| {
        w.u32(0);
        w.u32(0);
        w.u32(VIDEO_CLOCK_HZ);
        w.u32(0);
        w.u32(0x0001_0000);
        w.u16(0x0100);
        w.zeros(10);
        unity_matrix(w);
        w.zeros(24);
        w.u32(3);
    });
}

fn track_extends(w: &mut BoxWriter, track: u32) {
    w.full_box(*b"trex", 0, 0, |w| {
        w.u32(track);
        w.u32(1);
        w.zeros(12);
    });
}

struct Track<'a> {
    id: u32,
    timescale: u32,
    handler: [u8; 4],
    handler_name: &'a [u8],
    volume: u16,
    /// As it is shown: 16.16 fixed point.
    width: u32,
    height: u32,
    sample_entry: Bytes,
}

fn track(w: &mut BoxWriter, track: &Track<'_>) {
    const ENABLED_IN_MOVIE: u32 = 3;
    const UNDETERMINED_LANGUAGE: u16 = 0x55c4;
    const DATA_IN_THIS_FILE: u32 = 1;
    w.boxed(*b"trak", |w| {
        w.full_box(*b"tkhd", 0, ENABLED_IN_MOVIE, |w| {
            w.u32(0);
            w.u32(0);
            w.u32(track.id);
            w.zeros(4 + 4 + 8 + 2 + 2);
            w.u16(track.volume);
            w.zeros(2);
            unity_matrix(w);
            w.u32(track.width);
            w.u32(track.height);
        });
        w.boxed(*b"mdia", |w| {
            w.full_box(*b"mdhd", 0, 0, |w| {
                w.u32(0);
                w.u32(0);
                w.u32(track.timescale);
                w.u32(0);
                w.u16(UNDETERMINED_LANGUAGE);
                w.u16(0);
            });
            w.full_box(*b"hdlr", 0, 0, |w| {
                w.u32(0);
                w.bytes(&track.handler);
                w.zeros(12);
                w.bytes(track.handler_name);
            });
            w.boxed(*b"minf", |w| {
                if track.handler == *b"vide" {
                    w.full_box(*b"vmhd", 0, 1, |w| w.zeros(8));
                } else {
                    w.full_box(*b"smhd", 0, 0, |w| w.zeros(4));
                }
                w.boxed(*b"dinf", |w| {
                    w.full_box(*b"dref", 0, 0, |w| {
                        w.u32(1);
                        w.full_box(*b"url ", 0, DATA_IN_THIS_FILE, |_| {});
                    });
                });
                w.boxed(*b"stbl", |w| {
                    w.full_box(*b"stsd", 0, 0, |w| {
                        w.u32(1);
                        w.bytes(&track.sample_entry);
                    });
                    w.full_box(*b"stts", 0, 0, |w| w.u32(0));
                    w.full_box(*b"stsc", 0, 0, |w| w.u32(0));
                    w.full_box(*b"stsz", 0, 0, |w| w.zeros(8));
                    w.full_box(*b"stco", 0, 0, |w| w.u32(0));
                });
            });
        });
    });
}

fn video_track(w: &mut BoxWriter, video: &H264Parameters) {
    let (numerator, denominator) = video.sample_aspect_ratio.unwrap_or((1, 1));
    let shown_width = (u64::from(video.width) << 16) * u64::from(numerator) / u64::from(denominator.max(1));
    track(
        w,
        &Track {
            id: VIDEO_TRACK,
            timescale: VIDEO_CLOCK_HZ,
            handler: *b"vide",
            handler_name: b"video\0",
            volume: 0,
            width: u32::try_from(shown_width).unwrap_or(u32::MAX),
            height: video.height << 16,
            sample_entry: video_sample_entry(video),
        },
    );
}

fn audio_track(w: &mut BoxWriter, audio: &AacParameters) {
    track(
        w,
        &Track {
            id: AUDIO_TRACK,
            timescale: audio.sample_rate,
            handler: *b"soun",
            handler_name: b"audio\0",
            volume: 0x0100,
            width: 0,
            height: 0,
            sample_entry: audio_sample_entry(audio),
        },
    );
}

/// The `avc1` sample entry (ISO/IEC 14496-12 §12.1.3, 14496-15 §5.4.2.1) with `avcC`, and `pasp` and `colr` where the VUI says.
#[must_use]
pub fn video_sample_entry(video: &H264Parameters) -> Bytes {
    const DOTS_72_PER_INCH: u32 = 72 << 16;
    let mut w = BoxWriter::with_capacity(200 + video.sps.len());
    w.boxed(*b"avc1", |w| {
        w.zeros(6);
        w.u16(1);
        w.zeros(16);
        w.u16(u16::try_from(video.width).unwrap_or(u16::MAX));
        w.u16(u16::try_from(video.height).unwrap_or(u16::MAX));
        w.u32(DOTS_72_PER_INCH);
        w.u32(DOTS_72_PER_INCH);
        w.u32(0);
        w.u16(1);
        w.zeros(32);
        w.u16(24);
        w.u16(0xffff);
        w.boxed(*b"avcC", |w| w.bytes(&video.avcc()));
        if let Some((horizontal, vertical)) = video.sample_aspect_ratio {
            w.boxed(*b"pasp", |w| {
                w.u32(horizontal.into());
                w.u32(vertical.into());
            });
        }
        if let Some(colour) = video.colour {
            w.boxed(*b"colr", |w| {
                w.bytes(b"nclx");
                w.u16(colour.primaries.into());
                w.u16(colour.transfer.into());
                w.u16(colour.matrix.into());
                w.u8(if colour.full_range { 0x80 } else { 0 });
            });
        }
    });
    w.finish()
}

/// The `mp4a` sample entry (ISO/IEC 14496-12 §12.2.3, 14496-14 §5.6) with `esds`.
#[must_use]
pub fn audio_sample_entry(audio: &AacParameters) -> Bytes {
    let mut w = BoxWriter::with_capacity(100);
    w.boxed(*b"mp4a", |w| {
        w.zeros(6);
        w.u16(1);
        w.zeros(8);
        w.u16(audio.channels.into());
        w.u16(16);
        w.u32(0);
        // 16.16; rates that do not fit are 0, and the esds tells.
        w.u32(u16::try_from(audio.sample_rate).map_or(0, |rate| u32::from(rate) << 16));
        w.bytes(&audio.esds());
    });
    w.finish()
}
