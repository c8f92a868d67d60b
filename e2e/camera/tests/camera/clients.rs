//! ffmpeg and GStreamer receive every frame that the ledger says was emitted, and decode it without a message.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use framekeeper_e2e_camera::{Kind, Ledger, crc32_size_identity};

use crate::common::{check_against_ledger, nal_units, receive, run, serve, stamped};

#[test]
fn ffmpeg_gets_every_frame_of_each_kind() {
    let (server, _folder) = serve(&[
        "name=moving,width=640,height=360,bitrate=1M,gop=25,slices=3",
        "name=frozen,kind=frozen,width=320,height=240,bitrate=300k,gop=10,audio=aac",
        "name=black,kind=black,width=320,height=240,gop=10,apart=true",
        "name=slow,fps=5,width=640,height=360,bitrate=128k,gop=10,mtu=300",
    ]);
    std::thread::scope(|scope| {
        for (name, frames) in [("moving", 60), ("frozen", 60), ("black", 60), ("slow", 12)] {
            let server = &server;
            scope.spawn(move || {
                let (stream, messages) = receive(&server.url(name), frames);
                assert_eq!(messages, "", "{name}");
                let received = stamped(&stream);
                assert_eq!(received.len(), frames as usize, "{name}");
                check_against_ledger(&received, &Ledger::read(server.ledger_path(name)).unwrap());
            });
        }
    });
    server.stop().unwrap();
}

#[test]
fn a_recording_by_ffmpeg_has_sound_and_decodes_without_a_message() {
    let (server, folder) = serve(&[
        "name=silent,width=640,height=360,bitrate=1M,gop=25,audio=aac",
        "name=tone,width=640,height=360,bitrate=1M,gop=25,audio=tone,channels=1",
    ]);
    std::thread::scope(|scope| {
        for name in ["silent", "tone"] {
            let (server, folder) = (&server, &folder);
            scope.spawn(move || {
                let path = folder.path().join(format!("{name}.mkv")).to_string_lossy().into_owned();
                let url = server.url(name);
                let input = ["-v", "error", "-rtsp_transport", "tcp", "-i", &url, "-t", "3", "-c", "copy", &path];
                let output = run("ffmpeg", &input);
                assert_eq!(String::from_utf8_lossy(&output.stderr), "");
                let check = run("ffmpeg", &["-v", "error", "-xerror", "-i", &path, "-f", "null", "-"]);
                assert_eq!(String::from_utf8_lossy(&check.stderr), "");
                let packets = run(
                    "ffprobe",
                    &[
                        "-v",
                        "error",
                        "-count_packets",
                        "-show_entries",
                        "stream=nb_read_packets",
                        "-of",
                        "csv=p=0",
                        &path,
                    ],
                );
                let counts: Vec<u32> =
                    String::from_utf8_lossy(&packets.stdout).lines().map(|line| line.parse().unwrap()).collect();
                assert!(matches!(counts[..], [70..=80, 130..=150]), "{name}: {counts:?}");
            });
        }
    });
}

#[test]
fn gstreamer_gets_every_frame_and_decodes_it() {
    let (server, folder) =
        serve(&["name=a,width=640,height=360,bitrate=1M,gop=25,audio=aac,user=u,password=p,qop=true,algorithm=both"]);
    let location = format!("location={}", server.url("a").replace("://", "://u:p@"));
    let path = folder.path().join("a.h264").to_string_lossy().into_owned();
    let sink = format!("location={path}");
    let launch = format!(
        "rtspsrc {location} protocols=tcp name=s s. ! rtph264depay ! h264parse ! \
         video/x-h264,stream-format=byte-stream,alignment=au ! tee name=t ! queue ! avdec_h264 ! fakesink \
         t. ! queue ! identity eos-after=60 ! filesink {sink} \
         s. ! rtpmp4gdepay ! aacparse ! avdec_aac ! fakesink"
    );
    // Both limits are for a GStreamer that looks at all its plug-ins first, as it does when it never ran here.
    let mut arguments = vec!["90", "gst-launch-1.0", "-q"];
    arguments.extend(launch.split_whitespace());
    let mut child =
        Command::new("timeout").args(&arguments).env("GST_DEBUG", "2").stderr(Stdio::piped()).spawn().unwrap();
    let enough = || std::fs::read(&path).map(|stream| stamped(&stream)).unwrap_or_default();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(75);
    while enough().len() < 50 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut received = enough();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    // The last one may have been read half written.
    received.pop();
    assert!(received.len() >= 49, "{}", received.len());
    check_against_ledger(&received, &Ledger::read(server.ledger_path("a")).unwrap());
}

#[test]
fn clips_keep_their_presentation_order_and_go_on_without_a_seam() {
    let folder = tempfile::tempdir().unwrap();
    let film = folder.path().join("film.avi").to_string_lossy().into_owned();
    let made = run(
        "ffmpeg",
        &["-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=20", "-t", "2.5", "-c:v", "mpeg4", &film],
    );
    assert!(made.status.success());
    let camera = format!("name=clip,kind=clip,file={film},bframes=2,gop=20,bitrate=500k,audio=tone");
    let (server, _folder) = serve(&[&camera]);
    let url = server.url("clip");
    let (stream, decoded) = std::thread::scope(|scope| {
        let copied = scope.spawn(|| receive(&url, 140));
        let input = ["-v", "error", "-xerror", "-rtsp_transport", "tcp", "-i", &url, "-an", "-frames:v", "120"];
        let output = ["-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-f", "framecrc", "-"];
        let decoded = run("ffmpeg", &[&input[..], &output].concat());
        (copied.join().unwrap(), decoded)
    });
    assert_eq!((stream.1.as_str(), String::from_utf8_lossy(&decoded.stderr).as_ref()), ("", ""));
    let received = stamped(&stream.0);
    assert_eq!(received.len(), 140);
    check_against_ledger(&received, &Ledger::read(server.ledger_path("clip")).unwrap());
    assert!(!received.is_sorted_by_key(|&(_, time, _)| time), "no B-frames");
    // Decoded pictures come out evenly spaced, over the seam too. (ffmpeg has no timestamp for the very first.)
    let decoded = String::from_utf8_lossy(&decoded.stdout).into_owned();
    let times: Vec<i64> = decoded
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').nth(2).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(times.len(), 120);
    assert!(times[1..].windows(2).all(|pair| pair[1] - pair[0] == 4500), "{times:?}");

    let ledger = Ledger::read(server.ledger_path("clip")).unwrap();
    let emitted: Vec<_> = ledger.video().collect();
    assert!(emitted.iter().enumerate().all(|(at, record)| record.number == at as u64));
    assert!(ledger.records.iter().any(|record| record.kind == Kind::Audio));
}

#[test]
fn the_gstreamer_camera_logs_what_it_sends() {
    let folder = tempfile::tempdir().unwrap();
    let log_dir = folder.path().to_string_lossy().into_owned();
    let mut camera = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/gst_camera.py"))
        .args(["--log-dir", &log_dir, "--audio", "--user", "u", "--password", "p", "--exit-with-parent"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(camera.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let url = ready["cameras"][0].as_str().unwrap();
    assert!(receive(url, 5).1.contains("401"));
    let (stream, _) = receive(&url.replace("://", "://u:p@"), 110);
    // Standard input ends, and with it the camera.
    drop(camera.stdin.take());
    assert!(camera.wait().unwrap().success());

    let ledger = Ledger::read(folder.path().join("gst.ledger")).unwrap();
    assert_eq!(ledger.header["identity"], "crc32-size");
    assert_eq!(ledger.records.last().unwrap().kind, Kind::Stopped);
    assert!(ledger.audio().count() > 100);
    let mut received: Vec<Vec<&[u8]>> = Vec::new();
    for nal in nal_units(&stream).into_iter().filter(|nal| matches!(nal[0] & 0x1f, 1..=5)) {
        // first_mb_in_slice is 0 in the first slice of a picture.
        if nal[1] & 0x80 != 0 {
            received.push(Vec::new());
        }
        received.last_mut().unwrap().push(nal);
    }
    let received: Vec<u64> = received.iter().map(|nals| crc32_size_identity(nals.iter().copied())).collect();
    let emitted: Vec<u64> = ledger.video().map(|record| record.hash).collect();
    // It may begin in the middle of a picture that was being sent, and end in one.
    let whole = &received[1..received.len() - 1];
    assert!(whole.len() > 100);
    assert!(emitted.windows(whole.len()).any(|window| window == whole), "{whole:x?}\nis not in\n{emitted:x?}");
    let times: Vec<_> = ledger.video().map(|record| record.media_time).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3600));
}
