//! One `[[trigger.cron]]`: its schedule, and the loop that follows it.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cron::Schedule;
use exagg_app::TriggerSpec;
use exagg_runtime::instance::CallError;
use exagg_runtime::instance::reuse::{Reuse, ReuseSetting};
use exagg_runtime::slot::{CallResult, Slot, Version};
use exagg_runtime::trigger::{Context, StageStatus};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::wake::{Alarm, Allowance};

/// Of a channel's name: PostgreSQL's own bound.
const CHANNEL_BYTES_MAX: usize = 63;

/// A time of day, as functions are given it.
pub type UnixSeconds = u64;

/// What a tick calls.
pub trait Function: Version + Sized {
    /// Runs one tick. The inner error is the function's own. With `reuse` an instance may have served before.
    fn tick(
        self: Arc<Self>,
        stage: &str,
        reuse: Option<Reuse>,
        time: UnixSeconds,
    ) -> impl Future<Output = Result<Result<(), String>, CallError>> + Send;
}

/// Says which of several replicas runs a tick.
#[async_trait]
pub trait TickLease: Send + Sync {
    /// True when the tick is ours.
    async fn take(&self, stage: &str, time: DateTime<Utc>) -> Result<bool>;
}

/// The settings as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    cron_expression: String,
    /// A channel whose notifications are ticks as well.
    wake_on: Option<String>,
    /// Whether an instance serves further ticks.
    reuse: Option<ReuseSetting>,
}

/// One `[[trigger.cron]]`, checked.
pub struct CronStage<F> {
    id: String,
    schedule: Schedule,
    wake_on: Option<String>,
    reuse: Option<Reuse>,
    slot: Arc<Slot<F>>,
    /// Why the last tick failed, or could not be run; none when it did its work.
    failing: Mutex<Option<String>>,
}

impl<F: Function> CronStage<F> {
    /// Checks the settings.
    pub fn new(spec: &TriggerSpec, slot: Arc<Slot<F>>) -> Result<Self> {
        let in_trigger = || format!("[[trigger.cron]] {}", spec.id);
        let settings: Settings =
            serde_json::from_value(serde_json::Value::Object(spec.config.clone())).with_context(in_trigger)?;
        let schedule = Schedule::from_str(&settings.cron_expression)
            .map_err(|error| {
                anyhow!("cron_expression {:?}: {error} (six fields, seconds first)", settings.cron_expression)
            })
            .with_context(in_trigger)?;
        if let Some(channel) = &settings.wake_on {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            ensure!(
                !channel.is_empty() && channel.len() <= CHANNEL_BYTES_MAX && channel.bytes().all(plain),
                "{}: wake_on {channel:?} is no channel: lower-case letters, digits and _ are wanted",
                in_trigger()
            );
        }
        let reuse = settings.reuse.map(ReuseSetting::parse).transpose().with_context(in_trigger)?.flatten();
        Ok(Self { id: spec.id.clone(), schedule, wake_on: settings.wake_on, reuse, slot, failing: Mutex::default() })
    }

    /// The stage as it is now.
    pub fn status(&self) -> StageStatus {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        StageStatus { stage: self.id.clone(), not_ready: None, failing, partitions: serde_json::Value::Null }
    }

    fn note(&self, failure: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Calls the function at each scheduled time until told to stop; a tick in progress ends first. Times that pass
    /// while a tick runs are skipped, and counted. A stage that is woken runs at once, in each of its replicas.
    pub async fn run(
        &self,
        context: &Context,
        lease: Option<&dyn TickLease>,
        alarm: Option<&dyn Alarm>,
        stop: CancellationToken,
    ) -> Result<()> {
        let bell = Notify::new();
        let woken = async {
            match (alarm, &self.wake_on) {
                (Some(alarm), Some(channel)) => alarm.follow(channel, &bell).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.follow(context, lease, &bell, stop) => ended,
            () = woken => Ok(()),
        }
    }

    async fn follow(
        &self,
        context: &Context,
        lease: Option<&dyn TickLease>,
        bell: &Notify,
        stop: CancellationToken,
    ) -> Result<()> {
        let (mut last, mut allowance) = (context.clock.now(), Allowance::new());
        while let Some(next) = self.schedule.after(&last).next() {
            let wait = (next - context.clock.now()).to_std().unwrap_or_default();
            let woken = async {
                bell.notified().await;
                allowance.take().await;
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
                () = woken => {
                    self.tick(context.clock.now(), context).await;
                    continue;
                }
            }
            if self.is_ours(next, lease).await {
                self.tick(next, context).await;
            }
            // A clock set back must not run ticks again.
            let now = context.clock.now().max(next);
            let skipped = self.schedule.after(&next).take_while(|time| *time <= now).count();
            if skipped > 0 {
                context.metrics.ticks_skipped(&self.id, skipped);
                tracing::debug!(stage = %self.id, "{skipped} ticks were skipped while one ran");
            }
            last = now;
        }
        Ok(())
    }

    /// With leases, a tick belongs to the replica that has its lease.
    async fn is_ours(&self, time: DateTime<Utc>, lease: Option<&dyn TickLease>) -> bool {
        let Some(lease) = lease else { return true };
        match lease.take(&self.id, time).await {
            Ok(ours) => {
                if !ours {
                    // Whoever has it says how it went.
                    self.note(None);
                }
                ours
            }
            Err(error) => {
                self.note(Some(format!("the tick's lease cannot be had: {error:#}")));
                tracing::warn!(stage = %self.id, "the tick is skipped, its lease cannot be had: {error:#}");
                false
            }
        }
    }

    async fn tick(&self, time: DateTime<Utc>, context: &Context) {
        let started = Instant::now();
        let component = self.slot.current();
        let unix = u64::try_from(time.timestamp()).unwrap_or_default();
        let result = Arc::clone(&component).tick(&self.id, self.reuse, unix).await;
        self.slot.record(&component, call_result(&result));
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(error) => Some(error.to_string()),
        };
        context.metrics.tick(&self.id, failure.is_none(), started.elapsed());
        self.note(failure.clone());
        if let Some(reason) = failure {
            tracing::warn!(stage = %self.id, "tick failed: {reason}");
        }
    }
}

/// A tick that fails may be a dependency's fault or the function's: for a version that was just
/// swapped in it counts as its own.
fn call_result(result: &Result<Result<(), String>, CallError>) -> CallResult<'_> {
    match result {
        Ok(Ok(())) => CallResult::Good,
        Ok(Err(reason)) => CallResult::Bad(reason),
        Err(CallError::Stalled(..) | CallError::NoRoom(_)) => CallResult::Neutral,
        Err(_) => CallResult::Bad("it has no answer"),
    }
}
