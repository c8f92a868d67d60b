//! Errors as RFC 9457 problem documents: what was wrong, with which value, and what would be right.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

/// A problem document (RFC 9457 §3), with our own members behind the standard ones.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<Members>);

#[derive(Clone, Debug, Serialize)]
struct Members {
    /// Short name of the kind of problem, a URI reference.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The parameter that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    /// What was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    /// Footage that is nearest to what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Nearest>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

/// The runs before and behind a range that has no frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// The last footage before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Span>,
    /// The first footage behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}

/// A stretch of time, RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its first frame.
    pub from: String,
    /// Where its last frame ends.
    pub to: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: String) -> Self {
        Self(Box::new(Members {
            kind,
            title,
            status: status.as_u16(),
            detail,
            field: None,
            value: None,
            expected: None,
            nearest: None,
            retry_after_s: None,
        }))
    }

    /// A parameter has a value that cannot be: 400.
    #[must_use]
    pub fn parameter(field: &'static str, value: &str, expected: impl Into<String>) -> Self {
        let expected = expected.into();
        // Whatever was sent is only echoed as far as it helps.
        let value: String = value.chars().take(100).collect();
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "/problems/parameter",
            "A parameter is wrong",
            format!("{field} is {value:?}; expected {expected}"),
        );
        (problem.0.field, problem.0.value, problem.0.expected) = (Some(field), Some(value), Some(expected));
        problem
    }

    /// The stream is not known here: 404.
    #[must_use]
    pub fn unknown_stream(namespace: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "/problems/unknown-stream",
            "Unknown stream",
            format!("this recorder holds no footage of {namespace}/{name}"),
        )
    }

    /// There is no frame where one was asked for: 404.
    #[must_use]
    pub fn no_footage(detail: String, nearest: Nearest) -> Self {
        let mut problem = Self::new(StatusCode::NOT_FOUND, "/problems/no-footage", "No footage at that time", detail);
        problem.0.nearest = Some(nearest);
        problem
    }

    /// No byte of the representation was asked for: 416.
    #[must_use]
    pub fn unsatisfiable(len: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "/problems/range",
            "Range not satisfiable",
            format!("the clip has {len} bytes; a range must begin before its end"),
        )
    }

    /// Too much is being served already: 503 with Retry-After.
    #[must_use]
    pub fn busy(detail: &str, retry_after_s: u32) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/busy", "Busy", detail.to_owned());
        problem.0.retry_after_s = Some(retry_after_s);
        problem
    }

    /// A program that this needs is not installed: 501.
    #[must_use]
    pub fn not_installed(detail: String) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "/problems/not-installed", "A needed package is not installed", detail)
    }

    /// Footage was found but cannot be read or decoded: 500.
    #[must_use]
    pub fn unreadable(detail: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "/problems/unreadable", "Footage cannot be read", detail)
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_parameter_names_field_value_and_what_is_right() {
        let json = serde_json::to_value(Problem::parameter("from", "yesterday", "a time")).unwrap();
        assert_eq!(json["status"], 400);
        assert_eq!(
            (&json["field"], &json["value"], &json["expected"]),
            (&"from".into(), &"yesterday".into(), &"a time".into())
        );
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let response = Problem::busy("full", 2).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
