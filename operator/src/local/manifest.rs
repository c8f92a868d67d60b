//! Manifests: the objects of all files, or everything that is wrong with them. What kubectl would read is read, what an API
//! server with our definitions would refuse is refused, and what would only turn out later (a pool that does not exist, a
//! Secret without a password) is found as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use framekeeper_crds::validate::{self, FieldError};
use framekeeper_crds::{
    API_VERSION, CameraStreamSpec, GROUP, HOLD_ANNOTATION, HoldRange, StoragePoolSpec, hold_ranges, schema,
};
use serde_json::{Value as Json, json};

use super::check::{self, Finding, Show};
use super::mistake::Mistake;
use super::secret::SecretData;
use super::yaml::{self, Node, Value};
use crate::decide::wanted::{Key, Wanted};

/// Namespace of objects that name none, as with kubectl.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Where an object stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The document in it, from 1.
    pub document: usize,
    /// The object's root.
    pub node: Node,
    /// The path of the root within the document: empty, or `items[2].` in a List.
    pub prefix: String,
    /// What was already reported of it.
    pub reported: Vec<String>,
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The object.
    pub object: T,
    /// Where it stands.
    pub place: Place,
}

/// All objects of all files.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The streams.
    pub streams: BTreeMap<Key, Placed<CameraStreamSpec>>,
    /// What of the streams' footage is held.
    pub holds: BTreeMap<Key, Vec<HoldRange>>,
    /// The pools.
    pub pools: BTreeMap<Key, Placed<StoragePoolSpec>>,
    /// The Secrets.
    pub secrets: BTreeMap<Key, Placed<SecretData>>,
}

impl Manifests {
    /// What they want.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let pools = self.pools.iter().map(|(key, pool)| (key.clone(), pool.object.clone().into()));
        let streams = self.streams.iter().map(|(key, stream)| (key.clone(), Arc::new(stream.object.clone()).into()));
        Wanted { pools: pools.collect(), streams: streams.collect(), holds: self.holds.clone(), ..Wanted::default() }
    }
}

/// What was read, and what was found on the way.
#[derive(Debug, Default)]
pub struct Reading {
    /// The objects. Where there are mistakes, with harmless values in their places.
    pub manifests: Manifests,
    /// Everything that is wrong.
    pub mistakes: Vec<Mistake>,
    /// What is not wrong but not heeded either.
    pub warnings: Vec<Mistake>,
}

/// Reads the objects of some files: (path, text).
pub fn read(files: &[(PathBuf, String)]) -> Reading {
    let mut reading = Reading::default();
    for (file, text) in files {
        let (documents, errors) = yaml::read(text);
        reading.mistakes.extend(errors.into_iter().map(|error| Mistake {
            file: file.clone(),
            line: Some(error.line),
            document: error.document,
            object: None,
            path: String::new(),
            value: String::new(),
            message: error.message,
        }));
        for document in documents {
            reading.object(file, document.number, document.root, String::new());
        }
    }
    super::cross::check(&mut reading);
    reading.mistakes.sort();
    reading
}

static STREAM: LazyLock<Json> = LazyLock::new(|| of_kind("CameraStream"));
static POOL: LazyLock<Json> = LazyLock::new(|| of_kind("StoragePool"));
static SECRET: LazyLock<Json> = LazyLock::new(|| {
    let text = json!({ "type": "object", "nullable": true, "additionalProperties": { "type": "string" } });
    with_frame(json!({
        "type": "object",
        "properties": {
            "type": { "type": "string" },
            "immutable": { "type": "boolean", "nullable": true },
            "data": text, "stringData": text,
        },
    }))
});

fn of_kind(kind: &str) -> Json {
    let definition = schema::definitions().into_iter().find(|d| d.pointer("/spec/names/kind") == Some(&json!(kind)));
    let schema = definition.and_then(|d| d.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned());
    with_frame(schema.unwrap_or_default())
}

/// Adds what every object has. A status is let through: who exports an object and applies it again has one.
fn with_frame(mut schema: Json) -> Json {
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        properties.insert("apiVersion".into(), json!({ "type": "string" }));
        properties.insert("kind".into(), json!({ "type": "string" }));
        properties.insert("metadata".into(), metadata_schema());
        properties.insert("status".into(), json!({ "nullable": true }));
    }
    schema
}

fn metadata_schema() -> Json {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    // Optional fields may also be given as null.
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        for property in properties.values_mut().filter_map(Json::as_object_mut) {
            property.insert("nullable".into(), json!(true));
        }
    }
    schema
}

impl Place {
    /// A mistake in this object.
    pub fn mistake(&self, object: &str, path: &str, value: &str, message: impl Into<String>) -> Mistake {
        Mistake {
            file: self.file.clone(),
            line: Some(self.node.line_of(path)),
            document: self.document,
            object: Some(object.to_owned()),
            path: format!("{}{path}", self.prefix),
            value: value.to_owned(),
            message: message.into(),
        }
    }

    /// Whether a mistake at this path, or above or below it, was reported already.
    pub fn is_reported(&self, path: &str) -> bool {
        let inside = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.reported.iter().any(|reported| inside(reported, path) || inside(path, reported))
    }
}

impl Reading {
    fn object(&mut self, file: &Path, document: usize, node: Node, prefix: String) {
        let mut place = Place { file: file.to_owned(), document, node, prefix, reported: Vec::new() };
        let simple = |place: &Place, path: &str, message: String| Mistake {
            object: None,
            ..place.mistake("", path, "", message)
        };
        match &place.node.value {
            Value::Null => return,
            Value::Map(_) => {}
            _ => {
                let message = "must be a mapping with apiVersion, kind, metadata and spec".to_owned();
                self.mistakes.push(simple(&place, "", message));
                return;
            }
        }
        let field = |key: &str| place.node.get(key).and_then(Node::text).unwrap_or_default().to_owned();
        let (api_version, kind) = (field("apiVersion"), field("kind"));
        match (api_version.as_str(), kind.as_str()) {
            (API_VERSION, "CameraStream") => self.stream(place),
            (API_VERSION, "StoragePool") => self.pool(place),
            ("v1", "Secret") => self.secret(place),
            ("v1", "List") => {
                let items = match place.node.get("items").map(|items| items.value.clone()) {
                    Some(Value::List(items)) => items,
                    _ => Vec::new(),
                };
                for (index, item) in items.into_iter().enumerate() {
                    self.object(file, document, item, format!("{}items[{index}].", place.prefix));
                }
            }
            (_, "") => {
                let kinds = ["CameraStream", "StoragePool", "Secret"].join(", ");
                let message = format!("is missing; it is one of {kinds}");
                self.mistakes.push(simple(&place, "kind", message));
            }
            (API_VERSION, "Recorder") => {
                let message = "a Recorder is written by the operator, not by hand; leave it out".to_owned();
                self.mistakes.push(simple(&place, "kind", message));
            }
            (_, "CameraStream" | "StoragePool") => {
                let message = format!("must be {API_VERSION} for a {kind}");
                let line = if api_version.is_empty() { String::new() } else { format!("{api_version:?}") };
                self.mistakes.push(Mistake { value: line, ..simple(&place, "apiVersion", message) });
            }
            (_, "Secret") => {
                self.mistakes.push(simple(&place, "apiVersion", "must be v1 for a Secret".to_owned()));
            }
            (group, _) if group.starts_with(GROUP) || group.is_empty() => {
                let known = ["CameraStream", "StoragePool", "Secret"];
                let message = match check::nearest(&kind, known.into_iter()) {
                    Some(near) => format!("is not a known kind; did you mean {near}?"),
                    None => format!("is not a known kind; known are {}", known.join(", ")),
                };
                self.mistakes.push(Mistake { value: format!("{kind:?}"), ..simple(&place, "kind", message) });
            }
            _ => {
                place.reported.clear();
                let message = format!("{api_version} {kind} is left out: it means nothing without a cluster");
                self.warnings.push(simple(&place, "", message));
            }
        }
    }

    fn stream(&mut self, place: Place) {
        let mut holds = Vec::new();
        let found = self.common("CameraStream", place, &STREAM, Show::Values, |_, json| {
            let spec: CameraStreamSpec = parse(json)?;
            let mut errors = validate::camera_stream(&spec);
            let hold = json.pointer("/metadata/annotations").and_then(|all| all.get(HOLD_ANNOTATION));
            match hold.and_then(Json::as_str).map(hold_ranges) {
                Some(Ok(ranges)) => holds = ranges,
                Some(Err(error)) => errors.push(error),
                None => {}
            }
            Ok((spec, errors))
        });
        if let Some((key, placed)) = found {
            if !holds.is_empty() {
                self.manifests.holds.insert(key.clone(), holds);
            }
            self.insert(|manifests| &mut manifests.streams, "CameraStream", key, placed);
        }
    }

    fn pool(&mut self, place: Place) {
        let found = self.common("StoragePool", place, &POOL, Show::Values, |name, json| {
            let spec: StoragePoolSpec = parse(json)?;
            let errors = validate::storage_pool(name, &spec);
            Ok((spec, errors))
        });
        if let Some((key, placed)) = found {
            self.insert(|manifests| &mut manifests.pools, "StoragePool", key, placed);
        }
    }

    fn secret(&mut self, place: Place) {
        let node = place.node.clone();
        let mut found_inside = Vec::new();
        let found = self.common("Secret", place, &SECRET, Show::Nothing, |_, json| {
            let (data, findings) = SecretData::read(json, &node);
            found_inside = findings;
            Ok((data, Vec::new()))
        });
        if let Some((key, mut placed)) = found {
            self.report("Secret", &key, &mut placed.place, found_inside);
            for name in ["username", "password"] {
                let ends = placed.object.get(name).is_some_and(|value| value.ends_with(b"\n"));
                if ends {
                    let object = format!("Secret {key}");
                    let message =
                        "ends with a line break, which is sent to the camera as well; encode it with printf, not echo";
                    self.warnings.push(placed.place.mistake(&object, &format!("data.{name}"), "", message));
                }
            }
            placed.place.node.forget_values();
            self.insert(|manifests| &mut manifests.secrets, "Secret", key, placed);
        }
    }

    /// What all kinds have in common: the schema, the name, then the kind's own rules.
    fn common<T>(
        &mut self,
        kind: &str,
        mut place: Place,
        schema: &Json,
        show: Show,
        read: impl FnOnce(&str, &Json) -> Result<(T, Vec<FieldError>), FieldError>,
    ) -> Option<(Key, Placed<T>)> {
        let (json, findings) = check::check(&place.node, schema, "", show);
        let metadata = |key: &str| json.pointer(&format!("/metadata/{key}")).and_then(Json::as_str);
        let name = metadata("name").unwrap_or_default().to_owned();
        let namespace = metadata("namespace").filter(|namespace| !namespace.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
        let key = Key::new(namespace, &name);
        self.report(kind, &key, &mut place, findings);

        let mut errors = Vec::new();
        if name.is_empty() {
            let message = match metadata("generateName") {
                Some(_) => "is missing; generateName needs a cluster",
                None => "is missing; every object needs a name",
            };
            errors.push(FieldError { path: "metadata.name".into(), value: String::new(), message: message.into() });
        } else if !validate::is_dns_subdomain(&name) {
            let message = "must be lower-case letters, digits, '-' and '.', and begin and end with a letter or digit";
            errors.push(FieldError::new("metadata.name", &name, message));
        }
        if !validate::is_dns_label(&key.namespace) {
            let message =
                "must be at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit";
            errors.push(FieldError::new("metadata.namespace", &key.namespace, message));
        }
        let read = match read(&name, &json) {
            Ok((object, more)) => {
                // A name that is wrong for any object need not be called wrong for this kind as well.
                errors.extend(
                    more.into_iter()
                        .filter(|more| !errors.iter().any(|error| error.path == more.path))
                        .collect::<Vec<_>>(),
                );
                Some(object)
            }
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let findings = errors.into_iter().map(|error| Finding {
            line: place.node.line_of(&error.path),
            path: error.path,
            value: if show == Show::Values { error.value } else { String::new() },
            message: error.message,
        });
        let findings: Vec<Finding> = findings.filter(|finding| !place.is_reported(&finding.path)).collect();
        self.report(kind, &key, &mut place, findings);
        (!name.is_empty()).then_some(())?;
        Some((key, Placed { object: read?, place }))
    }

    fn report(&mut self, kind: &str, key: &Key, place: &mut Place, findings: Vec<Finding>) {
        let object = if key.name.is_empty() { kind.to_owned() } else { format!("{kind} {key}") };
        for finding in findings {
            let line = Some(finding.line);
            let mistake = place.mistake(&object, &finding.path, &finding.value, finding.message);
            self.mistakes.push(Mistake { line, ..mistake });
            place.reported.push(finding.path);
        }
    }

    fn insert<T>(
        &mut self,
        map: impl Fn(&mut Manifests) -> &mut BTreeMap<Key, Placed<T>>,
        kind: &str,
        key: Key,
        placed: Placed<T>,
    ) {
        let map = map(&mut self.manifests);
        if let Some(first) = map.get(&key) {
            let first = &first.place;
            let message = format!(
                "is the name of two {kind}s; the other is at {}:{}, document {}",
                first.file.display(),
                first.node.line_of("metadata.name"),
                first.document
            );
            let shown = format!("{:?}", key.name);
            self.mistakes.push(placed.place.mistake(&format!("{kind} {key}"), "metadata.name", &shown, message));
        } else {
            map.insert(key, placed);
        }
    }
}

/// The spec of an object that fits the schema. That it can still fail is a difference between schema and type; it is then
/// reported like any other mistake.
fn parse<T: serde::de::DeserializeOwned>(json: &Json) -> Result<T, FieldError> {
    let spec = json.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|error| FieldError {
        path: "spec".into(),
        value: String::new(),
        message: error.to_string(),
    })
}
