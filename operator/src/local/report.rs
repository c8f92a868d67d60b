//! What people are told without a cluster: statuses and events into files, everything into the table.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use framekeeper_crds::k8s_openapi::jiff::Timestamp;
use framekeeper_crds::{
    CameraStream, CameraStreamStatus, Recorder, StoragePool, StoragePoolStatus, StreamAssignment, StreamPhase,
};
use tracing::info;

use super::manifest::DEFAULT_NAMESPACE;
use super::objects::Objects;
use super::running::Running;
use super::screen::Screen;
use super::table::{self, Row};
use crate::decide::observe::ChannelReport;
use crate::decide::protection;
use crate::decide::report::{Kind, Sink, View};
use crate::decide::status::Note;
use crate::decide::wanted::Key;

/// Files, and a table on a screen.
#[derive(Debug)]
pub struct Shown {
    objects: Objects,
    screen: Screen,
    rows: Vec<Row>,
}

impl Sink for Shown {
    fn former_stream(&self, key: &Key) -> Option<CameraStreamStatus> {
        self.objects.read::<CameraStream>(Kind::Stream, key).and_then(|stream| stream.status)
    }

    fn former_pool(&self, key: &Key) -> Option<StoragePoolStatus> {
        self.objects.read::<StoragePool>(Kind::Pool, key).and_then(|pool| pool.status)
    }

    fn stream(&mut self, key: &Key, stream: CameraStream) -> io::Result<()> {
        self.objects.write(Kind::Stream, key, &stream)
    }

    fn pool(&mut self, key: &Key, pool: StoragePool) -> io::Result<()> {
        self.objects.write(Kind::Pool, key, &pool)
    }

    fn recorder(&mut self, key: &Key, recorder: Recorder) -> io::Result<()> {
        self.objects.write(Kind::Recorder, key, &recorder)
    }

    fn event(&mut self, kind: Kind, key: &Key, uid: &str, note: &Note, now: Timestamp) -> io::Result<()> {
        self.objects.event(kind, key, uid, note, now)
    }

    fn keep_only(&mut self, wanted: &BTreeMap<Kind, BTreeSet<Key>>) -> io::Result<()> {
        self.objects.keep_only(wanted)
    }

    fn stands(&mut self, key: &Key, status: &CameraStreamStatus, report: Option<&ChannelReport>) {
        self.rows.push(row(key, status, report));
    }

    fn still(&mut self, _: Option<StreamPhase>) {}
}

impl Shown {
    /// Into these files and on this screen.
    pub fn new(objects: Objects, screen: Screen) -> Self {
        Self { objects, screen, rows: Vec::new() }
    }

    /// Everything is about to be told anew.
    pub fn begin(&mut self) {
        self.rows.clear();
    }

    /// Draws the table.
    pub fn draw(&self, view: &View<'_, Running>, now: Instant, wall: Timestamp) {
        if !self.screen.is_live() || view.stopped {
            return;
        }
        let recorders = view.running.iter().map(|(key, running)| {
            let state = if running.seen.is_ready(now) { "" } else { " (not ready)" };
            format!("{} http://{}{state}", key.name, running.seen.address)
        });
        let recorders: Vec<String> = recorders.collect();
        let (height, width) = self.screen.size();
        self.screen.draw(table::lines(&self.rows, &recorders.join("  "), wall, height, width));
    }

    /// A line for logs, where there is no table.
    pub fn summary(&self) {
        if !self.screen.is_live() {
            info!("{}", table::summary(&self.rows));
        }
    }

    /// Leaves the table as it stands.
    pub fn release(&self) {
        self.screen.release();
    }
}

/// The recorder that records, and for which one if that is another's: `main-recorder-1 (for 0)`.
fn recorder_shown(assignment: &StreamAssignment) -> String {
    let primary = &assignment.primary;
    match &assignment.active {
        Some(active) if active != primary => {
            let short = primary.rsplit('-').next().unwrap_or(primary);
            format!("{active} (for {short})")
        }
        _ => primary.clone(),
    }
}

fn row(key: &Key, status: &CameraStreamStatus, report: Option<&ChannelReport>) -> Row {
    let recording = status.conditions.iter().find(|condition| condition.type_ == "Recording");
    let good = matches!(status.phase, Some(StreamPhase::Recording | StreamPhase::Suspended));
    // Recorded, but not as safely as it was asked for.
    let unprotected = protection::condition(status).filter(|condition| good && condition.status != "True");
    let wrong = if good { unprotected } else { recording };
    let recorded = status.phase == Some(StreamPhase::Recording);
    let codecs = report.map(|report| [report.codec.clone(), report.audio_codec.clone()]);
    let codecs: Vec<String> = codecs.into_iter().flatten().flatten().collect();
    Row {
        stream: if key.namespace == DEFAULT_NAMESPACE { key.name.clone() } else { key.to_string() },
        recorder: status.assignment.as_ref().map(recorder_shown).unwrap_or_default(),
        state: match status.phase {
            Some(StreamPhase::Failed) => recording.map(|condition| condition.reason.clone()).unwrap_or_default(),
            Some(phase) => format!("{phase:?}"),
            None => String::new(),
        },
        good: good && unprotected.is_none(),
        why: wrong.map(|condition| condition.message.clone()).unwrap_or_default(),
        codec: if codecs.is_empty() { status.codec.clone().unwrap_or_default() } else { codecs.join(",") },
        resolution: status.resolution.clone().unwrap_or_default(),
        fps: report.filter(|_| recorded).and_then(|report| report.fps),
        bitrate: report.filter(|_| recorded).and_then(|report| report.bitrate),
        last_frame: report
            .and_then(|report| report.last_frame)
            .or_else(|| status.last_frame_time.as_ref().map(|time| time.0)),
        bytes: report.map_or(0, |report| report.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_who_records_and_for_whom() {
        let mut assignment = StreamAssignment {
            epoch: 2,
            primary: "main-recorder-0".into(),
            standbys: vec!["main-recorder-1".into()],
            active: Some("main-recorder-1".into()),
            last_active: None,
        };
        assert_eq!(recorder_shown(&assignment), "main-recorder-1 (for 0)");
        assignment.active = Some("main-recorder-0".into());
        assert_eq!(recorder_shown(&assignment), "main-recorder-0");
        assignment.active = None;
        assert_eq!(recorder_shown(&assignment), "main-recorder-0");
    }
}
