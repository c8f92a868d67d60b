//! Holds: footage that is never given up, as a person writes them down on a CameraStream.
//!
//! `framekeeper.dev/hold: FROM/TO, FROM/TO, …`: times in RFC 3339; one of the two may be left out, for everything before or from then on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::StreamRef;
use crate::validate::FieldError;

/// The annotation of a CameraStream.
pub const HOLD_ANNOTATION: &str = "framekeeper.dev/hold";
/// Where it stands in an object.
const PATH: &str = "metadata.annotations[framekeeper.dev/hold]";
/// Ranges of one stream. Every recorder of the namespace is told all of them.
const RANGES_AT_MOST: usize = 64;

/// A range of time; without a bound, from the first frame on or for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldRange {
    /// From this time on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MicroTime>,
    /// Up to this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MicroTime>,
}

/// Footage of one stream between two times that a recorder never gives up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The stream.
    pub stream: StreamRef,
    /// The footage.
    #[serde(flatten)]
    pub range: HoldRange,
}

/// The ranges of the annotation's value, in order and each once.
///
/// # Errors
/// Names the value, or the part of it that is wrong, and says what would be right.
pub fn hold_ranges(value: &str) -> Result<Vec<HoldRange>, FieldError> {
    let wrong = |shown: &str, message: String| FieldError::new(PATH, shown, message);
    let mut ranges = Vec::new();
    for part in value.split(',').map(str::trim) {
        let range = range(part).map_err(|message| wrong(part, message))?;
        ranges.push(range);
    }
    ranges.sort();
    ranges.dedup();
    if ranges.len() > RANGES_AT_MOST {
        let message = format!("must be at most {RANGES_AT_MOST} ranges, not {}; join those that touch", ranges.len());
        return Err(FieldError { path: PATH.to_owned(), value: String::new(), message });
    }
    Ok(ranges)
}

fn range(part: &str) -> Result<HoldRange, String> {
    const FORM: &str = "such as 2026-11-21T14:00:00Z/2026-11-21T15:30:00Z; one of the two times may be left out, \
                        several ranges are separated by commas";
    let Some((from, to)) = part.split_once('/') else {
        return Err(format!("must be a range FROM/TO {FORM}"));
    };
    let (from, to) = (time(from.trim())?, time(to.trim())?);
    match (&from, &to) {
        (None, None) => Err(format!("must have a beginning or an end: a range FROM/TO {FORM}")),
        (Some(from), Some(to)) if from >= to => Err("must end after it begins".to_owned()),
        _ => Ok(HoldRange { from, to }),
    }
}

fn time(text: &str) -> Result<Option<MicroTime>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let time: Result<Timestamp, _> = text.parse();
    let cut = |time: Timestamp| Timestamp::from_microsecond(time.as_microsecond()).ok();
    match time.ok().and_then(cut) {
        Some(time) => Ok(Some(MicroTime(time))),
        None => Err(format!("{text:?} must be a time in RFC 3339 with its offset, such as 2026-11-21T14:00:00Z")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<MicroTime> {
        Some(MicroTime(text.parse().unwrap()))
    }

    #[test]
    fn ranges_are_read_in_order_and_once() {
        let value = "2026-11-21T14:00:00Z/2026-11-21T15:30:00.5+01:00 , /2026-01-01T00:00:00Z,2026-12-24T00:00:00Z/, \
                     2026-12-24T00:00:00Z/";
        let expected = [
            HoldRange { from: None, to: at("2026-01-01T00:00:00Z") },
            HoldRange { from: at("2026-11-21T14:00:00Z"), to: at("2026-11-21T14:30:00.5Z") },
            HoldRange { from: at("2026-12-24T00:00:00Z"), to: None },
        ];
        assert_eq!(hold_ranges(value).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, named) in [
            ("", "must be a range FROM/TO"),
            ("yes", r#""yes": must be a range FROM/TO"#),
            ("/", r#""/": must have a beginning or an end"#),
            ("2026-11-21/", r#""2026-11-21" must be a time in RFC 3339 with its offset"#),
            ("2026-11-21T14:00:00/", r#""2026-11-21T14:00:00" must be a time"#),
            ("2026-11-21T15:00:00Z/2026-11-21T14:00:00Z", "must end after it begins"),
            ("2026-11-21T15:00:00Z/2026-11-21T15:00:00Z", "must end after it begins"),
            ("/2026-11-21T15:00:00Z,", r#""": must be a range"#),
        ] {
            let said = hold_ranges(value).unwrap_err().to_string();
            assert!(said.contains(named) && said.contains(HOLD_ANNOTATION), "{value:?}: {said}");
        }
        let many: Vec<_> = (0..65).map(|n| format!("2026-11-21T15:00:00.{n:03}Z/")).collect();
        assert!(hold_ranges(&many.join(",")).unwrap_err().to_string().contains("at most 64 ranges, not 65"));
    }
}
