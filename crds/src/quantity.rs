//! Numbers of bytes as Kubernetes writes them (resource.Quantity): `64Mi`, `10Gi`, `2G`, `1.5Ti`, `1048576`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A whole number of bytes, written as a Kubernetes quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteQuantity {
    bytes: u64,
}

/// What is wrong with a text that was to be a [`ByteQuantity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// Nothing there.
    #[error("is empty; write a number of bytes, for example 64Mi, 500Gi or 2T")]
    Empty,
    /// Not a number.
    #[error("is not a number of bytes; write for example 64Mi, 500Gi or 2T")]
    NotANumber,
    /// A suffix that Kubernetes does not know.
    #[error("has the unknown suffix {given:?}; {hint}")]
    UnknownSuffix {
        /// What stands behind the number.
        given: String,
        /// What was probably meant.
        hint: String,
    },
    /// Not a whole number of bytes.
    #[error("is not a whole number of bytes")]
    Fraction,
    /// More than 2^63 - 1 bytes, the most that Kubernetes holds.
    #[error("is more than 8Ei")]
    TooLarge,
}

const BINARY: [(&str, u64); 6] =
    [("Ei", 1 << 60), ("Pi", 1 << 50), ("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
const DECIMAL: [(&str, u64); 6] = [
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl ByteQuantity {
    /// From bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// In bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.bytes
    }
}

/// The factor of a suffix, as (bytes, power of ten), for the suffixes that Kubernetes knows and that make whole bytes.
fn factor(suffix: &str) -> Result<u64, ParseQuantityError> {
    if suffix.is_empty() {
        return Ok(1);
    }
    if let Some((_, factor)) = BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == suffix) {
        return Ok(*factor);
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let exponent: u32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().map_err(|_| unknown(suffix))?;
        return 10_u64.checked_pow(exponent).ok_or(ParseQuantityError::TooLarge);
    }
    Err(unknown(suffix))
}

fn unknown(suffix: &str) -> ParseQuantityError {
    let lower = suffix.to_ascii_lowercase();
    let hint = match lower.trim_end_matches("b").trim_end_matches("i") {
        "m" if suffix == "m" => "m means thousandths; write Mi or M".to_owned(),
        "k" => "write Ki (1024) or k (1000)".to_owned(),
        letter @ ("m" | "g" | "t" | "p" | "e") => {
            let letter = letter.to_ascii_uppercase();
            format!("write {letter}i (powers of 1024) or {letter} (powers of 1000)")
        }
        _ => "use Ki, Mi, Gi, Ti, Pi, Ei (powers of 1024) or k, M, G, T, P, E (powers of 1000)".to_owned(),
    };
    ParseQuantityError::UnknownSuffix { given: suffix.to_owned(), hint }
}

impl FromStr for ByteQuantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseQuantityError::Empty);
        }
        let (number, suffix) =
            text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError::NotANumber);
        }
        let factor = u128::from(factor(suffix)?);
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 18 {
            return Err(ParseQuantityError::Fraction);
        }
        let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| ParseQuantityError::Fraction)?);
        let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| ParseQuantityError::TooLarge)?;
        let scaled = digits.checked_mul(factor).ok_or(ParseQuantityError::TooLarge)?;
        if scaled % divisor != 0 {
            return Err(ParseQuantityError::Fraction);
        }
        match u64::try_from(scaled / divisor) {
            Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(Self { bytes }),
            _ => Err(ParseQuantityError::TooLarge),
        }
    }
}

impl fmt::Display for ByteQuantity {
    /// In the form that Kubernetes calls canonical: the largest binary suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (suffix, factor) =
            BINARY.iter().find(|(_, factor)| self.bytes != 0 && self.bytes.is_multiple_of(*factor)).unwrap_or(&("", 1));
        write!(f, "{}{suffix}", self.bytes / factor)
    }
}

impl Serialize for ByteQuantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteQuantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteQuantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as 64Mi")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteQuantity, E> {
                text.parse().map_err(|error| E::custom(format!("{text:?} {error}")))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteQuantity, E> {
                self.visit_str(&bytes.to_string())
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteQuantity, E> {
                self.visit_str(&bytes.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ByteQuantity {
    fn schema_name() -> Cow<'static, str> {
        "ByteQuantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": "^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E|[eE][+]?[0-9]{1,2})?$",
            "maxLength": 32
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        for (text, bytes) in [
            ("64Mi", 64 << 20),
            ("10Gi", 10 << 30),
            ("2G", 2_000_000_000),
            ("1048576", 1_048_576),
            ("0.5Gi", 1 << 29),
            ("1.50k", 1_500),
            ("12e6", 12_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<ByteQuantity>().unwrap().as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn says_what_would_be_right() {
        for (text, message) in [
            ("", "is empty"),
            ("lots", "is not a number of bytes"),
            ("-5Gi", "is not a number of bytes"),
            ("1.2.3", "is not a number of bytes"),
            ("100m", "m means thousandths; write Mi or M"),
            ("10GB", "write Gi (powers of 1024) or G (powers of 1000)"),
            ("10gi", "write Gi"),
            ("10 Gi", "unknown suffix \" Gi\""),
            ("0.3", "not a whole number"),
            ("8Ei", "more than 8Ei"),
            ("999999999999999999999999999999999999999999", "more than 8Ei"),
            ("1e99", "more than 8Ei"),
        ] {
            let error = text.parse::<ByteQuantity>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_and_strings_are_both_read_and_strings_written() {
        assert_eq!(serde_json::from_str::<ByteQuantity>("1024").unwrap().as_bytes(), 1024);
        assert_eq!(serde_json::to_string(&ByteQuantity::from_bytes(64 << 20)).unwrap(), "\"64Mi\"");
        assert_eq!(serde_json::to_string(&ByteQuantity::from_bytes(1_000)).unwrap(), "\"1000\"");
        assert!(serde_json::from_str::<ByteQuantity>("-1").is_err());
        assert!(serde_json::from_str::<ByteQuantity>("\"1\"").is_ok());
    }
}
