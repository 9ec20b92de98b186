//! The stages while they run, and their drain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use exagg_clients::database::Database;
use exagg_common::clock::Clock;
use exagg_pipeline::watch::{Need, Watch};
use exagg_runtime::trigger::Stop;
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database::{LEASES, NAME, Told, make_ready, watch};
use crate::embedded::broker::Guard;
use crate::heartbeat::Heartbeat;
use crate::shutdown::{Drain, Shutdown};
use crate::triggers::Triggers;

/// How long the embedded readers may take to read what is stored when the host stops.
const EMBEDDED_DRAIN: Duration = Duration::from_secs(2);

/// How long the databases are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What runs between the listeners' start and their end.
pub struct Stages {
    pub triggers: Arc<Triggers>,
    /// Told how the databases are, and that the host stops.
    pub told: Told,
    /// Writes what the host says of itself into the pipeline's database.
    pub heartbeat: Option<Heartbeat>,
    pub clock: Arc<dyn Clock>,
    pub database: Option<Database>,
    /// Where cron ticks are leased.
    pub leases: Option<Database>,
    pub migrate: bool,
    /// The embedded broker's guard, and the topics that are read of it.
    pub local: Option<(Arc<Guard>, Vec<String>)>,
    pub drain: Drain,
}

impl Stages {
    /// Runs until a stage ends or the host is told to stop; then drains.
    pub async fn run(mut self, shutdown: &Shutdown) -> Result<()> {
        if let Some(database) = &self.database {
            let topics = self.local.as_ref().map(|(_, topics)| topics.as_slice());
            if !make_ready(database, self.migrate, topics, &self.told.health, shutdown).await? {
                return Ok(());
            }
        }
        let stop = Stop::default();
        let ended = CancellationToken::new();
        let watching = self.watch(&ended);
        let mut running = tokio::spawn(Arc::clone(&self.triggers).run(stop.clone()));
        let first = tokio::select! {
            () = shutdown.drain.cancelled() => None,
            first = &mut running => Some(first?),
        };
        self.told.health.note("host", Some("it stops".to_owned()));
        stop.sources.cancel();
        let result = if let Some(result) = first {
            result
        } else {
            let delay = if self.triggers.serve_requests() { self.drain.delay } else { Duration::ZERO };
            tokio::join!(self.drain(&stop, running, shutdown), tokio::time::sleep(shutdown.left_of(delay))).0
        };
        stop.readers.cancel();
        ended.cancel();
        // That it has stopped is written down, where the database still answers.
        let _ = tokio::time::timeout(shutdown.left_of(self.drain.time_max).min(FAREWELL), join_all(watching)).await;
        result
    }

    /// Watches the databases until `ended`, or as long as the tasks are kept.
    fn watch(&mut self, ended: &CancellationToken) -> Vec<AbortOnDropHandle<()>> {
        let start = |name, database: Database, need, heartbeat| {
            let looks = Watch::new(database, need, Arc::clone(&self.clock));
            let clock = Arc::clone(&self.clock);
            AbortOnDropHandle::new(tokio::spawn(watch(name, looks, self.told.clone(), heartbeat, clock, ended.clone())))
        };
        let pipeline = self.database.clone().zip(self.heartbeat.take());
        let pipeline = pipeline.map(|(database, heartbeat)| start(NAME, database, Need::Migrations, Some(heartbeat)));
        let leases = self.leases.clone().map(|database| start(LEASES, database, Need::Leases, None));
        pipeline.into_iter().chain(leases).collect()
    }

    /// Lets the readers finish, then the batches in flight.
    async fn drain(&self, stop: &Stop, running: JoinHandle<Result<()>>, shutdown: &Shutdown) -> Result<()> {
        tracing::info!("stopping: batches in flight end first");
        if let Some((guard, _)) = &self.local
            && !guard.drained(EMBEDDED_DRAIN).await
        {
            tracing::warn!(
                "the embedded broker forgets records that were not read yet; the next start lists them in gaps"
            );
        }
        stop.readers.cancel();
        match tokio::time::timeout(shutdown.left_of(self.drain.time_max), running).await {
            Ok(ended) => ended?,
            Err(_) => bail!("not drained within {:?}: calls in progress are cut", self.drain.time_max),
        }
    }
}
