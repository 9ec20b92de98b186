//! The kafka trigger: batches of one partition to a function, a task a partition.
//!
//! # Layout
//! - [`config`]: the trigger's settings.
//! - [`consumer`]: group membership, assignment, positions, commits.
//! - [`fetch`]: how much is fetched ahead (pure).
//! - [`partition`]: one partition's loop.
//! - [`batch`]: records to batches (pure).
//! - [`backlog`]: a partition's past as batches, for a replay.
//! - [`dispatch`]: a batch to the function, and what its answer means.
//! - [`dead_letter`], [`status`], and [`sys`], which is what the safe binding lacks.

pub(crate) mod backlog;
pub mod batch;
pub mod config;
pub mod consumer;
mod dead_letter;
pub(crate) mod dispatch;
pub(crate) mod fetch;
pub mod partition;
pub mod status;
mod sys;

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::config::{OnPoison, Subscription};
use self::consumer::{Assignment, Consumer, Event, TopicPartition};
use self::dead_letter::DeadLetters;
use self::dispatch::Dispatcher;
pub use self::dispatch::instantiate;
use self::fetch::{Fetch, PARTITIONS, Share, Wanted};
use self::partition::{Follower, PartitionTask, Stage};
use self::status::StageStatus;
pub use self::sys::{TopicDescription, describe_topic};
use super::Context;
use crate::slot::Slot;

/// How long batches in flight may take when the host stops: below the host's own deadline.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// One `[[trigger.kafka]]`, checked and not running yet.
pub struct KafkaTrigger {
    subscription: Arc<Subscription>,
    slot: Arc<Slot>,
    pub status: Arc<StageStatus>,
}

impl KafkaTrigger {
    pub fn new(subscription: Subscription, slot: Arc<Slot>, context: &Context) -> Self {
        crate::unpack::raise_record_limit(subscription.batch.record_bytes_max);
        let status = Arc::new(StageStatus::new(&subscription.trigger_id, Arc::clone(&context.metrics)));
        Self { subscription: Arc::new(subscription), slot, status }
    }

    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Reads until told to stop, then lets batches in flight end and commits.
    pub async fn run(
        &self,
        context: &Context,
        share: Share,
        follower: Option<Arc<dyn Follower>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let dead_letters = match &self.subscription.on_poison {
            OnPoison::DeadLetter(topic) => Some(DeadLetters::open(&self.subscription, &context.kafka, topic)?),
            OnPoison::Stop => None,
        };
        let dispatcher = Arc::new(Dispatcher::new(
            Arc::clone(&self.slot),
            Arc::clone(&self.subscription),
            dead_letters,
            Arc::clone(&context.metrics),
        ));
        let properties = &self.subscription.properties;
        let wanted = Wanted::new(self.subscription.batch.bytes_max, |name| properties.get(name)?.expose().parse().ok());
        // A size that the operator sets holds, whatever it comes to.
        let is_fixed = context.kafka.contains_key(fetch::QUEUE);
        let (mut partitions, mut turns) = (PARTITIONS, Turns::new());
        loop {
            let fetch = Fetch::new(wanted, share, partitions);
            let (sender, events) = unbounded_channel();
            let stage = Stage {
                consumer: Consumer::open(&self.subscription, context, &fetch, sender)?,
                dispatcher: Arc::clone(&dispatcher),
                subscription: Arc::clone(&self.subscription),
                status: Arc::clone(&self.status),
                follower: follower.clone(),
            };
            let partitions_max = if is_fixed { usize::MAX } else { fetch.partitions_max };
            match self.read(stage, partitions_max, &mut turns, events, &stop).await? {
                Ended::Crowded(assigned) if !stop.is_cancelled() => {
                    // Room for some more: as hosts go, partitions come one by one.
                    partitions = assigned.next_power_of_two();
                    // Who assigned them can be reached, whatever the consumer said last.
                    self.status.reachable(true);
                }
                _ => return Ok(()),
            }
            tracing::info!(
                stage = %self.subscription.trigger_id,
                "joins the group again, with queues for {partitions} partitions: the host's memory is shared among them"
            );
        }
    }

    /// Reads with one consumer.
    async fn read(
        &self,
        stage: Stage,
        partitions_max: usize,
        turns: &mut Turns,
        events: UnboundedReceiver<Event>,
        stop: &CancellationToken,
    ) -> Result<Ended> {
        let serving = CancellationToken::new();
        let thread = stage.consumer.run(serving.clone())?;
        let stage = Arc::new(stage);
        let mut partitions = Partitions { stage: Arc::clone(&stage), tasks: HashMap::new(), turns };
        let result = partitions.follow(partitions_max, events, stop).await;
        drop(partitions);
        // The thread commits what is applied before it ends; dropping the consumer leaves the group.
        serving.cancel();
        let leave = move || {
            let ended = thread.join();
            drop(stage);
            ended
        };
        if tokio::task::spawn_blocking(leave).await.is_ok_and(|ended| ended.is_err()) {
            tracing::error!(stage = %self.subscription.trigger_id, "the consumer's thread panicked");
        }
        result
    }
}

/// Why a consumer's time is over.
enum Ended {
    Stopped,
    /// So many partitions came that their queues would take more than the stage's share.
    Crowded(usize),
}

/// Whose task runs holds its partition's turn; one that outlived its revocation keeps its successor waiting.
type Turns = HashMap<TopicPartition, Arc<Mutex<()>>>;

/// The partitions that are ours, each with its task.
struct Partitions<'a> {
    stage: Arc<Stage>,
    tasks: HashMap<TopicPartition, (CancellationToken, JoinHandle<()>)>,
    turns: &'a mut Turns,
}

impl Partitions<'_> {
    /// Follows the group until told to stop; then lets every batch in flight end.
    async fn follow(
        &mut self,
        partitions_max: usize,
        mut events: UnboundedReceiver<Event>,
        stop: &CancellationToken,
    ) -> Result<Ended> {
        let mut result = Ok(Ended::Stopped);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Some(Event::Assigned(assignments)) => {
                        let partitions = self.tasks.len() + assignments.len();
                        if partitions > partitions_max {
                            result = Ok(Ended::Crowded(partitions));
                            break;
                        }
                        self.assigned(assignments);
                    }
                    Some(Event::Revoked(partitions, done)) => self.revoked(&partitions, done),
                    Some(Event::Reachable(reachable)) => self.stage.status.reachable(reachable),
                    Some(Event::Failed(reason)) => {
                        result = Err(anyhow!("the consumer has failed for good: {reason}"));
                        break;
                    }
                    None => break,
                },
            }
        }
        let all: Vec<_> = self.tasks.keys().cloned().collect();
        let mut ended = std::pin::pin!(self.end(&all));
        if let Ok(Ended::Crowded(_)) = result {
            // The next consumer waits for them; only a host that stops does not.
            tokio::select! {
                () = &mut ended => return result,
                () = stop.cancelled() => {}
            }
        }
        if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
            tracing::warn!(stage = %self.stage.subscription.trigger_id, "a batch in flight did not end within {DRAIN_MAX:?}");
        }
        result
    }

    fn assigned(&mut self, assignments: Vec<Assignment>) {
        let list: Vec<_> = assignments.iter().map(|a| format!("{}/{}", a.topic, a.partition)).collect();
        tracing::info!(stage = %self.stage.subscription.trigger_id, "assigned {}", list.join(" "));
        for assignment in assignments {
            let key = (assignment.topic.clone(), assignment.partition);
            let cancel = CancellationToken::new();
            let task = PartitionTask::new(Arc::clone(&self.stage), assignment, cancel.clone());
            let turn = Arc::clone(self.turns.entry(key.clone()).or_default());
            self.tasks.insert(key, (cancel, tokio::spawn(task.run(turn))));
        }
    }

    fn revoked(&mut self, partitions: &[TopicPartition], done: mpsc::Sender<()>) {
        tracing::info!(stage = %self.stage.subscription.trigger_id, "{} partitions go", partitions.len());
        let ended = self.end(partitions);
        // Without waiting here: the next events may come meanwhile.
        tokio::spawn(async move {
            ended.await;
            drop(done);
        });
    }

    /// Cancels the tasks of these partitions; the future ends when they have.
    fn end(&mut self, partitions: &[TopicPartition]) -> impl Future<Output = ()> + use<> {
        let tasks: Vec<_> = partitions.iter().filter_map(|key| self.tasks.remove(key)).collect();
        for (cancel, _) in &tasks {
            cancel.cancel();
        }
        async move {
            for (_, task) in tasks {
                if let Err(error) = task.await {
                    tracing::error!("a partition's task failed: {error}");
                }
            }
        }
    }
}
