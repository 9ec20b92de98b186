//! The live stage's function, set to write under a replay's name, and the partitions that it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use exagg_app::{App, Resolved};
use exagg_clients::kafka::{Offset, Properties, client_config, is_compacted};
use exagg_common::hex;
use exagg_common::template::Variables;
use exagg_runtime::app::Compiled;
use exagg_runtime::budget::plan::ComponentLimits;
use exagg_runtime::engine;
use exagg_runtime::engine::compiler::{Bounds, Place};
use exagg_runtime::factors::Factors;
use exagg_runtime::factors::key_value::{DEFAULT_STORE, KeyValueFactor};
use exagg_runtime::factors::outbound_http::OutboundHttpFactor;
use exagg_runtime::factors::outbound_kafka::OutboundKafkaFactor;
use exagg_runtime::factors::outbound_pg::OutboundPgFactor;
use exagg_runtime::factors::wasi::WasiFactor;
use exagg_runtime::instance::Component;
use exagg_runtime::metrics::Metrics;
use exagg_trigger_kafka::backlog::{Backlog, Range};
use exagg_trigger_kafka::bindings::exagg::kafka::types::Batch;
use exagg_trigger_kafka::config::{OnPoison, Subscription};
use exagg_trigger_kafka::dead_letter::{DeadLetterQueue, PublishError};
use exagg_trigger_kafka::dispatch::{Dispatched, Dispatcher};
use exagg_trigger_kafka::{KafkaWorld, TYPE};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Seen, Settings};
use crate::claim::Claim;

/// Connections of the function.
const CONNECTIONS_MAX: usize = 8;

/// The stream's kafka stage, its function set to write under another name.
pub(super) struct Stage {
    subscription: Arc<Subscription>,
    dispatcher: Dispatcher<Component>,
    kafka: Properties,
    /// What a replay that goes on must have in common with the one that was stopped.
    pub identity: String,
    /// Records that the live stage puts aside: they are put aside here, and not published again.
    pub poisoned: Arc<AtomicU64>,
    _compiled: Compiled,
    /// Files that the component sees stand there as long as the stage does.
    _scratch: Scratch,
}

/// One partition that is being read.
pub(super) struct Reading {
    place: String,
    backlog: Backlog,
    end: Offset,
}

impl Reading {
    /// Offsets that are left to read.
    pub fn left(&self) -> u64 {
        u64::try_from(self.end.0 - self.backlog.position().0).unwrap_or_default()
    }
}

/// Counts what cannot be applied: the live stage has published it.
struct PutAside(Arc<AtomicU64>);

#[async_trait]
impl DeadLetterQueue for PutAside {
    async fn publish(&self, _: &Batch, _: Offset, _: &str) -> Result<(), PublishError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A folder of one replay's own.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Most components have no files, and then it was never made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    pub async fn load(resolved: Resolved, settings: &Settings, stream: &str, name: &str) -> Result<Self> {
        let Resolved { mut app, variables } = resolved;
        let id = component(&app, &variables, stream)?;
        app.retain(std::slice::from_ref(&id))?;
        let spec = app.components.get_mut(&id).context("a component without a specification")?;
        for (variable, value) in [("stream", name), ("late", "revise")] {
            spec.variables.insert(variable.to_owned(), value.to_owned());
        }
        let mut identity = Sha256::new();
        for (variable, template) in &spec.variables {
            identity.update(format!("{variable}={}\n", variables.expand(template)?));
        }
        let kafka = exagg_clients::kafka::properties(&variables, &settings.kafka)?;
        let scratch = Scratch(std::env::temp_dir().join(format!("exagg-replay-{}", uuid::Uuid::new_v4())));
        exagg_app::files::stage(&mut app, &scratch.0)?;
        let factors = Arc::new(Factors {
            wasi: WasiFactor::default(),
            http: OutboundHttpFactor,
            pg: OutboundPgFactor::new(CONNECTIONS_MAX, settings.authorities.clone()),
            kafka: OutboundKafkaFactor::new(kafka.clone(), None),
            key_value: KeyValueFactor::new(&scratch.0, "key_value", [DEFAULT_STORE.to_owned()]),
        });
        let compile = Place::Apart(Bounds::default());
        let engine = engine::Settings { compile, limits: settings.limits, ..engine::Settings::default() };
        let limits = ComponentLimits { connections_max: CONNECTIONS_MAX as u64, ..ComponentLimits::default() };
        let resolved = Resolved { app, variables };
        let compiled = Compiled::new(&resolved, &engine, limits, factors, &[Arc::new(KafkaWorld)]).await?;
        let trigger = compiled.app.triggers.first().context("the component has no trigger")?;
        let subscription = Arc::new(Subscription::new(trigger)?);
        let slot = Arc::clone(compiled.app.components.get(&id).context("the component was not loaded")?);
        let metrics = Arc::new(Metrics::new().context("the metrics cannot be set up")?);
        let poisoned = Arc::new(AtomicU64::new(0));
        let aside: Option<Box<dyn DeadLetterQueue>> = match subscription.on_poison {
            OnPoison::DeadLetter(_) => Some(Box::new(PutAside(Arc::clone(&poisoned)))),
            OnPoison::Stop => None,
        };
        let dispatcher = Dispatcher::new(slot, Arc::clone(&subscription), aside, metrics);
        let identity = format!("{} {}", dispatcher.digest(), hex(&identity.finalize()));
        Ok(Self { subscription, dispatcher, kafka, identity, poisoned, _compiled: compiled, _scratch: scratch })
    }

    /// Whether a topic's log is compacted; none where the cluster does not tell.
    pub async fn is_compacted(&self, topic: &str) -> Result<Option<bool>> {
        let config = client_config(&self.subscription.brokers, &self.kafka);
        is_compacted(&config, topic).await.context("cannot set a Kafka client up")
    }

    /// Begins with a partition, and tells the function of it.
    pub async fn open(&self, seen: &Seen, since: Option<DateTime<Utc>>, cancel: &CancellationToken) -> Result<Reading> {
        let place = seen.partition.to_string();
        let range = Range {
            partition: seen.partition.clone(),
            topic_id: seen.topic_id.clone(),
            // A record is at most so much older than its event.
            since: since.map(|time| time - chrono::Duration::seconds(seen.max_future_seconds)),
            from: seen.from_offset,
            next_offset: seen.next_offset,
        };
        let backlog = Backlog::open(&self.subscription, &self.kafka, range).with_context(|| place.clone())?;
        let mut reading = Reading { place, backlog, end: seen.next_offset };
        self.next(&mut reading, cancel).await?;
        Ok(reading)
    }

    /// Gives one partition to the function, to its end. Where the log has lost its beginning: the time of the first
    /// record that it still holds. `done` counts offsets.
    pub async fn read(
        &self,
        mut reading: Reading,
        claim: &Claim,
        cancel: &CancellationToken,
        done: &AtomicU64,
    ) -> Result<Option<DateTime<Utc>>> {
        while let Some(offsets) = self.next(&mut reading, cancel).await? {
            done.fetch_add(offsets, Ordering::Relaxed);
            claim.check()?;
        }
        Ok(reading.backlog.log_begins())
    }

    /// One batch; gives how many offsets it had, and none at the end or where the replay is stopped.
    async fn next(&self, reading: &mut Reading, cancel: &CancellationToken) -> Result<Option<u64>> {
        let place = &reading.place;
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let Some(batch) = reading.backlog.next().await.with_context(|| place.clone())? else { return Ok(None) };
        let offsets = u64::try_from(batch.next_offset - batch.from_offset).unwrap_or_default();
        match self.dispatcher.dispatch(batch, cancel, &|_| {}).await {
            Dispatched::Applied => Ok(Some(offsets)),
            Dispatched::Cancelled => Ok(None),
            Dispatched::ResumeAt(_) => bail!("{place}: something else writes under this replay's name"),
            Dispatched::Stopped(reason) => bail!("{place}: {reason}"),
        }
    }
}

/// The component whose variable `stream` is this stream.
fn component(app: &App, variables: &Variables, stream: &str) -> Result<String> {
    let is_of = |id: &String| {
        let template = app.components.get(id).and_then(|spec| spec.variables.get("stream"));
        template.is_some_and(|template| variables.expand(template).is_ok_and(|name| name == stream))
    };
    let found = app.triggers.iter().filter(|trigger| trigger.kind == TYPE).map(|trigger| &trigger.component);
    found.clone().find(|id| is_of(id)).cloned().with_context(|| {
        format!("no kafka stage of the app has the stream {stream} (their variable \"stream\" names it)")
    })
}
