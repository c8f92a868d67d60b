//! Camera credentials of the Secrets in the manifests. Their text is in here and in the files that recorders read, nowhere else.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value as Json;

use super::check::Finding;
use super::yaml::Node;

/// The values of a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData {
    values: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl SecretData {
    /// The keys it has.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of a key. Never to be shown.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// Reads `data` (base64) and `stringData` (which wins), as the API server does.
    pub fn read(json: &Json, node: &Node) -> (Self, Vec<Finding>) {
        let mut values = BTreeMap::new();
        let mut findings = Vec::new();
        let mut find = |path: String, message: &str| {
            let line = node.line_of(&path);
            findings.push(Finding { path, line, value: String::new(), message: message.to_owned() });
        };
        for (key, value) in fields(json, "data") {
            let compact: String = value.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            match BASE64_STANDARD.decode(compact) {
                Ok(bytes) => {
                    values.insert(key.to_owned(), bytes);
                }
                Err(_) => find(format!("data.{key}"), "is not base64; write plain text under stringData instead"),
            }
        }
        for (key, value) in fields(json, "stringData") {
            values.insert(key.to_owned(), value.as_bytes().to_vec());
        }
        for key in ["username", "password"] {
            if values.get(key).is_some_and(|value| std::str::from_utf8(value).is_err()) {
                find(format!("data.{key}"), "is not UTF-8 text");
            }
        }
        (Self { values }, findings)
    }
}

fn fields<'j>(json: &'j Json, key: &str) -> impl Iterator<Item = (&'j str, &'j str)> {
    let fields = json.get(key).and_then(Json::as_object);
    fields.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}
