//! Rules between objects: references that lead nowhere, too few slots, and budgets that are too small. A cluster's controllers would say the
//! same in conditions.

use std::collections::BTreeMap;

use framekeeper_crds::{ByteQuantity, StoragePoolSpec};

use super::check;
use super::manifest::{Manifests, Reading};
use super::mistake::Mistake;
use crate::decide::capacity::{SEGMENTS_PER_STREAM, SPARE_SEGMENTS_PER_VOLUME, shortage, streams_by_budget};
use crate::decide::place::{self, Known};
use crate::decide::wanted::Key;

/// Of a stream's own limit: one to write to and one to keep.
const SEGMENTS_OF_A_LIMIT: u64 = 2;
/// What a plan is made of: while any of it is wrong, nothing can be said of slots.
const PLANNED_WITH: [&str; 6] =
    ["spec.recorders", "spec.maxChannels", "spec.toleratedFailures", "spec.redundancy", "spec.segment", "spec.storage"];

/// Adds what is wrong between the objects of a reading.
pub fn check(reading: &mut Reading) {
    let mut found = references(&reading.manifests);
    found.extend(capacities(&reading.manifests));
    found.extend(retentions(&reading.manifests));
    reading.mistakes.extend(found);
}

fn references(manifests: &Manifests) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (key, stream) in &manifests.streams {
        let object = format!("CameraStream {key}");
        let place = &stream.place;
        let pool = Key::new(&key.namespace, &stream.object.pool_ref.name);
        let path = "spec.poolRef.name";
        if !manifests.pools.contains_key(&pool) && !place.is_reported(path) {
            let message = missing("StoragePool", &pool, manifests.pools.keys());
            found.push(place.mistake(&object, path, &format!("{:?}", pool.name), message));
        }
        let Some(secret) = &stream.object.source.credentials_secret_ref else { continue };
        let path = "spec.source.credentialsSecretRef.name";
        if place.is_reported(path) {
            continue;
        }
        let secret = Key::new(&key.namespace, &secret.name);
        match manifests.secrets.get(&secret) {
            None => {
                let message = missing("Secret", &secret, manifests.secrets.keys());
                found.push(place.mistake(&object, path, &format!("{:?}", secret.name), message));
            }
            Some(data) => {
                for name in ["username", "password"] {
                    if data.object.get(name).is_none()
                        && !data.place.is_reported(&format!("data.{name}"))
                        && !data.place.is_reported(&format!("stringData.{name}"))
                    {
                        let keys: Vec<&str> = data.object.keys().collect();
                        let has = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
                        let message = format!(
                            "Secret {secret} has no key {name} (it has {has}); a camera's credentials are username and password"
                        );
                        found.push(place.mistake(&object, path, &format!("{:?}", secret.name), message));
                    }
                }
            }
        }
    }
    found
}

fn missing<'k>(kind: &str, wanted: &Key, existing: impl Iterator<Item = &'k Key> + Clone) -> String {
    if let Some(elsewhere) = existing.clone().find(|key| key.name == wanted.name) {
        let (there, here) = (&elsewhere.namespace, &wanted.namespace);
        return format!(
            "there is a {kind} of this name in namespace {there} only, but it must be in {here}, like the stream"
        );
    }
    let here = existing.filter(|key| key.namespace == wanted.namespace).map(|key| key.name.as_str());
    if let Some(near) = check::nearest(&wanted.name, here.clone()) {
        return format!("there is no {kind} {wanted}; did you mean {near}?");
    }
    let here: Vec<&str> = here.take(10).collect();
    if here.is_empty() {
        format!("there is no {kind} {wanted}; add it to the files")
    } else {
        format!("there is no {kind} {wanted}; there are {}", here.join(", "))
    }
}

fn capacities(manifests: &Manifests) -> Vec<Mistake> {
    let wanted_by_all = manifests.wanted();
    let mut found = Vec::new();
    for (key, pool) in &manifests.pools {
        let (spec, place) = (&pool.object, &pool.place);
        if PLANNED_WITH.iter().any(|path| place.is_reported(path)) {
            continue;
        }
        let streams = place::streams_of(&wanted_by_all, key);
        let wanted = u32::try_from(streams.len()).unwrap_or(u32::MAX);
        let message = if spec.tolerated_failures == 0 {
            shortage(wanted, spec.recorders, spec.max_channels)
        } else {
            let plan = place::place(
                spec,
                spec.max_channels,
                0,
                &streams,
                |_| Known::default(),
                &BTreeMap::new(),
                &place::recorders(spec),
            );
            plan.too_few_slots(spec, wanted)
        };
        if let Some(message) = message {
            let shown = spec.max_channels.to_string();
            found.push(place.mistake(&format!("StoragePool {key}"), "spec.maxChannels", &shown, message));
        }
        let wanted = wanted.min(spec.recorders.saturating_mul(spec.max_channels));
        // A pool that nobody uses yet must be able to hold a stream on each recorder.
        let each = if spec.tolerated_failures == 0 {
            wanted.div_ceil(spec.recorders.max(1)).max(1)
        } else {
            // A recorder that takes over needs room for that as well.
            place::least_slots(spec, &streams)
        };
        let held = streams_by_budget(spec);
        if held >= each {
            continue;
        }
        let volumes = spec.storage.volumes.len() as u64;
        let segments = u64::from(each) * SEGMENTS_PER_STREAM + volumes * SPARE_SEGMENTS_PER_VOLUME;
        let needed = ByteQuantity::from_bytes(segments * spec.segment.bytes.as_bytes());
        let given: u64 =
            spec.storage.volumes.iter().map(|v| v.claim_template.spec.resources.requests.storage.as_bytes()).sum();
        let message = format!(
            "a recorder's volumes must hold {needed} at least: {each} streams a recorder need {SEGMENTS_PER_STREAM} segments of {} each, \
             and a volume {SPARE_SEGMENTS_PER_VOLUME} spare ones; this is enough for {held} streams",
            spec.segment.bytes
        );
        let path = match volumes {
            1 => "spec.storage.volumes[0].claimTemplate.spec.resources.requests.storage",
            _ => "spec.storage.volumes",
        };
        let given = ByteQuantity::from_bytes(given).to_string();
        found.push(place.mistake(&format!("StoragePool {key}"), path, &given, message));
    }
    found
}

/// Limits that leave no segment to keep beside the one that is being written.
fn retentions(manifests: &Manifests) -> Vec<Mistake> {
    let path = "spec.retention.maxBytes";
    let wrong = |max_bytes: Option<ByteQuantity>, pool: &StoragePoolSpec| {
        let (bytes, segment) = (max_bytes?, pool.segment.bytes);
        let needed = ByteQuantity::from_bytes(segment.as_bytes().saturating_mul(SEGMENTS_OF_A_LIMIT));
        let message = format!(
            "must be at least {needed}: {SEGMENTS_OF_A_LIMIT} segments of {segment} each, one to write and one to keep"
        );
        (bytes < needed).then(|| (bytes.to_string(), message))
    };
    let pools = manifests.pools.iter().filter_map(|(key, pool)| {
        let (shown, message) = wrong(pool.object.retention.max_bytes, &pool.object)?;
        let object = format!("StoragePool {key}");
        (!pool.place.is_reported(path)).then(|| pool.place.mistake(&object, path, &shown, message))
    });
    let streams = manifests.streams.iter().filter_map(|(key, stream)| {
        let pool = manifests.pools.get(&Key::new(&key.namespace, &stream.object.pool_ref.name))?;
        let (shown, message) = wrong(stream.object.retention.max_bytes, &pool.object)?;
        let object = format!("CameraStream {key}");
        (!stream.place.is_reported(path)).then(|| stream.place.mistake(&object, path, &shown, message))
    });
    pools.chain(streams).collect()
}
