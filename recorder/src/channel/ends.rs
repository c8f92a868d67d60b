//! Why a session ended, in the words of a status and of a gap. Pure.

use framekeeper_ingest::SessionEndKind;
use framekeeper_store::GapReason;

/// The word for a status where no frames come, in a session that has ended for it or is about to.
pub(super) const SILENCE: &str = "Silence";

/// The word for a status.
pub(super) fn reason(kind: SessionEndKind) -> &'static str {
    match kind {
        SessionEndKind::Stopped => "Stopped",
        SessionEndKind::Unreachable => "CameraUnreachable",
        SessionEndKind::Unauthorized => "Unauthorized",
        SessionEndKind::NotFound => "NotFound",
        SessionEndKind::TooManySessions => "TooManySessions",
        SessionEndKind::Protocol => "ProtocolError",
        SessionEndKind::Unsupported => "Unsupported",
        SessionEndKind::ClosedByCamera => "SessionEnded",
        SessionEndKind::Silence => SILENCE,
        SessionEndKind::Malformed => "MalformedMedia",
        SessionEndKind::Internal => "InternalError",
    }
}

/// Why there is a gap behind such an end.
pub(super) fn gap_reason(kind: SessionEndKind) -> GapReason {
    match kind {
        SessionEndKind::Stopped => GapReason::SourceChanged,
        SessionEndKind::Internal => GapReason::Unknown,
        SessionEndKind::Unreachable | SessionEndKind::NotFound | SessionEndKind::TooManySessions => {
            GapReason::CameraUnreachable
        }
        SessionEndKind::Unauthorized => GapReason::Unauthorized,
        SessionEndKind::ClosedByCamera => GapReason::SessionEnded,
        SessionEndKind::Silence => GapReason::Silence,
        SessionEndKind::Protocol | SessionEndKind::Unsupported | SessionEndKind::Malformed => GapReason::MalformedMedia,
    }
}
