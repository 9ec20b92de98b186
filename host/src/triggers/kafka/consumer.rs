//! The consumer: group membership, assignment, positions, commits. Of the trigger's files, only
//! this one and `sys` name rdkafka (dead letters aside).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::batch::Place;
use super::config::{Start, Subscription};
use super::fetch::Fetch;
use super::sys::{self, PartitionQueue, TopicDescription};
use crate::kafka::{apply, client_config, create, log};
use crate::triggers::Context as TriggerContext;

/// How long a question to the cluster may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often applied offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long one look for events waits.
const POLL: Duration = Duration::from_millis(100);
/// While no broker can be reached: how often one is looked for, and how long a look waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(500);
/// How long a revoke waits for batches in flight: well below the group's time to rejoin.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(30);
pub type TopicPartition = (String, i32);

/// A partition that is ours now.
pub struct Assignment {
    pub topic: String,
    pub partition: i32,
    pub queue: PartitionQueue,
}

pub enum Event {
    Assigned(Vec<Assignment>),
    /// The partitions go when the sender is used or dropped.
    Revoked(Vec<TopicPartition>, mpsc::Sender<()>),
    /// No broker can be reached, or one can again.
    Reachable(bool),
    /// The client is of no use any more (another member has its instance id, say).
    Failed(String),
}

/// How far a partition is applied.
struct Applied {
    next_offset: i64,
    metadata: String,
    committed: bool,
}

type AppliedOffsets = Arc<Mutex<HashMap<TopicPartition, Applied>>>;

/// Where the group stands in a partition.
#[derive(Debug, Default)]
pub struct Committed {
    pub next_offset: Option<i64>,
    /// The least number of partitions that the topic had when the group first committed any.
    pub first_partition_count: Option<i32>,
}

/// An answer of the cluster's that is on its way.
pub trait Answer<R>: Future<Output = Result<R, String>> + Send {}

impl<R, F: Future<Output = Result<R, String>> + Send> Answer<R> for F {}

pub struct Consumer {
    inner: Arc<BaseConsumer<Context>>,
    applied: AppliedOffsets,
    /// What every topic is, where the broker cannot say it.
    topics_are: Option<TopicDescription>,
    /// The polling thread's orders; none before it runs.
    restarts: Mutex<Option<mpsc::Sender<Restart>>>,
}

/// An order to assign a partition anew, at an offset.
struct Restart {
    topic: String,
    partition: i32,
    offset: i64,
    done: mpsc::Sender<Result<(), String>>,
}

impl Restart {
    fn run(self, consumer: &BaseConsumer<Context>) {
        let result = self.assign(consumer).map_err(text);
        // Nobody waits any more when the partition went meanwhile.
        let _ = self.done.send(result);
    }

    fn assign(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<()> {
        let assigned = consumer.assignment()?;
        if assigned.find_partition(&self.topic, self.partition).is_none() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition, Offset::Offset(self.offset))?;
        consumer.incremental_unassign(&list)?;
        consumer.incremental_assign(&list)?;
        consumer.resume(&list)
    }
}

impl Consumer {
    /// Joins the group. Events come as long as [`Consumer::run`] runs.
    pub fn open(
        subscription: &Subscription,
        context: &TriggerContext,
        fetch: &Fetch,
        events: UnboundedSender<Event>,
    ) -> Result<Self> {
        let shared = &context.kafka;
        let topics_are = context.topics_are.clone();
        let mut config = client_config(&subscription.brokers, shared);
        config
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.wait.max.ms", "250")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("metadata.max.age.ms", "30000")
            .set("session.timeout.ms", "20000");
        apply(&mut config, &subscription.properties);
        // What the app asks for of these is in it, as far as there is room.
        for (name, value) in fetch.properties() {
            config.set(name, value.to_string());
        }
        // The operator has the last word on what the host does not fix.
        apply(&mut config, shared);
        config
            .set("group.id", &subscription.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // The host decides where to start; the library must never jump by itself.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "cooperative-sticky");
        if let Some(id) = &subscription.instance_id {
            config.set("group.instance.id", id);
        }
        let applied = AppliedOffsets::default();
        let context = Context { who: subscription.trigger_id.clone(), events, applied: Arc::clone(&applied) };
        let inner: BaseConsumer<Context> = create(&config, context).context("the consumer cannot be set up")?;
        let topics: Vec<&str> = subscription.topics.iter().map(String::as_str).collect();
        inner.subscribe(&topics).context("the topics cannot be subscribed to")?;
        Ok(Self { inner: Arc::new(inner), applied, topics_are, restarts: Mutex::default() })
    }

    /// Serves events on a thread of its own until told to stop; then commits what is applied.
    pub fn run(&self, stop: CancellationToken) -> Result<std::thread::JoinHandle<()>> {
        let (inner, applied) = (Arc::clone(&self.inner), Arc::clone(&self.applied));
        let (sender, restarts) = mpsc::channel::<Restart>();
        *self.restarts.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let who = inner.context().who.clone();
        let serve = move || {
            let mut committed_at = Instant::now();
            let mut looked_at = None;
            while !stop.is_cancelled() {
                if let Some(Err(error)) = inner.poll(POLL) {
                    inner.context().failed(&inner, &error, &mut looked_at);
                }
                look_for_brokers(&inner, &mut looked_at);
                for restart in restarts.try_iter() {
                    restart.run(&inner);
                }
                if committed_at.elapsed() >= COMMIT_EVERY {
                    commit(&inner, &applied, |_| true, CommitMode::Async);
                    committed_at = Instant::now();
                }
            }
            commit(&inner, &applied, |_| true, CommitMode::Sync);
        };
        std::thread::Builder::new().name(format!("kafka {who}")).spawn(serve).context("cannot start a thread")
    }

    /// Runs a question to the cluster on a thread that may wait.
    fn ask<R: Send + 'static, Q>(&self, question: Q) -> impl Answer<R> + use<R, Q>
    where
        Q: FnOnce(&BaseConsumer<Context>) -> Result<R, String> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let asking = tokio::task::spawn_blocking(move || question(&inner));
        async move { asking.await.map_err(|error| error.to_string())? }
    }

    pub fn describe(&self, topic: &str) -> impl Answer<TopicDescription> + use<> {
        let topic = topic.to_owned();
        let known = self.topics_are.clone();
        self.ask(move |inner| match known {
            Some(known) => Ok(TopicDescription { id: format!("{}-{topic}", known.id), ..known }),
            None => sys::describe_topic(inner.client().native_client(), &topic, REQUEST_TIMEOUT),
        })
    }

    /// First and end offset of a partition, asked of the broker.
    pub fn bounds(&self, topic: &str, partition: i32) -> impl Answer<(i64, i64)> + use<> {
        let topic = topic.to_owned();
        self.ask(move |inner| inner.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT).map_err(text))
    }

    /// The end as the last fetch saw it.
    pub fn cached_end(&self, topic: &str, partition: i32) -> Option<i64> {
        sys::cached_end(self.inner.client().native_client(), topic, partition)
    }

    /// Where the group stands, by what it committed of this very topic.
    pub fn committed(&self, place: &Place) -> impl Answer<Committed> + use<> {
        let Place { topic, topic_id, partition, partition_count, .. } = place.clone();
        self.ask(move |inner| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_range(&topic, 0, (partition_count - 1).max(partition));
            let answer = inner.committed_offsets(asked, REQUEST_TIMEOUT).map_err(text)?;
            let mut committed = Committed::default();
            for element in answer.elements() {
                element.error().map_err(text)?;
                let Offset::Offset(offset) = element.offset() else { continue };
                if is_of_other_topic(element.metadata(), &topic_id) {
                    continue;
                }
                if element.partition() == partition {
                    committed.next_offset = Some(offset);
                }
                let count = parse_metadata(element.metadata(), &topic_id);
                committed.first_partition_count = committed.first_partition_count.into_iter().chain(count).min();
            }
            Ok(committed)
        })
    }

    /// The offset that the policy starts at.
    pub fn start(&self, topic: &str, partition: i32, start: Start, bounds: (i64, i64)) -> impl Answer<i64> + use<> {
        let topic = topic.to_owned();
        self.ask(move |inner| {
            let time = match start {
                Start::Earliest => return Ok(bounds.0),
                Start::Latest => return Ok(bounds.1),
                Start::At(time) => time,
            };
            let mut asked = TopicPartitionList::new();
            asked.add_partition_offset(&topic, partition, Offset::Offset(time)).map_err(text)?;
            let answer = inner.offsets_for_times(asked, REQUEST_TIMEOUT).map_err(text)?;
            match answer.elements().first().map(TopicPartitionListElem::offset) {
                Some(Offset::Offset(offset)) => Ok(offset),
                // No record is that young.
                _ => Ok(bounds.1),
            }
        })
    }

    /// Goes on at the offset.
    pub fn resume_at(&self, topic: &str, partition: i32, offset: i64) -> impl Answer<()> + use<> {
        let topic = topic.to_owned();
        let restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.ask(move |inner| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(offset)).map_err(text)?;
            let answer = inner.seek_partitions(list, REQUEST_TIMEOUT).map_err(text)?;
            let sought = answer.elements().iter().try_for_each(TopicPartitionListElem::error);
            match (sought, restarts) {
                (Ok(()), _) => inner.resume(&one(&topic, partition)).map_err(text),
                // An offset out of range has taken the fetcher out of service: only a new
                // assignment brings it back, and that is the polling thread's business.
                (Err(error), Some(restarts)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    let (done, wait) = mpsc::channel();
                    let restart = Restart { topic, partition, offset, done };
                    restarts.send(restart).map_err(|_| "the consumer is stopping".to_owned())?;
                    wait.recv_timeout(REQUEST_TIMEOUT).map_err(|error| error.to_string())?
                }
                (Err(error), _) => Err(text(error)),
            }
        })
    }

    /// Notes that everything below is applied; it is committed soon.
    pub fn applied(&self, partition: &TopicPartition, topic_id: &str, next_offset: i64, first_partition_count: i32) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = metadata(first_partition_count, topic_id);
        match applied.get_mut(partition) {
            Some(known) if known.next_offset == next_offset => {}
            Some(known) => *known = Applied { next_offset, metadata, committed: false },
            None => {
                applied.insert(partition.clone(), Applied { next_offset, metadata, committed: false });
            }
        }
    }
}

fn text(error: KafkaError) -> String {
    error.to_string()
}

fn one(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}

/// What stands beside a committed offset: by it a partition that was added later is known.
fn metadata(first_partition_count: i32, topic_id: &str) -> String {
    format!("exagg partitions={first_partition_count} topic={topic_id}")
}

/// The partition count, where the commit is this host's and of this very topic.
fn parse_metadata(text: &str, topic_id: &str) -> Option<i32> {
    let (count, id) = text.strip_prefix("exagg partitions=")?.split_once(" topic=")?;
    (id == topic_id).then(|| count.parse().ok())?
}

/// True for a commit that this host made of an earlier topic of the same name.
fn is_of_other_topic(text: &str, topic_id: &str) -> bool {
    text.starts_with("exagg partitions=") && parse_metadata(text, topic_id).is_none()
}

/// Commits what is applied and not committed yet.
fn commit(
    consumer: &BaseConsumer<Context>,
    applied: &AppliedOffsets,
    wanted: impl Fn(&TopicPartition) -> bool,
    mode: CommitMode,
) {
    let mut list = TopicPartitionList::new();
    {
        let mut applied = applied.lock().unwrap_or_else(PoisonError::into_inner);
        for ((topic, partition), offset) in applied.iter_mut().filter(|(key, offset)| !offset.committed && wanted(key))
        {
            let mut element = list.add_partition(topic, *partition);
            if element.set_offset(Offset::Offset(offset.next_offset)).is_ok() {
                element.set_metadata(&offset.metadata);
                offset.committed = true;
            }
        }
    }
    if list.count() == 0 {
        return;
    }
    if let Err(error) = consumer.commit(&list, mode) {
        not_committed(&consumer.context().who, applied, &list, &error);
    }
}

/// The function's own progress is the truth: a commit that failed costs a re-read at most. It is
/// tried again, for those who watch the lag.
fn not_committed(who: &str, applied: &AppliedOffsets, list: &TopicPartitionList, error: &KafkaError) {
    tracing::warn!(client = %who, "offsets were not committed: {error}");
    let mut applied = applied.lock().unwrap_or_else(PoisonError::into_inner);
    for element in list.elements() {
        let key = (element.topic().to_owned(), element.partition());
        if let Some(known) = applied.get_mut(&key)
            && Offset::Offset(known.next_offset) == element.offset()
        {
            known.committed = false;
        }
    }
}

/// While no broker can be reached, looks now and then whether one can. `looked_at` is none while
/// all is well.
fn look_for_brokers(consumer: &BaseConsumer<Context>, looked_at: &mut Option<Instant>) {
    if looked_at.is_some_and(|at| at.elapsed() >= LOOK_EVERY) {
        *looked_at = Some(Instant::now());
        if consumer.fetch_metadata(None, LOOK).is_ok() {
            *looked_at = None;
            tracing::info!(client = %consumer.context().who, "kafka: a broker can be reached again");
            consumer.context().tell(Event::Reachable(true));
        }
    }
}

/// What librdkafka calls back on.
pub struct Context {
    who: String,
    events: UnboundedSender<Event>,
    applied: AppliedOffsets,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.who, level, facility, message);
    }

    /// The poll gives the same errors, and the log has had its line of each connection.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = %self.who, "kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        };
        if let Err(error) = result {
            tracing::error!(client = %self.who, "the assignment was not taken over: {error}");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        if let Err(error) = result {
            not_committed(&self.who, &self.applied, list, &error);
        }
    }
}

impl Context {
    fn tell(&self, event: Event) {
        // The receiver is gone when the trigger stops; then nothing is to be done.
        let _ = self.events.send(event);
    }

    /// An error that concerns the client as a whole.
    fn failed(&self, consumer: &BaseConsumer<Self>, error: &KafkaError, looked_at: &mut Option<Instant>) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if looked_at.replace(Instant::now()).is_none() {
                    tracing::warn!(client = %self.who, "kafka: no broker can be reached; tried again until one can");
                    self.tell(Event::Reachable(false));
                }
            }
            // The log's line says more.
            Some(RDKafkaErrorCode::BrokerTransportFailure) => {}
            _ => tracing::warn!(client = %self.who, "kafka: {error}"),
        }
        if let Some((code, why)) = consumer.client().fatal_error() {
            // Without this the stage would be deaf and look alive.
            self.tell(Event::Failed(format!("{code}: {why}")));
        }
    }

    /// Takes partitions over, paused: nothing is fetched until the function has said where to go
    /// on.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let client = consumer.client().native_client();
        let assignments = list
            .elements()
            .iter()
            .filter_map(|element| {
                let (topic, partition) = (element.topic().to_owned(), element.partition());
                let queue = PartitionQueue::split(client, &topic, partition)?;
                Some(Assignment { topic, partition, queue })
            })
            .collect();
        // Paused first, and at a number: a question for the log's start would still be answered
        // after the seek, and win.
        consumer.pause(list)?;
        list.set_all_offsets(Offset::Offset(0))?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            _ => consumer.assign(list)?,
        }
        self.tell(Event::Assigned(assignments));
        Ok(())
    }

    /// Lets partitions go after their batches in flight are done, or the wait was too long.
    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let partitions: Vec<TopicPartition> =
            list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let (done, wait) = mpsc::channel();
        if self.events.send(Event::Revoked(partitions.clone(), done)).is_ok()
            && wait.recv_timeout(REVOKE_WAIT_MAX) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!(client = %self.who, "a batch in flight did not end within {REVOKE_WAIT_MAX:?}: its partition goes without it");
        }
        if !consumer.assignment_lost() {
            commit(consumer, &self.applied, |key| partitions.contains(key), CommitMode::Sync);
        }
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| !partitions.contains(key));
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_commit_is_read_back() {
        assert_eq!(parse_metadata(&metadata(8, "id"), "id"), Some(8));
        assert_eq!(parse_metadata(&metadata(8, "id"), "other"), None);
        assert_eq!(parse_metadata("of another tool", "id"), None);
        assert!(is_of_other_topic(&metadata(8, "id"), "other"));
        assert!(!is_of_other_topic("of another tool", "id"));
        assert!(!is_of_other_topic("", "id"));
    }
}
