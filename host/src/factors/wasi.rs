//! WASI 0.2 and 0.3: clocks, random, environment, standard output as log lines. No sockets, and of
//! files only those that the manifest gives the component, to read.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use super::{Configure, Factor};
use crate::app::{ComponentSpec, Files};
use crate::budget::Account;
use crate::instance::State;

/// Bytes of output that one call may log; the rest is dropped, and the log says so.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Where components' output goes.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// `--log-dir`: a file a component and stream, beside the host's log.
    pub log_dir: Option<PathBuf>,
    /// Whether those files are emptied first.
    pub truncate: bool,
    /// `--follow`: only these components' output goes to the host's log; all where it is empty.
    pub follow: Vec<String>,
}

#[derive(Default)]
pub struct WasiFactor {
    pub output: Output,
}

/// One component's environment and output.
pub struct ComponentWasi {
    id: Arc<str>,
    environment: BTreeMap<String, String>,
    /// Folders, and the paths where the component sees them.
    mounts: Vec<(PathBuf, String)>,
    followed: bool,
    stdout: Option<Arc<Mutex<std::fs::File>>>,
    stderr: Option<Arc<Mutex<std::fs::File>>>,
}

impl Factor for WasiFactor {
    type Component = ComponentWasi;
    type Instance = WasiCtx;

    fn init(linker: &mut Linker<State>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi::p3::add_to_linker(linker)
    }

    fn configure(&self, spec: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentWasi> {
        Ok(ComponentWasi {
            id: context.component_id.into(),
            environment: spec.environment.clone(),
            mounts: mounts(spec)?,
            followed: self.output.follow.is_empty() || self.output.follow.iter().any(|id| id == context.component_id),
            stdout: self.file(context.component_id, "stdout")?,
            stderr: self.file(context.component_id, "stderr")?,
        })
    }

    fn prepare(&self, component: &ComponentWasi, _: &Arc<Account>) -> WasiCtx {
        let log = |stream, file: &Option<_>| Log {
            id: Arc::clone(&component.id),
            stream,
            followed: component.followed,
            file: file.clone(),
        };
        let mut wasi = WasiCtx::builder();
        for (name, value) in &component.environment {
            wasi.env(name, value);
        }
        for (folder, path) in &component.mounts {
            // It was there when the app started; without it the component sees no file.
            if let Err(error) = wasi.preopened_dir(folder, path, FsPerms::ReadOnly) {
                tracing::warn!(component = %component.id, "{}: {error:#}", folder.display());
            }
        }
        wasi.stdout(log("stdout", &component.stdout)).stderr(log("stderr", &component.stderr)).build()
    }
}

fn mounts(spec: &ComponentSpec) -> Result<Vec<(PathBuf, String)>> {
    let mount = |files: &Files| match files {
        Files::Mount { folder, path } if folder.is_dir() => Ok((folder.clone(), path.clone())),
        Files::Mount { folder, .. } => bail!("files: {} is not a folder", folder.display()),
        Files::Pattern { pattern, .. } => bail!("files: {pattern:?} was not gathered"),
    };
    spec.files.iter().map(mount).collect()
}

impl WasiFactor {
    fn file(&self, id: &str, stream: &str) -> Result<Option<Arc<Mutex<std::fs::File>>>> {
        let Some(folder) = &self.output.log_dir else { return Ok(None) };
        let path = folder.join(format!("{id}_{stream}.txt"));
        let file = std::fs::create_dir_all(folder)
            .and_then(|()| if self.output.truncate { std::fs::write(&path, "") } else { Ok(()) })
            .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(&path))
            .with_context(|| format!("--log-dir: cannot write {}", path.display()))?;
        Ok(Some(Arc::new(Mutex::new(file))))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.factors.wasi, table: &mut self.table }
    }
}

/// A component's output stream.
#[derive(Clone)]
struct Log {
    id: Arc<str>,
    stream: &'static str,
    followed: bool,
    file: Option<Arc<Mutex<std::fs::File>>>,
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
        Lines { log: self.clone(), line: Vec::new(), left: OUTPUT_BYTES_MAX }
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

/// Cuts output into lines and logs each.
struct Lines {
    log: Log,
    line: Vec<u8>,
    left: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        let kept = &bytes[..bytes.len().min(self.left)];
        for part in kept.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
        let had = self.left;
        self.left -= kept.len();
        if had > 0 && self.left == 0 {
            self.end_line();
            tracing::warn!(component = %self.log.id, "more than {OUTPUT_BYTES_MAX} bytes of output in one call: the rest is dropped");
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        if self.log.followed {
            tracing::info!(component = %self.log.id, stream = self.log.stream, "{text}");
        }
        if let Some(file) = &self.log.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = writeln!(file, "{text}") {
                tracing::warn!(component = %self.log.id, "cannot write the log file: {error}");
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
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
