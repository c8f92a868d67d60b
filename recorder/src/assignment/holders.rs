//! Who holds streams together with this recorder: checked, in plain values.

use std::collections::{BTreeMap, BTreeSet};

use framekeeper_crds::{Channel, Recorder, RecorderPeer, RedundancyClass, Retired};
use framekeeper_peer::{Peer, PublicKey};
use framekeeper_store::PlanVersion;
use uuid::Uuid;

use super::plan::uid_of;

/// What a failure may cost a stream.
pub type Class = RedundancyClass;

/// A stream that others hold as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// What standbys do.
    pub class: Class,
    /// Its holders by rank.
    pub holders: Vec<Uuid>,
    /// Former ones.
    pub retired: Vec<Uuid>,
}

/// A stream that this recorder held and is to let go of when another one has proven that it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredPlan {
    /// The decision.
    pub plan_version: PlanVersion,
    /// Its holders by rank.
    pub holders: Vec<Uuid>,
}

/// Who else holds the stream of a channel of recorder `me`; `None` where nobody does.
///
/// # Errors
/// A sentence, where the holders make no sense.
pub(super) fn shared(channel: &Channel, me: Uuid) -> Result<Option<Shared>, String> {
    let holders = uids("holders", &channel.holders)?;
    let retired = uids("retiredHolders", &channel.retired_holders)?;
    if holders.is_empty() && retired.is_empty() {
        return Ok(None);
    }
    let rank = usize::try_from(channel.rank).unwrap_or(usize::MAX);
    if holders.get(rank) != Some(&me) {
        return Err(format!("holders has another recorder than this one, {me}, at rank {rank}"));
    }
    if holders.iter().collect::<BTreeSet<_>>().len() != holders.len() {
        return Err("holders names a recorder twice".to_owned());
    }
    Ok(Some(Shared { class: channel.class, holders, retired }))
}

fn uids(field: &str, given: &[String]) -> Result<Vec<Uuid>, String> {
    given
        .iter()
        .enumerate()
        .map(|(at, text)| uid_of(&format!("{field}[{at}]"), text).map_err(|error| error.to_string()))
        .collect()
}

/// The streams that are to be let go of, and those of them that cannot be understood: these are let go of at once.
pub(super) fn retired(given: &[Retired]) -> BTreeMap<Uuid, RetiredPlan> {
    let plan = |retired: &Retired| {
        let stream = uid_of("stream.uid", &retired.stream.uid).ok()?;
        let holders = uids("holders", &retired.holders).ok().filter(|holders| !holders.is_empty())?;
        let framekeeper_crds::PlanVersion { term, sequence } = retired.plan_version;
        Some((stream, RetiredPlan { plan_version: PlanVersion { term, sequence }, holders }))
    };
    given.iter().filter_map(plan).collect()
}

/// Where the footage of recorders that streams are shared with is asked for: their names, and addresses of their HTTP servers.
pub(super) fn remotes(recorder: &Recorder) -> Vec<(String, String)> {
    let own = recorder.metadata.name.as_deref();
    let others = recorder.spec.peers.iter().filter(|peer| Some(peer.name.as_str()) != own);
    others.filter_map(|peer| Some((peer.name.clone(), peer.http.clone()?))).collect()
}

/// The recorders that streams are shared with, and what is wrong with the others. A key that cannot be understood is left out.
pub(super) fn peers(recorder: &Recorder, me: Uuid) -> (Vec<Peer>, Vec<String>) {
    let mut wrong = Vec::new();
    let mut peers = Vec::new();
    for (at, RecorderPeer { name, uid, addresses, public_keys, .. }) in recorder.spec.peers.iter().enumerate() {
        let uid = match uid_of(&format!("spec.peers[{at}].uid"), uid) {
            Ok(uid) => uid,
            Err(error) => {
                wrong.push(format!("the recorder {name} is not dialled: {error}"));
                continue;
            }
        };
        let mut keys = Vec::new();
        for text in public_keys {
            match text.parse::<PublicKey>() {
                Ok(key) => keys.push(key),
                Err(error) => wrong.push(format!("spec.peers[{at}].publicKeys, of {name}: {error}")),
            }
        }
        if uid != me {
            peers.push(Peer { recorder: uid, name: name.clone(), addresses: addresses.clone(), keys });
        }
    }
    (peers, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Assignment;
    use crate::assignment::plan::tests::{channel, object_with, uid};

    fn held(holders: &[u32], rank: u32) -> serde_json::Value {
        let mut channel = channel(1);
        channel["holders"] = holders.iter().map(|number| uid(*number)).collect();
        channel["rank"] = rank.into();
        channel["role"] = if rank == 0 { "Primary" } else { "Standby" }.into();
        channel["class"] = "Playing".into();
        channel
    }

    fn shared_of(channel: serde_json::Value) -> Result<Option<Shared>, String> {
        let mut object = object_with(vec![channel]);
        object.spec.slots.reserved = 1;
        let assignment = Assignment::from_object(object).unwrap();
        match assignment.refusals.first() {
            Some(refusal) => Err(refusal.message.clone()),
            None => Ok(assignment.channels[0].shared.clone()),
        }
    }

    #[test]
    fn holders_are_understood_or_refused_in_words() {
        // The object of these tests has UID 900.
        assert_eq!(shared_of(channel(1)), Ok(None));
        let shared = shared_of(held(&[901, 900], 1)).unwrap().unwrap();
        assert_eq!(shared.holders.len(), 2);
        assert!(shared_of(held(&[901, 900], 0)).unwrap_err().contains("rank 0"));
        assert!(shared_of(held(&[900, 901, 901], 0)).unwrap_err().contains("twice"));
        let mut bad = held(&[900], 0);
        bad["holders"][0] = "x".into();
        assert!(shared_of(bad).unwrap_err().contains("holders[0]"));
    }

    #[test]
    fn of_a_peer_whose_key_is_wrong_the_rest_is_known() {
        let mut object = object_with(vec![]);
        let peer = |number: u32, key: &str| RecorderPeer {
            name: format!("r{number}"),
            uid: uid(number),
            addresses: vec!["127.0.0.1:1".into()],
            http: None,
            public_keys: vec![key.into()],
        };
        object.spec.peers = vec![peer(900, "x"), peer(901, "x"), RecorderPeer { uid: "?".into(), ..peer(902, "x") }];
        let (peers, wrong) = peers(&object, uid(900).parse().unwrap());
        assert_eq!(peers.len(), 1, "not itself, nor one without a UID");
        assert!(peers[0].keys.is_empty());
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[1].contains("spec.peers[1].publicKeys") && wrong[2].contains("spec.peers[2].uid"), "{wrong:?}");
    }
}
