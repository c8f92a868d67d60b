//! What is committed as YAML is what the Rust types say.

use std::path::Path;

#[test]
fn committed_yaml_is_current() {
    for (name, text) in framekeeper_crds::schema::files().unwrap() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, text, "{name} is stale: run `cargo run -p framekeeper-crds`");
    }
}

#[test]
fn every_field_of_a_spec_is_explained() {
    fn walk(schema: &serde_json::Value, path: &str, missing: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(|p| p.as_object()) {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                if property.get("description").is_none() {
                    missing.push(path.clone());
                }
                walk(property, &path, missing);
            }
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(schema) = schema.get(inner) {
                walk(schema, path, missing);
            }
        }
    }
    for definition in framekeeper_crds::schema::definitions() {
        let mut missing = Vec::new();
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        walk(schema, "", &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}
