//! What a manifest must fulfil beyond its schema: each rule once as CEL, for clusters, and once as a function, for manifests
//! that are read from files and for objects that an API server without the rule let through. Both say the same words.

use std::fmt;

use kube::core::Rule;

use crate::camera_stream::{CameraStreamSpec, Source};
use crate::common::RetentionSpec;
use crate::quantity::ByteQuantity;
use crate::recorder::RecorderSpec;
use crate::storage_pool::StoragePoolSpec;

/// A rule as CEL and what is said when it is broken.
#[derive(Clone, Copy, Debug)]
pub struct CelRule {
    /// The expression.
    pub rule: &'static str,
    /// What would be right.
    pub message: &'static str,
}

impl CelRule {
    /// For the schema of the field that the rule is about.
    pub(crate) fn here(self) -> Rule {
        Rule::new(self.rule).message(self.message)
    }

    /// For the schema of the field's parent: `path` is where a user is told that the mistake is.
    pub(crate) fn at(self, path: &str) -> Rule {
        self.here().field_path(path)
    }
}

/// A source's address is an RTSP one.
pub const URL_SCHEME: CelRule = CelRule {
    rule: "self.url.startsWith('rtsp://')",
    message: "must begin with rtsp://; other protocols are not supported yet",
};
/// A source's address holds no credentials.
pub const URL_USER_INFO: CelRule = CelRule {
    rule: "!self.url.matches('^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*@')",
    message: "must not hold a user name or password; put them into a Secret with the keys username and password and name it in source.credentialsSecretRef",
};
/// A source's address can be understood.
pub const URL_FORM: CelRule = CelRule {
    rule: "self.url.matches('^[a-zA-Z][a-zA-Z0-9+.-]*://([^/?#]*@)?([a-zA-Z0-9_.-]+|\\\\[[0-9a-fA-F:.]+\\\\])(:[0-9]{1,5})?([/?][^\\\\s#]*)?$')",
    message: "must be an address such as rtsp://camera.example:554/stream1, with a host, no spaces and no #fragment",
};
/// The device service is spoken with over HTTP.
pub const ONVIF_SCHEME: CelRule = CelRule {
    rule: "!has(self.onvif) || self.onvif.endpoint.startsWith('http://')",
    message: "must begin with http://; https is not supported yet",
};
/// Its address holds no credentials either.
pub const ONVIF_USER_INFO: CelRule = CelRule {
    rule: "!has(self.onvif) || !self.onvif.endpoint.matches('^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*@')",
    message: "must not hold a user name or password: those of source.credentialsSecretRef are used",
};
/// And can be understood.
pub const ONVIF_FORM: CelRule = CelRule {
    rule: "!has(self.onvif) || self.onvif.endpoint.matches('^[a-zA-Z][a-zA-Z0-9+.-]*://([^/?#]*@)?([a-zA-Z0-9_.-]+|\\\\[[0-9a-fA-F:.]+\\\\])(:[0-9]{1,5})?([/?][^\\\\s#]*)?$')",
    message: "must be an address such as http://camera.example/onvif/device_service, with a host, no spaces and no #fragment",
};
/// A pool's name leaves room for what is derived from it.
pub const POOL_NAME: CelRule = CelRule {
    rule: "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$')",
    message: "metadata.name must be at most 39 lower-case letters, digits and '-', and begin with a letter, because recorders are named after it",
};
/// There is a standby for each failure that is tolerated.
pub const STANDBYS: CelRule = CelRule {
    rule: "!has(self.spec.redundancy) || !has(self.spec.redundancy.standbys) || !has(self.spec.toleratedFailures) || self.spec.redundancy.standbys >= self.spec.toleratedFailures",
    message: "must be at least spec.toleratedFailures: each failure that is tolerated takes a standby",
};
/// What a recorder that fails had not made durable yet, standbys have in memory.
pub const SYNC_OF_STANDBYS: CelRule = CelRule {
    rule: "!has(self.spec.toleratedFailures) || self.spec.toleratedFailures == 0 || !has(self.spec.segment) || !has(self.spec.segment.sync) || duration(self.spec.segment.sync) <= duration('2s')",
    message: "must be at most 2s where failures are tolerated: standbys have seconds in memory, and a disk that makes nothing durable for 3s counts as failed",
};
/// No two volumes of a pool share a name.
pub const VOLUME_NAMES: CelRule =
    CelRule { rule: "self.all(v, self.exists_one(w, w.name == v.name))", message: "must have different names" };
/// Segment files are of a size that files can be cut from.
pub const SEGMENT_BYTES: CelRule = CelRule {
    rule: "isQuantity(string(self)) && quantity(string(self)).isInteger() && quantity(string(self)).asInteger() >= 4194304 && quantity(string(self)).asInteger() <= 1073741824 && quantity(string(self)).asInteger() % 4096 == 0",
    message: "must be between 4Mi and 1Gi and a multiple of 4096",
};
/// The size of segment files stays.
pub const SEGMENT_BYTES_FIXED: CelRule = CelRule {
    rule: "quantity(string(self)).compareTo(quantity(string(oldSelf))) == 0",
    message: "cannot be changed, because the pool's volumes are laid out in files of this size; make another pool",
};
/// Fragments are neither tiny nor a loss.
pub const PART_RANGE: CelRule = CelRule {
    rule: "duration(self) >= duration('100ms') && duration(self) <= duration('2s')",
    message: "must be between 100ms and 2s",
};
/// A recorder that had failed is neither trusted at once nor never again.
pub const HANDBACK_RANGE: CelRule = CelRule {
    rule: "duration(self) >= duration('1s') && duration(self) <= duration('10m')",
    message: "must be between 1s and 10m",
};
/// Syncs are neither all the time nor a loss.
pub const SYNC_RANGE: CelRule = CelRule {
    rule: "duration(self) >= duration('100ms') && duration(self) <= duration('10s')",
    message: "must be between 100ms and 10s",
};
/// Footage is not given up at once.
pub const MAX_AGE: CelRule = CelRule {
    // CEL's durations know no days.
    rule: "self.matches('[1-9][0-9]*d') || (!self.contains('d') && duration(self) >= duration('10s'))",
    message: "must be at least 10s",
};
/// There is a segment to write and one to keep, of the smallest size that segments may have.
pub const MAX_BYTES: CelRule = CelRule {
    rule: "isQuantity(string(self)) && quantity(string(self)).isInteger() && quantity(string(self)).asInteger() >= 8388608",
    message: "must be at least 8Mi, two of the smallest segments",
};
/// An operator that lost its leadership cannot turn a recorder back.
pub const RECORDER_TERM: CelRule = CelRule {
    rule: "self.spec.term >= oldSelf.spec.term",
    message: "spec.term must not go back: this was written by an operator that is no longer the leader",
};

const MIN_SEGMENT_BYTES: u64 = 4 << 20;
const MIN_AGE_MS: u64 = 10_000;
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
const SEGMENT_GRAIN_BYTES: u64 = 4096;

/// One mistake in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, from the object's root: `spec.storage.volumes[1].name`.
    pub path: String,
    /// What stands there, without credentials.
    pub value: String,
    /// What would be right.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, value, message } = self;
        if value.is_empty() { write!(f, "{path}: {message}") } else { write!(f, "{path}: {value}: {message}") }
    }
}

impl FieldError {
    /// A mistake at `path`, where `value` stands.
    pub fn new(path: impl Into<String>, value: impl fmt::Debug, message: impl Into<String>) -> Self {
        Self { path: path.into(), value: format!("{value:?}"), message: message.into() }
    }
}

/// The address with whatever could be credentials in it replaced: what may stand in a log, a status or an event.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Without a scheme nothing tells where the user info ends: show none of what stands before the last `@`.
        return match url.rsplit_once('@') {
            Some((_, host)) => format!("***@{host}"),
            None => url.to_owned(),
        };
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with an unescaped `/` in it ends the authority early, so a later `@` also counts.
    let user_info_end = rest.rfind('@').map_or(0, |at| at + 1);
    if user_info_end == 0 {
        return url.to_owned();
    }
    let host = rest.get(user_info_end..).unwrap_or_default();
    let only_in_path = rest.get(..authority_end).is_some_and(|authority| !authority.contains('@'));
    if only_in_path && !rest.get(..authority_end).unwrap_or_default().contains(':') {
        // `rtsp://host/path@1`: the host can't be the beginning of a `user:password` pair.
        return url.to_owned();
    }
    format!("{scheme}://***@{host}")
}

/// What is wrong with a stream's spec. Empty: nothing.
#[must_use]
pub fn camera_stream(spec: &CameraStreamSpec) -> Vec<FieldError> {
    let mut errors = source(&spec.source, "spec.source");
    if spec.pool_ref.name.is_empty() {
        errors.push(FieldError::new("spec.poolRef.name", "", "must name a StoragePool"));
    }
    errors.extend(retention(&spec.retention));
    errors
}

fn retention(retention: &RetentionSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(age) = retention.max_age.filter(|age| age.as_millis() < MIN_AGE_MS) {
        errors.push(shown("spec.retention.maxAge", &age, MAX_AGE.message));
    }
    if let Some(bytes) = retention.max_bytes.filter(|bytes| bytes.as_bytes() < 2 * MIN_SEGMENT_BYTES) {
        errors.push(shown("spec.retention.maxBytes", &bytes, MAX_BYTES.message));
    }
    errors
}

fn source(source: &Source, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let url = source.url.as_str();
    let mut wrong = |rule: CelRule| errors.push(FieldError::new(format!("{path}.url"), redact_url(url), rule.message));
    if !url.starts_with("rtsp://") {
        wrong(URL_SCHEME);
    }
    if has_user_info(url) {
        wrong(URL_USER_INFO);
    }
    if !is_plain_url(url) {
        wrong(URL_FORM);
    }
    if let Some(secret) = &source.credentials_secret_ref
        && secret.name.is_empty()
    {
        errors.push(FieldError::new(format!("{path}.credentialsSecretRef.name"), "", "must name a Secret"));
    }
    if let Some(onvif) = &source.onvif {
        let endpoint = onvif.endpoint.as_str();
        let rules = [
            (ONVIF_SCHEME, endpoint.starts_with("http://")),
            (ONVIF_USER_INFO, !has_user_info(endpoint)),
            (ONVIF_FORM, is_plain_url(endpoint)),
        ];
        let broken = rules.into_iter().filter(|(_, holds)| !holds);
        errors
            .extend(broken.map(|(rule, _)| {
                FieldError::new(format!("{path}.onvif.endpoint"), redact_url(endpoint), rule.message)
            }));
        if onvif.profile.as_ref().is_some_and(|profile| profile.is_empty() || profile.len() > 64) {
            errors.push(FieldError::new(format!("{path}.onvif.profile"), "", "must have 1 to 64 characters"));
        }
    }
    if source.max_sessions == Some(0) {
        errors.push(FieldError::new(format!("{path}.maxSessions"), 0, "must be at least 1"));
    }
    errors
}

fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(letters)).then_some((scheme, rest))
}

fn authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

fn has_user_info(url: &str) -> bool {
    split_scheme(url).is_some_and(|(_, rest)| authority(rest).0.contains('@'))
}

fn is_plain_url(url: &str) -> bool {
    let Some((_, rest)) = split_scheme(url) else { return false };
    let (authority, path) = authority(rest);
    if path.contains(|c: char| c.is_ascii_whitespace() || c == '#') {
        return false;
    }
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            if host.is_empty() || !host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.')) {
                return false;
            }
            (host, port)
        }
        None => {
            let (host, port) = host_port.split_at(host_port.find(':').unwrap_or(host_port.len()));
            if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
                return false;
            }
            (host, port)
        }
    };
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => (1..=5).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit()),
        None => port.is_empty(),
    };
    !host.is_empty() && port_ok
}

/// What is wrong with a pool's name and spec. Empty: nothing.
#[must_use]
pub fn storage_pool(name: &str, spec: &StoragePoolSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !is_pool_name(name) {
        errors.push(FieldError::new(
            "metadata.name",
            name,
            POOL_NAME.message.strip_prefix("metadata.name ").unwrap_or(POOL_NAME.message),
        ));
    }
    if !(1..=1000).contains(&spec.recorders) {
        errors.push(FieldError::new("spec.recorders", spec.recorders, "must be between 1 and 1000"));
    }
    if !(1..=500).contains(&spec.max_channels) {
        errors.push(FieldError::new("spec.maxChannels", spec.max_channels, "must be between 1 and 500"));
    }
    let failures = spec.tolerated_failures;
    if failures > 16 {
        errors.push(FieldError::new("spec.toleratedFailures", failures, "must be at most 16"));
    }
    if let Some(standbys) = spec.redundancy.standbys {
        let path = "spec.redundancy.standbys";
        if !(1..=16).contains(&standbys) {
            errors.push(FieldError::new(path, standbys, "must be between 1 and 16"));
        } else if standbys < failures {
            errors.push(FieldError::new(path, standbys, STANDBYS.message));
        }
    }
    if let Some(after) = spec.redundancy.handback_after.filter(|it| !(1_000..=600_000).contains(&it.as_millis())) {
        errors.push(shown("spec.redundancy.handbackAfter", &after, HANDBACK_RANGE.message));
    }
    let volumes = &spec.storage.volumes;
    if !(1..=32).contains(&volumes.len()) {
        errors.push(FieldError {
            path: "spec.storage.volumes".into(),
            value: format!("{} volumes", volumes.len()),
            message: "must be between 1 and 32".into(),
        });
    }
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.storage.volumes[{index}]");
        if !is_dns_label(&volume.name) {
            errors.push(FieldError::new(
                format!("{path}.name"),
                &volume.name,
                "must be at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit",
            ));
        }
        if volumes.iter().take(index).any(|earlier| earlier.name == volume.name) {
            errors.push(FieldError::new(
                format!("{path}.name"),
                &volume.name,
                format!("is the name of two volumes; volumes {}", VOLUME_NAMES.message),
            ));
        }
    }
    let segment = &spec.segment;
    let bytes = segment.bytes.as_bytes();
    if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes) || !bytes.is_multiple_of(SEGMENT_GRAIN_BYTES) {
        errors.push(shown("spec.segment.bytes", &segment.bytes, SEGMENT_BYTES.message));
    }
    if !(100..=2_000).contains(&segment.part.as_millis()) {
        errors.push(shown("spec.segment.part", &segment.part, PART_RANGE.message));
    }
    if let Some(sync) = segment.sync.filter(|sync| !(100..=10_000).contains(&sync.as_millis())) {
        errors.push(shown("spec.segment.sync", &sync, SYNC_RANGE.message));
    } else if let Some(sync) = segment.sync.filter(|sync| failures > 0 && sync.as_millis() > 2_000) {
        errors.push(shown("spec.segment.sync", &sync, SYNC_OF_STANDBYS.message));
    }
    errors.extend(retention(&spec.retention));
    errors
}

fn shown(path: &str, value: &impl fmt::Display, message: &str) -> FieldError {
    FieldError { path: path.into(), value: value.to_string(), message: message.into() }
}

/// What a change of a pool's spec may not do. Empty: it may.
#[must_use]
pub fn storage_pool_change(old_segment_bytes: ByteQuantity, new: &StoragePoolSpec) -> Vec<FieldError> {
    if old_segment_bytes == new.segment.bytes {
        return Vec::new();
    }
    vec![FieldError {
        path: "spec.segment.bytes".into(),
        value: format!("{} (was {old_segment_bytes})", new.segment.bytes),
        message: SEGMENT_BYTES_FIXED.message.into(),
    }]
}

/// What a change of a recorder's spec may not do. Empty: it may.
#[must_use]
pub fn recorder_change(old: &RecorderSpec, new: &RecorderSpec) -> Vec<FieldError> {
    if new.term >= old.term {
        return Vec::new();
    }
    vec![FieldError {
        path: "spec.term".into(),
        value: format!("{} (was {})", new.term, old.term),
        message: RECORDER_TERM.message.strip_prefix("spec.term ").unwrap_or(RECORDER_TERM.message).into(),
    }]
}

/// Whether a pool may have this name; see [`POOL_NAME`].
#[must_use]
pub fn is_pool_name(name: &str) -> bool {
    name.len() <= 39 && is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Whether this is a label by RFC 1123 section 2.1 as Kubernetes reads it: at most 63 of `a-z`, `0-9` and inner `-`.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether this is a subdomain by RFC 1123 as Kubernetes reads it: labels joined by dots, at most 253 characters. Unlike
/// [`is_dns_label`], a part may be longer than 63 characters, as in Kubernetes.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 253
        && name
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-'))
}
