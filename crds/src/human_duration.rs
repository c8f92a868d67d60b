//! Lengths of time as people write them: `500ms`, `30s`, `1h30m`, `7d`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole milliseconds, written as numbers with units `ms`, `s`, `m`, `h`, `d`: `500ms`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration {
    millis: u64,
}

/// What is wrong with a text that was to be a [`HumanDuration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Nothing there.
    #[error("is empty; write a number with a unit, for example 500ms, 30s, 1h30m or 7d")]
    Empty,
    /// A number without a unit.
    #[error("has no unit; write ms, s, m, h or d behind the number, for example {0}s")]
    NoUnit(String),
    /// A unit that is none of ours.
    #[error("has the unknown unit {0:?}; use ms, s, m, h or d")]
    UnknownUnit(String),
    /// Something else than digits where a number should be.
    #[error("is not a length of time; write whole numbers with units, for example 500ms, 30s, 1h30m or 7d")]
    NotADuration,
    /// More than 2^64 milliseconds.
    #[error("is too long")]
    TooLong,
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl HumanDuration {
    /// The form as a regular expression; also how a schema's reader knows a field of this type.
    pub const PATTERN: &'static str = "^([0-9]+(ms|s|m|h|d))+$";

    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// In milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn to_std(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl FromStr for HumanDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseDurationError::Empty);
        }
        let mut rest = text;
        let mut millis = 0_u64;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, behind) = rest.split_at(digits);
            if number.is_empty() {
                return Err(ParseDurationError::NotADuration);
            }
            let letters = behind.len() - behind.trim_start_matches(char::is_alphabetic).len();
            let (unit, behind) = behind.split_at(letters);
            if unit.is_empty() {
                return Err(if behind.is_empty() {
                    ParseDurationError::NoUnit(number.to_owned())
                } else {
                    ParseDurationError::NotADuration
                });
            }
            let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(ParseDurationError::UnknownUnit(unit.to_owned()));
            };
            let number: u64 = number.parse().map_err(|_| ParseDurationError::TooLong)?;
            millis = number
                .checked_mul(*factor)
                .and_then(|part| millis.checked_add(part))
                .ok_or(ParseDurationError::TooLong)?;
            rest = behind;
        }
        Ok(Self { millis })
    }
}

impl fmt::Display for HumanDuration {
    /// With the one largest unit that divides it: 90 s are `90s`, not `1m30s`, as Go and Kubernetes read both.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| self.millis != 0 && self.millis.is_multiple_of(*factor))
            .unwrap_or(&("s", 1_000));
        write!(f, "{}{unit}", self.millis / factor)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{text:?} {error}")))
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "HumanDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Self::PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in
            [("500ms", 500), ("0s", 0), ("30s", 30_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("1m500ms", 60_500)]
        {
            assert_eq!(text.parse::<HumanDuration>().unwrap().as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn says_what_would_be_right() {
        for (text, message) in [
            ("", "is empty"),
            ("30", "for example 30s"),
            ("30 s", "is not a length of time"),
            ("1.5s", "is not a length of time"),
            ("-1s", "is not a length of time"),
            ("5sec", "unknown unit \"sec\""),
            ("99999999999999999999s", "too long"),
            ("999999999999999999d", "too long"),
        ] {
            let error = text.parse::<HumanDuration>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for millis in [0, 1, 500, 1_000, 90_000, 3_600_000, 86_400_000, 86_400_001] {
            let duration = HumanDuration::from_millis(millis);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
        assert_eq!(HumanDuration::from_millis(90_000).to_string(), "90s");
        assert_eq!(HumanDuration::from_millis(0).to_string(), "0s");
    }
}
