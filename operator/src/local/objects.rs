//! Statuses and events as files, in the form in which a cluster would give them out: `status/<kind>/<namespace>/<name>.yaml`.
//! A file is written only when what it says has changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use framekeeper_crds::k8s_openapi::api::core::v1::ObjectReference;
use framekeeper_crds::k8s_openapi::api::events::v1::Event;
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::yaml;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::{self, Durable};
use crate::decide::report::Kind;
use crate::decide::status::Note;
use crate::decide::wanted::Key;

/// Events that are kept of one object.
const EVENTS_KEPT: usize = 50;

const KINDS: [Kind; 3] = [Kind::Stream, Kind::Pool, Kind::Recorder];

fn folder(kind: Kind) -> &'static str {
    match kind {
        Kind::Stream => "camerastreams",
        Kind::Pool => "storagepools",
        Kind::Recorder => "recorders",
    }
}

/// The folder of all statuses and events.
#[derive(Debug)]
pub struct Objects {
    root: PathBuf,
    written: BTreeMap<PathBuf, String>,
    events: BTreeMap<(Kind, Key), VecDeque<String>>,
    event_number: u64,
}

impl Objects {
    /// The objects below a folder.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), written: BTreeMap::new(), events: BTreeMap::new(), event_number: 0 }
    }

    fn path(&self, kind: Kind, key: &Key) -> PathBuf {
        self.root.join(folder(kind)).join(&key.namespace).join(format!("{}.yaml", key.name))
    }

    fn events_path(&self, kind: Kind, key: &Key) -> PathBuf {
        self.root.join("events").join(folder(kind)).join(&key.namespace).join(format!("{}.yaml", key.name))
    }

    /// What an earlier run wrote. `None` also when it can't be read: it is written again anyway.
    pub fn read<T: DeserializeOwned>(&self, kind: Kind, key: &Key) -> Option<T> {
        yaml::read(&fs::read_to_string(self.path(kind, key)).ok()?).ok()
    }

    /// Writes an object, if it is not what was written last.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write<T: Serialize>(&mut self, kind: Kind, key: &Key, object: &T) -> io::Result<()> {
        let text = yaml::write(object).map_err(io::Error::other)?;
        let path = self.path(kind, key);
        if self.written.get(&path) == Some(&text) {
            return Ok(());
        }
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            write(&path, &text)?;
        }
        self.written.insert(path, text);
        Ok(())
    }

    /// Removes the objects of a kind that are not among these.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn keep_only(&mut self, wanted: &BTreeMap<Kind, BTreeSet<Key>>) -> io::Result<()> {
        for kind in KINDS {
            let keep: BTreeSet<PathBuf> =
                wanted.get(&kind).into_iter().flatten().map(|key| self.path(kind, key)).collect();
            for namespace in list(&self.root.join(folder(kind)))? {
                for path in list(&namespace)?.into_iter().filter(|path| !keep.contains(path)) {
                    self.written.remove(&path);
                    files::remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Adds an event of an object: the newest last, the oldest dropped.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn event(&mut self, kind: Kind, key: &Key, uid: &str, note: &Note, now: Timestamp) -> io::Result<()> {
        self.event_number += 1;
        // Kubernetes names events after their object and a number that differs; this one also sorts.
        let name = format!("{}.{:x}{:04x}", key.name, now.as_microsecond(), self.event_number % 0x1_0000);
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(key.namespace.clone()), ..ObjectMeta::default() },
            event_time: Some(MicroTime(now)),
            action: Some(note.reason.clone()),
            reason: Some(note.reason.clone()),
            note: Some(note.message.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(framekeeper_crds::API_VERSION.to_owned()),
                kind: Some(kind.name().to_owned()),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("framekeeper.dev/operator".to_owned()),
            reporting_instance: Some("local".to_owned()),
            ..Event::default()
        };
        let text = yaml::write(&event).map_err(io::Error::other)?;
        let path = self.events_path(kind, key);
        let events = self.events.entry((kind, key.clone())).or_insert_with(|| former_events(&path));
        while events.len() >= EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(text);
        let all: String = events.iter().map(|event| format!("---\n{event}")).collect();
        write(&path, &all)
    }
}

/// The documents of a file of events. A separator stands at the beginning of a line, where no text of an event can be: a
/// block of text is indented.
fn former_events(path: &Path) -> VecDeque<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').fold(VecDeque::new(), |mut events, line| {
        if line == "---\n" {
            events.push_back(String::new());
        } else if let Some(event) = events.back_mut() {
            event.push_str(line);
        }
        events
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    files::replace(path, text.as_bytes(), Durable::No)
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_file_is_written_when_something_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut objects = Objects::new(folder.path());
        let key = Key::new("default", "a");
        objects.write(Kind::Stream, &key, &json!({ "x": 1 })).unwrap();
        let path = folder.path().join("camerastreams/default/a.yaml");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        objects.write(Kind::Stream, &key, &json!({ "x": 1 })).unwrap();
        Objects::new(folder.path()).write(Kind::Stream, &key, &json!({ "x": 1 })).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert_eq!(objects.read::<serde_json::Value>(Kind::Stream, &key), Some(json!({ "x": 1 })));
        objects.keep_only(&BTreeMap::new()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn events_are_bounded_and_go_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("default", "a");
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let note =
            |n: usize| Note { warning: n % 2 == 1, reason: "Tried".into(), message: format!("line {n}\n---\nx") };
        let mut objects = Objects::new(folder.path());
        for n in 0..40 {
            objects.event(Kind::Stream, &key, "u", &note(n), now).unwrap();
        }
        let mut objects = Objects::new(folder.path());
        for n in 40..60 {
            objects.event(Kind::Stream, &key, "u", &note(n), now).unwrap();
        }
        let text = fs::read_to_string(folder.path().join("events/camerastreams/default/a.yaml")).unwrap();
        let events: Vec<Event> = yaml::read_all(&text).unwrap();
        assert_eq!(events.len(), EVENTS_KEPT);
        assert_eq!(events[0].note.as_deref(), Some("line 10\n---\nx"));
        assert_eq!(events.last().unwrap().note.as_deref(), Some("line 59\n---\nx"));
        assert_eq!(events.last().unwrap().type_.as_deref(), Some("Warning"));
    }
}
