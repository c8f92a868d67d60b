//! Cameras' credentials: read from the Secrets that streams name, again when their version changes, and nothing else of them. What a recorder has and needs
//! is not taken from it because the Secret that it came from is gone or can't be read, also not by an operator that has only just begun.

use std::collections::{BTreeMap, BTreeSet};

use framekeeper_crds::k8s_openapi::ByteString;
use framekeeper_crds::k8s_openapi::api::core::v1::Secret;
use framekeeper_crds::{CREDENTIAL_BYTES_AT_MOST, CREDENTIAL_BYTES_SUFFIX};
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio::time::timeout;
use tracing::warn;

use super::build::access::Credentials;
use super::build::names;
use super::plane::ANSWER;
use super::watching::Watches;
use crate::decide::wanted::Key;

/// What cameras need.
const KEYS: [&str; 2] = ["username", "password"];

/// What was read.
#[derive(Default)]
pub struct SecretBook {
    known: BTreeMap<Key, Credentials>,
    /// What recorders had when this operator found that something of what they need is not in the book, by the name of the Secret.
    had: BTreeMap<Key, BTreeMap<String, Credentials>>,
}

impl SecretBook {
    /// Brings the book up to date with what is needed. What can't be read now stays as it was; whether there is any such.
    pub async fn refresh(&mut self, client: &Client, watches: &Watches, needed: &BTreeSet<Key>) -> bool {
        let mut is_behind = false;
        self.known.retain(|key, _| needed.contains(key));
        let there = watches.secrets.all();
        let versions: BTreeMap<Key, String> = there
            .iter()
            .map(|secret| {
                let key = Key::new(secret.namespace().unwrap_or_default(), secret.name_any());
                (key, secret.resource_version().unwrap_or_default())
            })
            .filter(|(key, _)| needed.contains(key))
            .collect();
        for (key, version) in versions {
            if self.known.get(&key).is_some_and(|known| known.version == version) {
                continue;
            }
            let api = Api::<Secret>::namespaced(client.clone(), &key.namespace);
            match timeout(ANSWER, api.get_opt(&key.name)).await {
                Err(_) => {
                    is_behind = true;
                    warn!(secret = %key, "cannot be read, and is tried again: no answer in time");
                }
                Ok(Ok(Some(secret))) => {
                    let version = secret.resource_version().unwrap_or_default();
                    let values = needed_of(secret.data.unwrap_or_default());
                    self.known.insert(key, Credentials { version, values });
                }
                // Gone meanwhile: recorders go on with what they have.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    is_behind = true;
                    warn!(secret = %key, "cannot be read, and is tried again: {error}");
                }
            }
        }
        is_behind
    }

    /// Looks at what recorders have that need something that is not in the book. Whether something could not be read. `needed`: by recorder.
    pub async fn remember(&mut self, client: &Client, needed: &BTreeMap<Key, BTreeSet<Key>>) -> bool {
        let mut is_behind = false;
        self.had.retain(|recorder, _| needed.contains_key(recorder));
        let lacks = |needed: &BTreeSet<Key>| needed.iter().any(|key| !self.known.contains_key(key));
        let unknown = needed.iter().filter(|(recorder, needed)| !self.had.contains_key(*recorder) && lacks(needed));
        let unknown: Vec<Key> = unknown.map(|(recorder, _)| recorder.clone()).collect();
        for recorder in unknown {
            let api = Api::<Secret>::namespaced(client.clone(), &recorder.namespace);
            let error = match timeout(ANSWER, api.get_opt(&names::cameras(&recorder.name))).await {
                Ok(Ok(found)) => {
                    self.had.insert(recorder, found.map(|secret| unpacked(&secret)).unwrap_or_default());
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            is_behind = true;
            warn!(%recorder, "the Secret with its cameras' credentials cannot be read, and is tried again: {error}");
        }
        is_behind
    }

    /// Another operator may give recorders something else from now on.
    pub fn forget(&mut self) {
        self.had.clear();
    }

    /// What a recorder is given, by the name of the Secret: of those that it needs those that are there, and of others what it has. Nothing where what it
    /// has could not be read.
    #[must_use]
    pub fn of(&self, recorder: &Key, needed: &BTreeSet<Key>) -> Option<BTreeMap<String, Credentials>> {
        let mut given = BTreeMap::new();
        for key in needed {
            match self.known.get(key) {
                Some(known) => drop(given.insert(key.name.clone(), known.clone())),
                None => given.extend(self.had.get(recorder)?.get(&key.name).map(|had| (key.name.clone(), had.clone()))),
            }
        }
        Some(given)
    }
}

/// What cameras need of what is in a Secret.
fn needed_of(data: BTreeMap<String, ByteString>) -> BTreeMap<String, Vec<u8>> {
    let values = data.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
    values.map(|(key, value)| bounded(key, value.0)).collect()
}

/// A value as recorders are given it. Two that are as long as a Secret may be would make a recorder's own Secret too large, and keep all its streams from
/// getting theirs: of one that no recorder would read only its size is passed on, and the recorder tells the streams that need it.
fn bounded(key: String, value: Vec<u8>) -> (String, Vec<u8>) {
    let bytes = value.len() as u64;
    if bytes <= CREDENTIAL_BYTES_AT_MOST {
        return (key, value);
    }
    (format!("{key}{CREDENTIAL_BYTES_SUFFIX}"), bytes.to_string().into_bytes())
}

/// What is in the Secret of a recorder, as [`super::build::access::cameras`] makes it.
fn unpacked(secret: &Secret) -> BTreeMap<String, Credentials> {
    let entries = secret.data.iter().flatten().filter_map(|(name, value)| {
        let values: BTreeMap<String, ByteString> = serde_json::from_slice(&value.0).ok()?;
        let values = values.into_iter().map(|(key, value)| bounded(key, value.0)).collect();
        Some((name.clone(), Credentials { version: String::new(), values }))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::{OfPool, OfRecorder, access};
    use crate::cluster::options::Image;

    fn credentials(version: &str, password: &str) -> Credentials {
        let values = [("username".to_owned(), b"viewer".to_vec()), ("password".to_owned(), password.into())].into();
        Credentials { version: version.to_owned(), values }
    }

    /// A recorder of a pool, for what is made of it.
    fn with_recorder<T>(look: impl FnOnce(&OfRecorder<'_>) -> T) -> T {
        let spec = framekeeper_crds::yaml::read::<framekeeper_crds::StoragePool>(
            "{apiVersion: framekeeper.dev/v1alpha1, kind: StoragePool, metadata: {name: main}, spec: {recorders: 1, maxChannels: 4, \
             storage: {volumes: [{name: a, claimTemplate: {spec: {resources: {requests: {storage: 10Gi}}}}}]}}}",
        );
        let (spec, image, pool) = (spec.unwrap().spec, Image::default(), Key::new("default", "main"));
        let pool = OfPool { key: &pool, uid: "u", spec: &spec, image: &image };
        look(&OfRecorder { pool, name: "main-recorder-0", uid: "v", volumes: &[] })
    }

    #[test]
    fn of_a_value_that_no_recorder_would_read_only_its_size_is_passed_on() {
        let with = |password: usize| -> BTreeMap<String, ByteString> {
            let (user, long) = (ByteString(b"viewer".to_vec()), ByteString(vec![b'x'; password]));
            [("username".to_owned(), user), ("password".to_owned(), long.clone()), ("other".to_owned(), long)].into()
        };
        let keys = |data| needed_of(data).into_keys().collect::<Vec<String>>();
        assert_eq!(keys(with(4096)), ["password", "username"]);
        assert_eq!(keys(with(4097)), ["password.bytes", "username"]);
        let values = needed_of(with(600 << 10));
        assert_eq!(values["password.bytes"], b"614400");
        // What a recorder has of it is the same for an operator that has only just begun.
        let given = [("door".to_owned(), Credentials { version: "1".to_owned(), values: values.clone() })].into();
        let secret = with_recorder(|recorder| access::cameras(recorder, &given));
        assert!(unpacked(&secret)["door"].values == values);
        let bytes: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
        assert!(bytes < 200, "{bytes}");
    }

    #[test]
    fn what_a_recorder_has_is_not_taken_from_it_by_an_operator_that_does_not_know_it() {
        let key = |name: &str| Key::new("default", name);
        let (recorder, needed) = (key("main-recorder-0"), BTreeSet::from([key("gate"), key("door")]));
        let mut book = SecretBook::default();
        book.known.insert(key("gate"), credentials("7", "new"));
        assert!(book.of(&recorder, &needed).is_none(), "nobody has looked yet");

        let had = [("gate".to_owned(), credentials("6", "old")), ("door".to_owned(), credentials("2", "known"))].into();
        book.had.insert(recorder.clone(), with_recorder(|of| unpacked(&access::cameras(of, &had))));
        let given = book.of(&recorder, &needed).unwrap();
        assert!(given["gate"] == credentials("7", "new") && given["door"].values == credentials("", "known").values);
        assert_eq!(book.of(&recorder, &BTreeSet::new()).unwrap().len(), 0, "what it does not need any more goes");
    }
}
