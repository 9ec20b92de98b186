//! The kafka trigger: batches of one partition to a function, a task a partition.
//!
//! # Layout, in reading order
//! - here: the trigger, and the world that it calls.
//! - [`config`]: a stage's settings.
//! - [`log`]: the log that a stage reads; [`consumer`]: librdkafka's, with `sys`, which is what the safe binding lacks.
//! - [`stage`]: one stage: its group, and a task for each partition.
//! - [`partition`]: one partition's loop; [`batch`]: records to batches (pure); [`turns`]: how many are in flight.
//! - [`dispatch`]: a batch to the function, and what its answer means; [`dead_letter`].
//! - [`fetch`]: how much is fetched ahead (pure); [`backoff`]: pauses between tries; [`status`]: how far a stage is.
//! - [`backlog`]: a partition's past as batches, for a replay.
#![warn(missing_docs)]

pub mod backlog;
pub mod backoff;
pub mod batch;
pub mod bindings;
pub mod config;
pub mod consumer;
pub mod dead_letter;
pub mod dispatch;
pub mod fetch;
pub mod log;
pub mod partition;
pub mod stage;
pub mod status;
mod sys;
#[cfg(test)]
mod tests;
pub mod turns;

use std::sync::Arc;

use anyhow::{Result, bail};
use async_trait::async_trait;
use exagg_app::TriggerSpec;
use exagg_clients::kafka::{Properties, TopicDescription};
use exagg_common::memory;
use exagg_runtime::budget::plan::CallMemory;
use exagg_runtime::call_span;
use exagg_runtime::instance::reuse::Reuse;
use exagg_runtime::instance::{CallError, Component, State, World};
use exagg_runtime::slot::Slot;
use exagg_runtime::trigger::{Context, StageStatus, Stop, Trigger, join_all};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::Instrument;
use wasmtime::Store;
use wasmtime::component::{Accessor, InstancePre, TypedFunc};

use self::bindings::KafkaFunctionPre;
use self::bindings::exagg::kafka::types::{Batch, Outcome};
use self::config::{OnPoison, Start, Subscription};
use self::consumer::Brokers;
use self::dead_letter::{DeadLetterQueue, DeadLetterTopic};
use self::dispatch::{Dispatcher, Function};
use self::fetch::Share;
use self::partition::AppliedObserver;
use self::stage::{Stage, is_queue_fixed};
use self::status::StageState;

/// The type of this trigger.
pub const TYPE: &str = "kafka";

/// The world `exagg:kafka/kafka-function`.
pub struct KafkaWorld;

#[async_trait]
impl World for KafkaWorld {
    fn trigger_type(&self) -> &'static str {
        TYPE
    }

    fn name(&self) -> &'static str {
        "exagg:kafka/kafka-function"
    }

    fn memory(&self) -> CallMemory {
        CallMemory { eighths: 2, call_bytes: 12 << 20 }
    }

    fn check(&self, pre: &InstancePre<State>) -> wasmtime::Result<()> {
        KafkaFunctionPre::new(pre.clone()).map(|_| ())
    }

    async fn instantiate(&self, pre: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<()> {
        handle_batch(pre, store).await.map(|_| ())
    }
}

/// What is called of an instance.
type HandleBatch = TypedFunc<(Arc<Batch>,), (Outcome,)>;

/// The function of a fresh instance. Its batch is shared: generated bindings would want one of their own a call.
async fn handle_batch(pre: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<HandleBatch> {
    let instance = pre.instantiate_async(&mut *store).await?;
    instance.get_typed_func(store, "handle-batch")
}

impl Function for Component {
    async fn handle_batch(
        self: Arc<Self>,
        stage: &str,
        reuse: Option<Reuse>,
        batch: Arc<Batch>,
    ) -> Result<Outcome, CallError> {
        let pre = self.pre().clone();
        let called = Arc::clone(&self);
        let call = async move {
            let instance = async |store: &mut Store<State>| handle_batch(&pre, store).await;
            let call = async |accessor: &Accessor<State>, function: HandleBatch| {
                function.call_concurrent(accessor, (batch,)).await.map(|(outcome,)| outcome)
            };
            let is_good = |outcome: &Outcome| matches!(outcome, Outcome::Applied | Outcome::ResumeAt(_));
            match reuse {
                Some(reuse) => called.call_again(TYPE, reuse, instance, call, is_good).await,
                None => called.call(TYPE, instance, call).await,
            }
        };
        self.run(call.instrument(call_span!(stage, "kafka batch"))).await
    }
}

/// What all stages share, beside what every trigger may use.
#[derive(Clone, Default)]
pub struct Settings {
    /// The operator's properties, for all clients.
    pub properties: Properties,
    /// What every topic is, where the broker cannot say it: the embedded one.
    pub topics_are: Option<TopicDescription>,
    /// Overrides `start`: the embedded broker is never older than its readers.
    pub from_earliest: bool,
    /// Told how far each partition is applied; none without the embedded broker.
    pub observer: Option<Arc<dyn AppliedObserver>>,
}

/// All `[[trigger.kafka]]` of the app.
pub struct KafkaTrigger {
    settings: Settings,
    context: Context,
    stages: Vec<Checked>,
}

/// A stage whose settings are checked.
struct Checked {
    subscription: Arc<Subscription>,
    slot: Arc<Slot>,
    state: Arc<StageState>,
}

impl KafkaTrigger {
    /// A trigger without stages yet.
    pub fn new(settings: Settings, context: Context) -> Self {
        Self { settings, context, stages: Vec::new() }
    }

    /// Refuses a stage whose group reads one of its topics for another stage: each would get some of the partitions.
    fn check_group(&self, subscription: &Subscription) -> Result<()> {
        for Checked { subscription: other, .. } in &self.stages {
            let shared = subscription.topics.iter().find(|topic| other.topics.contains(topic));
            if let Some(topic) =
                shared.filter(|_| (&other.group, &other.brokers) == (&subscription.group, &subscription.brokers))
            {
                bail!(
                    "[[trigger.kafka]] {}: the group {:?} reads topic {topic} for {} already: each of the two would \
                     be given a part of it; give it a group of its own",
                    subscription.trigger_id,
                    subscription.group,
                    other.trigger_id
                );
            }
        }
        Ok(())
    }

    /// The stage, ready to join its group.
    fn stage(&self, checked: &Checked, share: Share) -> Result<Stage<Brokers, Component>> {
        let Settings { properties, topics_are, observer, .. } = self.settings.clone();
        let subscription = Arc::clone(&checked.subscription);
        let dead_letters = match &subscription.on_poison {
            OnPoison::DeadLetter(topic) => {
                let topic = DeadLetterTopic::open(&subscription, &properties, topic)?;
                Some(Box::new(topic) as Box<dyn DeadLetterQueue>)
            }
            OnPoison::Stop => None,
        };
        let metrics = Arc::clone(&self.context.metrics);
        let dispatcher = Dispatcher::new(Arc::clone(&checked.slot), Arc::clone(&subscription), dead_letters, metrics);
        Ok(Stage {
            is_queue_fixed: is_queue_fixed(&properties),
            cluster: Brokers { subscription: Arc::clone(&subscription), properties, topics_are },
            dispatcher: Arc::new(dispatcher),
            subscription,
            state: Arc::clone(&checked.state),
            observer,
            share,
            drain_max: self.context.drain_max,
        })
    }
}

#[async_trait]
impl Trigger for KafkaTrigger {
    fn world(&self) -> Arc<dyn World> {
        Arc::new(KafkaWorld)
    }

    fn add(&mut self, spec: &TriggerSpec, slot: Arc<Slot>) -> Result<()> {
        let mut subscription = Subscription::new(spec)?;
        self.check_group(&subscription)?;
        if self.settings.from_earliest {
            subscription.start = Start::Earliest;
        }
        exagg_unpack::raise_record_limit(subscription.batch.record_bytes_max);
        let state = Arc::new(StageState::new(
            &subscription.trigger_id,
            Arc::clone(&self.context.metrics),
            Arc::clone(&self.context.clock),
        ));
        self.stages.push(Checked { subscription: Arc::new(subscription), slot, state });
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    async fn run(&self, stop: Stop) -> Result<()> {
        let mut running = JoinSet::new();
        let share = Share::new(memory::budget(), self.stages.len());
        for checked in &self.stages {
            let id = checked.subscription.trigger_id.clone();
            let stage = self.stage(checked, share);
            let stop = stop.readers.clone();
            running.spawn(async move {
                let ended = match stage {
                    Ok(stage) => stage.run(stop).await,
                    Err(error) => Err(error),
                };
                ended.map_err(|error| error.context(format!("stage {id}")))
            });
        }
        join_all(running, &stop).await
    }

    fn status(&self) -> Vec<StageStatus> {
        let status = |checked: &Checked| StageStatus {
            stage: checked.subscription.trigger_id.clone(),
            not_ready: checked.state.not_ready(),
            failing: None,
            partitions: json!(checked.state.all()),
        };
        self.stages.iter().map(status).collect()
    }
}
