//! Run boxes (format.md §5).

use super::{Broken, RUN, Uid, Walker, check_crc, common};
use crate::bytes::Box4;

/// A run box.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its offset.
    pub at: usize,
    /// The run began in an earlier segment.
    pub continued: bool,
    /// The same in every segment that the run goes through.
    pub run: Uid,
    /// Grows with each change of who records the stream.
    pub epoch: u64,
    /// 0 primary, 1… standby.
    pub rank: u32,
    /// Why there is a gap before it.
    pub gap_reason: u32,
    /// Plan version.
    pub plan: (u64, u64),
    /// UID of the recorder.
    pub recorder: Uid,
    /// Microseconds since 1970 of the media anchor.
    pub wall_anchor_us: i64,
    /// Unwrapped RTP time of the run's first video frame in this file, 90 kHz.
    pub media_anchor: i64,
    /// Media time − file time, 90 kHz.
    pub video_offset: i64,
    /// The same for audio, in its timescale.
    pub audio_offset: i64,
    /// When the stream's previous run on this recorder ended; 0 is unknown.
    pub previous_end_us: i64,
    /// The previous run; nil is none.
    pub previous_run: Uid,
}

/// What `gap reason` says (format.md §5).
pub fn gap_reason(code: u32) -> &'static str {
    match code {
        0 => "no gap",
        1 => "first run of the stream on this recorder",
        2 => "camera ended the session",
        3 => "silence",
        4 => "camera unreachable",
        5 => "camera refused the credentials",
        6 => "jump of RTP time",
        7 => "clock of the machine stepped",
        8 => "recorder stopped in order",
        9 => "recorder was killed or crashed",
        10 => "stream suspended",
        11 => "not assigned to this recorder",
        12 => "volume failed",
        13 => "overload",
        14 => "malformed or unsupported media",
        15 => "takeover",
        16 => "handback",
        17 => "codec parameters changed",
        18 => "source changed by its owner",
        19 => "footage is damaged",
        20 => "no space",
        21 => "retired",
        255 => "unknown",
        _ => "a reason that format.md does not list",
    }
}

/// A wall anchor may differ so much from the wall time of the frame it belongs to: the time of a run is still being
/// corrected when its box is written.
const ANCHOR_TOLERANCE_US: i64 = 1_000;

impl Walker<'_> {
    pub(super) fn read_run(&mut self, one: &Box4) -> Result<(), Broken> {
        let (bytes, at, nonce) = (self.bytes, one.start, self.segment.header.nonce);
        let findings = &mut self.findings;
        if one.size() != 256 {
            return Err(Broken::new(at, format!("run box of {} bytes", one.size())));
        }
        let flags = common(bytes, at, RUN, Some(nonce), at, 1, findings)?;
        check_crc(bytes, (at, at + 256), at + 28, "run box")?;
        let previous = self.segment.runs.last().map_or(0, |run| run.at) as u64;
        let says = bytes.u64(at + 112)?;
        findings.check(says == previous, at, || format!("previous run box at {says}, it is at {previous}"));
        findings.check(bytes.is_zero(at + 192, at + 256)?, at, || "reserved bytes are not zero".into());
        let run = Run {
            at,
            continued: flags & 1 != 0,
            run: Uid::from_bytes(bytes.array(at + 48)?),
            epoch: bytes.u64(at + 64)?,
            rank: bytes.u32(at + 72)?,
            gap_reason: bytes.u32(at + 76)?,
            plan: (bytes.u64(at + 80)?, bytes.u64(at + 88)?),
            recorder: Uid::from_bytes(bytes.array(at + 96)?),
            wall_anchor_us: bytes.i64(at + 120)?,
            media_anchor: bytes.i64(at + 128)?,
            video_offset: bytes.i64(at + 136)?,
            audio_offset: bytes.i64(at + 144)?,
            previous_end_us: bytes.i64(at + 168)?,
            previous_run: Uid::from_bytes(bytes.array(at + 176)?),
        };
        findings.check(!run.run.is_nil() && !run.recorder.is_nil(), at, || "run or recorder is nil".into());
        findings.check(!run.continued || run.gap_reason == 0, at, || "continued, and yet a gap before it".into());
        findings
            .check(gap_reason(run.gap_reason) != gap_reason(u32::MAX), at, || format!("gap reason {}", run.gap_reason));
        self.segment.runs.push(run);
        Ok(())
    }

    /// What can be said about a run once its fragments are known.
    pub(super) fn check_runs(&mut self) {
        let first_picture = self.segment.video().next().map(|frame| frame.decode);
        let first_sound = self.segment.audio().next().map(|sound| sound.decode);
        let first = first_picture.into_iter().chain(first_sound).min();
        self.findings.check(first.is_none_or(|time| time == 0), self.segment.header.at, || {
            format!("file time begins at {first_picture:?}, audio {first_sound:?}; the earlier must be 0")
        });
        for (number, run) in self.segment.runs.iter().enumerate() {
            let mut fragments = self.segment.fragments.iter().filter(|fragment| fragment.run == number).peekable();
            if fragments.peek().is_none() && number + 1 < self.segment.runs.len() {
                self.findings.add(run.at, "run box without a fragment before the next one");
            }
            let Some(frame) = fragments.find_map(|fragment| fragment.video.first()) else { continue };
            let media = frame.presentation().saturating_add(run.video_offset);
            self.findings.check(media == run.media_anchor, run.at, || {
                format!("media anchor {}, the first video frame is at {media}", run.media_anchor)
            });
            let off = frame.wall_us.saturating_sub(run.wall_anchor_us);
            self.findings.check(off.saturating_abs() <= ANCHOR_TOLERANCE_US, run.at, || {
                format!("wall anchor is {off} µs before the first video frame's wall time")
            });
        }
    }
}
