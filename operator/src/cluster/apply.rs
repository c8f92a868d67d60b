//! Objects are made so: by server-side apply, only what is not so already, and only as long as this operator leads.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use kube::api::{Api, DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, Request};
use kube::{Client, Error, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::build::names::{self, MANAGER};
use super::lead::Leadership;
use super::metrics::Metrics;

/// Why something was not written. It is tried again in the next round, unless this operator does not lead any more.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another operator leads, or may.
    #[error("this operator does not lead any more")]
    NotLeading,
    /// Others write to it all the time.
    #[error("{what} changes all the time")]
    Busy {
        /// Which object.
        what: String,
    },
    /// There is no such Recorder, and it can't be made; or it can't be read.
    #[error("{why}")]
    Unmade {
        /// Which one, and why.
        why: String,
    },
    /// The API server refused it, or did not answer in time.
    #[error("{what}: {}", said(.source))]
    Refused {
        /// Which object.
        what: String,
        /// What it said.
        source: Box<Error>,
    },
}

/// What people can read of an error: of an API server's answer its message, and not how it was packed.
fn said(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

impl WriteError {
    /// The status code of the API server's answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::NotLeading | Self::Busy { .. } | Self::Unmade { .. } => None,
        }
    }

    /// Whether the API server lets nobody write that, a former leader either: by a right, a quota or a policy (403), or a rule of the object's definition (422).
    #[must_use]
    pub fn holds_for_everybody(&self) -> bool {
        matches!(self.code(), Some(403 | 422))
    }
}

/// The answer to a write without what was sent.
const ONLY_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// RFC 6902.
const JSON_PATCH: &str = "application/json-patch+json";

/// Writes as the leader.
pub struct Writer {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    applied: Mutex<Applied>,
}

/// What was applied in a term.
#[derive(Debug, Default)]
struct Applied {
    term: u64,
    /// What, and the version that the object had then.
    objects: BTreeMap<String, Known>,
}

impl Applied {
    /// Whether an object needs not be written. What it was when this operator began to lead is taken for what was applied: it is remembered.
    fn is_so(&mut self, term: u64, key: &str, hash: &str, seen: &Seen) -> bool {
        if self.term != term {
            *self = Self { term, objects: BTreeMap::new() };
        }
        let known = self.objects.get(key);
        if is_due(hash, seen, known) {
            return false;
        }
        if let (None, Seen::Found { version, .. }) = (known, seen) {
            self.objects.insert(key.to_owned(), Known { hash: hash.to_owned(), version: version.clone() });
        }
        true
    }
}

/// What the watch says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is not there, or not yet.
    Absent,
    /// It is.
    Found {
        /// The hash of what was applied last, as it says itself.
        applied: Option<String>,
        /// Changes when somebody writes to it. `None`: somebody does all the time, and it is enough that it is there.
        version: Option<String>,
        /// What it says of itself is believed when an operator begins to lead; else it is applied once in each term.
        trusted: bool,
    },
}

impl Seen {
    /// An object that is watched as a whole.
    #[must_use]
    pub fn whole<K: Resource>(found: Option<&K>) -> Self {
        Self::of(found, version, true)
    }

    /// An object of which nothing but its metadata is watched.
    #[must_use]
    pub fn metadata<K: Resource>(found: Option<&K>) -> Self {
        Self::of(found, version, false)
    }

    /// An object that others write to all the time.
    #[must_use]
    pub fn busy<K: Resource>(found: Option<&K>) -> Self {
        Self::of(found, |_| None, false)
    }

    fn of<K: Resource>(found: Option<&K>, version: impl Fn(&K) -> Option<String>, trusted: bool) -> Self {
        let Some(found) = found else { return Self::Absent };
        let applied = found.meta().annotations.as_ref().and_then(|all| all.get(names::APPLIED)).cloned();
        Self::Found { applied, version: version(found), trusted }
    }
}

/// A generation changes only with the spec; kinds that have none change only when somebody writes to them.
fn version<K: Resource>(object: &K) -> Option<String> {
    let generation = object.meta().generation.map(|generation| generation.to_string());
    generation.or_else(|| object.meta().resource_version.clone())
}

/// Whether an object is to be written, of which `hash` is to be applied. `known`: the hash that this operator applied in its term, and the version that the
/// object had then.
fn is_due(hash: &str, seen: &Seen, known: Option<&Known>) -> bool {
    let Seen::Found { applied, version, trusted } = seen else { return true };
    let is_so = applied.as_deref() == Some(hash);
    match known {
        None => !(is_so && *trusted),
        Some(known) => !(is_so && known.hash == hash && (version.is_none() || known.version == *version)),
    }
}

/// What was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    hash: String,
    version: Option<String>,
}

/// Kinds that are written.
pub trait Written:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug
{
}

impl<K> Written for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug
{
}

impl Writer {
    /// Writes nothing while it does not lead.
    #[must_use]
    pub fn new(client: Client, leadership: Leadership, metrics: Metrics) -> Self {
        Self { client, leadership, metrics, applied: Mutex::default() }
    }

    /// An API of a namespace.
    #[must_use]
    pub fn api<K: Written>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term in which may be written now.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.leadership.may_write().map(|(term, _)| term)
    }

    /// One write: not begun unless this operator leads in `term`, and given up when it leads no more.
    async fn write<T>(
        &self,
        term: u64,
        what: String,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, WriteError> {
        let left = self.leadership.may_write().filter(|(now, _)| *now == term).ok_or(WriteError::NotLeading)?.1;
        let done = match timeout(left, request).await {
            Ok(done) => done.map_err(|source| WriteError::Refused { what, source: Box::new(source) }),
            Err(_) => Err(WriteError::NotLeading),
        };
        self.metrics.wrote(done.is_ok());
        done
    }

    /// Makes an object so, unless it is: `seen` is what is watched of it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn apply<K: Written>(&self, term: u64, object: &K, seen: &Seen) -> Result<(), WriteError> {
        let name = object.name_any();
        let key = format!("{} {}/{name}", K::kind(&()), object.namespace().unwrap_or_default());
        let hash = names::short(&serde_json::to_vec(object).unwrap_or_default());
        if self.applied().is_so(term, &key, &hash, seen) {
            return Ok(());
        }
        let mut marked = object.clone();
        marked.annotations_mut().insert(names::APPLIED.to_owned(), hash.clone());
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&marked);
        let written = self.write(term, key.clone(), api.patch(&name, &params, &patch)).await?;
        let mut applied = self.applied();
        if applied.term == term {
            applied.objects.insert(key, Known { hash, version: version(&written) });
        }
        Ok(())
    }

    /// Makes a new object, which must not be there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn create<K: Written>(&self, term: u64, object: &K) -> Result<K, WriteError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let what = format!("{} {}", K::kind(&()), object.name_any());
        self.write(term, what, api.create(&PostParams::default(), object)).await
    }

    /// Replaces an object as long as it is still the version that `object` names.
    ///
    /// # Errors
    /// [`WriteError`]: code 409 where it is another one by now.
    pub async fn patch_version<K: Written>(&self, term: u64, object: &K) -> Result<PartialObjectMeta<K>, WriteError> {
        // What was sent needs not come back: a Recorder is a large object.
        let api = self.api::<PartialObjectMeta<K>>(&object.namespace().unwrap_or_default());
        let what = format!("{} {}", K::kind(&()), object.name_any());
        let params = PatchParams::apply(MANAGER).force();
        self.write(term, what, api.patch(&object.name_any(), &params, &Patch::Apply(object))).await
    }

    /// Writes a status.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn status<K: Written>(&self, term: u64, object: &K) -> Result<(), WriteError> {
        let what = format!("status of {} {}", K::kind(&()), object.name_any());
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        // The rest is somebody else's, and may be what can't be understood. Whole, and not by server-side apply: nobody else writes it, and ten thousand of
        // them cost the API server three fifths as much.
        let status = serde_json::to_value(object).ok().and_then(|mut object| Some(object.get_mut("status")?.take()));
        let mut operations = vec![json!({ "op": "add", "path": "/status", "value": status })];
        // Should there be another object of this name by now, it is refused.
        if let Some(uid) = object.uid().filter(|uid| !uid.is_empty()) {
            operations.insert(0, json!({ "op": "test", "path": "/metadata/uid", "value": uid }));
        }
        let patch = Patch::Merge(&operations);
        let path = K::url_path(&(), object.namespace().as_deref());
        let request = Request::new(path).patch_subresource("status", &object.name_any(), &params, &patch);
        let send = async {
            let mut request = request.map_err(Error::BuildRequest)?;
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ONLY_METADATA));
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON_PATCH));
            self.client.request::<PartialObjectMeta<K>>(request).await
        };
        self.write(term, what, send).await.map(drop)
    }

    /// Changes something of a status that is somebody else's.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn merge_status<K: Written>(
        &self,
        term: u64,
        object: &K,
        patch: &serde_json::Value,
    ) -> Result<(), WriteError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let what = format!("status of {} {}", K::kind(&()), object.name_any());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        self.write(term, what, api.patch_status(&object.name_any(), &params, &patch)).await.map(|_: K| ())
    }

    /// Deletes the very object that is meant; that it is gone already is as good.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn delete<K: Written>(&self, term: u64, object: &K) -> Result<(), WriteError> {
        self.delete_with(term, object, None, DeleteParams::background()).await
    }

    /// The same as long as it is still the version that `object` is: what a former leader sent late takes no effect once another one has taken it over.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn delete_version<K: Written>(&self, term: u64, object: &K) -> Result<(), WriteError> {
        self.delete_with(term, object, object.resource_version(), DeleteParams::background()).await
    }

    /// The same at once, for a pod whose node can't say any more that it has ended.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn delete_now<K: Written>(&self, term: u64, object: &K) -> Result<(), WriteError> {
        self.delete_with(term, object, None, DeleteParams::background().grace_period(0)).await
    }

    async fn delete_with<K: Written>(
        &self,
        term: u64,
        object: &K,
        resource_version: Option<String>,
        params: DeleteParams,
    ) -> Result<(), WriteError> {
        let api = self.api::<K>(&object.namespace().unwrap_or_default());
        let what = format!("{} {}", K::kind(&()), object.name_any());
        let params = params.preconditions(Preconditions { uid: object.uid(), resource_version });
        match self.write(term, what, api.delete(&object.name_any(), &params)).await {
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            done => done.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(applied: &str, version: Option<&str>, trusted: bool) -> Seen {
        Seen::Found { applied: Some(applied.to_owned()), version: version.map(str::to_owned), trusted }
    }

    #[test]
    fn what_is_as_it_was_applied_is_left_alone() {
        let known = Known { hash: "a".to_owned(), version: Some("3".to_owned()) };
        assert!(!is_due("a", &found("a", Some("3"), false), Some(&known)));
        // Another one is wanted; somebody wrote to it; somebody applied something else; it is gone.
        assert!(is_due("b", &found("a", Some("3"), true), Some(&known)));
        assert!(is_due("a", &found("a", Some("4"), true), Some(&known)));
        assert!(is_due("a", &found("b", Some("3"), true), Some(&known)));
        assert!(is_due("a", &Seen::Absent, Some(&known)));
        // Whoever renews a Lease changes its version.
        assert!(!is_due("a", &found("a", None, false), Some(&known)));
    }

    #[test]
    fn a_new_leader_believes_what_is_watched_as_a_whole() {
        assert!(!is_due("a", &found("a", Some("3"), true), None));
        assert!(is_due("a", &found("a", Some("3"), false), None));
        assert!(is_due("a", &found("b", Some("3"), true), None));
        assert!(is_due("a", &Seen::Absent, None));
    }

    #[test]
    fn what_is_refused_is_told_in_the_api_servers_words() {
        let status = r#"{ "status": "Failure", "message": "pods \"a\" is forbidden: exceeded quota", "reason": "Forbidden", "code": 403 }"#;
        let source = Box::new(Error::Api(serde_json::from_str(status).unwrap()));
        let refused = WriteError::Refused { what: "Pod a".to_owned(), source };
        assert_eq!(refused.to_string(), "Pod a: pods \"a\" is forbidden: exceeded quota");
    }

    /// After anything else a new leader takes a Recorder over before it decides: a former one's late write could take effect.
    #[test]
    fn only_what_is_refused_of_everybody_keeps_a_former_leader_out() {
        let refused = |code: u16| {
            let status = format!(r#"{{ "status": "Failure", "message": "", "reason": "", "code": {code} }}"#);
            let source = Box::new(Error::Api(serde_json::from_str(&status).unwrap()));
            WriteError::Refused { what: "Recorder a".to_owned(), source }
        };
        let for_everybody = (400..600).filter(|code| refused(*code).holds_for_everybody());
        assert_eq!(for_everybody.collect::<Vec<u16>>(), [403, 422]);
        let silent = Box::new(Error::Service("no answer in time".into()));
        let others = [
            WriteError::Refused { what: String::new(), source: silent },
            WriteError::Busy { what: String::new() },
            WriteError::NotLeading,
        ];
        assert!(others.iter().all(|error| !error.holds_for_everybody()));
    }

    #[test]
    fn another_term_begins_with_what_is_seen() {
        let mut applied = Applied::default();
        assert!(
            applied.is_so(1, "claim a/b", "h1", &found("h1", Some("4"), true)),
            "it was so when this operator began to lead"
        );
        assert!(!applied.is_so(1, "claim a/b", "h1", &found("h1", Some("5"), true)), "somebody changed it");
        assert!(applied.is_so(2, "claim a/b", "h1", &found("h1", Some("5"), true)), "another term");
    }
}
