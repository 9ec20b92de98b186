//! The cron trigger: a schedule to a function. A tick never overlaps the one before; its result
//! is logged and counted.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use chrono::{DateTime, Utc};
use cron::Schedule;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wasmtime::Store;

use super::Context;
use crate::app::TriggerSpec;
use crate::bindings::cron::SpinCronPre;
use crate::bindings::cron::spin::cron::cron_types::{Error, Metadata};
use crate::call_span;
use crate::instance::{CallError, State};
use crate::lease::Leases;
use crate::slot::{Call, Slot};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cron_expression: String,
}

/// One `[[trigger.cron]]`.
pub struct CronTrigger {
    id: String,
    schedule: Schedule,
    slot: Arc<Slot>,
}

impl CronTrigger {
    pub fn new(trigger: &TriggerSpec, slot: Arc<Slot>) -> Result<Self> {
        let in_trigger = || format!("[[trigger.cron]] {}", trigger.id);
        let raw: Raw =
            serde_json::from_value(serde_json::Value::Object(trigger.config.clone())).with_context(in_trigger)?;
        let schedule = Schedule::from_str(&raw.cron_expression)
            .map_err(|error| anyhow!("cron_expression {:?}: {error} (six fields, seconds first)", raw.cron_expression))
            .with_context(in_trigger)?;
        Ok(Self { id: trigger.id.clone(), schedule, slot })
    }

    /// Calls the function at each scheduled time until told to stop; a tick in progress ends first.
    /// Times that pass while a tick runs are passed over, and counted.
    pub async fn run(&self, context: &Context, leases: Option<Arc<Leases>>, stop: CancellationToken) -> Result<()> {
        let mut last = context.clock.now();
        while let Some(next) = self.schedule.after(&last).next() {
            let wait = (next - context.clock.now()).to_std().unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            if self.is_ours(next, leases.as_deref()).await {
                self.tick(next, context).await;
            }
            // A clock set back must not run ticks again.
            let now = context.clock.now().max(next);
            let passed = self.schedule.after(&next).take_while(|time| *time <= now).count();
            if passed > 0 {
                context.metrics.ticks_passed(&self.id, passed);
                tracing::debug!(stage = %self.id, "{passed} ticks passed while one ran");
            }
            last = now;
        }
        Ok(())
    }

    /// With leases, a tick belongs to the replica that has its lease.
    async fn is_ours(&self, time: DateTime<Utc>, leases: Option<&Leases>) -> bool {
        let Some(leases) = leases else { return true };
        match leases.take(&self.id, time).await {
            Ok(ours) => ours,
            Err(error) => {
                tracing::warn!(stage = %self.id, "the tick is passed over, its lease cannot be had: {error}");
                false
            }
        }
    }

    async fn tick(&self, time: DateTime<Utc>, context: &Context) {
        let started = Instant::now();
        let component = self.slot.current();
        let pre = component.pre().clone();
        let metadata = Metadata { timestamp: u64::try_from(time.timestamp()).unwrap_or_default() };
        let called = Arc::clone(&component);
        let call = async move {
            let instance = async |store: &mut Store<State>| SpinCronPre::new(pre)?.instantiate_async(store).await;
            let answer = called.call("cron", instance, async |accessor, function| {
                function.call_handle_cron_event(accessor, metadata).await
            });
            answer.await
        };
        let call = call.instrument(call_span!(&*self.id, "cron tick"));
        let result = component.run(call).await;
        self.slot.report(&component, judge(&result));
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(Error::Other(reason))) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        context.metrics.tick(&self.id, failure.is_none(), started.elapsed());
        context.health.note(&self.id, failure.clone());
        if let Some(reason) = failure {
            tracing::warn!(stage = %self.id, "tick failed: {reason}");
        }
    }
}

/// A tick that fails may be the world's fault or the function's: for a version that was just
/// swapped in it counts as its own.
fn judge(result: &Result<Result<(), Error>, CallError>) -> Call<'_> {
    match result {
        Ok(Ok(())) => Call::Good,
        Ok(Err(Error::Other(reason))) => Call::Bad(reason),
        Err(CallError::Stalled(_) | CallError::NoRoom(_)) => Call::Neutral,
        Err(_) => Call::Bad("it has no answer"),
    }
}
