//! The terminal: a table that is redrawn in place, and log lines that scroll above it. Without a terminal, lines only.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where log lines and the table go. Clones share the terminal.
#[derive(Clone, Debug)]
pub struct Screen {
    inner: Arc<Mutex<Inner>>,
    live: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Lines of the table that is on the screen, with the cursor below it.
    drawn: Vec<String>,
}

impl Screen {
    /// The process's standard error, which is where logs go; the table too, so that the two can't tear each other apart.
    pub fn new() -> Self {
        let live = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { inner: Arc::default(), live }
    }

    /// Whether a table can be drawn.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Lines and columns.
    pub fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => (24, 80),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the table over the former one.
    pub fn draw(&self, lines: Vec<String>) {
        let mut inner = self.lock();
        let mut text = clear(inner.drawn.len());
        text.push_str(&joined(&lines));
        inner.drawn = lines;
        put(&text);
    }

    /// Leaves the table as it stands; what comes next comes below it.
    pub fn release(&self) {
        self.lock().drawn.clear();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// To the beginning of what was drawn, and nothing behind it.
fn clear(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") }
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// A terminal that is gone is no reason to stop recording.
fn put(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// One log line at a time: the table goes, the line comes, the table comes back.
impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let inner = self.lock();
        put(&format!("{}{}{}", clear(inner.drawn.len()), String::from_utf8_lossy(text), joined(&inner.drawn)));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
