//! One partition: where it goes on, its batches in order, one in flight.

use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys::rd_kafka_resp_err_t as ErrorCode;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{BatchBuilder, Place, RecordRef, Size, empty};
use super::config::{OnGap, Subscription};
use super::consumer::{Answer, Assignment, Consumer, TopicPartition};
use super::dispatch::{Backoff, Dispatched, Dispatcher};
use super::status::{PartitionState, StageStatus};
use super::sys::{PartitionQueue, Taken};
use crate::bindings::kafka::exagg::kafka::types::{Batch, LostRange};

/// How often a quiet partition says where it stands: what closes windows may trust it no longer.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often the topic is asked for, to see that it is still the same.
const DESCRIBE: Duration = Duration::from_secs(4);
/// A batch of so many records is worth its call: the next one is not waited for.
const LARGE_BATCH_RECORDS: usize = 1_000;
/// Heartbeats in a row that may find records which do not come.
const STALLED_MAX: u32 = 2;

/// Told of each partition's applied offsets; the embedded broker's guard listens.
pub trait Follower: Send + Sync {
    fn applied(&self, topic: &str, partition: i32, next_offset: i64);
}

/// What the partitions of a stage share.
pub struct Stage {
    pub consumer: Consumer,
    pub dispatcher: Arc<Dispatcher>,
    pub subscription: Arc<Subscription>,
    pub status: Arc<StageStatus>,
    pub follower: Option<Arc<dyn Follower>>,
}

/// Why a partition's loop ends or begins again.
enum Interrupted {
    Cancelled,
    Stopped(String),
    /// Where it stands must be found out again, from this offset.
    Reposition(i64),
    /// The same, after a pause: an error came in the place of records.
    Failed(String),
}

pub struct PartitionTask {
    /// Fields are dropped in this order: the queue must go before the consumer that the stage holds.
    queue: PartitionQueue,
    /// An error that came behind the last batch's records.
    error: Option<(ErrorCode, String)>,
    stage: Arc<Stage>,
    key: TopicPartition,
    place: Place,
    /// The next batch's first offset.
    position: i64,
    /// What the last batch held: the next one is like it.
    last_size: Size,
    /// By it a partition that was added later is known.
    first_partition_count: i32,
    /// True until the partition is read: it is paused till then.
    beginning: bool,
    /// When the topic was last asked for.
    described_at: Instant,
    /// Heartbeats in a row that found records behind the position, and none came.
    stalled: u32,
    /// Pauses after errors that came in the place of records.
    errors: Backoff,
    cancel: CancellationToken,
}

impl PartitionTask {
    pub fn new(stage: Arc<Stage>, assignment: Assignment, cancel: CancellationToken) -> Self {
        let Assignment { topic, partition, queue } = assignment;
        let place =
            Place { topic: topic.clone(), partition, group: stage.subscription.group.clone(), ..Place::default() };
        Self {
            queue,
            error: None,
            errors: Backoff::new(&stage.subscription),
            stage,
            key: (topic, partition),
            place,
            position: 0,
            last_size: Size::default(),
            first_partition_count: 1,
            beginning: true,
            described_at: Instant::now(),
            stalled: 0,
            cancel,
        }
    }

    /// Runs until the partition goes or stops. `turn` is the partition's: a task that had it
    /// before must have ended.
    pub async fn run(mut self, turn: Arc<Mutex<()>>) {
        let _turn = turn.lock().await;
        self.queue.arm();
        let mut from = None;
        loop {
            let interrupted = match self.begin(from).await {
                Ok(()) => self.read().await,
                Err(interrupted) => interrupted,
            };
            match interrupted {
                Interrupted::Cancelled => break,
                Interrupted::Reposition(offset) => from = Some(offset),
                Interrupted::Failed(reason) => {
                    from = Some(self.position);
                    let pause = self.errors.next();
                    self.note(PartitionState::Waiting(reason));
                    tokio::select! {
                        () = self.cancel.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                Interrupted::Stopped(reason) => {
                    tracing::error!(
                        stage = %self.stage.subscription.trigger_id, topic = %self.key.0, partition = self.key.1,
                        "the partition is stopped: {reason}"
                    );
                    self.note(PartitionState::Stopped(reason));
                    self.cancel.cancelled().await;
                    break;
                }
            }
        }
        self.stage.status.remove(&self.key);
    }

    fn note(&self, state: PartitionState) {
        self.stage.status.note(&self.key, self.position, state);
    }

    /// Asks until there is an answer: the cluster may be away.
    async fn until<R, A: Answer<R>>(&self, what: &str, ask: impl Fn() -> A + Send) -> Result<R, Interrupted> {
        let mut backoff = Backoff::new(&self.stage.subscription);
        loop {
            let error = tokio::select! {
                () = self.cancel.cancelled() => return Err(Interrupted::Cancelled),
                answer = ask() => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
            };
            let pause = backoff.next();
            tracing::warn!(
                stage = %self.stage.subscription.trigger_id, topic = %self.key.0, partition = self.key.1,
                "{what}: {error}; next try in {pause:?}"
            );
            self.note(PartitionState::Waiting(format!("{what}: {error}")));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Interrupted::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Finds out where to go on: the function is asked by an empty batch, and its own progress
    /// wins over Kafka's. Then the partition is read from there.
    async fn begin(&mut self, from: Option<i64>) -> Result<(), Interrupted> {
        self.error = None;
        self.beginning = true;
        let stage = Arc::clone(&self.stage);
        let (topic, partition) = self.key.clone();
        let description = self.until("cannot describe the topic", || stage.consumer.describe(&topic)).await?;
        self.place.topic_id.clone_from(&description.id);
        self.place.partition_count = description.partitions;
        let bounds = self.until("cannot ask for offsets", || stage.consumer.bounds(&topic, partition)).await?;
        let from = match from {
            Some(from) => from,
            None => self.first_offset(bounds).await?,
        };
        self.position = from;
        self.described_at = Instant::now();
        self.offer(empty(&self.place, from, bounds.1)).await?;
        self.settle().await?;
        let position = self.position;
        self.until("cannot go on reading", || stage.consumer.resume_at(&topic, partition, position)).await?;
        self.beginning = false;
        self.note(PartitionState::Reading);
        Ok(())
    }

    /// What the group committed; without that the policy, or the log's start for a partition that
    /// was added after the topic was first seen.
    async fn first_offset(&mut self, bounds: (i64, i64)) -> Result<i64, Interrupted> {
        let stage = Arc::clone(&self.stage);
        let (topic, partition) = self.key.clone();
        let place = self.place.clone();
        let committed = self.until("cannot ask for the group's offsets", || stage.consumer.committed(&place)).await?;
        self.first_partition_count = committed.first_partition_count.unwrap_or(place.partition_count);
        if let Some(offset) = committed.next_offset {
            return Ok(offset);
        }
        if partition >= self.first_partition_count {
            return Ok(bounds.0);
        }
        let start = stage.subscription.start;
        self.until("cannot find the start", || stage.consumer.start(&topic, partition, start, bounds)).await
    }

    /// The log must hold the position: what was deleted unread is a gap, and a position behind
    /// the end means that the log lost what was applied.
    async fn settle(&mut self) -> Result<(), Interrupted> {
        loop {
            // Asked after the function has spoken: what it knows may be younger than an older answer.
            let stage = Arc::clone(&self.stage);
            let (topic, partition) = self.key.clone();
            let (low, high) = self.until("cannot ask for offsets", || stage.consumer.bounds(&topic, partition)).await?;
            if self.position > high {
                return Err(Interrupted::Stopped(format!(
                    "the next offset is {}, but the log ends at {high}: it lost records that were applied",
                    self.position
                )));
            }
            if self.position >= low {
                return Ok(());
            }
            let accepted = stage.subscription.on_gap == OnGap::Continue;
            tracing::error!(
                stage = %stage.subscription.trigger_id, topic = %topic, partition,
                "offsets {} to {} were deleted before they were read", self.position, low - 1
            );
            let mut batch = empty(&self.place, low, high);
            batch.lost = Some(LostRange { from_offset: self.position, next_offset: low, accepted });
            if !accepted {
                return Err(self.stop_at_gap(batch).await);
            }
            self.position = low;
            self.offer(batch).await?;
        }
    }

    /// Tells the function of the gap and stops: nothing is applied or committed past it.
    async fn stop_at_gap(&mut self, batch: Batch) -> Interrupted {
        match self.stage.dispatcher.dispatch(batch, &self.cancel, &|_| {}).await {
            Dispatched::Cancelled => Interrupted::Cancelled,
            Dispatched::Stopped(reason) => Interrupted::Stopped(reason),
            Dispatched::ResumeAt(offset) => Interrupted::Reposition(offset),
            Dispatched::Applied => {
                Interrupted::Stopped("records were deleted before they were read (on_gap = \"stop\")".to_owned())
            }
        }
    }

    /// Reads batches until something is in the way.
    async fn read(&mut self) -> Interrupted {
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Also under steady flow: a topic that was made again must not be read on as the old one.
            if self.described_at.elapsed() >= DESCRIBE
                && let Err(interrupted) = self.describe_again().await
            {
                return interrupted;
            }
            let next = match self.next_batch() {
                Ok(next) => next,
                Err(interrupted) => return interrupted,
            };
            let result = if let Some(batch) = next {
                heartbeat.reset();
                self.stalled = 0;
                self.errors = Backoff::new(&self.stage.subscription);
                let (began, records) = (Instant::now(), batch.offsets.len());
                let offered = self.offer(batch).await;
                if records < LARGE_BATCH_RECORDS {
                    // Under a steady trickle a call for each record would cost more than the records.
                    tokio::time::sleep_until(began + self.stage.subscription.batch_wait_max).await;
                }
                offered
            } else {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Err(Interrupted::Cancelled),
                    () = self.queue.ready().notified() => Ok(()),
                    _ = heartbeat.tick() => self.report().await,
                }
            };
            if let Err(interrupted) = result {
                return interrupted;
            }
            if self.cancel.is_cancelled() {
                return Interrupted::Cancelled;
            }
        }
    }

    /// What is there now as a batch; none when there is nothing.
    fn next_batch(&mut self) -> Result<Option<Batch>, Interrupted> {
        if let Some((error, text)) = self.error.take() {
            return Err(self.failed(error, &text));
        }
        let mut builder =
            BatchBuilder::new(&self.place, self.position, self.stage.subscription.batch).reserve(self.last_size);
        let error = &mut self.error;
        self.queue.visit(|mut message| match message.error() {
            ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let record = RecordRef {
                    offset: message.offset(),
                    timestamp: message.timestamp(),
                    key: message.key(),
                    value: message.value(),
                };
                if builder.push(&record) {
                    message.headers(|name, value| builder.push_header(name, value));
                }
                if builder.is_full() { Taken::Enough } else { Taken::More }
            }
            ErrorCode::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                builder.end_at(message.offset());
                Taken::More
            }
            code => {
                let text = message.value().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
                *error = Some((code, text));
                Taken::Enough
            }
        });
        if builder.is_empty() {
            return self.error.take().map_or(Ok(None), |(error, text)| Err(self.failed(error, &text)));
        }
        self.last_size = builder.size();
        let end = self.stage.consumer.cached_end(&self.key.0, self.key.1);
        Ok(Some(builder.finish(end)))
    }

    /// An error that came in the place of records.
    fn failed(&self, error: ErrorCode, text: &str) -> Interrupted {
        tracing::warn!(
            stage = %self.stage.subscription.trigger_id, topic = %self.key.0, partition = self.key.1,
            "kafka: {error:?}: {text}"
        );
        // Whatever it is, where the partition stands is found out anew: an offset out of range is
        // a gap, a topic that was made again has another id, anything else passes.
        Interrupted::Failed(format!("{error:?}: {text}"))
    }

    /// Gives a batch to the function and follows its answer.
    async fn offer(&mut self, batch: Batch) -> Result<(), Interrupted> {
        let (next, end) = (batch.next_offset, batch.end_offset);
        let stage = Arc::clone(&self.stage);
        let note = |waiting: Option<&str>| {
            if let Some(reason) = waiting {
                stage.status.note(&self.key, self.position, PartitionState::Waiting(reason.to_owned()));
            }
        };
        let dispatched = stage.dispatcher.dispatch(batch, &self.cancel, &note).await;
        match dispatched {
            Dispatched::Applied => {
                self.position = next;
                self.stage.consumer.applied(&self.key, &self.place.topic_id, next, self.first_partition_count);
                if let Some(follower) = &self.stage.follower {
                    follower.applied(&self.key.0, self.key.1, next);
                }
                self.stage.status.applied(&self.key, next, end);
                Ok(())
            }
            // While the partition is paused the position is only a number: no seek is needed yet.
            Dispatched::ResumeAt(offset) if self.beginning => {
                self.position = offset;
                Ok(())
            }
            Dispatched::ResumeAt(offset) => Err(Interrupted::Reposition(offset)),
            Dispatched::Stopped(reason) => Err(Interrupted::Stopped(reason)),
            Dispatched::Cancelled => Err(Interrupted::Cancelled),
        }
    }

    /// Looks whether the topic is still the same, and how many partitions it has.
    async fn describe_again(&mut self) -> Result<(), Interrupted> {
        let stage = Arc::clone(&self.stage);
        let topic = self.key.0.clone();
        let description = self.until("cannot describe the topic", || stage.consumer.describe(&topic)).await?;
        self.described_at = Instant::now();
        if description.id != self.place.topic_id {
            return Err(Interrupted::Reposition(self.position));
        }
        self.place.partition_count = description.partitions;
        Ok(())
    }

    /// Tells the function where a quiet partition stands, by what the broker says now: a consumer
    /// that cannot reach its broker must not look idle.
    async fn report(&mut self) -> Result<(), Interrupted> {
        let (topic, partition) = self.key.clone();
        let stage = Arc::clone(&self.stage);
        let (_, high) = self.until("cannot ask for offsets", || stage.consumer.bounds(&topic, partition)).await?;
        self.stalled = if high > self.position { self.stalled + 1 } else { 0 };
        if self.stalled > STALLED_MAX {
            tracing::warn!(
                stage = %stage.subscription.trigger_id, topic = %topic, partition,
                "there are records behind offset {}, and none came: the partition is begun anew", self.position
            );
            self.stalled = 0;
            return Err(Interrupted::Reposition(self.position));
        }
        let end = high.max(stage.consumer.cached_end(&topic, partition).unwrap_or_default());
        self.note(PartitionState::Reading);
        self.offer(empty(&self.place, self.position, end)).await
    }
}
