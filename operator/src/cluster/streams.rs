//! The CameraStreams of a cluster, as they are asked for: of ten thousand of them no more is kept than decisions depend on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use framekeeper_crds::validate::FieldError;
use framekeeper_crds::{CameraStreamSpec, HoldRange};
use kube::runtime::watcher::Event;
use kube::{Resource as _, ResourceExt as _};
use tokio::sync::watch;

use super::guarded::{Asked, Guarded};
use crate::decide::wanted::{Identity, Key};

/// A stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What the API server calls it.
    pub identity: Identity,
    /// Whether it is being deleted.
    pub is_leaving: bool,
    /// What is asked for, or why that can't be understood.
    pub asks: Result<Asks, Box<str>>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asks {
    /// All who remember it share it.
    pub spec: Arc<CameraStreamSpec>,
    /// What is wrong with it: found once, and not with each decision.
    pub mistakes: Box<[FieldError]>,
    /// What of its footage is to be held.
    pub holds: Box<[HoldRange]>,
}

/// Streams by name.
pub type All = BTreeMap<Key, Stream>;

/// What is kept of an object.
#[must_use]
pub fn kept(object: Guarded<Asked>) -> (Key, Stream) {
    let key = Key::new(object.namespace().unwrap_or_default(), object.name_any());
    let identity =
        Identity { uid: object.uid().unwrap_or_default(), generation: object.meta().generation.unwrap_or(0) };
    let is_leaving = object.meta().deletion_timestamp.is_some();
    let asks = match object.0 {
        Ok(asked) => {
            let Asked { spec, mistakes, holds, .. } = Arc::unwrap_or_clone(asked);
            Ok(Asks { spec, mistakes: mistakes.into(), holds: holds.into() })
        }
        Err(broken) => Err(broken.error.into()),
    };
    (key, Stream { identity, is_leaving, asks })
}

/// The streams of the namespaces that are looked after.
#[derive(Clone, Debug)]
pub struct Streams {
    parts: Vec<Part>,
}

/// The streams that one watch brings.
#[derive(Clone, Debug)]
pub(super) struct Part {
    all: Arc<Mutex<All>>,
    is_listed: watch::Receiver<bool>,
}

/// Where a watch writes to.
pub(super) struct PartWriter {
    all: Arc<Mutex<All>>,
    is_listed: watch::Sender<bool>,
    /// A list that is not complete yet.
    coming: All,
}

/// A place for what one watch brings, and where it writes to.
pub(super) fn part() -> (Part, PartWriter) {
    let (sender, receiver) = watch::channel(false);
    let all = Arc::<Mutex<All>>::default();
    (Part { all: Arc::clone(&all), is_listed: receiver }, PartWriter { all, is_listed: sender, coming: All::new() })
}

impl PartWriter {
    /// Takes note of what the watch brings. A list takes effect when it is complete: until then nothing is gone.
    pub(super) fn take(&mut self, event: Event<Guarded<Asked>>) {
        let with =
            |change: &mut dyn FnMut(&mut All)| change(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner));
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => self.coming.extend([kept(object)]),
            Event::InitDone => {
                let mut coming = std::mem::take(&mut self.coming);
                with(&mut |all| std::mem::swap(all, &mut coming));
                self.is_listed.send_replace(true);
            }
            Event::Apply(object) => {
                let mut object = Some(kept(object));
                with(&mut |all| all.extend(object.take()));
            }
            Event::Delete(object) => {
                let (key, _) = kept(object);
                with(&mut |all| drop(all.remove(&key)));
            }
        }
    }
}

impl Streams {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Looks at all of them, part by part. No longer than it takes: a watch waits meanwhile.
    pub fn each(&self, mut look: impl FnMut(&Key, &Stream)) {
        for part in &self.parts {
            let all = part.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().for_each(|(key, stream)| look(key, stream));
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| part.all.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Waits until all of them were listed once.
    pub async fn ready(&self) {
        for part in &self.parts {
            // The writer is never dropped while the process runs.
            let _ = part.is_listed.clone().wait_for(|is_listed| *is_listed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, generation: u32) -> Guarded<Asked> {
        let text = format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "a", "uid": "u-{name}", "generation": {generation}}},
                "spec": {{"source": {{"url": "rtsp://c/1"}}, "poolRef": {{"name": "main"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_list_takes_effect_when_it_is_complete() {
        let (part, mut writer) = part();
        let streams = Streams::new(vec![part.clone()]);
        let known = || {
            let mut known = Vec::new();
            streams.each(|key, stream| known.push((key.name.clone(), stream.identity.generation)));
            known
        };
        let is = |names: &[(&str, i64)]| names.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<Vec<_>>();
        let list = |writer: &mut PartWriter, names: &[&str]| {
            writer.take(Event::Init);
            names.iter().for_each(|name| writer.take(Event::InitApply(stream(name, 1))));
        };
        list(&mut writer, &["1", "2"]);
        assert!(known().is_empty() && !*part.is_listed.borrow());
        writer.take(Event::InitDone);
        assert_eq!((known(), *part.is_listed.borrow()), (is(&[("1", 1), ("2", 1)]), true));
        writer.take(Event::Apply(stream("2", 2)));
        writer.take(Event::Apply(stream("3", 1)));
        writer.take(Event::Delete(stream("1", 1)));
        assert_eq!(known(), is(&[("2", 2), ("3", 1)]));
        // One list is broken off, and the next one is another.
        list(&mut writer, &["9"]);
        list(&mut writer, &["3", "4"]);
        assert_eq!(known(), is(&[("2", 2), ("3", 1)]));
        writer.take(Event::InitDone);
        assert_eq!((known(), streams.count()), (is(&[("3", 1), ("4", 1)]), 2));
    }
}
