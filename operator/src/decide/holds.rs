//! Holds: what the annotations of CameraStreams say, turned into what recorders are told.
//!
//! A recorder never lets go of a hold because it is not told of it any more: objects and memories get lost. So what is taken back from a stream
//! that is there is said explicitly; with a stream that is gone nothing is said at all.
//!
//! All recorders of a namespace are told of all its holds, and a Recorder object has room for so many only: those that were there before stay, the others are
//! left out, and their streams say so. What was taken back gives way to what is to be held, the longest ago first.

use std::collections::BTreeMap;

use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStreamStatus, HOLD_ANNOTATION, Hold, HoldRange, StreamRef};

use super::size;
use super::state::{LeftOutHold, State, StreamState};
use super::status::{self, Note};
use super::wanted::{Key, Wanted};

/// Name of the condition of streams that recorders are not told all holds of, and only of these.
pub const HELD: &str = "Held";

/// Holds of a stream that were taken back and are still said, at most.
const RELEASED_AT_MOST: usize = 64;

/// Takes over what is wanted.
pub fn remember(state: &mut State, wanted: &Wanted) {
    let mut namespaces: BTreeMap<String, Vec<Asking<'_>>> = BTreeMap::new();
    for (name, stream) in &mut state.streams {
        let key = name.split_once('/').map(|(namespace, name)| Key::new(namespace, name));
        let there = key.filter(|key| wanted.streams.contains_key(key));
        let Some(key) = there else {
            // Should it come back with no hold on it, nothing is released: the owner of the former one may still need it.
            stream.holds.clear();
            stream.left_out_holds.clear();
            stream.released_holds.clear();
            continue;
        };
        let fresh = take_over(stream, wanted.holds.get(&key).map_or(&[], Vec::as_slice));
        if !stream.holds.is_empty() || !stream.released_holds.is_empty() {
            let bytes = size::hold(&key.namespace, &key.name);
            namespaces.entry(key.namespace).or_default().push(Asking { stream, bytes, fresh });
        }
    }
    for streams in namespaces.values_mut() {
        share_out(streams);
    }
}

/// Takes over what of a stream is to be held now; what is new is left out at first. How many holds were taken back just now.
fn take_over(stream: &mut StreamState, now: &[HoldRange]) -> usize {
    // What nobody was ever told of need not be released by anybody.
    let was_never_told = |range: &HoldRange| stream.left_out_holds.iter().any(|it| it.range == *range && !it.was_told);
    let taken_back = stream.holds.iter().filter(|range| !now.contains(range) && !was_never_told(range));
    let taken_back = taken_back.cloned().collect::<Vec<_>>();
    let new = now.iter().filter(|range| !stream.holds.contains(range));
    let new = new.map(|range| LeftOutHold { range: range.clone(), was_told: stream.released_holds.contains(range) });
    let new = new.collect::<Vec<_>>();
    stream.left_out_holds.retain(|left_out| now.contains(&left_out.range));
    stream.left_out_holds.extend(new);
    stream.released_holds.retain(|range| !now.contains(range) && !taken_back.contains(range));
    let fresh = taken_back.len().min(RELEASED_AT_MOST);
    stream.released_holds.extend(taken_back);
    let surplus = stream.released_holds.len().saturating_sub(RELEASED_AT_MOST);
    stream.released_holds.drain(..surplus);
    stream.holds = now.to_vec();
    fresh
}

/// A stream with holds, or with some that were taken back.
struct Asking<'s> {
    stream: &'s mut StreamState,
    /// Of each of its holds, in a Recorder.
    bytes: u64,
    /// So many were taken back just now: the last ones.
    fresh: usize,
}

/// Gives the room that Recorders have to the holds of a namespace: to those that they are told of, to what was taken back just now, to those that were left
/// out, and to what was taken back before.
fn share_out(streams: &mut [Asking<'_>]) {
    let mut held = 0;
    for Asking { stream, bytes, .. } in streams.iter_mut() {
        // More than there is room for: an operator that did not count told of it, or two Recorders tell of different ones.
        let told: Vec<HoldRange> = stream.told_holds().cloned().collect();
        for range in told {
            if held + *bytes <= size::HOLDS_AT_MOST {
                held += *bytes;
            } else {
                stream.left_out_holds.push(LeftOutHold { range, was_told: true });
            }
        }
    }
    let fresh: u64 = streams.iter().map(|it| it.fresh as u64 * it.bytes).sum();
    for was_told in [true, false] {
        for Asking { stream, bytes, .. } in streams.iter_mut() {
            stream.left_out_holds.retain(|left_out| {
                let has_room = held + *bytes <= size::HOLDS_AT_MOST
                    && held + fresh + *bytes <= size::HOLDS_AND_RELEASED_AT_MOST
                    && left_out.was_told == was_told;
                held += if has_room { *bytes } else { 0 };
                !has_room
            });
        }
    }
    forget_released(streams, size::HOLDS_AND_RELEASED_AT_MOST.saturating_sub(held));
}

/// Forgets what was taken back and has no room any more: of each stream the longest ago.
fn forget_released(streams: &mut [Asking<'_>], mut room: u64) {
    let all: u64 = streams.iter().map(|it| it.stream.released_holds.len() as u64 * it.bytes).sum();
    if all <= room {
        return;
    }
    let mut kept = vec![0; streams.len()];
    for only_fresh in [true, false] {
        for nth in 0..RELEASED_AT_MOST {
            for (it, kept) in streams.iter().zip(&mut kept) {
                let there = if only_fresh { it.fresh } else { it.stream.released_holds.len() };
                if *kept == nth && nth < there && it.bytes <= room {
                    *kept += 1;
                    room -= it.bytes;
                }
            }
        }
    }
    for (it, kept) in streams.iter_mut().zip(kept) {
        let surplus = it.stream.released_holds.len() - kept;
        it.stream.released_holds.drain(..surplus);
    }
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
        holds.extend(stream.told_holds().map(hold));
        released.extend(stream.released_holds.iter().map(hold));
    }
    (holds, released)
}

/// Bytes that these take of each Recorder.
#[must_use]
pub fn bytes(state: &State, namespace: &str) -> u64 {
    let (holds, released) = of_namespace(state, namespace);
    holds.iter().chain(&released).map(|hold| size::hold(namespace, &hold.stream.name)).sum()
}

/// Says in a stream's status which of its holds recorders are not told of, if any.
pub fn put(status: &mut CameraStreamStatus, stream: &StreamState, namespace: &str, generation: i64, now: Timestamp) {
    let left_out: Vec<String> = stream.left_out_holds.iter().map(|left_out| shown(&left_out.range)).collect();
    if left_out.is_empty() {
        status.conditions.retain(|condition| condition.type_ != HELD);
        return;
    }
    let message = format!(
        "a Recorder object has no room for {} of the {} ranges of the annotation {HOLD_ANNOTATION}, because so much is held in namespace {namespace}: \
         take back what need not be held any more, or join ranges that touch. Recorders are not told of {}",
        left_out.len(),
        stream.holds.len(),
        left_out.join(", ")
    );
    status::set(&mut status.conditions, HELD, "False", "TooManyHolds", &message, generation, now);
}

/// As it stands in the annotation.
fn shown(range: &HoldRange) -> String {
    let time = |time: &Option<MicroTime>| time.as_ref().map_or_else(String::new, |time| time.0.to_string());
    format!("{}/{}", time(&range.from), time(&range.to))
}

/// What people should be told when holds are left out, and when none is any more.
#[must_use]
pub fn note(old: &CameraStreamStatus, new: &CameraStreamStatus) -> Option<Note> {
    match (condition(old), condition(new)) {
        (None, Some(now)) => Some(Note { warning: true, reason: now.reason.clone(), message: now.message.clone() }),
        (Some(_), None) => {
            let message = "recorders are told of all that is to be held".to_owned();
            Some(Note { warning: false, reason: HELD.to_owned(), message })
        }
        _ => None,
    }
}

fn condition(status: &CameraStreamStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == HELD)
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

    /// So many ranges, in this second.
    fn many(count: usize, second: usize) -> String {
        let ranges: Vec<String> = (0..count).map(|n| format!("2026-11-21T14:00:{second:02}.{n:03}Z/")).collect();
        ranges.join(",")
    }

    /// The streams `s00` to `s24`, 64 holds each: more than Recorders have room for. And others.
    fn wanted_of_25(second: usize, others: &[(&str, bool, Option<&str>)]) -> Wanted {
        let (names, holds): (Vec<String>, _) = ((0..25).map(|n| format!("s{n:02}")).collect(), many(64, second));
        let streams = names.iter().map(|name| (name.as_str(), true, Some(holds.as_str())));
        wanted(&streams.chain(others.iter().copied()).collect::<Vec<_>>())
    }

    /// So many holds of these streams there is room for.
    fn room() -> usize {
        usize::try_from(size::HOLDS_AT_MOST / size::hold("default", "s00")).unwrap()
    }

    #[test]
    fn what_recorders_have_no_room_for_is_left_out_and_was_never_released() {
        let mut state = State::default();
        let (held, released) = told(&mut state, &wanted_of_25(0, &[]));
        assert!(held.len() == room() && room() > 1_000 && released.is_empty(), "{} of {}", held.len(), room());
        // One more, though first by its name: those that were there before stay.
        let more = wanted_of_25(0, &[("a", true, Some(SECOND))]);
        assert_eq!(told(&mut state, &more), (held.clone(), vec![]));
        assert_eq!(told(&mut state, &more), (held.clone(), vec![]));
        let status = |state: &State, name: &str, old: &CameraStreamStatus| {
            let mut status = old.clone();
            let stream = &state.streams[&format!("default/{name}")];
            put(&mut status, stream, "default", 1, Timestamp::UNIX_EPOCH);
            status
        };
        let none = CameraStreamStatus::default();
        let said = status(&state, "a", &none);
        let warning = note(&none, &said).unwrap();
        assert!(warning.warning && warning.reason == "TooManyHolds", "{warning:?}");
        let words = ["1 of the 1 ranges", HOLD_ANNOTATION, "namespace default", "not told of 2026-12-24T00:00:00Z/"];
        assert!(words.iter().all(|word| warning.message.contains(word)), "{}", warning.message);
        assert_eq!((status(&state, "a", &said), status(&state, "s00", &none)), (said.clone(), none.clone()));
        // Taken back: nobody ever heard of it.
        assert_eq!(told(&mut state, &wanted_of_25(0, &[("a", true, None)])), (held, vec![]));
        let better = status(&state, "a", &said);
        assert_eq!((note(&said, &better).map(|note| note.warning), better), (Some(false), none));
    }

    #[test]
    fn what_is_taken_back_makes_room_and_is_said_at_once() {
        let mut state = State::default();
        told(&mut state, &wanted_of_25(0, &[]));
        let mut fewer = wanted_of_25(0, &[]);
        fewer.holds.retain(|key, _| key.name != "s00");
        let (held, released) = told(&mut state, &fewer);
        assert_eq!((held.len(), released), (room(), ranges("s00", &many(64, 0))), "others have its room");
        // All of them at once.
        fewer.holds.clear();
        let (held, released) = told(&mut state, &fewer);
        assert_eq!((held.len(), released.len()), (0, room() + 64));
        // Others take the room of what was taken back longest ago.
        let (held, released) = told(&mut state, &wanted_of_25(1, &[]));
        let left = size::HOLDS_AND_RELEASED_AT_MOST - room() as u64 * size::hold("default", "s00");
        assert_eq!(held.len(), room());
        assert_eq!(released.len() as u64, left / size::hold("default", "s00"));
        let newest = |name: &str| released.iter().rfind(|(stream, _)| stream == name).cloned();
        assert_eq!(newest("s00"), ranges("s00", &many(64, 0)).pop());
    }

    #[test]
    fn what_recorders_were_told_beyond_their_room_is_said_when_it_is_taken_back() {
        let mut state = State::default();
        told(&mut state, &wanted_of_25(0, &[]));
        // By an operator that did not count.
        state.streams.values_mut().for_each(|stream| stream.left_out_holds.clear());
        let (held, released) = told(&mut state, &wanted_of_25(0, &[]));
        assert_eq!((held.len(), released.len()), (room(), 0));
        assert_eq!(state.streams["default/s24"].told_holds().count(), 0);
        let mut fewer = wanted_of_25(0, &[]);
        fewer.holds.retain(|key, _| key.name != "s24");
        assert_eq!(told(&mut state, &fewer), (held, ranges("s24", &many(64, 0))));
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
