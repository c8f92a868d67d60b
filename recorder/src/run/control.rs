//! What a person at the machine asks of the running recorder: `framekeeper-recorder volume drain|stop|start|holds|release`.
//!
//! A socket in a folder that only the recorder's user may enter, beside the volumes. One line of JSON each way.

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

pub use super::holds::HoldView;

/// The folder of the socket, below the volumes' folder.
pub(super) const FOLDER: &str = ".control";
const SOCKET: &str = "socket";
/// Requests and replies are far shorter.
const LINE_BYTES_AT_MOST: u64 = 64 << 10;
/// Both sides answer within a look or two.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody who waits asks again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Verb {
    /// No stream is to be recorded to the volume any more; its footage stays readable.
    Drain,
    /// As drain, and then the volume is closed, so that it can be taken away.
    Stop,
    /// The volume is used again, opened anew where it had failed.
    Start,
    /// How it is.
    State,
    /// What is held; of no volume in particular.
    Holds,
    /// A hold is to be released: its name stands in the place of the volume's.
    Release,
}

#[derive(Debug, Deserialize, Serialize)]
struct Request {
    verb: Verb,
    volume: String,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Reply {
    /// How the volume is.
    State {
        /// As in the status.
        state: String,
        /// It is what was asked for.
        done: bool,
        /// Streams that are recorded to it.
        streams: u64,
        /// Why it is so.
        message: Option<String>,
    },
    /// What is held.
    Holds(Vec<HoldView>),
    /// A hold is to be released.
    Released {
        /// No open volume has it any more.
        done: bool,
    },
    /// It cannot be.
    Error(String),
}

/// A question, and where the answer goes.
pub(super) struct Question {
    pub(super) verb: Verb,
    pub(super) volume: String,
    pub(super) reply: SyncSender<Reply>,
}

/// Where questions come from. Its socket is removed when it is dropped.
pub(super) struct Control {
    questions: Receiver<Question>,
    socket: PathBuf,
}

impl Control {
    /// The next question that waits.
    pub(super) fn next(&self) -> Option<Question> {
        self.questions.try_recv().ok()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.socket) {
            debug!(%error, "the control socket could not be removed");
        }
    }
}

/// Listens below the volumes' folder, on a thread of its own. Questions are answered by whoever holds the result.
///
/// # Errors
/// When the socket cannot be made, for instance because the folder is read-only.
pub(super) fn listen(volumes: &Path) -> io::Result<Control> {
    let folder = volumes.join(FOLDER);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    // Through a descriptor: a socket's path is at most 107 bytes long.
    let handle = File::open(&folder)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
    let socket = folder.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let (questions, receiver) = sync_channel(4);
    let serve = move || {
        for connection in listener.incoming() {
            let answered = connection.and_then(|connection| answer(&connection, &questions));
            if let Err(error) = answered {
                warn!(%error, "a question on the control socket could not be answered");
            }
        }
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(serve)?;
    Ok(Control { questions: receiver, socket })
}

fn answer(connection: &UnixStream, questions: &SyncSender<Question>) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(connection.take(LINE_BYTES_AT_MOST)).read_line(&mut line)?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Err(error) => Reply::Error(format!("not a request: {error}")),
        Ok(Request { verb, volume }) => {
            let (reply, replied) = sync_channel(1);
            let ended = || Reply::Error("the recorder is ending".to_owned());
            match questions.send(Question { verb, volume, reply }) {
                Ok(()) => replied.recv_timeout(PATIENCE).unwrap_or_else(|_| ended()),
                Err(_) => ended(),
            }
        }
    };
    let mut text = serde_json::to_string(&reply).map_err(io::Error::other)?;
    text.push('\n');
    let mut connection = connection;
    connection.write_all(text.as_bytes())
}

fn ask(volumes: &Path, verb: Verb, volume: &str) -> io::Result<Reply> {
    let handle = File::open(volumes.join(FOLDER))?;
    let mut connection = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_string(&Request { verb, volume: volume.to_owned() }).map_err(io::Error::other)?;
    text.push('\n');
    connection.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(connection.take(LINE_BYTES_AT_MOST)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// Asks the recorder that runs on the volumes' folder `volumes` to change its volume of that name, and waits for that for at most `patience`.
/// Returns a sentence that says how the volume is then.
///
/// # Errors
/// Why it is not as asked, as a sentence.
pub fn command(volumes: &Path, verb: Verb, volume: &str, patience: Duration) -> Result<String, String> {
    let reach = |error: io::Error| unreachable_because(volumes, &error);
    let until = Instant::now() + patience;
    let mut verb = verb;
    loop {
        let (state, done, streams, message) = match ask(volumes, verb, volume).map_err(reach)? {
            Reply::Error(message) => return Err(message),
            Reply::State { state, done, streams, message } => (state, done, streams, message),
            other => return Err(unexpected(&other)),
        };
        let why = message.map(|message| format!(": {message}")).unwrap_or_default();
        let sentence = format!("volume {volume} is {state}, {streams} streams are recorded to it{why}");
        if done || verb == Verb::State && patience.is_zero() {
            return Ok(sentence);
        }
        if Instant::now() >= until {
            return Err(format!("not yet done: {sentence}"));
        }
        verb = Verb::State;
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Asks the recorder that runs on the volumes' folder `volumes` what is held.
///
/// # Errors
/// Why it does not answer, as a sentence.
pub fn holds(volumes: &Path) -> Result<Vec<HoldView>, String> {
    match ask(volumes, Verb::Holds, "").map_err(|error| unreachable_because(volumes, &error))? {
        Reply::Holds(holds) => Ok(holds),
        Reply::Error(message) => Err(message),
        other => Err(unexpected(&other)),
    }
}

/// Has the recorder that runs on the volumes' folder `volumes` release a hold, and waits for that for at most `patience`. Returns a sentence.
///
/// # Errors
/// Why it is not released, as a sentence.
pub fn release(volumes: &Path, hold: &str, patience: Duration) -> Result<String, String> {
    let until = Instant::now() + patience;
    let mut was_there = false;
    loop {
        match ask(volumes, Verb::Release, hold).map_err(|error| unreachable_because(volumes, &error))? {
            Reply::Error(message) => return Err(message),
            Reply::Released { done: true } if was_there => {
                return Ok(format!("hold {hold} is released on all volumes that are open"));
            }
            Reply::Released { done: true } => return Err(format!("no open volume has a hold {hold}")),
            Reply::Released { done: false } => was_there = true,
            other => return Err(unexpected(&other)),
        }
        if Instant::now() >= until {
            return Err(format!("not yet done: hold {hold} is still on a volume; it goes when that disk answers"));
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn unreachable_because(volumes: &Path, error: &io::Error) -> String {
    let volumes = volumes.display();
    format!("the recorder of {volumes} cannot be reached: {error}; it must be running, and you must be its user")
}

fn unexpected(reply: &Reply) -> String {
    format!("the recorder answered something else: {reply:?}; is it of another version?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_question_is_answered_by_whoever_holds_the_receiver() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = folder.path().join("a-name-so-long-that-no-socket-could-have-it".repeat(3));
        std::fs::create_dir(&volumes).unwrap();
        assert!(command(&volumes, Verb::Stop, "a", PATIENCE).unwrap_err().contains("must be running"));
        let questions = listen(&volumes).unwrap();
        let answering = std::thread::spawn(move || {
            let mut verbs = Vec::new();
            for _ in 0..3 {
                let question = questions.questions.recv().unwrap();
                verbs.push(question.verb);
                let done = verbs.len() == 2;
                let state = Reply::State { state: "Stopped".to_owned(), done, streams: 0, message: None };
                let unknown = Reply::Error(format!("no volume {}", question.volume));
                question.reply.send(if verbs.len() == 3 { unknown } else { state }).unwrap();
            }
            verbs
        });
        assert_eq!(
            command(&volumes, Verb::Stop, "a", PATIENCE).unwrap(),
            "volume a is Stopped, 0 streams are recorded to it"
        );
        assert_eq!(command(&volumes, Verb::Drain, "b", PATIENCE).unwrap_err(), "no volume b");
        assert_eq!(answering.join().unwrap(), [Verb::Stop, Verb::State, Verb::Drain]);
        let mode = std::fs::metadata(volumes.join(FOLDER)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // A recorder that is started again takes the place of the one before.
        drop(listen(&volumes).unwrap());
    }
}
