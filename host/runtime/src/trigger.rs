//! What starts calls: a type of trigger and the stages that an app has of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use exagg_app::TriggerSpec;
use exagg_common::clock::Clock;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::instance::World;
use crate::metrics::Metrics;
use crate::slot::Slot;

/// A type of trigger, with the stages that the app has of it.
#[async_trait]
pub trait Trigger: Send + Sync {
    /// What it calls.
    fn world(&self) -> Arc<dyn World>;

    /// Adds a stage, templates expanded. Its settings are checked, and nothing runs yet.
    fn add(&mut self, spec: &TriggerSpec, slot: Arc<Slot>) -> Result<()>;

    /// Whether it has any stage.
    fn is_empty(&self) -> bool;

    /// Runs the stages until told to stop; calls in flight end first.
    async fn run(&self, stop: Stop) -> Result<()>;

    /// Its stages as they are now.
    fn status(&self) -> Vec<StageStatus>;
}

/// A stage as it is now.
#[derive(Clone, Debug)]
pub struct StageStatus {
    /// The trigger's id.
    pub stage: String,
    /// What keeps it from doing its work, if anything does.
    pub not_ready: Option<String>,
    /// What its last call failed with, if it did. It goes on by itself, and keeps nobody else from work: a host that
    /// also serves requests is ready all the same.
    pub failing: Option<String>,
    /// What it reads and how far it is; null where it reads nothing.
    pub partitions: Value,
}

/// What every trigger may use.
#[derive(Clone)]
pub struct Context {
    /// Where calls are counted and timed, by the ids of the stages.
    pub metrics: Arc<Metrics>,
    /// The time of day that schedules follow; tests bring a clock that they turn themselves.
    pub clock: Arc<dyn Clock>,
    /// How long calls in progress may take to end when the host stops.
    pub drain_max: Duration,
}

/// When to stop: what makes records stops before what reads them.
#[derive(Clone, Default)]
pub struct Stop {
    /// Cancelled first: cron stages, whose functions may produce records, start no more ticks.
    pub sources: CancellationToken,
    /// Cancelled after that: kafka stages end their batches in flight and leave their groups.
    pub readers: CancellationToken,
}

impl Stop {
    /// Stops everything.
    pub fn all(&self) {
        self.sources.cancel();
        self.readers.cancel();
    }
}

/// Waits for all of them. One that fails stops the others: half a pipeline looks like a whole one. The first error
/// is given.
pub async fn join_all(mut running: JoinSet<Result<()>>, stop: &Stop) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.map_err(|error| anyhow!("a stage panicked: {error}")).and_then(|ended| ended);
        if let Err(error) = ended {
            stop.all();
            result = result.and(Err(error));
        }
    }
    result
}
