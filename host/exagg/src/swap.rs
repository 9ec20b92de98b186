//! Other code in a component's slot while the host runs: checked and compiled aside, switched
//! between two calls, taken back by itself when its first calls fail ([`exagg_runtime::slot`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use exagg_runtime::app::LoadedApp;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::slot::Slot;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// How often `--watch` looks at the files; one that is the same at two looks is whole.
const WATCH: Duration = Duration::from_millis(400);

/// Swaps components of a running app.
pub struct Swaps {
    app: Arc<LoadedApp>,
    metrics: Arc<Metrics>,
    /// One at a time: each compiles on all cores.
    swapping: Mutex<()>,
    /// Whose code is taken meanwhile: it is held in memory.
    places: Semaphore,
}

/// Swaps under way or waiting for their turn.
const PLACES: usize = 2;

impl Swaps {
    pub fn new(app: Arc<LoadedApp>, metrics: Arc<Metrics>) -> Self {
        Self { app, metrics, swapping: Mutex::new(()), places: Semaphore::new(PLACES) }
    }

    /// Whether the component runs here.
    pub fn has(&self, id: &str) -> bool {
        self.app.components.contains_key(id)
    }

    /// Leave to send code; waits while others' is held.
    pub async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.places.acquire().await.ok()
    }

    fn slot(&self, id: &str) -> Result<&Arc<Slot>> {
        self.app.components.get(id).with_context(|| {
            let ids: Vec<_> = self.app.components.keys().map(String::as_str).collect();
            format!("no component {id} runs here: there is {}", ids.join(", "))
        })
    }

    /// Checks the code, and lets it run from the next call on. An error has changed nothing.
    /// Gives its digest.
    pub async fn swap(&self, id: &str, code: Bytes) -> Result<String> {
        let slot = self.slot(id)?;
        let _swapping = self.swapping.lock().await;
        let checked = Self::check(slot, code).await;
        self.metrics.swap(id, if checked.is_ok() { "swapped" } else { "refused" });
        let next = checked.with_context(|| format!("component {id} is not swapped"))?;
        let digest = next.digest.clone();
        slot.swap(next);
        tracing::info!(component = id, "swapped: {digest:.12} runs from the next call on");
        Ok(digest)
    }

    async fn check(slot: &Arc<Slot>, code: Bytes) -> Result<Arc<exagg_runtime::instance::Component>> {
        let next = Arc::new(slot.current().successor(code).await?);
        next.try_out().await?;
        Ok(next)
    }

    /// Lets the version before run again. Gives its digest.
    pub fn back(&self, id: &str) -> Result<String> {
        let slot = self.slot(id)?;
        ensure!(slot.back(), "component {id} was not swapped: there is no version before this one");
        let digest = slot.current().digest.clone();
        self.metrics.swap(id, "back");
        tracing::info!(component = id, "swapped back: {digest:.12} runs from the next call on");
        Ok(digest)
    }

    /// `--watch`: swaps a component when its file has changed, and says when the manifest has.
    pub async fn watch(&self, manifest: Option<&Path>, stop: CancellationToken) {
        let mut manifest = manifest.map(|path| Watched::new("", path));
        let mut files: Vec<Watched> =
            self.app.components.values().map(|slot| Watched::new(&slot.id, &slot.current().source)).collect();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH) => {}
            }
            if let Some(file) = &mut manifest
                && file.has_changed()
            {
                tracing::warn!("{} has changed: it is read when the host is started again", file.path.display());
            }
            for file in &mut files {
                if file.has_changed() {
                    self.reload(&file.id, &file.path).await;
                }
            }
        }
    }

    async fn reload(&self, id: &str, path: &Path) {
        let swapped = match tokio::fs::read(path).await {
            Ok(code) => self.swap(id, code.into()).await.map(|_| ()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = swapped {
            tracing::error!(component = id, "{} has changed, and cannot be used: {error:#}", path.display());
        }
    }
}

/// When a file was changed, and its size: what tells one writing of it from another.
type Stamp = (SystemTime, u64);

/// A component's file under `--watch`.
struct Watched {
    id: String,
    path: PathBuf,
    used: Option<Stamp>,
    seen: Option<Stamp>,
}

impl Watched {
    fn new(id: &str, path: &Path) -> Self {
        let stamp = stamp(path);
        Self { id: id.to_owned(), path: path.to_owned(), used: stamp, seen: stamp }
    }

    /// Whether it is another file than the one in use, and nobody is writing it any more.
    fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let still = now == std::mem::replace(&mut self.seen, now);
        let changed = still && now.is_some() && now != self.used;
        if changed {
            self.used = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_when_it_is_another_one_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.wasm");
        std::fs::write(&path, "1").unwrap();
        let mut file = Watched::new("x", &path);
        assert!(!file.has_changed());
        std::fs::write(&path, "22").unwrap();
        assert!(!file.has_changed(), "it may still be written");
        assert!(file.has_changed());
        assert!(!file.has_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!file.has_changed() && !file.has_changed(), "a build takes it away for a while");
        std::fs::write(&path, "333").unwrap();
        assert!(!file.has_changed());
        assert!(file.has_changed());
    }
}
