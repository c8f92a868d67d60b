//! The custom resources of Framekeeper: Rust types and the CRD YAML generated from them.
