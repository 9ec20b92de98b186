//! A batch to the function, and what its answer means: retried, split, dead-lettered, stopped.

use std::sync::Arc;
use std::time::Instant;

use exagg_clients::kafka::Offset;
use exagg_runtime::instance::CallError;
use exagg_runtime::instance::reuse::Reuse;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::slot::{CallResult, CallVerdict, Slot, Version};
use exagg_unpack::marker;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::batch::{Source, cut_lengths, empty, records, split, without, without_cut};
use crate::bindings::exagg::kafka::types::{Batch, Outcome};
use crate::config::{OnOversized, OnPoison, Subscription};
use crate::dead_letter::DeadLetterQueue;

/// Told what stands in the way meanwhile, and `None` when nothing does.
type Note<'a> = &'a (dyn Fn(Option<&str>) + Send + Sync);

/// What a batch is given to: one version of a function.
pub trait Function: Version + Sized {
    /// Calls the function once. `stage` is the trigger's id; with `reuse` an instance may have served before.
    fn handle_batch(
        self: Arc<Self>,
        stage: &str,
        reuse: Option<Reuse>,
        batch: Arc<Batch>,
    ) -> impl Future<Output = Result<Outcome, CallError>> + Send;
}

/// How a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// Applied up to its next offset.
    Applied,
    /// The function wants to go on at this offset; pieces before it may be applied.
    ResumeAt(Offset),
    /// A person has to look.
    Stopped(String),
    /// The partition goes, or the host stops: nothing more is known than was applied before.
    Cancelled,
}

/// How one attempt ended.
enum Attempt {
    Applied,
    ResumeAt(Offset),
    /// The function says that this record cannot be applied, or it alone traps.
    Poison(Offset, String),
    /// It traps as a whole: smaller pieces may not.
    Split,
    Stop(String),
    Cancelled,
}

/// How the function itself failed at what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It names this record.
    At(Offset),
    /// Any record of the batch may be to blame, or none.
    Somewhere,
}

impl Failure {
    /// None where it did not fail, or something else did.
    fn of(answer: &Result<Outcome, CallError>) -> Option<Self> {
        match answer {
            Ok(Outcome::Poison(poisoned)) => Some(Self::At(Offset(poisoned.offset))),
            Ok(Outcome::Stop(_)) => Some(Self::Somewhere),
            Ok(_) => None,
            Err(error) => matches!(CallResult::failed(error, ""), CallResult::Bad(_)).then_some(Self::Somewhere),
        }
    }

    fn is_same_record(self, other: Self) -> bool {
        self == other && self != Self::Somewhere
    }
}

/// Calls a stage's function. One for all its partitions.
pub struct Dispatcher<F> {
    slot: Arc<Slot<F>>,
    subscription: Arc<Subscription>,
    dead_letters: Option<Box<dyn DeadLetterQueue>>,
    metrics: Arc<Metrics>,
}

impl<F: Function> Dispatcher<F> {
    /// Without dead letters, a record that cannot be applied stops its partition.
    pub fn new(
        slot: Arc<Slot<F>>,
        subscription: Arc<Subscription>,
        dead_letters: Option<Box<dyn DeadLetterQueue>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { slot, subscription, dead_letters, metrics }
    }

    /// The digest of the version that runs.
    pub fn digest(&self) -> String {
        self.slot.current().digest().to_owned()
    }

    /// Brings the batch to its end.
    pub async fn dispatch(&self, batch: Batch, cancel: &CancellationToken, note: Note<'_>) -> Dispatched {
        let batch = match self.dead_letter_oversized(Arc::new(batch), cancel, note).await {
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
                Attempt::Poison(offset, reason) => {
                    match self.dead_letter(&piece, offset, &reason, cancel, note).await {
                        Ok(()) => pieces.push(without(&piece, offset)),
                        Err(dispatched) => return dispatched,
                    }
                }
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
        let mut taken_back: Option<(Arc<F>, Failure)> = None;
        loop {
            let version = self.slot.current();
            if !Arc::ptr_eq(&version, &last) {
                // What another version trapped on says nothing of this one.
                (traps, last) = (0, Arc::clone(&version));
            }
            let answer = self.call(&version, piece).await;
            let (reason, verdict) = self.record(&version, piece, &answer);
            if let Some(failure) = Failure::of(&answer) {
                if verdict == CallVerdict::TakenBack {
                    taken_back = Some((Arc::clone(&version), failure));
                } else if let Some((candidate, first)) = &taken_back
                    && (piece.offsets.len() <= 1 || first.is_same_record(failure))
                    && self.slot.reinstate(candidate, &reason)
                {
                    // The version before was given the same, and is no better: what comes now is the record's own.
                    taken_back = None;
                    continue;
                }
            }
            let reason = match answer {
                _ if verdict != CallVerdict::Accepted => reason,
                Ok(Outcome::Applied) => return Attempt::Applied,
                Ok(Outcome::ResumeAt(offset)) => return Attempt::ResumeAt(Offset(offset)),
                Ok(Outcome::Stop(reason)) => return Attempt::Stop(reason),
                Ok(Outcome::Poison(poisoned)) => {
                    if piece.offsets.contains(&poisoned.offset) {
                        return Attempt::Poison(Offset(poisoned.offset), poisoned.reason);
                    }
                    return Attempt::Stop(format!(
                        "the function names offset {} as poison, which it was not given",
                        poisoned.offset
                    ));
                }
                Ok(Outcome::RetryLater(reason)) => reason,
                // A dependency was unavailable, or there was no room: the records are not to blame.
                Err(error @ (CallError::NoInstance(_) | CallError::NoRoom(_) | CallError::Stalled(..))) => {
                    error.to_string()
                }
                Err(error) => {
                    traps += 1;
                    if traps > self.subscription.retry_attempts_max && self.answers_without_records(piece).await {
                        match piece.offsets.as_slice() {
                            [] => {}
                            [offset] => return Attempt::Poison(Offset(*offset), error.to_string()),
                            _ => return Attempt::Split,
                        }
                    }
                    error.to_string()
                }
            };
            let pause = backoff.pause();
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
    async fn answers_without_records(&self, piece: &Batch) -> bool {
        let (from, end) = (Offset(piece.from_offset), Offset(piece.end_offset));
        let probe = Arc::new(empty(&Source::of(piece), from, end));
        let answer = self.call(&self.slot.current(), &probe).await;
        matches!(answer, Ok(Outcome::Applied | Outcome::ResumeAt(_)))
    }

    /// Records how the call went. The answer of a version that was just swapped in must not stop partitions or
    /// dead-letter records. With the answer's reason in words.
    fn record(&self, version: &Arc<F>, piece: &Batch, answer: &Result<Outcome, CallError>) -> (String, CallVerdict) {
        let reason = match answer {
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) => String::new(),
            Ok(Outcome::RetryLater(reason) | Outcome::Stop(reason)) => reason.clone(),
            Ok(Outcome::Poison(poisoned)) => poisoned.reason.clone(),
            Err(error) => error.to_string(),
        };
        let call = match answer {
            // A quiet partition's empty batches prove nothing.
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) if piece.offsets.is_empty() => CallResult::Neutral,
            Ok(Outcome::Applied | Outcome::ResumeAt(_)) => CallResult::Good,
            Ok(Outcome::RetryLater(_)) => CallResult::Neutral,
            Ok(Outcome::Stop(_) | Outcome::Poison(_)) => CallResult::Bad(&reason),
            Err(error) => CallResult::failed(error, &reason),
        };
        let verdict = self.slot.record(version, call);
        (reason, verdict)
    }

    async fn call(&self, version: &Arc<F>, batch: &Arc<Batch>) -> Result<Outcome, CallError> {
        let started = Instant::now();
        let stage = self.subscription.trigger_id.as_str();
        let _in_flight = self.metrics.in_flight(stage);
        let result = Arc::clone(version).handle_batch(stage, self.subscription.reuse, Arc::clone(batch)).await;
        let name = match &result {
            Ok(Outcome::Applied) => "applied",
            Ok(Outcome::ResumeAt(_)) => "resume-at",
            Ok(Outcome::RetryLater(_)) => "retry-later",
            Ok(Outcome::Poison(_)) => "poison",
            Ok(Outcome::Stop(_)) => "stop",
            Err(_) => "failed",
        };
        self.metrics.batch(stage, name, batch.offsets.len(), started.elapsed());
        result
    }

    /// Dead-letters the records that came cut, unless the function is to be given what there is of them.
    async fn dead_letter_oversized(
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
            self.dead_letter(&batch, record.offset, &reason, cancel, note).await?;
            is_any = true;
        }
        Ok(if is_any { without_cut(&batch) } else { batch })
    }

    /// Puts a poisoned record aside, as the trigger was told to.
    async fn dead_letter(
        &self,
        piece: &Batch,
        offset: Offset,
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
            let pause = backoff.pause();
            tracing::warn!(stage = %self.subscription.trigger_id, "{place}: no dead letter yet, next try in {pause:?}: {error}");
            note(Some(&error.to_string()));
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
