//! WASI 0.2 and 0.3: clocks, random, environment, standard output as log lines. No sockets, and of
//! files only those that the manifest gives the component, to read.

mod log;
mod rate;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use exagg_app::{ComponentSpec, Files};
use wasmtime::component::Linker;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiView};

use self::log::{Log, OutputLeft, STDERR};
use self::rate::Rate;
use super::{Call, Configure, Factor, Link};

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

/// Serves WASI 0.2 and 0.3 to guests; by default all output goes to the host's log, and to no file.
#[derive(Default)]
pub struct WasiFactor {
    /// Which components' output goes to the log, and to files as well (`--follow`, `--log-dir`).
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
    /// Over all calls.
    rate: Arc<Mutex<Rate>>,
}

/// One call's.
pub struct InstanceWasi {
    /// What wasmtime's own implementation works on.
    pub wasi: WasiCtx,
    output: Arc<OutputLeft>,
}

impl InstanceWasi {
    /// The call's panic, where there was one: its place and text.
    pub fn panic(&self) -> Option<String> {
        self.output.panic()
    }

    /// Another call begins: it may log as much as the one before.
    pub fn renew(&self) {
        self.output.renew();
    }
}

impl Factor for WasiFactor {
    type Component = ComponentWasi;
    type Instance = InstanceWasi;

    fn configure(&self, spec: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentWasi> {
        Ok(ComponentWasi {
            id: context.component_id.into(),
            environment: spec.environment.clone(),
            mounts: mounts(spec)?,
            followed: self.output.follow.is_empty() || self.output.follow.iter().any(|id| id == context.component_id),
            stdout: self.file(context.component_id, "stdout")?,
            stderr: self.file(context.component_id, "stderr")?,
            rate: Arc::new(Mutex::new(Rate::new(Instant::now()))),
        })
    }

    fn prepare(&self, component: &ComponentWasi, call: &Call) -> InstanceWasi {
        let left = Arc::new(OutputLeft::new(&call.account));
        let log = |stream, file: &Option<_>| Log {
            id: Arc::clone(&component.id),
            stream,
            followed: component.followed,
            file: file.clone(),
            left: Arc::clone(&left),
            rate: Arc::clone(&component.rate),
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
        let wasi = wasi.stdout(log("stdout", &component.stdout)).stderr(log(STDERR, &component.stderr)).build();
        InstanceWasi { wasi, output: left }
    }
}

impl<S: WasiView> Link<S> for WasiFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi::p3::add_to_linker(linker)
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
        let file = open(folder, &path, self.output.truncate)
            .with_context(|| format!("--log-dir: cannot write {}", path.display()))?;
        Ok(Some(Arc::new(Mutex::new(file))))
    }
}

/// Output may hold what is nobody else's business, and a link in a folder that others may write to would have it
/// written anywhere.
fn open(folder: &Path, path: &Path, truncate: bool) -> std::io::Result<std::fs::File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    if truncate {
        file.set_len(0)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Take out: a mode, or `O_NOFOLLOW`.
    #[test]
    fn log_files_are_the_owners_and_no_links() {
        let above = tempfile::tempdir().unwrap();
        let (folder, path) = (above.path().join("a/b"), above.path().join("a/b/x_stdout.txt"));
        open(&folder, &path, false).unwrap().write_all(b"old").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        open(&folder, &path, false).unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "oldnew");
        open(&folder, &path, true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let (target, link) = (above.path().join("target"), folder.join("y_stdout.txt"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open(&folder, &link, true).is_err());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
    }
}
