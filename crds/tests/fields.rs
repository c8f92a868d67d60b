//! `docs/fields.md` has every field of our kinds, as the definitions have them; and the chart has these definitions. Both are written by
//! `UPDATE_DOCS=1 cargo test -p framekeeper-crds --test fields`.

#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use framekeeper_crds::schema;
use serde_json::Value;

const UPDATE: &str = "UPDATE_DOCS=1 cargo test -p framekeeper-crds --test fields";

#[test]
fn the_page_is_current() {
    is_current("docs/fields.md", &page(&schema::definitions()));
}

#[test]
fn the_chart_has_the_same_definitions() {
    let files = schema::files().unwrap();
    for (name, text) in &files {
        is_current(&format!("charts/framekeeper/files/crds/{name}"), text);
    }
    let there = std::fs::read_dir(repository().join("charts/framekeeper/files/crds")).unwrap().count();
    assert_eq!(there, files.len(), "the chart has definitions that are none of ours");
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_current(name: &str, wanted: &str) {
    let path = repository().join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} is stale; {UPDATE} writes it");
}

/// The page of these definitions.
fn page(definitions: &[Value]) -> String {
    let mut page = format!(
        "# Fields of the custom resources\n\n\
         Group `framekeeper.dev`, version `v1alpha1`. This page is made from the definitions (`crds/*.yaml`) by `{UPDATE}`. \
         `kubectl explain storagepool.spec --recursive` says the same at a prompt.\n\n\
         A *duration* is a number with a unit, or several: `500ms`, `30s`, `1h30m`, `7d`. A *quantity* is a number as Kubernetes writes it: `64Mi`, `500Gi`, `2T`, `500m`. \
         A list of conditions has `type`, `status`, `reason`, `message`, `observedGeneration` and `lastTransitionTime`; every reason: [troubleshooting.md](troubleshooting.md).\n"
    );
    for definition in definitions {
        kind(&mut page, definition);
    }
    page
}

fn kind(page: &mut String, definition: &Value) {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    let short: Vec<&str> = strings(definition.pointer("/spec/names/shortNames"));
    writeln!(
        page,
        "\n## {}\n\n{} `kubectl get {}`, short `{}`.",
        text("/spec/names/kind"),
        describe(schema),
        text("/spec/names/plural"),
        short.join("`, `")
    )
    .unwrap();
    let mut fields = Fields::default();
    for part in ["spec", "status"] {
        fields.add(&schema["properties"][part], part, Presence::Named);
    }
    fields.rules(schema, "");
    if let Some(rules) = fields.rules.get("").filter(|rules| !rules.is_empty()) {
        writeln!(page, "\nRules for the whole object: {}.", rules.join("; ")).unwrap();
    }
    for part in ["spec", "status"] {
        let written_by = if part == "spec" { "" } else { " Written by operator and recorders, never by hand." };
        writeln!(page, "\n### {part}\n\n{}{written_by}\n", describe(&schema["properties"][part])).unwrap();
        page.push_str("| field | type | default | bounds | what |\n|---|---|---|---|---|\n");
        for field in fields.rows.iter().filter(|field| field.path.starts_with(&format!("{part}."))) {
            let mut bounds = field.bounds.clone();
            bounds.extend(fields.rules.get(&field.path).into_iter().flatten().cloned());
            let Field { path, kind, default, what, .. } = field;
            writeln!(page, "| `{path}` | {kind} | {default} | {} | {what} |", bounds.join("; ")).unwrap();
        }
    }
}

/// One row.
struct Field {
    path: String,
    kind: String,
    default: String,
    bounds: Vec<String>,
    what: String,
}

/// Whether a field must be there.
#[derive(Clone, Copy)]
enum Presence {
    Required,
    Optional,
    /// A part of an object that has a heading of its own, or what a list holds: no row.
    Named,
}

/// The rows of a kind, and what rules say of which path.
#[derive(Default)]
struct Fields {
    rows: Vec<Field>,
    rules: BTreeMap<String, Vec<String>>,
}

impl Fields {
    fn add(&mut self, schema: &Value, path: &str, presence: Presence) {
        let (kind, inner) = kind_of(schema);
        let default = match (presence, schema.get("default")) {
            (_, Some(default)) if is_small(default) => format!("`{}`", plain(default)),
            (Presence::Required, _) => "required".to_owned(),
            _ => String::new(),
        };
        if !matches!(presence, Presence::Named) {
            let (path, what) = (path.to_owned(), describe(schema));
            self.rows.push(Field { path, kind, default, bounds: bounds(schema), what });
        }
        self.rules(schema, path);
        match inner {
            Inner::None => {}
            Inner::Fields => {
                let required = strings(schema.get("required"));
                for (name, property) in schema["properties"].as_object().unwrap() {
                    let presence =
                        if required.contains(&name.as_str()) { Presence::Required } else { Presence::Optional };
                    self.add(property, &format!("{path}.{name}"), presence);
                }
            }
            Inner::Items => self.add(&schema["items"], &format!("{path}[]"), Presence::Named),
        }
    }

    /// What the rules at this path say, each put down at the field that it is about.
    fn rules(&mut self, schema: &Value, path: &str) {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let at = rule.get("fieldPath").and_then(Value::as_str).unwrap_or_default();
            let message = ["message", "messageExpression"].iter().find_map(|key| rule.get(*key)?.as_str()).unwrap();
            let at = format!("{path}{at}").trim_start_matches('.').to_owned();
            let said = self.rules.entry(at).or_default();
            if !said.iter().any(|other| other == message) {
                said.push(cell(message));
            }
        }
    }
}

/// What is in a field.
enum Inner {
    None,
    Fields,
    Items,
}

fn kind_of(schema: &Value) -> (String, Inner) {
    let is_condition = |schema: &Value| schema.pointer("/properties/lastTransitionTime").is_some();
    let has_fields = |schema: &Value| schema.get("properties").is_some_and(|fields| fields.is_object());
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let kind = schema.get("type").and_then(Value::as_str);
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return ("quantity".to_owned(), Inner::None);
    }
    match kind {
        Some("string") if pattern == Some(framekeeper_crds::HumanDuration::PATTERN) => {
            ("duration".to_owned(), Inner::None)
        }
        Some("string") if schema.get("format").and_then(Value::as_str) == Some("date-time") => {
            ("time".to_owned(), Inner::None)
        }
        Some("array") => match &schema["items"] {
            items if is_condition(items) => ("list of conditions".to_owned(), Inner::None),
            items if has_fields(items) => ("list".to_owned(), Inner::Items),
            items => (format!("list of {}", kind_of(items).0), Inner::None),
        },
        Some("object") if has_fields(schema) => ("object".to_owned(), Inner::Fields),
        Some("object") => match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => (format!("map of {}", kind_of(values).0), Inner::None),
            _ => ("object as Kubernetes has it".to_owned(), Inner::None),
        },
        Some(other) => (other.to_owned(), Inner::None),
        None => ("anything".to_owned(), Inner::None),
    }
}

fn bounds(schema: &Value) -> Vec<String> {
    let number = |key: &str| schema.get(key).filter(|value| value.is_number());
    let mut bounds = Vec::new();
    let choices = strings(schema.get("enum"));
    if !choices.is_empty() {
        bounds.push(format!("`{}`", choices.join("`, `")));
    }
    // That a number is not negative says its meaning.
    let minimum = number("minimum").filter(|minimum| minimum.as_i64() != Some(0));
    match (minimum, number("maximum")) {
        (Some(least), Some(most)) => bounds.push(format!("{least} to {most}")),
        (Some(least), None) => bounds.push(format!("at least {least}")),
        (None, Some(most)) => bounds.push(format!("at most {most}")),
        (None, None) => {}
    }
    let is_own_type = matches!(kind_of(schema).0.as_str(), "quantity" | "duration");
    for (least, most, what) in [("minLength", "maxLength", "characters"), ("minItems", "maxItems", "entries")] {
        match (number(least), number(most)) {
            _ if is_own_type => {}
            (Some(least), Some(most)) => bounds.push(format!("{least} to {most} {what}")),
            (Some(least), None) => bounds.push(format!("at least {least} {what}")),
            (None, Some(most)) => bounds.push(format!("at most {most} {what}")),
            (None, None) => {}
        }
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str).filter(|_| !is_own_type) {
        bounds.push(format!("`{}`", cell(pattern)));
    }
    bounds
}

/// A default that tells more than that the fields below have defaults of their own.
fn is_small(value: &Value) -> bool {
    !value.is_object() && !value.is_null()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn describe(schema: &Value) -> String {
    cell(schema.get("description").and_then(Value::as_str).unwrap_or_default())
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}
