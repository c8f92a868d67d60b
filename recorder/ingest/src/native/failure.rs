//! What retina's errors mean for a source. They are opaque: a status code and a text are all there is to go by.

use crate::engine::Failure;
use crate::event::SessionEndKind;

/// How far the session had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Describe,
    Setup,
    Play,
    Playing,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Describe => "DESCRIBE",
            Self::Setup => "SETUP",
            Self::Play => "PLAY",
            Self::Playing => "playing",
        }
    }
}

/// Characters of a library's text that are shown.
const MAX_TEXT_CHARS: usize = 240;

/// The first paragraph of `text` in one line.
fn first_paragraph(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.lines().next().unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT_CHARS).collect()
}

/// The class and message of an error with RTSP status `status` and library text `text`, met at `stage`.
pub(super) fn classify(stage: Stage, status: Option<u16>, text: &str, with_credentials: bool) -> Failure {
    use SessionEndKind as Kind;
    let detail = first_paragraph(text);
    let during = stage.name();
    match status {
        Some(401) if with_credentials => Failure::new(
            Kind::Unauthorized,
            "the camera refused the user name or password (401); check the credentials",
        ),
        Some(401) => Failure::new(
            Kind::Unauthorized,
            "the camera asks for a user name and password (401), and none are configured",
        ),
        Some(403) => Failure::new(
            Kind::Unauthorized,
            "the camera forbids this stream to the user (403); check the user's rights",
        ),
        Some(404) => Failure::new(Kind::NotFound, "the camera has no such stream (404); check the path of the URL"),
        Some(code) if !(200..300).contains(&code) => {
            Failure::new(Kind::Protocol, format!("the camera answered {during} with an error: {detail}"))
        }
        Some(_) => Failure::new(Kind::Protocol, format!("the camera's answer to {during} cannot be used: {detail}")),
        None if text.starts_with("Unable to connect") => {
            Failure::new(Kind::Unreachable, detail.replacen("Unable to connect to RTSP server", "cannot connect", 1))
        }
        None if text.starts_with("Error reading") || text.starts_with("Error writing") => match stage {
            Stage::Describe => {
                Failure::new(Kind::Protocol, format!("the connection broke before DESCRIBE was answered: {detail}"))
            }
            _ => Failure::new(Kind::ClosedByCamera, format!("the connection broke at {during}: {detail}")),
        },
        None if text.starts_with("RTSP framing") && stage != Stage::Playing => {
            Failure::new(Kind::Protocol, format!("what answers is not RTSP, or not as it should be: {detail}"))
        }
        None => match stage {
            Stage::Playing => Failure::new(Kind::Malformed, format!("a packet that cannot be followed: {detail}")),
            _ => Failure::new(Kind::Protocol, format!("{during} failed: {detail}")),
        },
    }
}

/// The class and message of retina's `error`.
pub(super) fn from_retina(stage: Stage, error: &retina::Error, with_credentials: bool) -> Failure {
    classify(stage, error.status_code(), &error.to_string(), with_credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let kind = |stage, status, text| classify(stage, status, text, true).kind;
        use SessionEndKind as Kind;
        assert_eq!(kind(Stage::Describe, Some(401), ""), Kind::Unauthorized);
        assert_eq!(kind(Stage::Setup, Some(403), ""), Kind::Unauthorized);
        assert_eq!(kind(Stage::Describe, Some(404), ""), Kind::NotFound);
        assert_eq!(kind(Stage::Setup, Some(454), "454 response"), Kind::Protocol);
        assert_eq!(kind(Stage::Describe, Some(200), "bad SDP"), Kind::Protocol);
        assert_eq!(kind(Stage::Describe, None, "Unable to connect to RTSP server: refused"), Kind::Unreachable);
        assert_eq!(kind(Stage::Describe, None, "Error reading from RTSP peer: EOF"), Kind::Protocol);
        assert_eq!(kind(Stage::Playing, None, "Error reading from RTSP peer: reset"), Kind::ClosedByCamera);
        assert_eq!(kind(Stage::Playing, None, "Error writing to RTSP peer: reset"), Kind::ClosedByCamera);
        assert_eq!(kind(Stage::Describe, None, "RTSP framing error: x"), Kind::Protocol);
        assert_eq!(kind(Stage::Playing, None, "RTSP framing error: x"), Kind::Malformed);
        assert_eq!(kind(Stage::Playing, None, "wrong ssrc after 5"), Kind::Malformed);
    }

    #[test]
    fn texts_are_one_short_line() {
        let f = classify(Stage::Playing, None, &format!("bad\u{7} {}\nmore\n\nconn: 1.2.3.4", "x".repeat(999)), false);
        assert!(f.message.len() < 300 && !f.message.contains('\n') && !f.message.contains('\u{7}'));
        assert!(!f.message.contains("conn:"));
        let f = classify(
            Stage::Describe,
            None,
            "Unable to connect to RTSP server: Connection refused (os error 111)",
            false,
        );
        assert_eq!(f.message, "cannot connect: Connection refused (os error 111)");
    }
}
