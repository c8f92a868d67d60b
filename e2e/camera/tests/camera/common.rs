//! What the black-box tests share: clients that nobody here wrote, and what they received taken apart.

use std::process::{Command, Output, Stdio};

use framekeeper_e2e_camera::{Kind, Ledger, Record, Server, ServerConfig, read_sei, video_identity};

/// A server with these cameras, and the folder of its ledgers.
pub(crate) fn serve(cameras: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let specs = cameras.iter().map(|camera| camera.parse().unwrap()).collect();
    let mut config = ServerConfig::new(folder.path(), specs);
    config.control = Some(([127, 0, 0, 1], 0).into());
    (Server::start(config).unwrap(), folder)
}

/// Runs a client to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What ffmpeg receives of a URL's video in so many frames, as an Annex B stream, and its messages.
pub(crate) fn receive(url: &str, frames: u32) -> (Vec<u8>, String) {
    let frames = frames.to_string();
    let output = run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-i",
            url,
            "-an",
            "-c",
            "copy",
            "-frames:v",
            &frames,
            "-f",
            "h264",
            "-",
        ],
    );
    (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Number, media time and identity of each stamped access unit of an Annex B stream.
pub(crate) fn stamped(stream: &[u8]) -> Vec<(u64, i64, u64)> {
    let mut units: Vec<(u64, i64, Vec<Vec<u8>>)> = Vec::new();
    for nal in nal_units(stream) {
        if let Some((number, time)) = read_sei(nal) {
            units.push((number, time, Vec::new()));
        } else if let Some((.., slices)) = units.last_mut().filter(|_| matches!(nal[0] & 0x1f, 1..=5)) {
            slices.push(nal.to_vec());
        }
    }
    let identity = |slices: &[Vec<u8>]| video_identity(slices.iter().map(Vec::as_slice));
    units.iter().map(|(number, time, slices)| (*number, *time, identity(slices))).collect()
}

pub(crate) fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> =
        stream.windows(3).enumerate().filter(|(_, window)| *window == [0, 0, 1]).map(|(at, _)| at + 3).collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([stream.len()]);
    let trimmed = |nal: &[u8]| nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    starts.iter().zip(ends).map(|(&start, end)| &stream[start..start + trimmed(&stream[start..end])]).collect()
}

/// Checks that these are successive frames of the ledger, unchanged, beginning with a key frame.
pub(crate) fn check_against_ledger(received: &[(u64, i64, u64)], ledger: &Ledger) {
    let first = received.first().expect("nothing was received").0;
    let emitted: Vec<_> = ledger.video().skip_while(|record| record.number < first).take(received.len()).collect();
    assert!(emitted[0].is_key(), "begins with frame {first}");
    let emitted: Vec<_> = emitted.iter().map(|record| (record.number, record.media_time, record.hash)).collect();
    assert_eq!(received, emitted);
}

/// Waits until the ledger has a record that fits; fails after 20 s.
pub(crate) fn wait_for(server: &Server, camera: &str, fits: impl Fn(&Record) -> bool) -> Ledger {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let ledger = Ledger::read(server.ledger_path(camera)).unwrap();
        if ledger.records.iter().any(&fits) {
            return ledger;
        }
        assert!(std::time::Instant::now() < deadline, "{camera}: nothing of the kind in {:?}", events(&ledger));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The records that are no frames.
pub(crate) fn events(ledger: &Ledger) -> Vec<&Record> {
    ledger.records.iter().filter(|record| !matches!(record.kind, Kind::Video | Kind::Audio)).collect()
}
