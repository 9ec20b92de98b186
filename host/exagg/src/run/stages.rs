//! The stages while they run, and their drain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use exagg_clients::database::Database;
use exagg_runtime::health::Health;
use exagg_runtime::trigger::Stop;
use tokio::task::JoinHandle;

use super::database::{make_ready, watch};
use crate::embedded::broker::Guard;
use crate::shutdown::Shutdown;
use crate::triggers::Triggers;

/// How long the embedded readers may take to read what is stored when the host stops.
const EMBEDDED_DRAIN: Duration = Duration::from_secs(2);

/// What runs between the listeners' start and their end.
pub struct Stages {
    pub triggers: Arc<Triggers>,
    pub health: Arc<Health>,
    pub database: Option<Database>,
    pub migrate: bool,
    /// The embedded broker's guard, and the topics that are read of it.
    pub local: Option<(Arc<Guard>, Vec<String>)>,
    pub drain_max: Duration,
}

impl Stages {
    /// Runs until a stage ends or the host is told to stop; then drains.
    pub async fn run(self, shutdown: &Shutdown) -> Result<()> {
        if let Some(database) = &self.database {
            let topics = self.local.as_ref().map(|(_, topics)| topics.as_slice());
            if !make_ready(database, self.migrate, topics, &self.health, shutdown).await? {
                return Ok(());
            }
        }
        let stop = Stop::default();
        let watching = self
            .database
            .clone()
            .map(|database| tokio::spawn(watch(database, Arc::clone(&self.health), stop.readers.clone())));
        let mut running = tokio::spawn(Arc::clone(&self.triggers).run(stop.clone()));
        let ended = tokio::select! {
            () = shutdown.drain.cancelled() => None,
            ended = &mut running => Some(ended?),
        };
        stop.sources.cancel();
        let result = match ended {
            Some(result) => result,
            None => self.drain(&stop, running).await,
        };
        stop.readers.cancel();
        if let Some(watching) = watching {
            let _ = watching.await;
        }
        result
    }

    /// Lets the readers finish, then the batches in flight.
    async fn drain(&self, stop: &Stop, running: JoinHandle<Result<()>>) -> Result<()> {
        tracing::info!("stopping: batches in flight end first");
        if let Some((guard, _)) = &self.local
            && !guard.drained(EMBEDDED_DRAIN).await
        {
            tracing::warn!(
                "the embedded broker forgets records that were not read yet; the next start lists them in gaps"
            );
        }
        stop.readers.cancel();
        match tokio::time::timeout(self.drain_max, running).await {
            Ok(ended) => ended?,
            Err(_) => bail!("not drained within {:?}", self.drain_max),
        }
    }
}
