//! Objects as YAML, read and written by way of `serde_json::Value`: a YAML reader made anew for each type and each crate took a third of
//! the time to compile them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Recorder;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The text is no YAML, or its fields are not as they should be; with line and column where they are known.
    #[error("{0}")]
    Read(Box<serde_saphyr::Error>),
    /// It is YAML, and not of this type.
    #[error("{0}")]
    Type(#[from] serde_json::Error),
    /// It cannot be said in YAML.
    #[error("{0}")]
    Write(#[from] serde_saphyr::ser::Error),
}

impl From<serde_saphyr::Error> for YamlError {
    fn from(error: serde_saphyr::Error) -> Self {
        Self::Read(Box::new(error))
    }
}

/// Reads what a program wrote: plain scalars are what YAML says they are, and never strings of digits.
///
/// # Errors
/// [`YamlError::Read`] and [`YamlError::Type`].
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    Ok(serde_json::from_value(value(text)?)?)
}

/// Reads all documents of a text.
///
/// # Errors
/// As [`read`].
pub fn read_all<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, YamlError> {
    values(text)?.into_iter().map(|value| Ok(serde_json::from_value(value)?)).collect()
}

/// Reads a `Recorder`, which a person may have written: errors say where.
///
/// # Errors
/// [`YamlError::Read`].
pub fn read_recorder(text: &str) -> Result<Recorder, YamlError> {
    Ok(serde_saphyr::from_str(text)?)
}

/// Writes an object; its fields are in the order of the alphabet, as kubectl writes them.
///
/// # Errors
/// [`YamlError::Type`] and [`YamlError::Write`].
pub fn write<T: Serialize>(object: &T) -> Result<String, YamlError> {
    text(&serde_json::to_value(object)?)
}

fn value(text: &str) -> Result<Value, YamlError> {
    Ok(serde_saphyr::from_str(text)?)
}

fn values(text: &str) -> Result<Vec<Value>, YamlError> {
    Ok(serde_saphyr::from_multiple(text)?)
}

fn text(value: &Value) -> Result<String, YamlError> {
    Ok(serde_saphyr::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let object = json!({
            "digits": "0123", "number": 18_446_744_073_709_551_615_u64, "negative": -1, "part": 0.5, "yes": "yes", "true": true,
            "null": null, "lines": "one\n---\ntwo\n", "tilde": "~", "time": "2026-01-01T00:00:00Z", "list": [{"a": []}, {}], "empty": "",
        });
        let text = write(&object).unwrap();
        assert_eq!(read::<Value>(&text).unwrap(), object);
        assert_eq!(read_all::<Value>(&format!("{text}---\n{text}")).unwrap(), [object.clone(), object]);
    }

    #[test]
    fn mistakes_are_told() {
        assert!(matches!(read::<Value>("a: [1"), Err(YamlError::Read(_))));
        assert!(matches!(read::<u8>("a: 1"), Err(YamlError::Type(_))));
        let text = "apiVersion: framekeeper.dev/v1alpha1\nkind: Recorder\nmetadata: {name: a}\nspec:\n  channels: 7\n";
        let error = read_recorder(text).unwrap_err().to_string();
        assert!(error.contains("line 5"), "{error}");
    }
}
