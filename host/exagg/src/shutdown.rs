//! When to stop: the first signal asks, the second insists.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How the host stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From the signal to the end at most: calls in progress that take longer are cut.
    pub time_max: Duration,
    /// So long after the signal, requests are still answered while readiness says 503: whoever routes them here has
    /// to hear of it first.
    pub delay: Duration,
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
            for token in [drain, abort] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                asked_at.get_or_init(Instant::now);
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// What is left of so long a time since the first signal; all of it while there was none.
    pub fn left_of(&self, time_max: Duration) -> Duration {
        self.asked_at.get().map_or(time_max, |asked_at| time_max.saturating_sub(asked_at.elapsed()))
    }
}
