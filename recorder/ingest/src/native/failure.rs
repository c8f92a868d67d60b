//! What a camera's answers and broken connections mean for a source.

use std::io;

use super::text::shown;
use crate::engine::Failure;
use crate::event::SessionEndKind;

/// How far the session had come: what was asked and not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Describe,
    SetupVideo,
    SetupAudio,
    /// Set up, kept alive, not playing.
    Ready,
    Play,
    Playing,
    Teardown,
    Over,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Describe => "DESCRIBE",
            Self::SetupVideo | Self::SetupAudio => "SETUP",
            Self::Ready => "waiting",
            Self::Play => "PLAY",
            Self::Playing => "playing",
            Self::Teardown | Self::Over => "TEARDOWN",
        }
    }
}

/// The class and message of an answer other than 2xx.
pub(super) fn from_status(stage: Stage, status: u16, reason: &str, with_credentials: bool) -> Failure {
    use SessionEndKind as Kind;
    match status {
        401 if with_credentials => Failure::new(
            Kind::Unauthorized,
            "the camera refused the user name or password (401); check the credentials",
        ),
        401 => Failure::new(
            Kind::Unauthorized,
            "the camera asks for a user name and password (401), and none are configured",
        ),
        403 => Failure::new(
            Kind::Unauthorized,
            "the camera forbids this stream to the user (403); check the user's rights",
        ),
        404 => Failure::new(Kind::NotFound, "the camera has no such stream (404); check the path of the URL"),
        453 | 503 => {
            let (during, reason) = (stage.name(), shown(reason, 80));
            let message = format!(
                "the camera has no room for one more session: it answered {during} with {status} {reason}; raise its limit, or say it in spec.source.maxSessions"
            );
            Failure::new(Kind::TooManySessions, message)
        }
        461 => Failure::new(
            Kind::Protocol,
            "the camera does not send this stream interleaved in TCP (461); check its transport settings",
        ),
        _ => {
            let (during, reason) = (stage.name(), shown(reason, 80));
            Failure::new(Kind::Protocol, format!("the camera answered {during} with an error: {status} {reason}"))
        }
    }
}

/// The connection could not be made.
pub(super) fn unreachable(error: &io::Error) -> Failure {
    Failure::new(SessionEndKind::Unreachable, shown(&format!("cannot connect: {error}"), 240))
}

/// The connection broke, or was closed by the camera (`None`).
pub(super) fn broken(stage: Stage, error: Option<&io::Error>) -> Failure {
    let detail = error.map_or_else(|| "closed by the camera".to_owned(), |error| shown(&error.to_string(), 120));
    let (kind, message) = match stage {
        Stage::Describe => {
            (SessionEndKind::Protocol, format!("the connection broke before DESCRIBE was answered: {detail}"))
        }
        Stage::Playing if error.is_none() => {
            (SessionEndKind::ClosedByCamera, "the camera closed the connection".to_owned())
        }
        stage => (SessionEndKind::ClosedByCamera, format!("the connection broke at {}: {detail}", stage.name())),
    };
    Failure::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        use SessionEndKind as Kind;
        let status = |stage, status| from_status(stage, status, "Reason", true);
        assert_eq!(status(Stage::Describe, 401).kind, Kind::Unauthorized);
        assert_eq!(status(Stage::SetupVideo, 403).kind, Kind::Unauthorized);
        assert_eq!(status(Stage::Describe, 404).kind, Kind::NotFound);
        assert_eq!(status(Stage::SetupVideo, 453).kind, Kind::TooManySessions);
        assert_eq!(status(Stage::Play, 503).kind, Kind::TooManySessions);
        let other = status(Stage::SetupVideo, 454);
        assert_eq!(other.kind, Kind::Protocol);
        assert_eq!(other.message, "the camera answered SETUP with an error: 454 Reason");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(unreachable(&io::ErrorKind::ConnectionRefused.into()).message, "cannot connect: connection refused");
        assert_eq!(broken(Stage::Describe, Some(&reset)).kind, Kind::Protocol);
        assert_eq!(broken(Stage::SetupVideo, None).kind, Kind::ClosedByCamera);
        assert_eq!(broken(Stage::Playing, Some(&reset)).kind, Kind::ClosedByCamera);
        assert!(from_status(Stage::Describe, 401, "", false).message.contains("none are configured"));
    }
}
