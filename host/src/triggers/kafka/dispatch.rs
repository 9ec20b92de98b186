//! A batch to the function, and what its answer means: retried, split, dead-lettered, stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wasmtime::Store;
use wasmtime::component::{InstancePre, TypedFunc};

use super::batch::{Place, cut_lengths, empty, records, split, without, without_cut};
use super::config::{OnOversized, OnPoison, Subscription};
use super::dead_letter::DeadLetters;
use crate::bindings::kafka::exagg::kafka::types::{Batch, Outcome};
use crate::call_span;
use crate::instance::{CallError, Component, State};
use crate::slot::{Call, Slot, Standing};
use crate::telemetry::Metrics;
use crate::unpack::marker;

/// Told what stands in the way meanwhile, and `None` when nothing does.
type Note<'a> = &'a (dyn Fn(Option<&str>) + Send + Sync);

/// How a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// Applied up to its next offset.
    Applied,
    /// The function wants to go on at this offset; pieces before it may be applied.
    ResumeAt(i64),
    /// A person has to look.
    Stopped(String),
    /// The partition goes, or the host stops: nothing more is known than was applied before.
    Cancelled,
}

/// What one attempt came to.
enum Attempt {
    Applied,
    ResumeAt(i64),
    /// The function says that this record cannot be applied, or it alone traps.
    Poison(i64, String),
    /// It traps as a whole: smaller pieces may not.
    Split,
    Stop(String),
    Cancelled,
}

/// The function of a fresh instance.
pub async fn instantiate(
    pre: &InstancePre<State>,
    store: &mut Store<State>,
) -> wasmtime::Result<TypedFunc<(Arc<Batch>,), (Outcome,)>> {
    let instance = pre.instantiate_async(&mut *store).await?;
    instance.get_typed_func(store, "handle-batch")
}

/// Calls a stage's function. One for all its partitions.
pub struct Dispatcher {
    slot: Arc<Slot>,
    subscription: Arc<Subscription>,
    dead_letters: Option<DeadLetters>,
    metrics: Arc<Metrics>,
}

impl Dispatcher {
    pub fn new(
        slot: Arc<Slot>,
        subscription: Arc<Subscription>,
        dead_letters: Option<DeadLetters>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { slot, subscription, dead_letters, metrics }
    }

    /// Brings the batch to its end.
    pub async fn dispatch(&self, batch: Batch, cancel: &CancellationToken, note: Note<'_>) -> Dispatched {
        let batch = match self.bury_oversized(Arc::new(batch), cancel, note).await {
            Ok(batch) => batch,
            Err(dispatched) => return dispatched,
        };
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            if cancel.is_cancelled() {
                return Dispatched::Cancelled;
            }
            match self.attempt(&piece, cancel, note).await {
                Attempt::Applied => {}
                Attempt::ResumeAt(offset) => return Dispatched::ResumeAt(offset),
                Attempt::Stop(reason) => return Dispatched::Stopped(reason),
                Attempt::Cancelled => return Dispatched::Cancelled,
                Attempt::Split => match split(&piece) {
                    Some((first, second)) => pieces.extend([second, first]),
                    None => return Dispatched::Stopped("a batch that cannot be split traps".to_owned()),
                },
                Attempt::Poison(offset, reason) => match self.bury(&piece, offset, &reason, cancel, note).await {
                    Ok(()) => pieces.push(without(&piece, offset)),
                    Err(dispatched) => return dispatched,
                },
            }
        }
        note(None);
        Dispatched::Applied
    }

    /// One piece, until it has an answer that is not "later".
    async fn attempt(&self, piece: &Arc<Batch>, cancel: &CancellationToken, note: Note<'_>) -> Attempt {
        let mut backoff = Backoff::new(&self.subscription);
        let mut traps = 0;
        let mut last = self.slot.current();
        loop {
            let component = self.slot.current();
            if !Arc::ptr_eq(&component, &last) {
                // What another version trapped on says nothing of this one.
                (traps, last) = (0, Arc::clone(&component));
            }
            let answer = self.call(&component, piece).await;
            let (reason, standing) = self.judge(&component, piece, &answer);
            let reason = match answer {
                _ if standing == Standing::Doubted => reason,
                Ok(Outcome::Applied) => return Attempt::Applied,
                Ok(Outcome::ResumeAt(offset)) => return Attempt::ResumeAt(offset),
                Ok(Outcome::Stop(reason)) => return Attempt::Stop(reason),
                Ok(Outcome::Poison(poisoned)) => {
                    if piece.offsets.contains(&poisoned.offset) {
                        return Attempt::Poison(poisoned.offset, poisoned.reason);
                    }
                    return Attempt::Stop(format!(
                        "the function names offset {} as poison, which it was not given",
                        poisoned.offset
                    ));
                }
                Ok(Outcome::RetryLater(reason)) => reason,
                // It waited for the world, or there was no room: the records are not to blame.
                Err(error @ (CallError::NoInstance(_) | CallError::NoRoom(_) | CallError::Stalled(_))) => {
                    error.to_string()
                }
                Err(error) => {
                    traps += 1;
                    if traps > self.subscription.retry_attempts_max && self.rest_works(piece).await {
                        match piece.offsets.as_slice() {
                            [] => {}
                            [offset] => return Attempt::Poison(*offset, error.to_string()),
                            _ => return Attempt::Split,
                        }
                    }
                    error.to_string()
                }
            };
            let pause = backoff.next();
            tracing::warn!(
                stage = %self.subscription.trigger_id, topic = %piece.topic, partition = piece.partition,
                from_offset = piece.from_offset, "batch not applied, next try in {pause:?}: {reason}"
            );
            note(Some(&reason));
            tokio::select! {
                () = cancel.cancelled() => return Attempt::Cancelled,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the function answers a batch without records: if it does not, the records are not
    /// what it traps on.
    async fn rest_works(&self, piece: &Batch) -> bool {
        let place = Place {
            topic: piece.topic.clone(),
            topic_id: piece.topic_id.clone(),
            partition: piece.partition,
            partition_count: piece.partition_count,
            group: piece.group.clone(),
        };
        let probe = Arc::new(empty(&place, piece.from_offset, piece.end_offset));
        let answer = self.call(&self.slot.current(), &probe).await;
        matches!(answer, Ok(Outcome::Applied | Outcome::ResumeAt(_)))
    }

    /// What the answer means for the version that gave it: one that was just swapped in must not
    /// stop partitions or bury records by its first answers. With the answer's reason in words.
    fn judge(
        &self,
        component: &Arc<Component>,
        piece: &Batch,
        answer: &Result<Outcome, CallError>,
    ) -> (String, Standing) {
        let reason = match answer {
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) => String::new(),
            Ok(Outcome::RetryLater(reason) | Outcome::Stop(reason)) => reason.clone(),
            Ok(Outcome::Poison(poisoned)) => poisoned.reason.clone(),
            Err(error) => error.to_string(),
        };
        let call = match answer {
            // A quiet partition's empty batches prove nothing.
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) if piece.offsets.is_empty() => Call::Neutral,
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) => Call::Good,
            Ok(Outcome::RetryLater(_)) => Call::Neutral,
            Ok(Outcome::Stop(_) | Outcome::Poison(_)) => Call::Bad(&reason),
            Err(error) => Call::failed(error, &reason),
        };
        let standing = self.slot.report(component, call);
        (reason, standing)
    }

    async fn call(&self, component: &Arc<Component>, batch: &Arc<Batch>) -> Result<Outcome, CallError> {
        let started = Instant::now();
        let _in_flight = self.metrics.in_flight(&self.subscription.trigger_id);
        let pre = component.pre().clone();
        let batch = Arc::clone(batch);
        let records = batch.offsets.len();
        let called = Arc::clone(component);
        let call = async move {
            let instance = async |store: &mut Store<State>| instantiate(&pre, store).await;
            let answer = called.call("kafka", instance, async |accessor, function| {
                function.call_concurrent(accessor, (batch,)).await.map(|(outcome,)| outcome)
            });
            answer.await
        };
        let call = call.instrument(call_span!(&*self.subscription.trigger_id, "kafka batch"));
        let result = component.run(call).await;
        let name = match &result {
            Ok(Outcome::Applied) => "applied",
            Ok(Outcome::ResumeAt(_)) => "resume-at",
            Ok(Outcome::RetryLater(_)) => "retry-later",
            Ok(Outcome::Poison(_)) => "poison",
            Ok(Outcome::Stop(_)) => "stop",
            Err(_) => "failed",
        };
        self.metrics.batch(&self.subscription.trigger_id, name, records, started.elapsed());
        result
    }

    /// Puts records aside that came cut, unless the function is to be given what there is of them.
    async fn bury_oversized(
        &self,
        batch: Arc<Batch>,
        cancel: &CancellationToken,
        note: Note<'_>,
    ) -> Result<Arc<Batch>, Dispatched> {
        // Without the sign of a cut, which is a header, there is nothing to look for.
        let has_cut = batch.headers.iter().any(|header| header.name == marker::NAME);
        if self.subscription.on_oversized == OnOversized::Give || !has_cut {
            return Ok(batch);
        }
        let bytes_max = self.subscription.batch.record_bytes_max;
        let mut is_any = false;
        for (record, headers) in records(&batch) {
            let Some((key, value)) = cut_lengths(headers) else { continue };
            let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
            let reason = format!(
                "the record, or the batch that it was packed in, is too large: its key has {key} bytes and its value \
                 {value} (record_bytes_max = {bytes_max})"
            );
            self.bury(&batch, record.offset, &reason, cancel, note).await?;
            is_any = true;
        }
        Ok(if is_any { without_cut(&batch) } else { batch })
    }

    /// Puts a poisoned record aside, as the trigger was told to.
    async fn bury(
        &self,
        piece: &Batch,
        offset: i64,
        reason: &str,
        cancel: &CancellationToken,
        note: Note<'_>,
    ) -> Result<(), Dispatched> {
        let place = format!("topic {} partition {} offset {offset}", piece.topic, piece.partition);
        let (Some(dead_letters), OnPoison::DeadLetter(topic)) = (&self.dead_letters, &self.subscription.on_poison)
        else {
            return Err(Dispatched::Stopped(format!("{place} cannot be applied: {reason} (on_poison = \"stop\")")));
        };
        let mut backoff = Backoff::new(&self.subscription);
        while let Err(error) = dead_letters.publish(piece, offset, reason).await {
            let pause = backoff.next();
            tracing::warn!(stage = %self.subscription.trigger_id, "{place}: no dead letter yet, next try in {pause:?}: {error}");
            note(Some(&error));
            tokio::select! {
                () = cancel.cancelled() => return Err(Dispatched::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.metrics.dead_letter(&self.subscription.trigger_id);
        tracing::error!(stage = %self.subscription.trigger_id, "{place} cannot be applied and went to {topic}: {reason}");
        Ok(())
    }
}

/// Pauses that double up to a limit, each shortened at random so that stages do not move in step.
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(subscription: &Subscription) -> Self {
        Self { next: subscription.retry_backoff_min, max: subscription.retry_backoff_max }
    }

    pub fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.max);
        pause
    }
}
