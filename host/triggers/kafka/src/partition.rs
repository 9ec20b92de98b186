//! One partition: its batches in order, one in flight, and the next ones that fill ([`ahead`]). Where it goes on:
//! [`position`].

mod ahead;
mod position;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use exagg_clients::kafka::{Offset, OffsetRange, TopicId, TopicPartition};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::ahead::{Ahead, Tap};
use crate::backoff::Backoff;
use crate::batch::{BatchLimits, Source, empty};
use crate::bindings::exagg::kafka::types::Batch;
use crate::config::Subscription;
use crate::dispatch::{Dispatched, Dispatcher, Function};
use crate::log::{Applied, Assignment, FetchError, Log, Queue, ReadTo, Unanswered};
use crate::status::{PartitionState, StageState};
use crate::turns::{LARGE_RECORDS, Turn, Turns};

/// How often a quiet partition says where it stands: what closes windows may trust it no longer.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often the topic is asked for, to see that it is still the same.
const DESCRIBE: Duration = Duration::from_secs(4);
/// How often a partition that stopped at its start is asked again: what stopped it may be mended from outside.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often a partition that is stopped looks whether other code was swapped in.
const SWAP_LOOK: Duration = Duration::from_secs(1);
/// Times in a row that a function may ask to go on elsewhere, before that costs a pause.
const RESUMED_MAX: u32 = 3;
/// A question to the cluster that is open for longer is told of: nothing is read meanwhile.
pub const ANSWER_EXPECTED: Duration = Duration::from_secs(2);
/// Heartbeats in a row that may find records which do not come.
const STALLED_MAX: u32 = 2;

/// Observes each partition's applied offsets; the embedded broker's guard does.
pub trait AppliedObserver: Send + Sync {
    /// Everything below `next_offset` is applied.
    fn applied(&self, partition: &TopicPartition, next_offset: Offset);
}

/// What the partitions of a stage share.
pub struct Shared<L, F> {
    /// The member that the partitions are assigned to; another one comes when the stage joins again.
    pub log: Arc<L>,
    /// Brings each batch to the function, and to an end.
    pub dispatcher: Arc<Dispatcher<F>>,
    /// The stage's validated settings, which do not change while it runs.
    pub subscription: Arc<Subscription>,
    /// Where each task notes how far its partition is.
    pub state: Arc<StageState>,
    /// Told after each batch that is applied; none without the embedded broker.
    pub observer: Option<Arc<dyn AppliedObserver>>,
    /// Large batches take turns.
    pub turns: Turns,
    /// What each partition may have in batches that wait.
    pub ahead_bytes: AtomicUsize,
}

/// Why a partition's loop ends or begins again.
enum Interrupted {
    Cancelled,
    Stopped(String),
    /// The position must be validated anew, from this offset on.
    Reposition(Offset),
    /// The same, after a pause: an error came in the place of records.
    Failed(FetchError),
}

/// The loop of one partition.
pub struct PartitionTask<L: Log, F> {
    /// Fields are dropped in this order: the queue must go before the log that the stage holds.
    queue: L::Queue,
    /// The next batches.
    ahead: Ahead,
    stage: Arc<Shared<L, F>>,
    source: Source,
    /// The next batch's first offset.
    position: Offset,
    /// False until the group's offset, or the policy, was heard of.
    is_position_known: bool,
    /// What is known of the log's history: it is validated by it before it is read on.
    read_to: Option<ReadTo>,
    /// The same of the batch in hand, until it is applied.
    in_hand: Option<ReadTo>,
    /// Where the log that was read ended, when it was found to have lost its tail.
    lost_tail: Option<Offset>,
    /// By it a partition that was added later is known.
    first_partition_count: i32,
    /// True until the partition is read: it is paused till then.
    is_initialising: bool,
    /// When the topic was last asked for.
    described_at: Instant,
    /// Heartbeats in a row that found records behind the position, and none came.
    stalled: u32,
    /// Times in a row that the function asked to go on elsewhere, and applied no record in between.
    resumed: u32,
    /// Pauses after errors that came in the place of records.
    errors: Backoff,
    /// Why it is stopped, until it is read again.
    stopped_for: Option<String>,
    cancel: CancellationToken,
}

impl<L: Log, F: Function> PartitionTask<L, F> {
    /// A task that does not run yet.
    pub fn new(stage: Arc<Shared<L, F>>, assignment: Assignment<L::Queue>, cancel: CancellationToken) -> Self {
        let Assignment { partition, queue } = assignment;
        let group = stage.subscription.group.clone();
        let source = Source { partition, topic_id: TopicId::default(), partition_count: 0, group };
        Self {
            queue,
            ahead: Ahead::default(),
            errors: Backoff::new(&stage.subscription),
            stage,
            source,
            position: Offset(0),
            is_position_known: false,
            read_to: None,
            in_hand: None,
            lost_tail: None,
            first_partition_count: 1,
            is_initialising: true,
            described_at: Instant::now(),
            stalled: 0,
            resumed: 0,
            stopped_for: None,
            cancel,
        }
    }

    /// Runs until the partition goes or stops. `lock` is the partition's: a task that had it
    /// before must have ended.
    pub async fn run(mut self, lock: Arc<Mutex<()>>) {
        let _lock = lock.lock().await;
        self.queue.arm();
        let mut from = None;
        loop {
            let interrupted = match self.initialise(from).await {
                Ok(()) => self.read().await,
                Err(interrupted) => interrupted,
            };
            match interrupted {
                Interrupted::Cancelled => break,
                Interrupted::Reposition(offset) => {
                    from = Some(offset);
                    if self.resumed > RESUMED_MAX {
                        let reason = format!("the function asks again and again to go on elsewhere, now at {offset}");
                        if !self.pause(reason).await {
                            break;
                        }
                    }
                }
                Interrupted::Failed(FetchError::Truncated { end }) => {
                    from = Some(self.position);
                    self.lost_tail = self.read_to.take().and_then(|read_to| read_to.lost_from(end));
                }
                Interrupted::Failed(error) => {
                    from = Some(self.position);
                    if !self.pause(error.to_string()).await {
                        break;
                    }
                }
                Interrupted::Stopped(reason) => {
                    // As after a restart: what the group committed is validated anew, the log's history too.
                    from = None;
                    if !self.stop(reason).await {
                        break;
                    }
                }
            }
        }
        self.stage.state.remove(&self.source.partition);
    }

    /// Stands still until a person has looked: the partition goes (false), or other code is swapped in. One that stopped
    /// before it read anything is asked again now and then, for a reset or a replay may have mended it.
    async fn stop(&mut self, reason: String) -> bool {
        let (stage, partition) = (&self.stage.subscription.trigger_id, &self.source.partition);
        if self.stopped_for.as_ref() != Some(&reason) {
            tracing::error!(stage = %stage, partition = %partition, "the partition is stopped: {reason}");
        }
        self.stopped_for = Some(reason.clone());
        self.note(PartitionState::Stopped(reason));
        let (stopped, since) = (self.stage.dispatcher.digest(), Instant::now());
        while self.stage.dispatcher.digest() == stopped {
            if self.is_initialising && since.elapsed() >= ASK_AGAIN {
                return true;
            }
            tokio::select! {
                () = self.cancel.cancelled() => return false,
                () = tokio::time::sleep(SWAP_LOOK) => {}
            }
        }
        tracing::info!(stage = %stage, partition = %partition, "the partition goes on with the code that was swapped in");
        true
    }

    /// Waits before the next try, for this reason; false when the partition goes meanwhile.
    async fn pause(&mut self, reason: String) -> bool {
        let pause = self.errors.pause();
        tracing::warn!(
            stage = %self.stage.subscription.trigger_id, partition = %self.source.partition,
            "{reason}; next try in {pause:?}"
        );
        self.note(PartitionState::Waiting(reason));
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    fn note(&self, state: PartitionState) {
        let position = self.is_position_known.then_some(self.position);
        self.stage.state.note(&self.source.partition, position, state);
    }

    fn note_waiting(&self, reason: Option<&str>) {
        if let Some(reason) = reason {
            self.note(PartitionState::Waiting(reason.to_owned()));
        }
    }

    /// Asks until there is an answer: the cluster may be away.
    async fn until<R, A>(&self, what: &str, ask: impl Fn() -> A + Send) -> Result<R, Interrupted>
    where
        A: Future<Output = Result<R, Unanswered>> + Send,
    {
        let mut backoff = Backoff::new(&self.stage.subscription);
        loop {
            let error = tokio::select! {
                () = self.cancel.cancelled() => return Err(Interrupted::Cancelled),
                answer = self.answer(what, ask()) => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
            };
            let pause = backoff.pause();
            tracing::warn!(
                stage = %self.stage.subscription.trigger_id, partition = %self.source.partition,
                "{what}: {error}; next try in {pause:?}"
            );
            self.note(PartitionState::Waiting(format!("{what}: {error}")));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Interrupted::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits for an answer, and says so when it takes long. Whoever asked notes what the partition does next.
    async fn answer<R>(&self, what: &str, answer: impl Future<Output = R>) -> R {
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(ANSWER_EXPECTED) => {}
        }
        self.note(PartitionState::Waiting(format!("{what}: no answer yet")));
        answer.await
    }

    async fn bounds(&self) -> Result<OffsetRange, Interrupted> {
        let (log, partition) = (Arc::clone(&self.stage.log), self.source.partition.clone());
        self.until("cannot ask for offsets", || log.bounds(&partition)).await
    }

    /// Finds out where to go on: the function is asked by an empty batch, and its own progress
    /// wins over Kafka's. Then the partition is read from there.
    async fn initialise(&mut self, from: Option<Offset>) -> Result<(), Interrupted> {
        self.ahead.clear();
        self.is_initialising = true;
        let (log, partition) = (Arc::clone(&self.stage.log), self.source.partition.clone());
        let described = self.until("cannot describe the topic", || log.describe(&partition.topic)).await?;
        self.source.topic_id = described.id;
        self.source.partition_count = described.partitions;
        let bounds = self.bounds().await?;
        let committed = match from {
            Some(from) => {
                self.position = from;
                None
            }
            None => self.begin(bounds).await?,
        };
        self.is_position_known = true;
        self.described_at = Instant::now();
        self.dispatch(empty(&self.source, self.position, bounds.next), &Turn::default()).await?;
        if let Some(committed) = committed.filter(|committed| *committed > self.position) {
            self.reads_again(committed);
        }
        self.validate_position().await?;
        if let Some(end) = self.lost_tail.take() {
            self.report_lost_tail(end).await?;
        }
        let position = self.position;
        // What lies in front of an earlier position was not looked at by this epoch.
        self.read_to = self.read_to.filter(|read_to| read_to.next_offset <= position);
        let epoch = self.read_to.map(|read_to| read_to.leader_epoch);
        self.until("cannot go on reading", || log.seek(&partition, position, epoch)).await?;
        self.is_initialising = false;
        if self.stopped_for.take().is_some() {
            let (stage, partition) = (&self.stage.subscription.trigger_id, &self.source.partition);
            tracing::info!(stage = %stage, partition = %partition, "the partition goes on");
        }
        self.note(PartitionState::Reading);
        self.stage.state.ends_at(&partition, bounds.next);
        Ok(())
    }

    /// Reads batches until something is in the way.
    async fn read(&mut self) -> Interrupted {
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Also under steady flow: a topic that was recreated must not be read on as the old one.
            if self.described_at.elapsed() >= DESCRIBE
                && let Err(interrupted) = self.describe_again().await
            {
                return interrupted;
            }
            let stage = Arc::clone(&self.stage);
            let turn = match self.turn(&stage.turns).await {
                Ok(turn) => turn,
                Err(interrupted) => return interrupted,
            };
            let next = match self.next_batch() {
                Ok(next) => next,
                Err(error) => return Interrupted::Failed(error),
            };
            let result = if let Some(batch) = next {
                heartbeat.reset();
                self.stalled = 0;
                let (began, records) = (Instant::now(), batch.offsets.len());
                let dispatched = self.dispatch(batch, &turn).await;
                drop(turn);
                if dispatched.is_ok() {
                    self.resumed = 0;
                    self.errors = Backoff::new(&self.stage.subscription);
                }
                if records < LARGE_RECORDS {
                    // Under a steady trickle a call for each record would cost more than the records.
                    tokio::time::sleep_until(began + self.stage.subscription.batch_interval_min).await;
                }
                dispatched
            } else {
                drop(turn);
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Err(Interrupted::Cancelled),
                    () = self.queue.ready().notified() => Ok(()),
                    _ = heartbeat.tick() => self.heartbeat().await,
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

    /// From where the next batch is filled, which begins at this offset.
    fn tap(&self, from: Offset) -> Tap<'_, L::Queue> {
        let (bytes_max, limits) = (self.stage.ahead_bytes.load(Ordering::Relaxed), self.stage.subscription.batch);
        let limits = BatchLimits { bytes_max: limits.bytes_max.min(bytes_max), ..limits };
        Tap { queue: &self.queue, source: &self.source, from, limits, bytes_max }
    }

    /// The right to have the next batch in flight, where it is large.
    async fn turn<'t>(&mut self, turns: &'t Turns) -> Result<Turn<'t>, Interrupted> {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.fill(&self.tap(self.position));
        let turn = if ahead.next_records() < LARGE_RECORDS {
            Ok(Turn::default())
        } else {
            tokio::select! {
                () = self.cancel.cancelled() => Err(Interrupted::Cancelled),
                turn = turns.next() => Ok(turn),
                never = ahead.keep_filling(self.tap(self.position)) => match never {},
            }
        };
        self.ahead = ahead;
        turn
    }

    /// What is there now as a batch; none when there is nothing.
    fn next_batch(&mut self) -> Result<Option<Batch>, FetchError> {
        let end = self.stage.log.known_end(&self.source.partition);
        let Some((batch, read_to)) = self.ahead.take(end, self.source.partition_count)? else { return Ok(None) };
        self.in_hand = read_to;
        Ok(Some(batch))
    }

    /// Gives a batch to the function and follows its answer.
    async fn dispatch(&mut self, batch: Batch, turn: &Turn<'_>) -> Result<(), Interrupted> {
        let (next, end) = (Offset(batch.next_offset), Offset(batch.end_offset));
        let last_timestamp = batch.timestamps.last().copied();
        if let Some(first_timestamp) = batch.timestamps.first() {
            self.stage.state.in_hand(&self.source.partition, *first_timestamp, end);
        }
        let mut ahead = std::mem::take(&mut self.ahead);
        let stage = Arc::clone(&self.stage);
        let note = |waiting: Option<&str>| {
            if waiting.is_some() {
                turn.give_back();
            }
            self.note_waiting(waiting);
        };
        let dispatched = tokio::select! {
            biased;
            dispatched = stage.dispatcher.dispatch(batch, &self.cancel, &note) => dispatched,
            never = ahead.keep_filling(self.tap(next)) => match never {},
        };
        self.ahead = ahead;
        let partition = &self.source.partition;
        match dispatched {
            Dispatched::Applied => {
                self.position = next;
                self.read_to = self.in_hand.take().or(self.read_to);
                let in_front = self.read_to.filter(|read_to| read_to.next_offset == next);
                stage.log.commit(Applied {
                    partition: partition.clone(),
                    topic_id: self.source.topic_id.clone(),
                    next_offset: next,
                    first_partition_count: self.first_partition_count,
                    leader_epoch: in_front.map(|read_to| read_to.leader_epoch),
                });
                if let Some(observer) = &stage.observer {
                    observer.applied(partition, next);
                }
                stage.state.applied(partition, next, end, last_timestamp);
                Ok(())
            }
            // While the partition is paused the position is only a number: no seek is needed yet.
            Dispatched::ResumeAt(offset) if self.is_initialising => {
                self.position = offset;
                Ok(())
            }
            Dispatched::ResumeAt(offset) => {
                self.resumed += 1;
                Err(Interrupted::Reposition(offset))
            }
            Dispatched::Stopped(reason) => Err(Interrupted::Stopped(reason)),
            Dispatched::Cancelled => Err(Interrupted::Cancelled),
        }
    }

    /// Looks whether the topic is still the same, and how many partitions it has.
    async fn describe_again(&mut self) -> Result<(), Interrupted> {
        let (log, topic) = (Arc::clone(&self.stage.log), self.source.partition.topic.clone());
        let described = self.until("cannot describe the topic", || log.describe(&topic)).await?;
        self.described_at = Instant::now();
        self.note(PartitionState::Reading);
        if described.id != self.source.topic_id {
            return Err(Interrupted::Reposition(self.position));
        }
        self.source.partition_count = described.partitions;
        Ok(())
    }

    /// Tells the function where a quiet partition is, by what the broker says now: a consumer
    /// that cannot reach its broker must not look idle.
    async fn heartbeat(&mut self) -> Result<(), Interrupted> {
        let bounds = self.bounds().await?;
        self.stalled = if bounds.next > self.position { self.stalled + 1 } else { 0 };
        if self.stalled > STALLED_MAX {
            tracing::warn!(
                stage = %self.stage.subscription.trigger_id, partition = %self.source.partition,
                "there are records behind offset {}, and none came: the position is validated anew", self.position
            );
            self.stalled = 0;
            return Err(Interrupted::Reposition(self.position));
        }
        let end = bounds.next.max(self.stage.log.known_end(&self.source.partition).unwrap_or_default());
        self.note(PartitionState::Reading);
        self.dispatch(empty(&self.source, self.position, end), &Turn::default()).await
    }
}
