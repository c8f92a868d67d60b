//! Cameras' credentials: read from the Secrets that streams name, again when their version changes, and nothing else of them.

use std::collections::{BTreeMap, BTreeSet};

use framekeeper_crds::k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio::time::timeout;
use tracing::warn;

use super::build::access::Credentials;
use super::plane::ANSWER;
use super::watching::Watches;
use crate::decide::wanted::Key;

/// What cameras need.
const KEYS: [&str; 2] = ["username", "password"];

/// What was read.
#[derive(Default)]
pub struct SecretBook {
    known: BTreeMap<Key, Credentials>,
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
                    let values = secret.data.unwrap_or_default().into_iter();
                    let values = values.filter(|(name, _)| KEYS.contains(&name.as_str()));
                    let values = values.map(|(name, value)| (name, value.0)).collect();
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

    /// What a recorder is given: of these Secrets those that are there, by name.
    #[must_use]
    pub fn of(&self, needed: &BTreeSet<Key>) -> BTreeMap<String, Credentials> {
        let found = needed.iter().filter_map(|key| Some((key.name.clone(), self.known.get(key)?.clone())));
        found.collect()
    }
}
