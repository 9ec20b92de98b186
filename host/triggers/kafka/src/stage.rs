//! One `[[trigger.kafka]]`: it joins its group, runs a task for each partition that is assigned to it, and lets
//! batches in flight end before a partition goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Result, anyhow};
use exagg_clients::kafka::TopicPartition;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Subscription;
use crate::dispatch::{Dispatcher, Function};
use crate::fetch::{self, Fetch, PARTITIONS, Share, Wanted};
use crate::log::{Assignment, Cluster, Event, Log};
use crate::partition::{ANSWER_EXPECTED, AppliedObserver, PartitionTask, Shared};
use crate::status::StageState;
use crate::turns::Turns;

/// Of the time that the host has to stop, what commits and leaving the group are left.
const LEAVE: Duration = Duration::from_secs(3);

/// How often it is looked whether a topic that does not exist does by now, and how often the log says so.
const TOPICS_EVERY: Duration = Duration::from_secs(2);
const TOPICS_LOG: Duration = Duration::from_mins(1);
/// How often a stage without partitions looks whether the cluster answers.
const CLUSTER_EVERY: Duration = Duration::from_secs(2);
/// How often the end is asked for of a partition that does not go on.
const LAG_EVERY: Duration = Duration::from_secs(2);

/// A stage, ready to join its group.
pub struct Stage<C: Cluster, F> {
    /// Where the stage joins its group, again when it was given more partitions than it has room for.
    pub cluster: C,
    /// Brings batches to the function; the tasks of all partitions share it.
    pub dispatcher: Arc<Dispatcher<F>>,
    /// The stage's validated settings, which do not change while it runs.
    pub subscription: Arc<Subscription>,
    /// How far the partitions are; the trigger reads it for `exagg status` and `/readyz`.
    pub state: Arc<StageState>,
    /// Told after each batch that is applied; none without the embedded broker.
    pub observer: Option<Arc<dyn AppliedObserver>>,
    /// Its part of the host's memory.
    pub share: Share,
    /// Whether the operator sets the size of a partition's queue, which then holds, whatever it takes.
    pub is_queue_fixed: bool,
    /// How long the host takes to stop at most.
    pub drain_max: Duration,
}

/// Why a member leaves its group.
enum Ended {
    Stopped,
    /// So many partitions came that their queues would take more than the stage's share.
    Crowded(usize),
    /// The client takes part in no further rebalance.
    LeftBehind,
}

/// A partition's lock is held by the task that runs for it: one that outlived its revocation keeps its successor
/// waiting.
type Locks = HashMap<TopicPartition, Arc<Mutex<()>>>;

impl<C: Cluster, F: Function> Stage<C, F> {
    /// Reads until told to stop, then lets batches in flight end and commits.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let properties = &self.subscription.properties;
        let wanted = Wanted::new(self.subscription.batch.bytes_max, |name| properties.get(name)?.expose().parse().ok());
        let (mut partitions, mut locks) = (PARTITIONS, Locks::new());
        let stage = &self.subscription.trigger_id;
        loop {
            let fetch = Fetch::new(wanted, self.share, partitions);
            let partitions_max = if self.is_queue_fixed { usize::MAX } else { fetch.partitions_max };
            match self.read(&fetch, partitions_max, &mut locks, &stop).await? {
                _ if stop.is_cancelled() => return Ok(()),
                Ended::Stopped => return Ok(()),
                Ended::Crowded(assigned) => {
                    // Room for some more: as hosts go, partitions come one by one.
                    partitions = assigned.next_power_of_two();
                    tracing::info!(
                        %stage,
                        "joins the group again, with queues for {partitions} partitions: the host's memory is shared \
                         among them"
                    );
                }
                Ended::LeftBehind => tracing::warn!(
                    %stage,
                    "joins the group again: the topic was given partitions in the middle of a rebalance, which the \
                     Kafka client does not get over"
                ),
            }
            // Who assigned partitions can be reached, whatever the consumer said last.
            self.state.reachable(true);
        }
    }

    /// Reads as one member.
    async fn read(
        &self,
        fetch: &Fetch,
        partitions_max: usize,
        locks: &mut Locks,
        stop: &CancellationToken,
    ) -> Result<Ended> {
        self.state.joining(true);
        let (sender, events) = unbounded_channel();
        let log = Arc::new(self.cluster.join(fetch, sender)?);
        let shared = Arc::new(Shared {
            log: Arc::clone(&log),
            dispatcher: Arc::clone(&self.dispatcher),
            subscription: Arc::clone(&self.subscription),
            state: Arc::clone(&self.state),
            observer: self.observer.clone(),
            turns: Turns::new(),
            ahead_bytes: AtomicUsize::new(self.share.ahead_bytes(PARTITIONS)),
        });
        let watching = AbortOnDropHandle::new(tokio::spawn(watch_lag(Arc::clone(&shared))));
        let looking = AbortOnDropHandle::new(tokio::spawn(look_for_topics(Arc::clone(&shared))));
        let asking = AbortOnDropHandle::new(tokio::spawn(look_for_cluster(Arc::clone(&shared))));
        let mut partitions = Partitions { stage: shared, tasks: HashMap::new(), locks, share: self.share };
        let drain_max = self.drain_max.saturating_sub(LEAVE).max(self.drain_max / 2);
        let result = partitions.follow(partitions_max, drain_max, events, stop).await;
        drop(partitions);
        for task in [watching, looking, asking] {
            task.abort();
            // It ends with its answer, and its hold on the log goes.
            let _ = task.await;
        }
        if tokio::time::timeout(LEAVE, Log::leave(log)).await.is_err() {
            tracing::warn!(
                stage = %self.subscription.trigger_id,
                "the group was not left within {LEAVE:?}: it goes on without this member when its session has ended"
            );
        }
        result
    }
}

/// Asks for the ends of partitions that do not go on, whatever keeps them: their lag grows meanwhile.
async fn watch_lag<L: Log, F: Function>(stage: Arc<Shared<L, F>>) {
    let mut every = tokio::time::interval(LAG_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for partition in stage.state.unheard(LAG_EVERY) {
            // A broker that does not answer for one partition is not asked for the others now.
            let Ok(bounds) = stage.log.bounds(&partition).await else { break };
            stage.state.ends_at(&partition, bounds.next);
        }
        stage.state.tell_lag();
    }
}

/// Looks for the stage's topics until each of them exists: of one that does not, no partition is ever assigned.
async fn look_for_topics<L: Log, F: Function>(stage: Arc<Shared<L, F>>) {
    let (id, mut unseen) = (&stage.subscription.trigger_id, stage.subscription.topics.clone());
    let mut logged_at: Option<Instant> = None;
    while !unseen.is_empty() {
        let (mut missing, mut unknown) = (Vec::new(), Vec::new());
        for topic in unseen {
            match stage.log.has_topic(&topic).await {
                Ok(true) => {}
                Ok(false) => missing.push(topic),
                // Whether the cluster can be reached is told elsewhere.
                Err(_) => unknown.push(topic),
            }
        }
        stage.state.missing_topics(missing.clone());
        if !missing.is_empty() && logged_at.is_none_or(|logged_at| logged_at.elapsed() >= TOPICS_LOG) {
            logged_at = Some(Instant::now());
            tracing::warn!(stage = %id, "there is no topic {}: create it, or mend the name", missing.join(", "));
        }
        unseen = [missing, unknown].concat();
        tokio::time::sleep(TOPICS_EVERY).await;
    }
}

/// Looks whether the cluster answers, as long as no partition is assigned whose own questions tell.
async fn look_for_cluster<L: Log, F: Function>(stage: Arc<Shared<L, F>>) {
    let Some(topic) = stage.subscription.topics.first() else { return };
    loop {
        tokio::time::sleep(CLUSTER_EVERY).await;
        let answers = !stage.state.is_without_partitions()
            || tokio::time::timeout(ANSWER_EXPECTED, stage.log.has_topic(topic))
                .await
                .is_ok_and(|answer| answer.is_ok());
        stage.state.answers(answers);
    }
}

/// The partitions that are ours, each with its task.
struct Partitions<'a, L: Log, F> {
    stage: Arc<Shared<L, F>>,
    tasks: HashMap<TopicPartition, (CancellationToken, JoinHandle<()>)>,
    locks: &'a mut Locks,
    share: Share,
}

impl<L: Log, F: Function> Partitions<'_, L, F> {
    fn id(&self) -> &str {
        &self.stage.subscription.trigger_id
    }

    /// Follows the group until told to stop; then lets every batch in flight end.
    async fn follow(
        &mut self,
        partitions_max: usize,
        drain_max: Duration,
        mut events: UnboundedReceiver<Event<L::Queue>>,
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
                    Some(Event::LeftBehind) => {
                        result = Ok(Ended::LeftBehind);
                        break;
                    }
                    Some(Event::Lost) => self.stage.state.joining(true),
                    Some(Event::Reachable(reachable)) => self.stage.state.reachable(reachable),
                    Some(Event::RebalanceFailed(reason)) => self.stage.state.rebalanced(Err(reason)),
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
        if let Ok(Ended::Crowded(_) | Ended::LeftBehind) = result {
            // The next consumer waits for them; only a host that stops does not.
            tokio::select! {
                () = &mut ended => return result,
                () = stop.cancelled() => {}
            }
        }
        if tokio::time::timeout(drain_max, ended).await.is_err() {
            tracing::warn!(stage = %self.id(), "a batch in flight did not end within {drain_max:?}");
        }
        result
    }

    fn assigned(&mut self, assignments: Vec<Assignment<L::Queue>>) {
        let list: Vec<_> = assignments.iter().map(|assignment| assignment.partition.to_string()).collect();
        let list = if list.is_empty() { "no more partitions".to_owned() } else { list.join(" ") };
        tracing::info!(stage = %self.id(), "assigned {list}");
        self.stage.state.rebalanced(Ok(()));
        self.stage.state.joining(false);
        self.stage.ahead_bytes.store(self.share.ahead_bytes(self.tasks.len() + assignments.len()), Ordering::Relaxed);
        for assignment in assignments {
            let partition = assignment.partition.clone();
            let cancel = CancellationToken::new();
            let task = PartitionTask::new(Arc::clone(&self.stage), assignment, cancel.clone());
            let lock = Arc::clone(self.locks.entry(partition.clone()).or_default());
            let before = self.tasks.insert(partition, (cancel, tokio::spawn(task.run(lock))));
            // It was never revoked; it ends, and the new task waits for its lock.
            if let Some((cancel, _)) = before {
                cancel.cancel();
            }
        }
    }

    fn revoked(&mut self, partitions: &[TopicPartition], done: mpsc::Sender<()>) {
        tracing::info!(stage = %self.id(), "{} partitions go", partitions.len());
        let ended = self.end(partitions);
        // Without waiting here: the next events may come meanwhile.
        tokio::spawn(async move {
            ended.await;
            drop(done);
        });
    }

    /// Cancels the tasks of these partitions; the future ends when they have.
    fn end(&mut self, partitions: &[TopicPartition]) -> impl Future<Output = ()> + use<L, F> {
        let tasks: Vec<_> = partitions.iter().filter_map(|partition| self.tasks.remove(partition)).collect();
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

/// Whether the operator's properties fix the size of a partition's queue.
pub fn is_queue_fixed(properties: &exagg_clients::kafka::Properties) -> bool {
    properties.contains_key(fetch::QUEUE)
}
