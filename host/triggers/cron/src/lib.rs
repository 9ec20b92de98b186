//! The cron trigger: a schedule to a function. A tick never overlaps the one before; its result
//! is logged and counted.
//!
//! - here: the trigger, and the world that it calls.
//! - [`stage`]: one schedule and the loop that follows it; [`wake`]: what runs it beside its schedule.
#![warn(missing_docs)]

mod bindings;
pub mod stage;
#[cfg(test)]
mod tests;
pub mod wake;

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use exagg_app::TriggerSpec;
use exagg_runtime::budget::plan::CallMemory;
use exagg_runtime::call_span;
use exagg_runtime::instance::reuse::Reuse;
use exagg_runtime::instance::{CallError, Component, State, World};
use exagg_runtime::slot::Slot;
use exagg_runtime::trigger::{Context, StageStatus, Stop, Trigger, join_all};
use tokio::task::JoinSet;
use tracing::Instrument;
use wasmtime::Store;
use wasmtime::component::{Accessor, InstancePre};

use self::bindings::spin::cron::cron_types::{Error, Metadata};
use self::bindings::{SpinCron, SpinCronPre};
use self::stage::{CronStage, Function, TickLease, UnixSeconds};
use self::wake::Alarm;

/// The type of this trigger.
const TYPE: &str = "cron";

/// The world `spin:cron/spin-cron`.
pub struct CronWorld;

#[async_trait]
impl World for CronWorld {
    fn trigger_type(&self) -> &'static str {
        TYPE
    }

    fn name(&self) -> &'static str {
        "spin:cron/spin-cron"
    }

    fn memory(&self) -> CallMemory {
        CallMemory { eighths: 1, call_bytes: 4 << 20 }
    }

    fn check(&self, pre: &InstancePre<State>) -> wasmtime::Result<()> {
        SpinCronPre::new(pre.clone()).map(|_| ())
    }

    async fn instantiate(&self, pre: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<()> {
        SpinCronPre::new(pre.clone())?.instantiate_async(store).await.map(|_| ())
    }
}

/// All `[[trigger.cron]]` of the app.
pub struct CronTrigger {
    context: Context,
    lease: Option<Arc<dyn TickLease>>,
    alarm: Option<Arc<dyn Alarm>>,
    stages: Vec<Arc<CronStage<Component>>>,
}

impl CronTrigger {
    /// With a lease, of several replicas of a stage one runs a tick. Without an alarm, stages have their schedules alone.
    pub fn new(context: Context, lease: Option<Arc<dyn TickLease>>, alarm: Option<Arc<dyn Alarm>>) -> Self {
        Self { context, lease, alarm, stages: Vec::new() }
    }
}

#[async_trait]
impl Trigger for CronTrigger {
    fn world(&self) -> Arc<dyn World> {
        Arc::new(CronWorld)
    }

    fn add(&mut self, spec: &TriggerSpec, slot: Arc<Slot>) -> Result<()> {
        self.stages.push(Arc::new(CronStage::new(spec, slot)?));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    async fn run(&self, stop: Stop) -> Result<()> {
        let mut running = JoinSet::new();
        for stage in &self.stages {
            let (stage, context, lease) = (Arc::clone(stage), self.context.clone(), self.lease.clone());
            let (stop, alarm) = (stop.sources.clone(), self.alarm.clone());
            running.spawn(async move { stage.run(&context, lease.as_deref(), alarm.as_deref(), stop).await });
        }
        join_all(running, &stop).await
    }

    fn status(&self) -> Vec<StageStatus> {
        self.stages.iter().map(|stage| stage.status()).collect()
    }
}

impl Function for Component {
    async fn tick(
        self: Arc<Self>,
        stage: &str,
        reuse: Option<Reuse>,
        time: UnixSeconds,
    ) -> Result<Result<(), String>, CallError> {
        let pre = self.pre().clone();
        let metadata = Metadata { timestamp: time };
        let called = Arc::clone(&self);
        let call = async move {
            let instance =
                async |store: &mut Store<State>| SpinCronPre::new(pre)?.instantiate_async(store).await.map(Arc::new);
            let call = async |accessor: &Accessor<State>, function: Arc<SpinCron>| {
                function.call_handle_cron_event(accessor, metadata).await
            };
            match reuse {
                Some(reuse) => called.call_again(TYPE, reuse, instance, call, Result::is_ok).await,
                None => called.call(TYPE, instance, call).await,
            }
        };
        let answer = self.run(call.instrument(call_span!(stage, "cron tick"))).await?;
        Ok(answer.map_err(|Error::Other(reason)| reason))
    }
}
