//! Holds: what the annotations of CameraStreams say, turned into what recorders are told.
//!
//! A recorder never lets go of a hold because it is not told of it any more: objects and memories get lost. So what is taken back from a stream
//! that is there is said explicitly; with a stream that is gone nothing is said at all.

use framekeeper_crds::{Hold, HoldRange, StreamRef};

use super::state::{State, StreamState};
use super::wanted::{Key, Wanted};

/// Holds of a stream that were taken back and are still said, at most.
const RELEASED_AT_MOST: usize = 64;

/// Takes over what is wanted.
pub fn remember(state: &mut State, wanted: &Wanted) {
    for (name, stream) in &mut state.streams {
        let key = name.split_once('/').map(|(namespace, name)| Key::new(namespace, name));
        let there = key.filter(|key| wanted.streams.contains_key(key));
        let Some(key) = there else {
            // Should it come back with no hold on it, nothing is released: the owner of the former one may still need it.
            stream.holds.clear();
            stream.released_holds.clear();
            continue;
        };
        take_over(stream, wanted.holds.get(&key).map_or(&[], Vec::as_slice));
    }
}

fn take_over(stream: &mut StreamState, now: &[HoldRange]) {
    let taken_back = stream.holds.iter().filter(|range| !now.contains(range)).cloned().collect::<Vec<_>>();
    stream.released_holds.retain(|range| !now.contains(range) && !taken_back.contains(range));
    stream.released_holds.extend(taken_back);
    let surplus = stream.released_holds.len().saturating_sub(RELEASED_AT_MOST);
    stream.released_holds.drain(..surplus);
    stream.holds = now.to_vec();
}

/// What every recorder of a namespace is told: holds, and holds that were taken back. Any of them may have footage of any stream: streams move.
#[must_use]
pub fn of_namespace(state: &State, namespace: &str) -> (Vec<Hold>, Vec<Hold>) {
    let (mut holds, mut released) = (Vec::new(), Vec::new());
    for (key, stream) in &state.streams {
        if stream.holds.is_empty() && stream.released_holds.is_empty() {
            continue;
        }
        let Some((_, name)) = key.split_once('/').filter(|(of, _)| *of == namespace) else { continue };
        let reference = StreamRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: stream.uid.clone() };
        let hold = |range: &HoldRange| Hold { stream: reference.clone(), range: range.clone() };
        holds.extend(stream.holds.iter().map(hold));
        released.extend(stream.released_holds.iter().map(hold));
    }
    (holds, released)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::assign::{World, assign};
    use crate::local::manifest;
    use std::path::PathBuf;
    use uuid::Uuid;

    struct Fake;

    impl World for Fake {
        fn new_uuid(&mut self) -> Uuid {
            Uuid::from_u128(7)
        }

        fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
            None
        }

        fn status(&self, _: &Key) -> Option<&framekeeper_crds::RecorderStatus> {
            None
        }

        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }
    }

    const FIRST: &str = "2026-11-21T14:00:00Z/2026-11-21T15:00:00Z";
    const SECOND: &str = "2026-12-24T00:00:00Z/";

    /// Two recorders and these streams: name, `suspend`, annotation.
    fn wanted(streams: &[(&str, bool, Option<&str>)]) -> Wanted {
        let mut text = String::from(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {name: main}\nspec: {recorders: 2, maxChannels: 5, \
             storage: {volumes: [{name: a, claimTemplate: {spec: {resources: {requests: {storage: 10Gi}}}}}]}}\n",
        );
        for (name, suspend, hold) in streams {
            let annotation =
                hold.map_or(String::new(), |h| format!(", annotations: {{framekeeper.dev/hold: \"{h}\"}}"));
            text.push_str(&format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: {name}{annotation}}}\n\
                 spec: {{source: {{url: \"rtsp://c/{name}\"}}, poolRef: {{name: main}}, suspend: {suspend}}}\n"
            ));
        }
        let reading = manifest::read(&[(PathBuf::from("f"), text)]);
        assert!(reading.mistakes.is_empty(), "{:?}", reading.mistakes);
        reading.manifests.wanted()
    }

    type Named = Vec<(String, HoldRange)>;

    /// What the recorders are told: (stream, range) held and released.
    fn told(state: &mut State, wanted: &Wanted) -> (Named, Named) {
        let assignment = assign(wanted, state.clone(), &mut Fake);
        *state = assignment.state;
        let mut all = assignment.recorders.values().map(|recorder| {
            let names =
                |holds: &[Hold]| holds.iter().map(|h| (h.stream.name.clone(), h.range.clone())).collect::<Vec<_>>();
            (names(&recorder.spec.holds), names(&recorder.spec.released_holds))
        });
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first), "every recorder is told the same");
        first
    }

    fn ranges(stream: &str, value: &str) -> Named {
        framekeeper_crds::hold_ranges(value).unwrap().into_iter().map(|range| (stream.to_owned(), range)).collect()
    }

    #[test]
    fn what_is_annotated_is_held_and_what_is_taken_back_is_said() {
        let mut state = State::default();
        let both = format!("{FIRST},{SECOND}");
        assert_eq!(told(&mut state, &wanted(&[("door", false, Some(&both))])), (ranges("door", &both), vec![]));
        // Of a stream that is suspended as well.
        assert_eq!(told(&mut state, &wanted(&[("door", true, Some(&both))])), (ranges("door", &both), vec![]));
        let one = wanted(&[("door", false, Some(SECOND))]);
        assert_eq!(told(&mut state, &one), (ranges("door", SECOND), ranges("door", FIRST)));
        assert_eq!(told(&mut state, &one), (ranges("door", SECOND), ranges("door", FIRST)));
        let none = wanted(&[("door", false, None)]);
        assert_eq!(told(&mut state, &none), (vec![], ranges("door", &both)));
        // Held again: it is not among the released any more.
        let again = wanted(&[("door", false, Some(FIRST))]);
        assert_eq!(told(&mut state, &again), (ranges("door", FIRST), ranges("door", SECOND)));
    }

    #[test]
    fn with_a_stream_that_is_gone_nothing_is_released() {
        let mut state = State::default();
        told(&mut state, &wanted(&[("door", false, Some(FIRST)), ("yard", false, None)]));
        assert_eq!(told(&mut state, &wanted(&[("yard", false, None)])), (vec![], vec![]));
        // Nor when it comes back without its annotation, or the operator has lost its memory.
        let back = wanted(&[("door", false, None), ("yard", false, None)]);
        assert_eq!(told(&mut state, &back), (vec![], vec![]));
        assert_eq!(told(&mut State::default(), &back), (vec![], vec![]));
    }

    #[test]
    fn what_is_released_is_not_said_for_ever() {
        let mut state = State::default();
        for n in 0..100 {
            let hold = format!("2026-11-21T14:00:00.{n:03}Z/");
            told(&mut state, &wanted(&[("door", false, Some(&hold))]));
        }
        let (held, released) = told(&mut state, &wanted(&[("door", false, None)]));
        assert_eq!((held.len(), released.len()), (0, RELEASED_AT_MOST));
        assert_eq!(released.last(), ranges("door", "2026-11-21T14:00:00.099Z/").last());
    }
}
