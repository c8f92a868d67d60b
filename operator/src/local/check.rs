//! Holds a value against the schema of a kind, as an API server with strict field validation does, but reports every mistake.
//!
//! What is wrong is replaced by something harmless of the right type, so that the rest can be read and checked as well; the
//! paths that were reported tell what must not be reported a second time.

use framekeeper_crds::validate::redact_url;
use framekeeper_crds::{ByteQuantity, HumanDuration};
use serde_json::{Map, Value as Json, json};

use super::yaml::{Entry, Node, Value};

/// What was found at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field, from the object's root.
    pub path: String,
    /// Its line, from 1.
    pub line: usize,
    /// What stands there, without credentials; empty where it would not help.
    pub value: String,
    /// What would be right.
    pub message: String,
}

/// Whether values may be shown: those of a Secret may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// They may.
    Values,
    /// They may not.
    Nothing,
}

/// The value as JSON, made to fit the schema, and everything in which it did not.
pub fn check(node: &Node, schema: &Json, path: &str, show: Show) -> (Json, Vec<Finding>) {
    let mut checker = Checker { show, findings: Vec::new() };
    let json = checker.node(node, schema, path, node.line);
    (json, checker.findings)
}

struct Checker {
    show: Show,
    findings: Vec<Finding>,
}

impl Checker {
    fn find(&mut self, path: &str, line: usize, value: String, message: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), line, value, message: message.into() });
    }

    fn shown(&self, node: &Node) -> String {
        if self.show == Show::Nothing {
            return String::new();
        }
        match &node.value {
            Value::Null => "null".into(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Text(text) => {
                let shown: String = redact_url(text).chars().take(80).collect();
                format!("{shown:?}")
            }
            Value::List(_) | Value::Map(_) => String::new(),
        }
    }

    fn node(&mut self, node: &Node, schema: &Json, path: &str, line: usize) -> Json {
        let default = schema.get("default");
        if node.value == Value::Null {
            return match default {
                Some(default) => default.clone(),
                None if is_true(schema, "nullable") => Json::Null,
                None => {
                    self.find(path, line, String::new(), format!("has no value; give it {}", article(schema)));
                    placeholder(schema)
                }
            };
        }
        if is_true(schema, "x-kubernetes-int-or-string") {
            return self.quantity(node, schema, path, line);
        }
        let wrong = match (schema.get("type").and_then(Json::as_str), &node.value) {
            (Some("object"), Value::Map(entries)) => return self.object(node, entries, schema, path, line),
            (Some("array"), Value::List(items)) => return self.array(items, schema, path, line),
            (Some("string"), Value::Text(text)) => return self.string(node, text, schema, path, line),
            (Some("integer"), Value::Int(number)) => return self.integer(node, *number, schema, path, line),
            (Some("boolean"), Value::Bool(value)) => return json!(value),
            (None, _) => return plain(node),
            (Some("string"), Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
                "must be text; YAML reads this as a number or a boolean, so put it in quotes".to_owned()
            }
            _ => format!("must be {}, not {}", article(schema), name(&node.value)),
        };
        self.find(path, line, self.shown(node), wrong);
        placeholder(schema)
    }

    fn object(&mut self, node: &Node, entries: &[Entry], schema: &Json, path: &str, line: usize) -> Json {
        let mut object = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema.get("additionalProperties").filter(|inner| inner.is_object());
        let open = is_true(schema, "x-kubernetes-preserve-unknown-fields");
        for entry in entries {
            let inner_path = join(path, &entry.key);
            match (properties.and_then(|properties| properties.get(&entry.key)), additional) {
                (Some(inner), _) | (None, Some(inner)) => {
                    object.insert(entry.key.clone(), self.node(&entry.node, inner, &inner_path, entry.line));
                }
                (None, None) if open || properties.is_none() => {
                    object.insert(entry.key.clone(), plain(&entry.node));
                }
                (None, None) => {
                    let known = properties.into_iter().flat_map(Map::keys).map(String::as_str);
                    let message = unknown(&entry.key, known);
                    self.find(&inner_path, entry.line, String::new(), message);
                }
            }
        }
        for key in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if node.get(key).is_some() {
                continue;
            }
            let Some(inner) = properties.and_then(|properties| properties.get(key)) else { continue };
            self.find(&join(path, key), line, String::new(), format!("is missing; give it {}", article(inner)));
            object.insert(key.to_owned(), placeholder(inner));
        }
        Json::Object(object)
    }

    fn array(&mut self, items: &[Node], schema: &Json, path: &str, line: usize) -> Json {
        for (limit, broken, word) in [
            ("minItems", bound(schema, "minItems").is_some_and(|least| (items.len() as i64) < least), "at least"),
            ("maxItems", bound(schema, "maxItems").is_some_and(|most| (items.len() as i64) > most), "at most"),
        ] {
            if broken && let Some(limit) = bound(schema, limit) {
                self.find(path, line, format!("{} entries", items.len()), format!("must have {word} {limit}"));
            }
        }
        let any = json!({});
        let inner = schema.get("items").unwrap_or(&any);
        let check = |(index, item): (usize, &Node)| self.node(item, inner, &format!("{path}[{index}]"), item.line);
        items.iter().enumerate().map(check).collect()
    }

    fn string(&mut self, node: &Node, text: &str, schema: &Json, path: &str, line: usize) -> Json {
        if let Some(values) = schema.get("enum").and_then(Json::as_array) {
            let values: Vec<&str> = values.iter().filter_map(Json::as_str).collect();
            if !values.contains(&text) {
                let message = match nearest(text, values.iter().copied()) {
                    Some(near) => format!("must be {}; did you mean {near}?", either(&values)),
                    None => format!("must be {}", either(&values)),
                };
                self.find(path, line, self.shown(node), message);
                return placeholder(schema);
            }
        }
        let length = text.chars().count() as i64;
        if bound(schema, "minLength").is_some_and(|least| length < least) {
            self.find(path, line, String::new(), "must not be empty");
            return placeholder(schema);
        }
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            self.find(path, line, self.shown(node), format!("is {length} characters long; at most {most} are allowed"));
            return placeholder(schema);
        }
        if schema.get("pattern").and_then(Json::as_str) == Some(HumanDuration::PATTERN)
            && let Err(error) = text.parse::<HumanDuration>()
        {
            self.find(path, line, self.shown(node), error.to_string());
            return placeholder(schema);
        }
        json!(text)
    }

    fn integer(&mut self, node: &Node, number: i64, schema: &Json, path: &str, line: usize) -> Json {
        let (least, most) = (bound(schema, "minimum"), bound(schema, "maximum"));
        // The format's own bounds, so that what is read fits the type that it is read into.
        let (format_least, format_most) = match schema.get("format").and_then(Json::as_str) {
            Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        if number < least.unwrap_or(format_least) || number > most.unwrap_or(format_most) {
            let message = match (least, most) {
                (Some(least), Some(most)) => format!("must be between {least} and {most}"),
                (Some(least), None) => format!("must be at least {least}"),
                (None, Some(most)) => format!("must be at most {most}"),
                (None, None) => format!("must be between {format_least} and {format_most}"),
            };
            self.find(path, line, self.shown(node), message);
            return placeholder(schema);
        }
        json!(number)
    }

    fn quantity(&mut self, node: &Node, schema: &Json, path: &str, line: usize) -> Json {
        let text = match &node.value {
            Value::Int(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            other => {
                let message = format!("must be a number of bytes, for example 64Mi or 500Gi, not {}", name(other));
                self.find(path, line, self.shown(node), message);
                return placeholder(schema);
            }
        };
        match text.parse::<ByteQuantity>() {
            Ok(_) => json!(text),
            Err(error) => {
                self.find(path, line, self.shown(node), error.to_string());
                placeholder(schema)
            }
        }
    }
}

/// What is said of a field that does not exist.
pub fn unknown<'k>(key: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    match nearest(key, known.clone()) {
        Some(near) => format!("is not a known field; did you mean {near}?"),
        None => {
            let known: Vec<&str> = known.collect();
            format!("is not a known field; known are {}", known.join(", "))
        }
    }
}

/// The candidate that was probably meant.
pub fn nearest<'k>(given: &str, candidates: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let lower = given.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(given.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `path.key`, or with quotes where the key has dots of its own.
fn join(path: &str, key: &str) -> String {
    match (path, key.contains(['.', '[', ' '])) {
        ("", false) => key.to_owned(),
        (_, false) => format!("{path}.{key}"),
        (_, true) => format!("{path}[{key:?}]"),
    }
}

fn is_true(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool) == Some(true)
}

fn bound(schema: &Json, key: &str) -> Option<i64> {
    let value = schema.get(key)?;
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

fn either(values: &[&str]) -> String {
    match values {
        [] => "nothing".into(),
        [only] => (*only).into(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

fn article(schema: &Json) -> String {
    if is_true(schema, "x-kubernetes-int-or-string") {
        return "a number of bytes, for example 500Gi".into();
    }
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return either(&values.iter().filter_map(Json::as_str).collect::<Vec<_>>());
    }
    let word = match schema.get("type").and_then(Json::as_str) {
        Some("object") => match schema.get("required").and_then(Json::as_array) {
            Some(keys) => {
                let keys: Vec<&str> = keys.iter().filter_map(Json::as_str).collect();
                return format!("a mapping with {}", keys.join(", "));
            }
            None => "a mapping",
        },
        Some("array") => "a list",
        Some("string") => "text",
        Some("integer") => "a whole number",
        Some("boolean") => "true or false",
        _ => "a value",
    };
    word.into()
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Int(_) => "a number",
        Value::Float(_) => "a fraction",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

/// Something that fits the schema.
fn placeholder(schema: &Json) -> Json {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    if is_true(schema, "nullable") {
        return Json::Null;
    }
    if is_true(schema, "x-kubernetes-int-or-string") {
        return json!("1Gi");
    }
    if let Some(first) = schema.get("enum").and_then(Json::as_array).and_then(|values| values.first()) {
        return first.clone();
    }
    match schema.get("type").and_then(Json::as_str) {
        Some("object") => {
            let properties = schema.get("properties").and_then(Json::as_object);
            let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
            let fill = |key: &Json| {
                let key = key.as_str()?;
                Some((key.to_owned(), placeholder(properties?.get(key)?)))
            };
            Json::Object(required.filter_map(fill).collect())
        }
        Some("array") => json!([]),
        Some("string") => json!(""),
        Some("integer") => json!(bound(schema, "minimum").unwrap_or(0)),
        Some("boolean") => json!(false),
        _ => Json::Null,
    }
}

/// The value as it stands.
fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), plain(&entry.node))).collect())
        }
    }
}
