//! The control interface: a few HTTP requests, one at a time.
//!
//! ```text
//! GET  /cameras                  all cameras: URL, ledger, sessions now and ever, newest frames, faults
//! GET  /cameras/<name>/latest    newest emitted frames
//! POST /cameras/<name>/fault     a `Fault` as JSON, for example {"fault":"drop","every":100}; {"fault":"none"} ends all
//! POST /cameras/<name>/onvif     SOAP: its device and media service
//! POST /accepting                true or false: whether the RTSP port is open
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;

use crate::camera::LatestFrames;
use crate::fault::Fault;
use crate::onvif::{self, Outcome};
use crate::spec::CameraSpec;

/// Longest body that is read.
const BODY_LIMIT_BYTES: u64 = 64 * 1024;

/// What the server's thread is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Fault { camera: String, fault: Fault, reply: mpsc::Sender<Result<(), String>> },
    Spec { camera: String, reply: mpsc::Sender<Option<CameraSpec>> },
    Latest { camera: String, reply: mpsc::Sender<Option<LatestFrames>> },
    List { reply: mpsc::Sender<Vec<serde_json::Value>> },
    Accepting { on: bool, reply: mpsc::Sender<Result<(), String>> },
    Stop,
}

/// Serves the control interface on a thread that ends with the process.
///
/// Errors: the port can't be had.
pub(crate) fn start(addr: SocketAddr, commands: mpsc::Sender<Command>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).with_context(|| format!("control {addr}"))?;
    let bound = listener.local_addr()?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off is its own problem.
            let _ = serve(stream, &commands);
        }
    })?;
    Ok(bound)
}

fn serve(stream: TcpStream, commands: &mpsc::Sender<Command>) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reader = BufReader::new(stream.try_clone()?).take(BODY_LIMIT_BYTES);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = header.split_once(':')
            && key.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; std::cmp::min(length, BODY_LIMIT_BYTES as usize)];
    reader.read_exact(&mut body)?;
    let (status, answer) = match onvif_camera(&method, &path) {
        Some(camera) => onvif(camera, &path, &String::from_utf8_lossy(&body), commands)?,
        None => {
            let (status, answer) = answer(&method, &path, &body, commands)?;
            (status, answer.to_string())
        }
    };
    let answer = format!("{answer}\n");
    let kind = if answer.starts_with('<') { "application/soap+xml; charset=utf-8" } else { "application/json" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    (&stream).write_all(format!("{head}{answer}").as_bytes())?;
    Ok(())
}

/// The camera whose ONVIF services a request is for.
fn onvif_camera<'p>(method: &str, path: &'p str) -> Option<&'p str> {
    let camera = path.strip_prefix("/cameras/")?.strip_suffix("/onvif")?;
    (method == "POST").then_some(camera)
}

/// Status and SOAP body. Errors: the server's thread is gone.
fn onvif(
    camera: &str,
    path: &str,
    request: &str,
    commands: &mpsc::Sender<Command>,
) -> anyhow::Result<(&'static str, String)> {
    let (reply, found) = mpsc::channel();
    commands.send(Command::Spec { camera: camera.to_owned(), reply })?;
    let Some(spec) = found.recv()? else { return Ok(("404 Not Found", "<html/>".to_owned())) };
    Ok(match onvif::answer(&spec, "192.0.2.1", path, request) {
        Outcome::Answer(text) => ("200 OK", text),
        Outcome::Fault(text) => ("400 Bad Request", text),
        Outcome::KeyFrame(text) => {
            let (reply, done) = mpsc::channel();
            commands.send(Command::Fault { camera: camera.to_owned(), fault: Fault::Key, reply })?;
            done.recv()?.map_err(anyhow::Error::msg)?;
            ("200 OK", text)
        }
    })
}

/// Status and JSON body. Errors: the server's thread is gone.
fn answer(
    method: &str,
    path: &str,
    body: &[u8],
    commands: &mpsc::Sender<Command>,
) -> anyhow::Result<(&'static str, serde_json::Value)> {
    let failed = |error: String| ("400 Bad Request", serde_json::json!({ "error": error }));
    let done = |result: Result<(), String>| match result {
        Ok(()) => ("200 OK", serde_json::json!({})),
        Err(error) => failed(error),
    };
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    Ok(match (method, segments.as_slice()) {
        ("GET", ["cameras"]) => {
            let (reply, answer) = mpsc::channel();
            commands.send(Command::List { reply })?;
            ("200 OK", answer.recv()?.into())
        }
        ("GET", ["cameras", camera, "latest"]) => {
            let (reply, answer) = mpsc::channel();
            commands.send(Command::Latest { camera: (*camera).to_owned(), reply })?;
            match answer.recv()? {
                Some(latest) => ("200 OK", serde_json::to_value(latest)?),
                None => ("404 Not Found", serde_json::json!({ "error": format!("no camera `{camera}`") })),
            }
        }
        ("POST", ["cameras", camera, "fault"]) => match serde_json::from_slice(body) {
            Ok(fault) => {
                let (reply, answer) = mpsc::channel();
                commands.send(Command::Fault { camera: (*camera).to_owned(), fault, reply })?;
                done(answer.recv()?)
            }
            Err(error) => failed(error.to_string()),
        },
        ("POST", ["accepting"]) => match serde_json::from_slice(body) {
            Ok(on) => {
                let (reply, answer) = mpsc::channel();
                commands.send(Command::Accepting { on, reply })?;
                done(answer.recv()?)
            }
            Err(error) => failed(error.to_string()),
        },
        _ => ("404 Not Found", serde_json::json!({ "error": format!("no {method} {path}") })),
    })
}
