//! When to stop: the first signal asks, the second insists. Signals of one moment are one: a terminal, a wrapper and a
//! supervisor may each send theirs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Signals so close to the first one say the same.
const ONE_MOMENT: Duration = Duration::from_secs(1);

/// How often it is looked whether the process that started this one is there.
const PARENT_LOOK: Duration = Duration::from_millis(500);

/// How the host stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From the signal to the end at most: calls in progress that take longer are cut.
    pub time_max: Duration,
    /// So long after the signal, requests are still answered while readiness says 503: whoever routes them here has
    /// to hear of it first.
    pub delay: Duration,
}

/// The process that started this one, as it was when this was first asked: at the very beginning, or one that ends at
/// once would not be missed.
pub fn parent() -> Option<Pid> {
    static PARENT: OnceLock<Option<Pid>> = OnceLock::new();
    *PARENT.get_or_init(rustix::process::getppid)
}

/// Two tokens: `drain` goes at the first SIGTERM or Ctrl-C, `abort` at the second.
#[derive(Clone, Default)]
pub struct Shutdown {
    pub drain: CancellationToken,
    pub abort: CancellationToken,
    asked_at: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// Listens for the signals from now on.
    pub fn listen() -> Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let tokens = shutdown.clone();
        tokio::spawn(async move {
            let Self { drain, abort, asked_at } = tokens;
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                let first = *asked_at.get_or_init(Instant::now);
                drain.cancel();
                if first.elapsed() > ONE_MOMENT {
                    abort.cancel();
                    return;
                }
            }
        });
        Ok(shutdown)
    }

    /// Stops as at a signal when the process that started this one has ended: it is the one that passes signals on.
    pub fn end_with_parent(&self) {
        let (parent, shutdown) = (parent(), self.clone());
        tokio::spawn(async move {
            // A death signal would come at the end of the thread that started this process, which may be earlier.
            while rustix::process::getppid() == parent {
                tokio::time::sleep(PARENT_LOOK).await;
            }
            tracing::warn!("the process that started this one has ended");
            shutdown.asked_at.get_or_init(Instant::now);
            shutdown.drain.cancel();
        });
    }

    /// What is left of so long a time since the first signal; all of it while there was none.
    pub fn left_of(&self, time_max: Duration) -> Duration {
        self.asked_at.get().map_or(time_max, |asked_at| time_max.saturating_sub(asked_at.elapsed()))
    }
}
