//! HTTP ranges and validators (RFC 9110 §13, §14), as far as one byte range.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What of a representation is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it: 200.
    Whole,
    /// These bytes: 206.
    Part(Range<u64>),
    /// No byte of it can be what was asked for: 416.
    Unsatisfiable,
}

/// What a request asks for, of a representation of `len` bytes with this strong entity tag. A range that is not understood, or
/// several of them, are ignored, as RFC 9110 §14.2 allows.
#[must_use]
pub fn select(headers: &HeaderMap, len: u64, etag: &str) -> Selected {
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else { return Selected::Whole };
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.as_bytes() != etag.as_bytes()
    {
        return Selected::Whole;
    }
    parse(range, len).unwrap_or(Selected::Whole)
}

fn parse(range: &str, len: u64) -> Option<Selected> {
    let (unit, spec) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than fit are a number beyond every file's end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let selected = match (first, last) {
        ("", suffix) => len.saturating_sub(number(suffix)?)..len,
        (first, "") => number(first)?..len,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(if selected.is_empty() || selected.start >= len { Selected::Unsatisfiable } else { Selected::Part(selected) })
}

/// Whether `If-None-Match` names this entity tag, so that 304 is the answer. Compared weakly (RFC 9110 §13.1.2).
#[must_use]
pub fn not_modified(headers: &HeaderMap, etag: &str) -> bool {
    let mut tags = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(range: &str, if_range: Option<&str>) -> Selected {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(value) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(value).unwrap());
        }
        select(&headers, 1000, "\"abc\"")
    }

    #[test]
    fn single_ranges() {
        assert_eq!(asked("bytes=0-0", None), Selected::Part(0..1));
        assert_eq!(asked("bytes=10-", None), Selected::Part(10..1000));
        assert_eq!(asked("bytes=-10", None), Selected::Part(990..1000));
        assert_eq!(asked("bytes=-2000", None), Selected::Part(0..1000));
        assert_eq!(asked("bytes=990-5000", None), Selected::Part(990..1000));
        assert_eq!(asked("bytes=0-99999999999999999999999", None), Selected::Part(0..1000));
        for beyond in ["bytes=1000-", "bytes=1000-1001", "bytes=-0"] {
            assert_eq!(asked(beyond, None), Selected::Unsatisfiable, "{beyond}");
        }
        for ignored in ["bytes=5-4", "bytes=a-b", "bytes=", "bytes=-", "items=0-1", "bytes=0-1,5-6", "bytes=+1-2"] {
            assert_eq!(asked(ignored, None), Selected::Whole, "{ignored}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_not_served() {
        assert_eq!(asked("bytes=0-0", Some("\"abc\"")), Selected::Part(0..1));
        for other in ["\"abd\"", "W/\"abc\"", "Sat, 21 Nov 2026 14:03:00 GMT"] {
            assert_eq!(asked("bytes=0-0", Some(other)), Selected::Whole);
        }
    }

    #[test]
    fn a_known_version_is_not_sent_again() {
        let mut headers = HeaderMap::new();
        assert!(!not_modified(&headers, "\"abc\""));
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"x\", W/\"abc\""));
        assert!(not_modified(&headers, "\"abc\""));
    }
}
