//! Faults of a camera, switched while it runs.

use serde::{Deserialize, Serialize};

/// What is wrong with every n-th packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// RTP version 1.
    Version,
    /// A packet of three bytes before it.
    Short,
    /// RTCP that is none before it.
    JunkRtcp,
    /// The same packet under a foreign SSRC before it.
    ForeignSsrc,
    /// The middle of a fragmented NAL unit that never began, before it.
    OrphanFragment,
}

/// What the session description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SdpFault {
    /// The truth.
    #[default]
    None,
    /// A line without `=`.
    Garbage,
    /// Video is MPEG-4 part 2 (`MP4V-ES`).
    Mpeg4,
    /// Video is H.263.
    H263,
    /// Video is H.265, though H.264 is sent.
    H265,
    /// No media at all.
    Empty,
}

/// How DESCRIBE is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DescribeFault {
    /// As asked.
    #[default]
    None,
    /// 404 Not Found.
    NotFound,
    /// 500 Internal Server Error.
    ServerError,
    /// 503 Service Unavailable.
    Unavailable,
    /// Something that is not RTSP.
    NotRtsp,
}

/// A switch. Those that take `every`, `bytes_per_second` or `offset_ms` are switched off with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Everything that lasts is switched off.
    None,
    /// Connections of all sessions are reset, once.
    Kill,
    /// Connections that ask for this camera are reset.
    Refuse {
        /// Switched on.
        on: bool,
    },
    /// Nothing is sent any more over the connection with a client at this port, as if the way to it were cut; it stays open. Whoever connects anew
    /// is served.
    Mute {
        /// The client's port.
        client: u16,
    },
    /// No frame is made, sent or logged; connections stay open and RTSP is answered. It ends with a key frame.
    Freeze {
        /// Switched on.
        on: bool,
    },
    /// As freeze, and requests are not answered either.
    Hang {
        /// Switched on.
        on: bool,
    },
    /// Every n-th RTP packet of a session is left out (its sequence number is used up).
    Drop {
        /// n
        every: u32,
    },
    /// Every n-th RTP packet is, or comes with, a malformed one.
    Corrupt {
        /// What is malformed.
        what: Corruption,
        /// n
        every: u32,
    },
    /// RTP timestamps jump, once.
    TimestampJump {
        /// By so many ticks of 1/90000 s (audio: as long a time).
        by: i64,
    },
    /// RTP sequence numbers jump, once.
    SequenceJump {
        /// By so many.
        by: u16,
    },
    /// The next picture is a key frame, once, as when somebody asks a camera for one (not with clip, nor with per_session).
    Key,
    /// From the next frame on, a key frame, the picture has this size.
    Resolution {
        /// Luma samples a row.
        width: u32,
        /// Luma rows.
        height: u32,
    },
    /// The session description is wrong.
    Sdp {
        /// How.
        what: SdpFault,
    },
    /// DESCRIBE fails.
    Describe {
        /// How.
        what: DescribeFault,
    },
    /// Sockets take no more than this.
    Slow {
        /// Bytes a second and session.
        bytes_per_second: u32,
    },
    /// The clock in sender reports is off.
    Clock {
        /// By so many milliseconds.
        offset_ms: i64,
    },
}

impl Fault {
    /// The code and the argument that the ledger records.
    pub fn code(&self) -> (u64, u64) {
        match *self {
            Self::None => (0, 0),
            Self::Kill => (1, 0),
            Self::Refuse { on } => (2, on.into()),
            Self::Freeze { on } => (3, on.into()),
            Self::Hang { on } => (4, on.into()),
            Self::Drop { every } => (5, every.into()),
            Self::Corrupt { what, every } => (6, (what as u64) << 32 | u64::from(every)),
            Self::TimestampJump { by } => (7, by as u64),
            Self::SequenceJump { by } => (8, by.into()),
            Self::Resolution { width, height } => (9, u64::from(width) << 32 | u64::from(height)),
            Self::Sdp { what } => (10, what as u64),
            Self::Describe { what } => (11, what as u64),
            Self::Slow { bytes_per_second } => (12, bytes_per_second.into()),
            Self::Clock { offset_ms } => (13, offset_ms as u64),
            Self::Mute { client } => (14, client.into()),
            Self::Key => (15, 0),
        }
    }
}

/// The lasting faults of a camera as they are now.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Switches {
    /// See [`Fault::Refuse`].
    pub refuse: bool,
    /// See [`Fault::Freeze`].
    pub freeze: bool,
    /// See [`Fault::Hang`].
    pub hang: bool,
    /// See [`Fault::Drop`]; 0 is off.
    pub drop_every: u32,
    /// See [`Fault::Corrupt`].
    pub corrupt: Option<(Corruption, u32)>,
    /// See [`Fault::Sdp`].
    pub sdp: SdpFault,
    /// See [`Fault::Describe`].
    pub describe: DescribeFault,
    /// See [`Fault::Slow`]; 0 is off.
    pub slow_bytes_per_second: u32,
    /// See [`Fault::Clock`].
    pub clock_offset_ms: i64,
}

impl Switches {
    /// Switches what lasts; what happens once is for the server to do.
    pub fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::None => *self = Self::default(),
            Fault::Refuse { on } => self.refuse = on,
            Fault::Freeze { on } => self.freeze = on,
            Fault::Hang { on } => self.hang = on,
            Fault::Drop { every } => self.drop_every = every,
            Fault::Corrupt { what, every } => self.corrupt = (every > 0).then_some((what, every)),
            Fault::Sdp { what } => self.sdp = what,
            Fault::Describe { what } => self.describe = what,
            Fault::Slow { bytes_per_second } => self.slow_bytes_per_second = bytes_per_second,
            Fault::Clock { offset_ms } => self.clock_offset_ms = offset_ms,
            Fault::Kill
            | Fault::Key
            | Fault::Mute { .. }
            | Fault::TimestampJump { .. }
            | Fault::SequenceJump { .. }
            | Fault::Resolution { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_json_and_cleared_together() {
        let mut switches = Switches::default();
        for json in [
            r#"{"fault":"drop","every":7}"#,
            r#"{"fault":"corrupt","what":"junk-rtcp","every":3}"#,
            r#"{"fault":"sdp","what":"garbage"}"#,
            r#"{"fault":"freeze","on":true}"#,
        ] {
            switches.apply(serde_json::from_str(json).unwrap());
        }
        assert_eq!((switches.drop_every, switches.corrupt), (7, Some((Corruption::JunkRtcp, 3))));
        assert!(switches.freeze && switches.sdp == SdpFault::Garbage);
        switches.apply(Fault::None);
        assert!(!switches.freeze && switches.corrupt.is_none());
        assert!(serde_json::from_str::<Fault>(r#"{"fault":"drop","evry":7}"#).is_err());
    }
}
