//! The run box (`docs/format.md` §5): stands before the first fragment of each run in a file.

use uuid::Uuid;

use super::common::{CRC_OFFSET, RUN, check_crc, crc_without};
use super::{BoxError, BoxWriter, CommonPart, Ended, Reader};
use crate::unit::{MediaTime, WallTime};

/// Length of the box in bytes.
pub const RUN_BOX_LENGTH: usize = 256;

const NAME: &str = "run";
const CONTINUED: u16 = 1;

/// Why there is a gap before a run. The codes are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// None: the run goes on from the segment before.
    NoGap,
    /// First run of the stream on this recorder.
    FirstRun,
    /// The camera ended the session.
    SessionEnded,
    /// No packet for the silence limit.
    Silence,
    /// The camera could not be reached.
    CameraUnreachable,
    /// The camera refused the credentials.
    Unauthorized,
    /// A jump of RTP time.
    MediaTimeJump,
    /// The clock of the machine stepped.
    ClockStep,
    /// The recorder was stopped in order.
    RecorderStopped,
    /// The recorder was killed or crashed.
    RecorderCrashed,
    /// The stream was suspended.
    Suspended,
    /// The stream was not assigned to this recorder.
    NotAssigned,
    /// The volume failed.
    VolumeFailed,
    /// Frames were dropped for want of memory or disk speed.
    Overload,
    /// Malformed or unsupported media.
    MalformedMedia,
    /// A standby took over.
    Takeover,
    /// A standby handed back.
    Handback,
    /// Codec parameters changed to ones that can't be continued.
    ParametersChanged,
    /// The stream's source or credentials were changed by its owner.
    SourceChanged,
    /// The footage is there and damaged: bits rotted, or the disk does not give it.
    Damaged,
    /// There was no file to record to: none was free, and none might be given up.
    NoSpace,
    /// It was recorded and given up, while what is older is held.
    Retired,
    /// Not known, or a code of a newer version.
    Unknown,
}

const GAP_REASONS: [(u32, GapReason, &str); 23] = [
    (0, GapReason::NoGap, "NoGap"),
    (1, GapReason::FirstRun, "FirstRun"),
    (2, GapReason::SessionEnded, "SessionEnded"),
    (3, GapReason::Silence, "Silence"),
    (4, GapReason::CameraUnreachable, "CameraUnreachable"),
    (5, GapReason::Unauthorized, "Unauthorized"),
    (6, GapReason::MediaTimeJump, "MediaTimeJump"),
    (7, GapReason::ClockStep, "ClockStep"),
    (8, GapReason::RecorderStopped, "RecorderStopped"),
    (9, GapReason::RecorderCrashed, "RecorderCrashed"),
    (10, GapReason::Suspended, "Suspended"),
    (11, GapReason::NotAssigned, "NotAssigned"),
    (12, GapReason::VolumeFailed, "VolumeFailed"),
    (13, GapReason::Overload, "Overload"),
    (14, GapReason::MalformedMedia, "MalformedMedia"),
    (15, GapReason::Takeover, "Takeover"),
    (16, GapReason::Handback, "Handback"),
    (17, GapReason::ParametersChanged, "ParametersChanged"),
    (18, GapReason::SourceChanged, "SourceChanged"),
    (19, GapReason::Damaged, "Damaged"),
    (20, GapReason::NoSpace, "NoSpace"),
    (21, GapReason::Retired, "Retired"),
    (255, GapReason::Unknown, "Unknown"),
];

impl GapReason {
    /// Every reason, in the order of their codes.
    pub fn all() -> impl Iterator<Item = Self> {
        GAP_REASONS.iter().map(|&(_, reason, _)| reason)
    }

    /// The code in run boxes and in the manifest.
    #[must_use]
    pub fn code(self) -> u32 {
        GAP_REASONS.iter().find(|row| row.1 == self).map_or(255, |row| row.0)
    }

    /// From a code; codes that are not known are [`Self::Unknown`].
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        GAP_REASONS.iter().find(|row| row.0 == code).map_or(Self::Unknown, |row| row.1)
    }

    /// The word used in the HTTP API and in conditions: `CameraUnreachable`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        GAP_REASONS.iter().find(|row| row.1 == self).map_or("Unknown", |row| row.2)
    }
}

impl std::fmt::Display for GapReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version of the plan under which a run is recorded: a higher one wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanVersion {
    /// Term of the operator that planned.
    pub term: u64,
    /// Sequence within the term.
    pub sequence: u64,
}

/// An RTCP sender report (RFC 3550 §6.4.1), on the media clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedTime {
    /// NTP timestamp, 32.32 fixed point; never 0.
    pub ntp: u64,
    /// The media time it belongs to.
    pub media_time: MediaTime,
}

/// A stretch of a stream with no gap, as far as it lies in this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBox {
    /// This use of the file; never 0.
    pub nonce: u64,
    /// Own offset in the file.
    pub offset: u64,
    /// The run began in an earlier segment.
    pub continued: bool,
    /// The same in every segment the run goes through.
    pub run: Uuid,
    /// Who records changed this often.
    pub epoch: u64,
    /// 0 primary, 1… standby.
    pub rank: u32,
    /// Why there is a gap before; [`GapReason::NoGap`] when continued.
    pub gap_reason: GapReason,
    /// The plan it is recorded under.
    pub plan: PlanVersion,
    /// UID of the recorder.
    pub recorder: Uuid,
    /// Offset of the previous run box of this file; 0 = none.
    pub previous_offset: u64,
    /// Wall time of `anchor_media`, as known when this was written.
    pub anchor_wall: WallTime,
    /// Unwrapped RTP time of this run's first video frame in this file, 90 kHz.
    pub anchor_media: MediaTime,
    /// Media time = file time + this, 90 kHz.
    pub video_offset: i64,
    /// The same for audio, in ticks of the audio timescale.
    pub audio_offset: i64,
    /// The newest sender report for the video.
    pub sender_report: Option<ReportedTime>,
    /// When the stream's previous run on this recorder ended.
    pub previous_end: Option<WallTime>,
    /// The previous run of the stream on this recorder.
    pub previous_run: Option<Uuid>,
}

impl RunBox {
    /// The box's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RUN_BOX_LENGTH] {
        let mut w = BoxWriter::with_capacity(RUN_BOX_LENGTH);
        let flags = if self.continued { CONTINUED } else { 0 };
        let length = u32::try_from(RUN_BOX_LENGTH).unwrap_or(0);
        CommonPart { length, flags, crc: 0, nonce: self.nonce, offset: self.offset }.write(RUN, &mut w);
        w.bytes(self.run.as_bytes());
        w.u64(self.epoch);
        w.u32(self.rank);
        w.u32(self.gap_reason.code());
        w.u64(self.plan.term);
        w.u64(self.plan.sequence);
        w.bytes(self.recorder.as_bytes());
        w.u64(self.previous_offset);
        w.i64(self.anchor_wall.0);
        w.i64(self.anchor_media.0);
        w.i64(self.video_offset);
        w.i64(self.audio_offset);
        w.u64(self.sender_report.map_or(0, |report| report.ntp));
        w.i64(self.sender_report.map_or(0, |report| report.media_time.0));
        w.i64(self.previous_end.map_or(0, |end| end.0));
        w.bytes(self.previous_run.unwrap_or_default().as_bytes());
        w.zeros(RUN_BOX_LENGTH - w.len());
        let crc = crc_without(w.as_slice(), CRC_OFFSET);
        w.patch_u32(CRC_OFFSET, crc);
        w.to_array()
    }

    /// From bytes that begin with the box.
    ///
    /// # Errors
    /// When it is not there, of another version, or does not check.
    pub fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        let field = |field| BoxError::Field { which: NAME, field };
        let mut r = Reader::new(bytes);
        let common = CommonPart::read(&mut r, RUN, NAME)?;
        let whole = bytes.get(..RUN_BOX_LENGTH).ok_or_else(|| field("ends early"))?;
        if usize::try_from(common.length) != Ok(RUN_BOX_LENGTH) {
            return Err(field("length is not 256"));
        }
        check_crc(NAME, whole, CRC_OFFSET, common.crc)?;
        let mut read = || -> Result<Self, Ended> {
            Ok(Self {
                nonce: common.nonce,
                offset: common.offset,
                continued: common.flags & CONTINUED != 0,
                run: Uuid::from_bytes(r.array()?),
                epoch: r.u64()?,
                rank: r.u32()?,
                gap_reason: GapReason::from_code(r.u32()?),
                plan: PlanVersion { term: r.u64()?, sequence: r.u64()? },
                recorder: Uuid::from_bytes(r.array()?),
                previous_offset: r.u64()?,
                anchor_wall: WallTime(r.i64()?),
                anchor_media: MediaTime(r.i64()?),
                video_offset: r.i64()?,
                audio_offset: r.i64()?,
                sender_report: Some(ReportedTime { ntp: r.u64()?, media_time: MediaTime(r.i64()?) })
                    .filter(|report| report.ntp != 0),
                previous_end: Some(WallTime(r.i64()?)).filter(|end| end.0 != 0),
                previous_run: Some(Uuid::from_bytes(r.array()?)).filter(|run| !run.is_nil()),
            })
        };
        read().map_err(|_| field("ends early"))
    }
}
