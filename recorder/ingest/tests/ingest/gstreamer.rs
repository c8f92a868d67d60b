//! Against a camera that nobody here wrote: GStreamer's RTSP server (Debian: python3-gi, gir1.2-gst-rtsp-server-1.0, GStreamer plugins).

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::common::*;
use framekeeper_ingest::{Credentials, Event, SessionEndKind, SourceSpec};
use framekeeper_media::FrameFlags;
use url::Url;

struct Server {
    child: Child,
    open: u16,
    closed: u16,
}

impl Server {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gstreamer_camera.py");
        // Debian's own Python has the bindings; another one that stands before it in PATH has not.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("/usr/bin/python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports: Vec<u16> = line.split_whitespace().map(|p| p.parse().unwrap()).collect();
        let [open, closed] = ports[..] else {
            panic!("GStreamer's RTSP server did not start; are python3-gi and gir1.2-gst-rtsp-server-1.0 there?")
        };
        Self { child, open, closed }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spec(port: u16, path: &str) -> SourceSpec {
    SourceSpec::new(Url::parse(&format!("rtsp://127.0.0.1:{port}/{path}")).unwrap())
}

#[test]
fn video_audio_reports_digest_and_missing_paths() {
    let server = Server::start();
    let ingest = start();
    let (sink_open, open) = sink();
    ingest.add(spec(server.open, "live"), sink_open).unwrap();
    let parameters = open.playing();
    assert_eq!((parameters.video.width, parameters.video.height), (320, 240));
    assert_eq!(parameters.audio.as_ref().unwrap().sample_rate, 16_000);
    assert!(open.video().flags.contains(FrameFlags::RANDOM_ACCESS));
    // 4 s of it: two key frames, all at 25 frames a second, audio without a gap, and both tracks' reports.
    let (mut keys, mut last_video, mut last_audio, mut reports) = (0, None, None, [false; 2]);
    while keys < 4 || reports != [true; 2] {
        match open.next().1 {
            Event::Video(unit) => {
                keys += usize::from(unit.flags.contains(FrameFlags::RANDOM_ACCESS));
                assert!(!unit.flags.contains(FrameFlags::LOSS_BEFORE));
                let before = last_video.replace(unit.pts.0);
                assert!(before.is_none_or(|b| (unit.pts.0 - b - 3600).abs() <= 100), "{before:?} {:?}", unit.pts);
            }
            Event::Audio(frame) => {
                let before = last_audio.replace(frame.pts.0);
                assert!(before.is_none_or(|b| (frame.pts.0 - b - 1024).abs() <= 1), "{before:?} {:?}", frame.pts);
            }
            Event::VideoReport(_) => reports[0] = true,
            Event::AudioReport(_) => reports[1] = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(last_audio.is_some());

    let (sink_closed, closed) = sink();
    let with = |password: &str| SourceSpec {
        credentials: Some(Credentials::new("operator7", password)),
        ..spec(server.closed, "live")
    };
    let id = ingest.add(with("wrong"), sink_closed).unwrap();
    assert_eq!(closed.end().kind, SessionEndKind::Unauthorized);
    ingest.update(id, with("Sup3r-geheim")).unwrap();
    closed.video();

    let (sink_missing, missing) = sink();
    ingest.add(spec(server.open, "elsewhere"), sink_missing).unwrap();
    assert_eq!(missing.end().kind, SessionEndKind::NotFound);
}
