//! Makes pictures in child processes: a decoder that crashes over what a camera sent takes nothing with it. None begins, and none goes on, with memory
//! that recording may want.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::limits::{RAISE, decoder_bytes};
use crate::still::{EXIT_MEMORY, EXIT_MISSING, StillRequest};

/// Decoding takes a core for a moment; recording needs the others.
const AT_ONCE: usize = 2;

/// Requests that may wait for their turn.
const WAITING: usize = 16;

/// A GOP of 20 s decodes in a fraction of it. On a busy machine a decoder takes seconds only to find out what it can decode, the first time.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// How often is looked whether the memory still suffices while a picture is made.
const LOOK: Duration = Duration::from_millis(100);

const RETRY_AFTER_S: u32 = 2;

/// A JPEG is not larger than this.
const MAX_JPEG_BYTES: u64 = 32 << 20;

/// What a child may see of this process's environment: where programs, libraries and plugins are. Nothing that could hold a secret.
const ENVIRONMENT: [&str; 7] =
    ["PATH", "HOME", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "GST_PLUGIN_PATH", "GST_PLUGIN_SYSTEM_PATH", "GST_REGISTRY"];

/// Says how many bytes of memory nothing uses and recording does not wait for; `None` where nothing limits them.
pub type MemoryLeft = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Runs `decode-still` children, few at a time.
#[derive(Clone)]
pub(super) struct Decoder {
    program: PathBuf,
    left: MemoryLeft,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// A place among the children that run.
pub(super) struct Turn {
    _admitted: OwnedSemaphorePermit,
    _running: OwnedSemaphorePermit,
}

impl Decoder {
    pub(super) fn new(program: PathBuf) -> Self {
        Self {
            program,
            left: Arc::new(|| None),
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            running: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The same, in what is left of memory.
    pub(super) fn with_memory_left(&self, left: MemoryLeft) -> Self {
        Self { left, ..self.clone() }
    }

    /// Pictures being made, or waiting for their turn.
    pub(super) fn admitted(&self) -> usize {
        (AT_ONCE + WAITING).saturating_sub(self.admitted.available_permits())
    }

    /// Waits until a child may run; refuses at once when too many wait already.
    pub(super) async fn turn(&self) -> Result<Turn, Problem> {
        let busy = || Problem::busy("as many pictures are being made as this recorder allows", RETRY_AFTER_S);
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        Ok(Turn { _admitted: admitted, _running: running })
    }

    /// Makes a JPEG of the wanted frame among the coded ones.
    pub(super) async fn decode(&self, turn: Turn, request: &StillRequest, coded: &[u8]) -> Result<Vec<u8>, Problem> {
        let _turn = turn;
        let head = request.encode().map_err(|error| Problem::unreadable(error.to_string()))?;
        let memory = self.memory(coded.len() as u64)?;
        // Whichever is first; the other one is dropped, and the child with it.
        tokio::select! {
            made = tokio::time::timeout(TIME_LIMIT, self.run_child(&head, coded, memory)) => match made {
                Ok(result) => result,
                Err(_) => Err(Problem::unreadable(format!("decoding took longer than {} s", TIME_LIMIT.as_secs()))),
            },
            () = self.runs_short() => {
                let detail = format!("memory ran short while this picture was decoded; {RAISE}");
                Err(Problem::busy(&detail, RETRY_AFTER_S))
            }
        }
    }

    /// Bytes that a child may take, where anything limits them.
    fn memory(&self, coded_bytes: u64) -> Result<Option<u64>, Problem> {
        let Some(left) = (self.left)() else { return Ok(None) };
        let bytes = decoder_bytes(left, AT_ONCE as u64, coded_bytes);
        bytes.map(Some).map_err(|short| Problem::busy(&short.to_string(), RETRY_AFTER_S))
    }

    /// Waits until recording takes what was left to it: it may get what the children have, too.
    async fn runs_short(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if (self.left)() == Some(0) {
                return;
            }
        }
    }

    async fn run_child(&self, head: &[u8], coded: &[u8], memory: Option<u64>) -> Result<Vec<u8>, Problem> {
        let failed = |what: &str, error: std::io::Error| Problem::unreadable(format!("{what}: {error}"));
        let mut child = Command::new(&self.program)
            .arg("decode-still")
            .args(memory.map(|bytes| format!("--memory={bytes}")))
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("starting the decoder", error))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Problem::unreadable("the decoder has no pipes".to_owned()));
        };
        let feed = async move {
            // A child that fails early closes its end; its exit code says why.
            let _ = stdin.write_all(head).await;
            let _ = stdin.write_all(coded).await;
        };
        let (mut jpeg, mut message) = (Vec::new(), String::new());
        let (mut stdout, mut stderr) = (stdout.take(MAX_JPEG_BYTES), stderr.take(4096));
        let (_, read, said) = tokio::join!(feed, stdout.read_to_end(&mut jpeg), stderr.read_to_string(&mut message));
        read.map_err(|error| failed("reading from the decoder", error))?;
        let status = child.wait().await.map_err(|error| failed("waiting for the decoder", error))?;
        let message = if said.is_ok() { message.trim() } else { "" };
        match status.code() {
            Some(0) if !jpeg.is_empty() => Ok(jpeg),
            Some(EXIT_MISSING) => Err(Problem::not_installed(message.to_owned())),
            _ if lacked_memory(status, message) => Err(too_little(memory)),
            Some(_) => Err(Problem::unreadable(format!("the picture cannot be decoded: {message}"))),
            None if status.signal() == Some(Signal::KILL.as_raw()) => {
                Err(Problem::unreadable("the system ended the decoder: out of memory, or of time on a core".to_owned()))
            }
            None => Err(Problem::unreadable("the decoder crashed over this picture".to_owned())),
        }
    }
}

/// Whether the child ended because it got no more memory. Libraries that get none end the process; what they say then tells.
fn lacked_memory(status: ExitStatus, message: &str) -> bool {
    let last_words = ["memory allocation of", "failed to allocate", "error creating thread"];
    status.code() == Some(EXIT_MEMORY)
        || (status.signal().is_some() && last_words.iter().any(|words| message.contains(words)))
}

/// The child had too little memory: what it was given, or what any may have.
fn too_little(memory: Option<u64>) -> Problem {
    match memory {
        Some(bytes) => {
            let left = bytes >> 20;
            let detail = format!("decoding this picture takes more than the {left} MiB of memory left for it; {RAISE}");
            Problem::busy(&detail, RETRY_AFTER_S)
        }
        None => Problem::unreadable("decoding this picture takes more memory than a decoder may have".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicU64, Ordering};

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_child_that_got_no_memory_is_told_from_one_that_crashed() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = |signal: Signal| ExitStatus::from_raw(signal.as_raw());
        assert!(lacked_memory(exited(EXIT_MEMORY), ""));
        assert!(lacked_memory(killed(Signal::ABORT), "memory allocation of 9437184 bytes failed"));
        assert!(lacked_memory(killed(Signal::TRAP), "GLib-ERROR **: gmem.c:136: failed to allocate 3133440 bytes"));
        assert!(!lacked_memory(killed(Signal::SEGV), "") && !lacked_memory(killed(Signal::KILL), ""));
        assert!(!lacked_memory(exited(crate::still::EXIT_DECODE), "no picture; failed to allocate is all it says"));
        assert_eq!((too_little(Some(60 * MIB)).status().as_u16(), too_little(None).status().as_u16()), (503, 500));
    }

    #[test]
    fn a_child_gets_half_of_what_is_left_and_none_begins_with_too_little() {
        let with = |left: Option<u64>| Decoder::new(PathBuf::new()).with_memory_left(Arc::new(move || left));
        assert_eq!(with(None).memory(MIB).unwrap(), None);
        assert_eq!(with(Some(400 * MIB)).memory(MIB).unwrap(), Some(200 * MIB));
        let refused = with(Some(97 * MIB)).memory(MIB).unwrap_err();
        assert_eq!(refused.status(), 503);
    }

    #[tokio::test]
    async fn a_child_goes_on_until_recording_takes_what_was_left_to_it() {
        let left = Arc::new(AtomicU64::new(MIB));
        let told = Arc::clone(&left);
        let told = move || Some(told.load(Ordering::Relaxed));
        let decoder = Decoder::new(PathBuf::new()).with_memory_left(Arc::new(told));
        assert!(tokio::time::timeout(LOOK * 3, decoder.runs_short()).await.is_err());
        left.store(0, Ordering::Relaxed);
        assert!(tokio::time::timeout(TIME_LIMIT, decoder.runs_short()).await.is_ok());
    }
}
