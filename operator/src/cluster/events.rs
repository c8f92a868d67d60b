//! What events go out through: each that says something else than the last one of its object and reason is an event of its own, and what is only said again is
//! counted in the event that says it.
//!
//! kube's own publisher looks at object and reason alone: for six minutes it counts whatever else is said as said again, and a second takeover is never told.

use std::collections::VecDeque;

use kube::Client;
use kube::runtime::events::{Recorder as EventRecorder, Reporter as EventReporter};

use super::sink::Happened;
use crate::decide::report::Kind;
use crate::decide::wanted::Key;

/// Of so many objects and reasons is known what was said last, at some kilobytes each. What is said again of one that was forgotten is an event of its own.
const REMEMBERED_AT_MOST: usize = 500;

/// Of which object, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
struct About {
    kind: Kind,
    key: Key,
    uid: String,
    reason: String,
}

/// What was said last of each, and through what; the newest at the end.
struct Memory<P>(VecDeque<(About, String, P)>);

impl<P: Clone> Memory<P> {
    fn new() -> Self {
        Self(VecDeque::new())
    }

    /// What this goes out through: through what the last one of the same object and reason did, where that said the same; else through what `new` makes.
    fn through(&mut self, about: About, note: &str, new: impl FnOnce() -> P) -> P {
        let last = self.0.iter().position(|(other, ..)| *other == about).and_then(|at| self.0.remove(at));
        let through = match last {
            Some((_, said, through)) if said == note => through,
            _ => new(),
        };
        self.0.push_back((about, note.to_owned(), through.clone()));
        if self.0.len() > REMEMBERED_AT_MOST {
            self.0.pop_front();
        }
        through
    }
}

/// Publishes events in this operator's name.
pub(super) struct Publisher {
    client: Client,
    reporter: EventReporter,
    memory: Memory<EventRecorder>,
}

impl Publisher {
    pub(super) fn new(client: Client, reporter: EventReporter) -> Self {
        Self { client, reporter, memory: Memory::new() }
    }

    /// What this event goes out through; `note`: what it says. One that has published nothing yet counts nothing as said again.
    pub(super) fn through(&mut self, happened: &Happened, note: &str) -> EventRecorder {
        let about = About {
            kind: happened.kind,
            key: happened.key.clone(),
            uid: happened.uid.clone(),
            reason: happened.note.reason.clone(),
        };
        let new = || EventRecorder::new(self.client.clone(), self.reporter.clone());
        self.memory.through(about, note, new)
    }

    /// What was said in a former term another leader may have said again since.
    pub(super) fn forget(&mut self) {
        self.memory = Memory::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_counted_and_all_else_is_an_event_of_its_own() {
        let about = |name: &str, uid: &str, reason: &str| About {
            kind: Kind::Stream,
            key: Key::new("a", name),
            uid: uid.to_owned(),
            reason: reason.to_owned(),
        };
        let door = || about("door", "1", "TakenOver");
        let (mut memory, mut made) = (Memory::new(), 0);
        let mut say = |about: About, note: &str| {
            memory.through(about, note, || {
                made += 1;
                made
            })
        };
        assert_eq!([say(door(), "epoch 2"), say(door(), "epoch 2")], [1, 1]);
        assert_eq!([say(door(), "epoch 4"), say(door(), "epoch 4")], [2, 2], "it was taken over a second time");
        assert_eq!(say(door(), "epoch 2"), 3, "that was not said last");
        // Another reason; another stream; another one of the same name.
        let others =
            [about("door", "1", "HandedBack"), about("gate", "1", "TakenOver"), about("door", "2", "TakenOver")];
        assert_eq!(others.map(|other| say(other, "epoch 2")), [4, 5, 6]);
        assert_eq!(say(door(), "epoch 2"), 3);
        // What was said longest ago is forgotten.
        for number in 0..REMEMBERED_AT_MOST {
            say(about(&number.to_string(), "1", "TakenOver"), "epoch 2");
        }
        assert_eq!(say(door(), "epoch 2"), 7 + REMEMBERED_AT_MOST);
        assert_eq!(memory.0.len(), REMEMBERED_AT_MOST);
    }
}
