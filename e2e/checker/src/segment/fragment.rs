//! Fragments: `moof` with its frames box, and `mdat` (format.md §6; 12 §8.8).

use super::{Broken, FRAMES, Findings, Walker, check_crc, common};
use crate::bytes::{Box4, Bytes};
use crate::stamp::{self, Stamp};

/// A coded picture as the file has it.
#[derive(Debug, Clone)]
pub struct VideoFrame {
    /// Offset of the sample.
    pub at: usize,
    /// Bytes of the sample.
    pub bytes: u32,
    /// Decode time: file time, 90 kHz.
    pub decode: i64,
    /// Composition offset, 90 kHz.
    pub composition: i32,
    /// Duration, 90 kHz; a fragment's last one is a forecast.
    pub duration: u32,
    /// Microseconds since 1970.
    pub wall_us: i64,
    /// What the frames box says that its VCL NAL units hash to.
    pub identity: u64,
    /// Bits 0 to 3 of format.md §6.
    pub flags: u32,
    /// What its VCL NAL units do hash to.
    pub computed: u64,
    /// Without a stamp: what they hash to in ledgers of cameras that cannot stamp; else 0.
    pub size_and_crc: u64,
    /// The stamps that it holds; one, if all is well.
    pub stamps: Vec<Stamp>,
}

impl VideoFrame {
    /// A random access point.
    pub const RANDOM_ACCESS: u32 = 1;
    /// A sync sample.
    pub const SYNC: u32 = 2;
    /// Packets were lost before it.
    pub const LOSS_BEFORE: u32 = 4;
    /// It is incomplete.
    pub const INCOMPLETE: u32 = 8;

    /// Composition time: file time, 90 kHz.
    pub fn presentation(&self) -> i64 {
        self.decode.saturating_add(i64::from(self.composition))
    }
}

/// An audio frame as the file has it.
#[derive(Debug, Clone)]
pub struct Sound {
    /// Offset of the sample.
    pub at: usize,
    /// Bytes of the sample.
    pub bytes: u32,
    /// File time in the timescale of the track.
    pub decode: i64,
    /// Duration in the timescale of the track.
    pub duration: u32,
    /// XXH3-64 of its bytes.
    pub computed: u64,
    /// Without a stamp: its hash in ledgers of cameras that cannot stamp; else 0.
    pub size_and_crc: u64,
    /// The number of its stamp.
    pub number: Option<u64>,
}

/// A fragment.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// Offset of its `moof`.
    pub at: usize,
    /// Which of the segment's runs it belongs to.
    pub run: usize,
    /// Begins with a random access point.
    pub random_access: bool,
    /// Its pictures in decoding order.
    pub video: Vec<VideoFrame>,
    /// Its audio frames.
    pub audio: Vec<Sound>,
    /// Wall time of the first audio frame, microseconds since 1970.
    pub audio_wall_us: i64,
}

struct Sample {
    at: usize,
    bytes: u32,
    decode: i64,
    duration: u32,
    composition: i32,
}

#[derive(Default)]
struct Track {
    samples: Vec<Sample>,
    first_flags: Option<u32>,
}

impl Walker<'_> {
    /// Reads a `moof` and the `mdat` behind it; gives back where they end.
    pub(super) fn read_fragment(&mut self, moof: &Box4) -> Result<usize, Broken> {
        let (bytes, nonce) = (self.bytes, self.segment.header.nonce);
        let mdat = bytes.box_at(moof.end, bytes.len())?;
        if mdat.kind != *b"mdat" || mdat.body - mdat.start != 8 {
            return Err(Broken::new(mdat.start, format!("`{}` where the mdat of the moof belongs", mdat.name())));
        }
        let children = bytes.children(moof)?;
        let [mfhd, trafs @ .., frames] = children.as_slice() else {
            return Err(Broken::new(moof.start, "moof without mfhd and frames box"));
        };
        if mfhd.kind != *b"mfhd" || frames.kind != *b"uuid" || trafs.iter().any(|traf| traf.kind != *b"traf") {
            let names: Vec<_> = children.iter().map(Box4::name).collect();
            return Err(Broken::new(moof.start, format!("moof holds {names:?}")));
        }
        let findings = &mut self.findings;
        let flags = common(bytes, frames.start, FRAMES, Some(nonce), moof.start, 3, findings)?;
        check_crc(bytes, (moof.start, mdat.end), frames.start + 28, "fragment")?;
        let (v, a) = (bytes.u32(frames.start + 48)?, bytes.u32(frames.start + 52)?);
        let (says, is) = (bytes.u32(frames.start + 56)? as usize, mdat.size());
        findings.check(says == is, frames.start, || format!("mdat of {says} bytes, it has {is}"));
        findings.check(bytes.u32(frames.start + 60)? == 0, frames.start, || "reserved bytes are not zero".into());
        let right = 72 + 24 * v as usize;
        findings.check(frames.size() == right, frames.start, || {
            format!("frames box of {} bytes for {v} video frames", frames.size())
        });
        findings
            .check((mdat.end - moof.start).is_multiple_of(8), moof.start, || "length is no multiple of 8".to_owned());
        let sequence = (bytes.u32(mfhd.body)?, bytes.u32(mfhd.body + 4)?);
        let right = (0, self.segment.fragments.len() as u32 + 1);
        findings.check(sequence == right, mfhd.start, || format!("mfhd {sequence:?} instead of {right:?}"));

        let (mut video, mut audio) = (Track::default(), Track::default());
        for traf in trafs {
            let (id, track) = read_track(bytes, moof.start, traf, findings)?;
            let audio_before = !audio.samples.is_empty();
            let slot = if id == 1 { &mut video } else { &mut audio };
            let out_of_place = !slot.samples.is_empty() || audio_before;
            findings.check(!out_of_place, traf.start, || format!("traf of track {id} out of place"));
            findings.check(!track.samples.is_empty(), traf.start, || "traf without a sample".into());
            *slot = track;
        }
        findings.check((video.samples.len(), audio.samples.len()) == (v as usize, a as usize), frames.start, || {
            format!("says {v} and {a} frames, the truns have {} and {}", video.samples.len(), audio.samples.len())
        });
        findings.check(v + a > 0, moof.start, || "no frames".into());
        check_layout(bytes, &mdat, video.samples.iter().chain(&audio.samples), findings)?;
        if self.segment.runs.is_empty() {
            return Err(Broken::new(moof.start, "fragment before any run box"));
        }
        let fragment = Fragment {
            at: moof.start,
            run: self.segment.runs.len() - 1,
            random_access: flags & 1 != 0,
            video: read_pictures(bytes, frames, &video.samples)?,
            audio: read_sounds(bytes, &audio.samples)?,
            audio_wall_us: bytes.i64(frames.start + 64)?,
        };
        self.check_frames(&fragment, flags, video.first_flags);
        self.segment.fragments.push(fragment);
        Ok(mdat.end)
    }

    /// What must hold between a fragment's frames, its flags and the fragments before it.
    fn check_frames(&mut self, fragment: &Fragment, flags: u16, first_sample_flags: Option<u32>) {
        let at = fragment.at;
        let earlier = self.segment.fragments.as_slice();
        let findings = &mut self.findings;
        let first = fragment.video.first().map_or(0, |frame| frame.flags);
        findings.check(fragment.random_access == (first & VideoFrame::RANDOM_ACCESS != 0), at, || {
            "frames box and first frame disagree on the random access point".into()
        });
        if let Some(sample_flags) = first_sample_flags {
            let right = if first & VideoFrame::SYNC != 0 { 0x0200_0000 } else { 0x0101_0000 };
            findings.check(sample_flags == right, at, || format!("first_sample_flags {sample_flags:#010x}"));
        }
        for frame in &fragment.video {
            findings.check(frame.flags & !15 == 0, frame.at, || format!("unknown frame flags {:#x}", frame.flags));
            let incomplete = frame.flags & VideoFrame::INCOMPLETE != 0;
            findings.check(incomplete || frame.identity == frame.computed, frame.at, || {
                format!("identity {:016x}, its bytes have {:016x}", frame.identity, frame.computed)
            });
        }
        for frame in fragment.video.iter().skip(1) {
            findings.check(frame.flags & (VideoFrame::RANDOM_ACCESS | VideoFrame::SYNC) == 0, frame.at, || {
                "a random access point that does not begin a fragment".into()
            });
        }
        findings.check(!fragment.audio.is_empty() || fragment.audio_wall_us == 0, at, || {
            "wall time of audio, but no audio".into()
        });
        // A segment starts with a random access point, or says that it does not.
        let seen_access = fragment.random_access || earlier.iter().any(|before| before.random_access);
        let inherits = flags & 2 != 0;
        if !fragment.video.is_empty() {
            let header = &self.segment.header;
            findings.check(seen_access || header.begins_inside_gop, at, || {
                "pictures before the file's first random access point".into()
            });
            findings.check(inherits != seen_access, at, || {
                format!("flag `goes on with an earlier segment's GOP` is {inherits}")
            });
        }
        // Decode times grow; `tfdt` may only cut the forecast of the frame before it.
        let pictures = earlier.iter().flat_map(|before| &before.video).chain(&fragment.video);
        let count = fragment.video.len() + 1;
        check_growth(pictures.rev().take(count).map(|frame| (frame.at, frame.decode, 0)), findings);
        let sounds = earlier.iter().flat_map(|before| &before.audio).chain(&fragment.audio);
        let count = fragment.audio.len() + 1;
        check_growth(sounds.rev().take(count).map(|sound| (sound.at, sound.decode, sound.duration)), findings);
    }
}

/// (offset, time, least duration), last one first: each begins behind the one before it.
fn check_growth(frames: impl Iterator<Item = (usize, i64, u32)>, findings: &mut Findings) {
    let mut next: Option<(usize, i64)> = None;
    for (at, time, duration) in frames {
        if let Some((next_at, next_time)) = next {
            let end = time.saturating_add(i64::from(duration.max(1)));
            findings.check(next_time >= end, next_at, || {
                format!("decode time {next_time}, the frame before it lasts until {end}")
            });
        }
        next = Some((at, time));
    }
}

fn read_track(bytes: Bytes<'_>, moof: usize, traf: &Box4, findings: &mut Findings) -> Result<(u32, Track), Broken> {
    let children = bytes.children(traf)?;
    let names: Vec<_> = children.iter().map(Box4::name).collect();
    let [tfhd, tfdt, trun] = children.as_slice() else {
        return Err(Broken::new(traf.start, format!("traf holds {names:?}")));
    };
    if names != ["tfhd", "tfdt", "trun"] {
        return Err(Broken::new(traf.start, format!("traf holds {names:?}")));
    }
    let (tfhd_flags, id) = (bytes.u32(tfhd.body)?, bytes.u32(tfhd.body + 4)?);
    let (default_duration, fields, allowed) = match (id, tfhd_flags) {
        (1, 0x02_0020) => (0, vec![0x0101_0000], [0x0100_0305, 0x0100_0B05]),
        (2, 0x02_0028) => {
            let duration = bytes.u32(tfhd.body + 8)?;
            (duration, vec![duration, 0x0200_0000], [0x0100_0201, 0x0100_0301])
        }
        _ => return Err(Broken::new(tfhd.start, format!("tfhd of track {id} with flags {tfhd_flags:#08x}"))),
    };
    for (number, field) in fields.iter().enumerate() {
        let says = bytes.u32(tfhd.body + 8 + 4 * number)?;
        findings.check(says == *field, tfhd.start, || format!("tfhd: {says:#010x} instead of {field:#010x}"));
    }
    findings.check(tfhd.end == tfhd.body + 8 + 4 * fields.len(), tfhd.start, || "tfhd: wrong length".into());
    let version = bytes.u32(tfdt.body)?;
    if version != 0x0100_0000 || tfdt.size() != 20 {
        return Err(Broken::new(tfdt.start, format!("tfdt {version:#010x} of {} bytes", tfdt.size())));
    }
    let mut decode = bytes.i64(tfdt.body + 4)?;
    let (flags, count) = (bytes.u32(trun.body)?, bytes.u32(trun.body + 4)?);
    if !allowed.contains(&flags) {
        return Err(Broken::new(trun.start, format!("trun of track {id}: version and flags {flags:#010x}")));
    }
    let offset = bytes.i32(trun.body + 8)?;
    let mut at = moof.checked_add_signed(offset as isize).unwrap_or(usize::MAX);
    let mut field = trun.body + 12;
    let mut track = Track::default();
    let mut take = |wanted: u32| -> Result<Option<usize>, Broken> {
        Ok((flags & wanted != 0).then(|| {
            field += 4;
            field - 4
        }))
    };
    if let Some(place) = take(0x4)? {
        track.first_flags = Some(bytes.u32(place)?);
    }
    for _ in 0..count {
        let duration = take(0x100)?.map_or(Ok(default_duration), |place| bytes.u32(place))?;
        let size = take(0x200)?.map_or(Ok(0), |place| bytes.u32(place))?;
        let composition = take(0x800)?.map_or(Ok(0), |place| bytes.i32(place))?;
        track.samples.push(Sample { at, bytes: size, decode, duration, composition });
        at = at.saturating_add(size as usize);
        decode = decode.saturating_add(i64::from(duration));
    }
    findings.check(field == trun.end, trun.start, || "trun: wrong length".into());
    if flags == 0x0100_0301 {
        let same = track.samples.iter().all(|sample| sample.duration == default_duration);
        findings.check(!same, trun.start, || "trun: durations, although all are the default".into());
    }
    Ok((id, track))
}

/// `mdat`: the samples one behind the other, then 0 to 7 zero bytes.
fn check_layout<'a>(
    bytes: Bytes<'_>,
    mdat: &Box4,
    samples: impl Iterator<Item = &'a Sample>,
    findings: &mut Findings,
) -> Result<(), Broken> {
    let mut at = mdat.body;
    for sample in samples {
        findings.check(sample.at == at, sample.at, || format!("sample where {at} is the next free byte of mdat"));
        findings.check(sample.bytes > 0, sample.at, || "sample of 0 bytes".into());
        at = sample.at.saturating_add(sample.bytes as usize);
    }
    if at > mdat.end {
        return Err(Broken::new(at, format!("samples reach beyond their mdat, which ends at {}", mdat.end)));
    }
    let padding = mdat.end - at;
    let clean = padding <= 7 && bytes.is_zero(at, mdat.end)?;
    findings.check(clean, at, || format!("{padding} bytes behind the samples, 0 to 7 zero bytes are right"));
    Ok(())
}

fn read_pictures(bytes: Bytes<'_>, frames: &Box4, samples: &[Sample]) -> Result<Vec<VideoFrame>, Broken> {
    let picture = |(number, sample): (usize, &Sample)| {
        let entry = frames.start + 72 + 24 * number;
        if entry + 24 > frames.end {
            return Err(Broken::new(frames.start, "frames box has fewer entries than the trun"));
        }
        if bytes.u32(entry + 20)? != 0 {
            return Err(Broken::new(entry + 20, "reserved bytes are not zero"));
        }
        let flags = bytes.u32(entry + 16)?;
        let units = match stamp::nal_units(bytes.slice(sample.at, sample.bytes as usize)?) {
            Some(units) => units,
            None if flags & VideoFrame::INCOMPLETE != 0 => Vec::new(),
            None => return Err(Broken::new(sample.at, "NAL unit lengths do not fill the sample")),
        };
        let stamps = stamp::of_video(&units);
        Ok(VideoFrame {
            at: sample.at,
            bytes: sample.bytes,
            decode: sample.decode,
            composition: sample.composition,
            duration: sample.duration,
            wall_us: bytes.i64(entry)?,
            identity: bytes.u64(entry + 8)?,
            flags,
            computed: stamp::identity(&units),
            size_and_crc: if stamps.is_empty() { stamp::size_and_crc_of_units(&units) } else { 0 },
            stamps,
        })
    };
    samples.iter().enumerate().map(picture).collect()
}

fn read_sounds(bytes: Bytes<'_>, samples: &[Sample]) -> Result<Vec<Sound>, Broken> {
    let sound = |sample: &Sample| {
        let data = bytes.slice(sample.at, sample.bytes as usize)?;
        let number = stamp::of_audio(data);
        Ok(Sound {
            at: sample.at,
            bytes: sample.bytes,
            decode: sample.decode,
            duration: sample.duration,
            computed: xxhash_rust::xxh3::xxh3_64(data),
            size_and_crc: if number.is_none() { stamp::size_and_crc([data]) } else { 0 },
            number,
        })
    };
    samples.iter().map(sound).collect()
}
