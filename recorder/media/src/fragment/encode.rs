//! Making a fragment's head; samples are neither copied nor moved.

use bytes::Bytes;

use super::{
    AudioSample, BEGINS_RANDOM_ACCESS, CONTINUES_GOP, DEPENDENT, FRAME_LENGTH, FRAMES_FIXED_LENGTH, FragmentError,
    INDEPENDENT, TFHD_AUDIO, TFHD_VIDEO, TRUN_AUDIO, TRUN_COMPOSITION_OFFSETS, TRUN_DURATIONS, TRUN_VIDEO, VideoSample,
};
use crate::boxes::BoxWriter;
use crate::boxes::common::{CRC_OFFSET, CommonPart, FRAMES};
use crate::checksum::Crc32c;
use crate::init::{AUDIO_TRACK, VIDEO_TRACK};
use crate::unit::{FrameFlags, WallTime};

/// What a fragment is made of. Its first flag (random access) follows from the first video frame.
#[derive(Clone, Copy, Debug)]
pub struct FragmentSpec<'a> {
    /// 1, 2, … in the file.
    pub sequence_number: u32,
    /// This use of the file; not 0.
    pub nonce: u64,
    /// Where the `moof` will stand in the file.
    pub offset: u64,
    /// It goes on with a GOP that began in an earlier segment.
    pub continues_gop: bool,
    /// In decoding order, `dts` strictly increasing.
    pub video: &'a [VideoSample],
    /// In order.
    pub audio: &'a [AudioSample],
    /// Wall time of the first audio frame; not used without audio.
    pub audio_wall: WallTime,
}

/// A fragment: `head`, then the data of all video samples, of all audio samples, then `padding` zero bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFragment {
    /// `moof` and the header of `mdat`. Its first 8 bytes are written last.
    pub head: Bytes,
    /// Zero bytes behind the samples, 0 to 7.
    pub padding: usize,
    /// Of the whole fragment, in bytes: a multiple of 8.
    pub length: u64,
    /// Offset of the first video sample in the file; the others lie behind it without gaps.
    pub video_offset: u64,
    /// Offset of the first audio sample in the file, likewise.
    pub audio_offset: u64,
}

/// What decides a fragment's size.
struct Shape {
    composition_offsets: bool,
    audio_durations: bool,
    moof: usize,
    video_bytes: usize,
    audio_bytes: usize,
}

impl Shape {
    fn of(video: &[VideoSample], audio: &[AudioSample]) -> Self {
        let composition_offsets = video.iter().any(|sample| sample.composition_offset != 0);
        let audio_durations = !durations_are_equal(audio);
        let mut moof = 8 + 16 + FRAMES_FIXED_LENGTH + video.len() * FRAME_LENGTH;
        if !video.is_empty() {
            moof += 8 + 20 + 20 + 24 + video.len() * if composition_offsets { 12 } else { 8 };
        }
        if !audio.is_empty() {
            moof += 8 + 24 + 20 + 20 + audio.len() * if audio_durations { 8 } else { 4 };
        }
        Self {
            composition_offsets,
            audio_durations,
            moof,
            video_bytes: video.iter().map(|sample| sample.data.len()).sum(),
            audio_bytes: audio.iter().map(|sample| sample.data.len()).sum(),
        }
    }

    fn unpadded(&self) -> usize {
        self.moof + 8 + self.video_bytes + self.audio_bytes
    }
}

/// The audio frames' durations as they are written: up to the next frame, the last as given.
fn audio_durations(audio: &[AudioSample]) -> impl Iterator<Item = Option<u32>> {
    let next = audio.iter().skip(1).map(|next| Some(next.dts)).chain([None]);
    audio.iter().zip(next).map(|(sample, next)| duration(sample.dts, next, sample.duration))
}

fn durations_are_equal(audio: &[AudioSample]) -> bool {
    let mut durations = audio_durations(audio);
    let first = durations.next();
    durations.all(|duration| Some(duration) == first)
}

fn duration(dts: u64, next: Option<u64>, last: u32) -> Option<u32> {
    match next {
        Some(next) => next.checked_sub(dts).and_then(|ticks| u32::try_from(ticks).ok()),
        None => Some(last),
    }
}

/// Length in bytes of the fragment that these frames make.
#[must_use]
pub fn length_of(video: &[VideoSample], audio: &[AudioSample]) -> u64 {
    Shape::of(video, audio).unpadded().next_multiple_of(8) as u64
}

/// The most bytes that a fragment of so many frames, with so many bytes of samples, can take.
#[must_use]
pub const fn max_length(video_frames: u64, audio_frames: u64, sample_bytes: u64) -> u64 {
    let moof = 8 + 16 + 72 + 72 + 36 * video_frames + 72 + 8 * audio_frames;
    (moof + 8 + sample_bytes).next_multiple_of(8)
}

/// Makes a fragment.
///
/// # Errors
/// When there are no frames, `dts` do not increase, the nonce is 0, or something does not fit in 32 bits.
pub fn encode(spec: &FragmentSpec<'_>) -> Result<EncodedFragment, FragmentError> {
    let input = |what| FragmentError::Input { what };
    let (video, audio) = (spec.video, spec.audio);
    if video.is_empty() && audio.is_empty() {
        return Err(input("there are no frames"));
    }
    if spec.nonce == 0 {
        return Err(input("the use nonce is 0"));
    }
    let shape = Shape::of(video, audio);
    let unpadded = shape.unpadded();
    let length = unpadded.next_multiple_of(8);
    let padding = length - unpadded;
    let u32_of = |value: usize| u32::try_from(value).map_err(|_| input("longer than 4 GiB"));
    u32_of(length)?;
    let mdat_length = u32_of(length - shape.moof)?;
    let video_data = i32::try_from(shape.moof + 8).map_err(|_| input("longer than 2 GiB"))?;
    let audio_data = i32::try_from(shape.moof + 8 + shape.video_bytes).map_err(|_| input("longer than 2 GiB"))?;

    let mut ok = Ok(());
    let mut w = BoxWriter::with_capacity(shape.moof + 8);
    w.boxed(*b"moof", |w| {
        w.full_box(*b"mfhd", 0, 0, |w| w.u32(spec.sequence_number));
        if !video.is_empty() {
            w.boxed(*b"traf", |w| ok = video_traf(w, video, shape.composition_offsets, video_data));
        }
        if !audio.is_empty() {
            w.boxed(*b"traf", |w| ok = ok.clone().and(audio_traf(w, audio, shape.audio_durations, audio_data)));
        }
        frames_box(w, spec, mdat_length);
    });
    ok?;
    w.u32(mdat_length);
    w.bytes(b"mdat");

    let mut crc = Crc32c::default();
    crc.update(w.as_slice());
    video.iter().map(|sample| &sample.data).chain(audio.iter().map(|sample| &sample.data)).for_each(|d| crc.update(d));
    crc.update([0; 8].get(..padding).unwrap_or_default());
    // The frames box is the last in the moof, so its place is known from the end.
    let frames_length = FRAMES_FIXED_LENGTH + video.len() * FRAME_LENGTH;
    w.patch_u32(shape.moof - frames_length + CRC_OFFSET, crc.value());

    let head = w.finish();
    let video_offset = spec.offset + head.len() as u64;
    Ok(EncodedFragment {
        head,
        padding,
        length: length as u64,
        video_offset,
        audio_offset: video_offset + shape.video_bytes as u64,
    })
}

fn video_traf(
    w: &mut BoxWriter,
    video: &[VideoSample],
    composition_offsets: bool,
    data_offset: i32,
) -> Result<(), FragmentError> {
    let input = |what| FragmentError::Input { what };
    let first = video.first().ok_or_else(|| input("there are no frames"))?;
    w.full_box(*b"tfhd", 0, TFHD_VIDEO, |w| {
        w.u32(VIDEO_TRACK);
        w.u32(DEPENDENT);
    });
    w.full_box(*b"tfdt", 1, 0, |w| w.u64(first.dts));
    let flags = TRUN_VIDEO | if composition_offsets { TRUN_COMPOSITION_OFFSETS } else { 0 };
    let mut result = Ok(());
    w.full_box(*b"trun", 1, flags, |w| {
        w.u32(u32::try_from(video.len()).unwrap_or(u32::MAX));
        w.i32(data_offset);
        w.u32(if first.flags.contains(FrameFlags::SYNC) { INDEPENDENT } else { DEPENDENT });
        let next = video.iter().skip(1).map(|next| Some(next.dts)).chain([None]);
        for (sample, next) in video.iter().zip(next) {
            match duration(sample.dts, next, sample.duration) {
                Some(ticks) if ticks > 0 || next.is_none() => w.u32(ticks),
                _ => result = Err(input("decode times do not increase, or by more than 2^32 ticks")),
            }
            w.u32(u32::try_from(sample.data.len()).unwrap_or(u32::MAX));
            if composition_offsets {
                w.i32(sample.composition_offset);
            }
        }
    });
    result
}

fn audio_traf(
    w: &mut BoxWriter,
    audio: &[AudioSample],
    durations_differ: bool,
    data_offset: i32,
) -> Result<(), FragmentError> {
    let input = |what| FragmentError::Input { what };
    let first = audio.first().ok_or_else(|| input("there are no frames"))?;
    let first_duration = audio_durations(audio).next().flatten().unwrap_or(first.duration);
    w.full_box(*b"tfhd", 0, TFHD_AUDIO, |w| {
        w.u32(AUDIO_TRACK);
        w.u32(first_duration);
        w.u32(INDEPENDENT);
    });
    w.full_box(*b"tfdt", 1, 0, |w| w.u64(first.dts));
    let flags = TRUN_AUDIO | if durations_differ { TRUN_DURATIONS } else { 0 };
    let mut result = Ok(());
    w.full_box(*b"trun", 1, flags, |w| {
        w.u32(u32::try_from(audio.len()).unwrap_or(u32::MAX));
        w.i32(data_offset);
        for (sample, duration) in audio.iter().zip(audio_durations(audio)) {
            match duration {
                Some(ticks) if durations_differ => w.u32(ticks),
                Some(_) => {}
                None => result = Err(input("audio times go backwards, or forwards by more than 2^32 ticks")),
            }
            w.u32(u32::try_from(sample.data.len()).unwrap_or(u32::MAX));
        }
    });
    result
}

fn frames_box(w: &mut BoxWriter, spec: &FragmentSpec<'_>, mdat_length: u32) {
    let random_access = spec.video.first().is_some_and(|first| first.flags.contains(FrameFlags::RANDOM_ACCESS));
    let flags =
        if random_access { BEGINS_RANDOM_ACCESS } else { 0 } | if spec.continues_gop { CONTINUES_GOP } else { 0 };
    let length = u32::try_from(FRAMES_FIXED_LENGTH + spec.video.len() * FRAME_LENGTH).unwrap_or(u32::MAX);
    CommonPart { length, flags, crc: 0, nonce: spec.nonce, offset: spec.offset }.write(FRAMES, w);
    w.u32(u32::try_from(spec.video.len()).unwrap_or(u32::MAX));
    w.u32(u32::try_from(spec.audio.len()).unwrap_or(u32::MAX));
    w.u32(mdat_length);
    w.u32(0);
    w.i64(if spec.audio.is_empty() { 0 } else { spec.audio_wall.0 });
    for sample in spec.video {
        w.i64(sample.wall.0);
        w.u64(sample.identity.0);
        w.u32(sample.flags.0);
        w.u32(0);
    }
}
