//! Makes pictures in child processes: a decoder that crashes over what a camera sent takes nothing with it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::still::{EXIT_MISSING, StillRequest};

/// Decoding takes a core for a moment; recording needs the others.
const AT_ONCE: usize = 2;

/// Requests that may wait for their turn.
const WAITING: usize = 16;

/// A GOP of 20 s decodes in a fraction of it. On a busy machine a decoder takes seconds only to find out what it can decode, the first time.
const TIME_LIMIT: Duration = Duration::from_secs(15);

const RETRY_AFTER_S: u32 = 2;

/// A JPEG is not larger than this.
const MAX_JPEG_BYTES: u64 = 32 << 20;

/// What a child may see of this process's environment: where programs, libraries and plugins are. Nothing that could hold a secret.
const ENVIRONMENT: [&str; 7] =
    ["PATH", "HOME", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "GST_PLUGIN_PATH", "GST_PLUGIN_SYSTEM_PATH", "GST_REGISTRY"];

/// Runs `decode-still` children, few at a time.
pub(super) struct Decoder {
    program: PathBuf,
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
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            running: Arc::new(Semaphore::new(AT_ONCE)),
        }
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
        match tokio::time::timeout(TIME_LIMIT, self.run_child(&head, coded)).await {
            Ok(result) => result,
            Err(_) => Err(Problem::unreadable(format!("decoding took longer than {} s", TIME_LIMIT.as_secs()))),
        }
    }

    async fn run_child(&self, head: &[u8], coded: &[u8]) -> Result<Vec<u8>, Problem> {
        let failed = |what: &str, error: std::io::Error| Problem::unreadable(format!("{what}: {error}"));
        let mut child = Command::new(&self.program)
            .arg("decode-still")
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
            Some(_) => Err(Problem::unreadable(format!("the picture cannot be decoded: {message}"))),
            None => Err(Problem::unreadable("the decoder crashed over this picture".to_owned())),
        }
    }
}
