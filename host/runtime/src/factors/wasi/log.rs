//! A component's output as lines of the host's log, and of the component's own files.
//!
//! A guest asks for its streams as often as it likes: what one call may log is counted over all of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use exagg_common::printable::printable;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::rate::Rate;
use crate::budget::{Account, Resource};

/// Bytes of output that one call may log; the rest is dropped, and the log says so.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one line in the host's log; a file has all of it.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// The stream that a panic goes to.
pub const STDERR: &str = "stderr";

/// Lines of standard error that are kept of a call, and of each so many bytes: a panic's place and text, mostly.
const LAST_LINES: usize = 4;
const PANIC: &str = "panicked at ";
const LAST_LINE_BYTES: usize = 300;

/// What one call may still log, over all its streams, and what it said last.
pub struct OutputLeft {
    bytes: AtomicUsize,
    call: Arc<Account>,
    last: Mutex<VecDeque<String>>,
}

impl OutputLeft {
    pub fn new(call: &Arc<Account>) -> Self {
        Self { bytes: AtomicUsize::new(OUTPUT_BYTES_MAX), call: Arc::clone(call), last: Mutex::default() }
    }

    /// As for a call that begins.
    pub fn renew(&self) {
        self.bytes.store(OUTPUT_BYTES_MAX, Ordering::Relaxed);
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps a line of standard error.
    fn keep(&self, line: &str) {
        // What Rust's runtime says below each panic.
        if line.starts_with("note: ") {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line[..line.floor_char_boundary(LAST_LINE_BYTES)].to_owned());
    }

    /// A panic's place and text, as the call wrote them to standard error, on one line. What else it wrote there is for
    /// the log alone.
    pub fn panic(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let from = last.iter().rposition(|line| line.contains(PANIC))?;
        let words = last.iter().skip(from).map(|line| line.split_once(PANIC).map_or(line.as_str(), |(_, at)| at));
        Some(format!("{PANIC}{}", words.collect::<Vec<_>>().join(" ")))
    }

    /// Takes up to so many bytes. True where these are the last.
    fn take(&self, wanted: usize) -> (usize, bool) {
        let rest = |left: usize| Some(left.saturating_sub(wanted));
        let had = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).unwrap_or_else(|left| left);
        (had.min(wanted), had > 0 && had <= wanted)
    }
}

/// A component's output stream, of one call.
#[derive(Clone)]
pub struct Log {
    pub id: Arc<str>,
    pub stream: &'static str,
    pub followed: bool,
    pub file: Option<Arc<Mutex<std::fs::File>>>,
    pub left: Arc<OutputLeft>,
    pub rate: Arc<Mutex<Rate>>,
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.lines())
    }

    // The default goes through a task, and what that has not written when the instance ends is
    // lost: the last line before a trap, mostly.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.lines())
    }
}

impl Log {
    fn lines(&self) -> Lines {
        Lines { log: self.clone(), line: Vec::new() }
    }

    /// Whether the component may log so many bytes now; now and then it is said how many it could not.
    fn may_log(&self, bytes: usize) -> bool {
        let now = Instant::now();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = rate.take(now, bytes);
        let dropped = rate.report(now);
        drop(rate);
        if let Some(dropped) = dropped {
            tracing::warn!(component = %self.id, "more output than the component may log in a second: {dropped} bytes were dropped");
        }
        fits && self.left.call.charge(Resource::LoggedBytes, bytes as u64).is_ok()
    }

    fn write(&self, text: &str) {
        if self.followed {
            tracing::info!(component = %self.id, stream = self.stream, "{}", cut(text));
        }
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writeln!(file, "{text}") {
                tracing::warn!(component = %self.id, "cannot write the log file: {error}");
            }
        }
    }
}

/// A line as the host's log has it.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= LINE_BYTES_MAX {
        return text.into();
    }
    let end = text.floor_char_boundary(LINE_BYTES_MAX);
    format!("{}... ({} more bytes)", &text[..end], text.len() - end).into()
}

/// What is not text is written out: a line must not act on the terminal that shows it, nor look like two.
fn escaped(text: &str) -> String {
    text.split('\t').map(printable).collect::<Vec<_>>().join("\t")
}

/// Cuts output into lines and logs each.
struct Lines {
    log: Log,
    line: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let (length, are_last) = self.log.left.take(bytes.len());
        for part in bytes[..length].split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
        if are_last {
            self.end_line();
            tracing::warn!(component = %self.log.id, "more than {OUTPUT_BYTES_MAX} bytes of output in one call: the rest is dropped");
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = escaped(text.trim_end());
        if !text.is_empty() && self.log.stream == STDERR {
            self.log.left.keep(&text);
        }
        if !text.is_empty() && self.log.may_log(text.len()) {
            self.log.write(&text);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(OUTPUT_BYTES_MAX)
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    fn logs(component: &Arc<Account>, file: std::fs::File) -> [Log; 2] {
        let left = Arc::new(OutputLeft::new(&component.below("the call", Limits::NONE)));
        let (file, rate) = (Arc::new(Mutex::new(file)), Arc::new(Mutex::new(Rate::new(Instant::now()))));
        ["stdout", "stderr"].map(|stream| Log {
            id: "a".into(),
            stream,
            followed: true,
            file: Some(Arc::clone(&file)),
            left: Arc::clone(&left),
            rate: Arc::clone(&rate),
        })
    }

    /// Take out: the shared count (make one in `Log::lines`).
    #[test]
    fn all_streams_of_a_call_share_one_limit() {
        let component = Account::root("component a", Limits::NONE);
        let path = tempfile::NamedTempFile::new().unwrap();
        let logs = logs(&component, path.reopen().unwrap());
        for _ in 0..100 {
            for log in &logs {
                log.lines().take(&[b'x'; OUTPUT_BYTES_MAX / 4]);
            }
        }
        let written = std::fs::read_to_string(path.path()).unwrap();
        assert_eq!(written.matches('x').count(), OUTPUT_BYTES_MAX);
        assert_eq!(component.used(Resource::LoggedBytes), OUTPUT_BYTES_MAX as u64);
    }

    #[test]
    fn files_have_lines_that_act_on_no_terminal() {
        let component = Account::root("component a", Limits::NONE);
        let path = tempfile::NamedTempFile::new().unwrap();
        let [stdout, _] = logs(&component, path.reopen().unwrap());
        stdout.lines().take(b"a\tb\x1b[2Jc\rd\nrest");
        let written = std::fs::read_to_string(path.path()).unwrap();
        assert_eq!(written, "a\tb\\u{1b}[2Jc\\rd\nrest\n");
    }

    /// Take out: `keep`.
    #[test]
    fn a_panic_is_known_by_its_place_and_text() {
        let component = Account::root("component a", Limits::NONE);
        let path = tempfile::NamedTempFile::new().unwrap();
        let [stdout, stderr] = logs(&component, path.reopen().unwrap());
        stdout.lines().take(b"not this\n");
        stderr.lines().take(b"first\nsecond\n");
        assert_eq!(stderr.left.panic(), None);
        stderr.lines().take(
            b"\nthread '<unnamed>' (1) panicked at src/lib.rs:10:5:\nno such city\nnote: run with `RUST_BACKTRACE=1`\n",
        );
        assert_eq!(stderr.left.panic().as_deref(), Some("panicked at src/lib.rs:10:5: no such city"));
        stderr.lines().take(&[b'x'; 2_000]);
        assert!(stderr.left.panic().unwrap().len() < LAST_LINES * (LAST_LINE_BYTES + 20));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "\u{e4}".repeat(LINE_BYTES_MAX);
        let shown = cut(&format!("x{long}")).into_owned();
        assert!(shown.len() < LINE_BYTES_MAX + 40 && shown.ends_with("more bytes)"), "{}", shown.len());
    }
}
