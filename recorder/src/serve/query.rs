//! Query parameters: times and choices, each checked with a message that says what would be right.

use std::collections::BTreeMap;

use framekeeper_media::WallTime;
use jiff::Timestamp;

use super::problem::Problem;

const A_TIME: &str = "an RFC 3339 time such as 2026-11-21T14:03:00.000Z";

/// The parameters of a request; each may be given once.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads a query string, of which only the parameters in `known` may be given.
    ///
    /// # Errors
    /// A problem for one that is unknown or given twice.
    pub fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut found = BTreeMap::new();
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&key.as_ref()) {
                return Err(Problem::parameter("query", &key, format!("only the parameters {}", known.join(", "))));
            }
            if found.insert(key.clone().into_owned(), value.into_owned()).is_some() {
                return Err(Problem::parameter("query", &key, "each parameter once"));
            }
        }
        Ok(Self(found))
    }

    /// The value of a parameter, if given.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// A time, if given.
    ///
    /// # Errors
    /// When it is no RFC 3339 time.
    pub fn time(&self, field: &'static str) -> Result<Option<WallTime>, Problem> {
        self.get(field).map(|text| parse_time(text).ok_or_else(|| Problem::parameter(field, text, A_TIME))).transpose()
    }

    /// A time that must be given.
    ///
    /// # Errors
    /// When it is missing or no RFC 3339 time.
    pub fn required_time(&self, field: &'static str) -> Result<WallTime, Problem> {
        self.time(field)?.ok_or_else(|| Problem::parameter(field, "", A_TIME))
    }

    /// `from` and `to`, `to` behind `from`.
    ///
    /// # Errors
    /// When one is missing or wrong, or they are reversed or equal.
    pub fn required_range(&self) -> Result<(WallTime, WallTime), Problem> {
        let (from, to) = (self.required_time("from")?, self.required_time("to")?);
        self.ordered(from, to)
    }

    /// `from` and `to`; what is not given is the beginning, or the end, of time.
    ///
    /// # Errors
    /// When one is wrong, or they are reversed or equal.
    pub fn optional_range(&self) -> Result<(WallTime, WallTime), Problem> {
        let from = self.time("from")?.unwrap_or(WallTime(i64::MIN));
        let to = self.time("to")?.unwrap_or(WallTime(i64::MAX));
        self.ordered(from, to)
    }

    fn ordered(&self, from: WallTime, to: WallTime) -> Result<(WallTime, WallTime), Problem> {
        if from < to {
            return Ok((from, to));
        }
        let than = self.get("from").unwrap_or_default();
        Err(Problem::parameter("to", self.get("to").unwrap_or_default(), format!("a time later than from ({than})")))
    }

    /// `true` for `1` or `true`, `false` for `0`, `false` or nothing.
    ///
    /// # Errors
    /// For any other value.
    pub fn flag(&self, field: &'static str) -> Result<bool, Problem> {
        match self.get(field) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(Problem::parameter(field, other, "1 or 0")),
        }
    }
}

/// An RFC 3339 time. A `+` of its offset that was not percent-encoded, and so arrived as a space, is understood.
pub(crate) fn parse_time(text: &str) -> Option<WallTime> {
    let timestamp: Timestamp = match text.parse() {
        Ok(timestamp) => timestamp,
        Err(_) => {
            let (time, offset) = text.rsplit_once(' ')?;
            format!("{time}+{offset}").parse().ok()?
        }
    };
    Some(WallTime(timestamp.as_microsecond()))
}

/// RFC 3339 in UTC with milliseconds, rounded down.
#[must_use]
pub fn format_time(time: WallTime) -> String {
    let ms = time.0.div_euclid(1000);
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        // Only times past the year 9999 or before −9999 come here, which no clock and no parser yields.
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text), &["from", "to", "exact"]).unwrap()
    }

    #[test]
    fn times_are_rfc_3339_with_any_offset() {
        let same = WallTime(1_795_269_780_123_000);
        for text in ["2026-11-21T14:03:00.123Z", "2026-11-21T15:03:00.123%2B01:00", "2026-11-21T15:03:00.123+01:00"] {
            assert_eq!(query(&format!("from={text}")).time("from").unwrap(), Some(same), "{text}");
        }
        assert_eq!(format_time(same), "2026-11-21T14:03:00.123Z");
        assert_eq!(format_time(WallTime(-1)), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn wrong_times_are_named() {
        for text in [
            "from=&to=2026-11-21T14:03:00Z",
            "from=1795269780&to=2026-11-21T14:03:00Z",
            "to=2026-11-21T14:03:00Z",
            "from=2026-11-21&to=2026-11-21T14:03:00Z",
        ] {
            let problem = query(text).required_range().unwrap_err();
            assert_eq!(problem.status(), 400);
            assert_eq!(serde_json::to_value(&problem).unwrap()["field"], "from", "{text}");
        }
    }

    #[test]
    fn a_range_goes_forward() {
        for to in ["2026-11-21T14:03:00Z", "2026-11-21T14:02:59Z"] {
            let problem = query(&format!("from=2026-11-21T14:03:00Z&to={to}")).required_range().unwrap_err();
            assert_eq!(serde_json::to_value(&problem).unwrap()["field"], "to");
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        assert!(Query::parse(Some("form=1"), &["from"]).is_err());
        assert!(Query::parse(Some("from=1&from=2"), &["from"]).is_err());
        assert!(query("exact=yes").flag("exact").is_err());
    }
}
