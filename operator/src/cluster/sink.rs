//! Statuses and events on their way to the API server: what is to be written next of each object, the newest only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{CameraStream, CameraStreamStatus, Recorder, StoragePool, StoragePoolStatus, StreamPhase};

use crate::decide::observe::ChannelReport;
use crate::decide::report::{Kind, Sink};
use crate::decide::status::Note;
use crate::decide::wanted::Key;

/// Events that wait to be written, at most; more than these were of an API server that did not answer, and statuses tell what counts.
const EVENTS_AT_MOST: usize = 2_500;

/// An event.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Of what kind of object.
    pub kind: Kind,
    /// Which one.
    pub key: Key,
    /// Its UID.
    pub uid: String,
    /// What.
    pub note: Note,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Streams whose statuses are: as they are when they are written.
    pub streams: BTreeSet<Key>,
    /// Of these, those of which the operator knows nothing but that they are refused: what is said of them.
    pub refused: BTreeMap<Key, CameraStream>,
    /// Where writing them goes on: whoever changes all the time must not keep those behind it from ever being written.
    next: Option<Key>,
    /// Statuses of pools.
    pub pools: BTreeMap<Key, StoragePool>,
    /// Events, the oldest first.
    pub events: VecDeque<Happened>,
    /// How many events were given up, and not counted yet.
    pub lost_events: u64,
    /// What was written when this operator began to lead.
    pub former_streams: BTreeMap<Key, CameraStreamStatus>,
    /// As above.
    pub former_pools: BTreeMap<Key, StoragePoolStatus>,
    /// Streams by phase.
    pub phases: BTreeMap<&'static str, u64>,
}

impl Outbox {
    /// The streams whose statuses are to be written, in this order.
    pub fn take_streams(&mut self) -> Vec<Key> {
        let mut first = std::mem::take(&mut self.streams);
        let next = self.next.take().map(|next| first.split_off(&next)).unwrap_or_default();
        next.into_iter().chain(first).collect()
    }

    /// Of these, in the same order, those that could not be written. Writing goes on with the first of them.
    pub fn put_back(&mut self, unsent: impl Iterator<Item = Key>) {
        for key in unsent {
            self.next.get_or_insert_with(|| key.clone());
            self.streams.insert(key);
        }
    }
}

impl Sink for Outbox {
    fn former_stream(&self, key: &Key) -> Option<CameraStreamStatus> {
        self.former_streams.get(key).cloned()
    }

    fn former_pool(&self, key: &Key) -> Option<StoragePoolStatus> {
        self.former_pools.get(key).cloned()
    }

    fn stream(&mut self, key: &Key, stream: CameraStream) -> io::Result<()> {
        // What it is already when an operator begins to lead need not be written.
        self.refused.remove(key);
        if self.former_streams.remove(key) != stream.status {
            self.streams.insert(key.clone());
        }
        Ok(())
    }

    fn refused_stream(&mut self, key: &Key, stream: CameraStream) -> io::Result<()> {
        let is_so = self.former_streams.remove(key) == stream.status;
        if !is_so {
            self.streams.insert(key.clone());
            self.refused.insert(key.clone(), stream);
        }
        Ok(())
    }

    fn pool(&mut self, key: &Key, pool: StoragePool) -> io::Result<()> {
        if self.former_pools.remove(key) != pool.status {
            self.pools.insert(key.clone(), pool);
        }
        Ok(())
    }

    /// A recorder writes its status itself.
    fn recorder(&mut self, _: &Key, _: Recorder) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, kind: Kind, key: &Key, uid: &str, note: &Note, _: Timestamp) -> io::Result<()> {
        while self.events.len() >= EVENTS_AT_MOST {
            self.events.pop_front();
            self.lost_events += 1;
        }
        self.events.push_back(Happened { kind, key: key.clone(), uid: uid.to_owned(), note: note.clone() });
        Ok(())
    }

    fn keep_only(&mut self, wanted: &BTreeMap<Kind, BTreeSet<Key>>) -> io::Result<()> {
        let is_there = |kind: Kind, key: &Key| wanted.get(&kind).is_some_and(|keys| keys.contains(key));
        self.streams.retain(|key| is_there(Kind::Stream, key));
        self.refused.retain(|key, _| is_there(Kind::Stream, key));
        self.pools.retain(|key, _| is_there(Kind::Pool, key));
        Ok(())
    }

    fn stands(&mut self, _: &Key, status: &CameraStreamStatus, _: Option<&ChannelReport>) {
        self.still(status.phase);
    }

    fn still(&mut self, phase: Option<StreamPhase>) {
        let phase = phase.map_or("Unknown", |phase| match phase {
            StreamPhase::Pending => "Pending",
            StreamPhase::Connecting => "Connecting",
            StreamPhase::Recording => "Recording",
            StreamPhase::Failed => "Failed",
            StreamPhase::Suspended => "Suspended",
        });
        *self.phases.entry(phase).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_refused_stream_waits_with_it_until_it_is_another() {
        let key = Key::new("a", "1");
        let stream = || {
            let spec = framekeeper_crds::yaml::read("{source: {url: \"rtsp://c/1\"}, poolRef: {name: main}}").unwrap();
            let mut stream = CameraStream::new("1", spec);
            stream.status = Some(CameraStreamStatus::default());
            stream
        };
        let mut outbox = Outbox::default();
        outbox.refused_stream(&key, stream()).unwrap();
        assert!(outbox.streams.contains(&key) && outbox.refused.contains_key(&key));
        outbox.stream(&key, stream()).unwrap();
        assert!(outbox.streams.contains(&key) && outbox.refused.is_empty(), "it is right by now");
        // What a former leader has said needs not be said again.
        let mut outbox =
            Outbox { former_streams: [(key.clone(), CameraStreamStatus::default())].into(), ..Outbox::default() };
        outbox.refused_stream(&key, stream()).unwrap();
        assert!(outbox.streams.is_empty() && outbox.refused.is_empty());
    }

    #[test]
    fn who_changes_all_the_time_keeps_nobody_from_being_written() {
        let key = |name: &str| Key::new("a", name);
        let mut outbox = Outbox { streams: ["1", "2", "3", "4"].map(key).into(), ..Outbox::default() };
        assert_eq!(outbox.take_streams(), ["1", "2", "3", "4"].map(key));
        // There was time for two; then the first is another one again.
        outbox.put_back(["3", "4"].map(key).into_iter());
        outbox.streams.insert(key("1"));
        assert_eq!(outbox.take_streams(), ["3", "4", "1"].map(key));
        outbox.put_back([key("1")].into_iter());
        assert_eq!(outbox.take_streams(), [key("1")]);
        assert_eq!(outbox.take_streams(), []);
    }
}
