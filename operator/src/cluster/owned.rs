//! What the operator made, as the watches show it.

use std::collections::BTreeMap;
use std::hash::Hash;

use kube::{Resource, ResourceExt as _};

use super::apply::Seen;
use super::build::names::MANAGER;
use super::watching::{Watched, Watches};
use crate::decide::wanted::Key;

/// How the objects of one kind are.
#[derive(Debug, Default)]
pub struct Kind(BTreeMap<Key, Seen>);

impl Kind {
    fn of<K>(watched: &Watched<K>, seen: impl Fn(Option<&K>) -> Seen) -> Self
    where
        K: Resource + Clone + 'static,
        K::DynamicType: Eq + Hash + Clone,
    {
        let is_ours = |object: &K| {
            let by = object.meta().labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/managed-by"));
            by.is_some_and(|by| by == MANAGER)
        };
        let all = watched.all().into_iter().filter(|object| is_ours(object));
        let key = |object: &K| Key::new(object.namespace().unwrap_or_default(), object.name_any());
        Self(all.map(|object| (key(&object), seen(Some(&object)))).collect())
    }

    /// How one of them is.
    #[must_use]
    pub fn seen(&self, key: &Key) -> Seen {
        self.0.get(key).cloned().unwrap_or(Seen::Absent)
    }
}

/// All kinds that recorders and pools run on.
#[derive(Debug)]
pub struct Owned {
    /// Of pools.
    pub services: Kind,
    /// Of pools.
    pub budgets: Kind,
    /// Of recorders.
    pub accounts: Kind,
    /// Of recorders.
    pub roles: Kind,
    /// Of recorders.
    pub bindings: Kind,
    /// Of recorders, which renew them.
    pub leases: Kind,
    /// Of recorders.
    pub secrets: Kind,
    /// Of recorders.
    pub sets: Kind,
}

impl Owned {
    /// As they are now.
    #[must_use]
    pub fn of(watches: &Watches) -> Self {
        Self {
            services: Kind::of(&watches.services, Seen::metadata),
            budgets: Kind::of(&watches.budgets, Seen::metadata),
            accounts: Kind::of(&watches.accounts, Seen::metadata),
            roles: Kind::of(&watches.roles, Seen::metadata),
            bindings: Kind::of(&watches.bindings, Seen::metadata),
            leases: Kind::of(&watches.leases, Seen::busy),
            secrets: Kind::of(&watches.secrets, Seen::metadata),
            sets: Kind::of(&watches.sets, Seen::whole),
        }
    }
}
