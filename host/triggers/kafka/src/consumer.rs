//! librdkafka's consumer as a [`Log`].
//!
//! # Threads
//! - One thread a consumer polls it ([`Consumer::poll_loop`]). librdkafka calls back on that thread only: rebalances,
//!   errors ([`group`]). It also commits what is applied, every half second ([`committer`]), and assigns a partition
//!   anew where a seek is refused.
//! - Questions to the cluster block; each runs on one of tokio's threads for blocking work.
//! - librdkafka's own threads fetch. They put records into the partitions' queues and notify the partition's task.
//!
//! # The rebalance protocol
//! Assignments are cooperative and incremental ([KIP-429]): a rebalance takes away only what goes to another member.
//! Partitions that come are paused before they are assigned, and are read once the function has said where to go on.
//! Partitions that go are waited for: their batches in flight end, what is applied is committed, and only then is the
//! revocation confirmed, which lets the next owner begin. An owner that was too slow loses the assignment; then
//! nothing is committed, and the function's fence keeps the two apart.
//!
//! [KIP-429]: https://cwiki.apache.org/confluence/display/KAFKA/KIP-429%3A+Kafka+Consumer+Incremental+Rebalance+Protocol

mod commits;
mod committer;
mod group;
mod rounds;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use exagg_clients::kafka::{
    self as clients, Offset, OffsetRange, Properties, TopicDescription, TopicId, TopicPartition, apply, client_config,
};
use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{self, TopicPartitionList, TopicPartitionListElem};
use tokio::sync::mpsc::UnboundedSender;

use self::commits::{Commits, is_of_other_topic, parse_metadata};
use self::committer::Committer;
use self::group::{Client, Member};
use crate::batch::Source;
use crate::config::{Start, Subscription};
use crate::fetch::Fetch;
use crate::log::{Applied, Cluster, Committed, Event, Log, Unanswered};
use crate::sys::{self, PartitionQueue};

/// How long a question to the cluster may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often applied offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long the last commit before the group is left waits.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(2);
/// How long the group waits in a rebalance for a member that lives and does not join: longer than a revoke takes. A
/// member's thread polls all the time, whatever its batches take.
const REJOIN_MAX_MS: u64 = 60_000;
/// How long one look for events waits.
const POLL: Duration = Duration::from_millis(100);

/// A cluster that librdkafka speaks to on behalf of one stage.
pub struct Brokers {
    /// The stage's settings: its group, topics, brokers, and the app's own properties.
    pub subscription: Arc<Subscription>,
    /// The operator's properties, for all clients.
    pub properties: Properties,
    /// What every topic is, where the broker cannot say it.
    pub topics_are: Option<TopicDescription>,
}

impl Cluster for Brokers {
    type Log = Consumer;

    fn join(&self, fetch: &Fetch, events: UnboundedSender<Event<PartitionQueue>>) -> Result<Consumer> {
        Consumer::join(self, fetch, events)
    }
}

/// One member of the stage's group.
pub struct Consumer {
    client: Arc<Client>,
    commits: Arc<Commits>,
    topics_are: Option<TopicDescription>,
    /// Orders for the polling thread. It ends when this is dropped.
    orders: Mutex<Option<mpsc::Sender<Restart>>>,
    polling: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// An order to assign a partition anew, at an offset.
struct Restart {
    partition: TopicPartition,
    offset: Offset,
    done: mpsc::Sender<Result<(), Unanswered>>,
}

impl Restart {
    fn run(self, client: &Client) {
        let result = self.assign(client).map_err(unanswered);
        // Nobody waits any more when the partition went meanwhile.
        let _ = self.done.send(result);
    }

    fn assign(&self, client: &Client) -> KafkaResult<()> {
        let assigned = client.assignment()?;
        if assigned.find_partition(&self.partition.topic, self.partition.partition.0).is_none() {
            return Ok(());
        }
        let list = at(&self.partition, self.offset)?;
        client.incremental_unassign(&list)?;
        client.incremental_assign(&list)?;
        client.resume(&list)
    }
}

impl Consumer {
    /// Joins the group, and begins to poll.
    fn join(brokers: &Brokers, fetch: &Fetch, events: UnboundedSender<Event<PartitionQueue>>) -> Result<Self> {
        let Brokers { subscription, properties, topics_are } = brokers;
        let mut config = client_config(&subscription.brokers, properties);
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
        apply(&mut config, properties);
        if config.get(REJOIN).is_none() {
            config.set(REJOIN, rejoin_max(&config).to_string());
        }
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
        let commits = Arc::new(Commits::default());
        let member = Member {
            who: subscription.trigger_id.clone(),
            events,
            commits: Arc::clone(&commits),
            rounds: Mutex::default(),
        };
        let client: Client = clients::create(&config, member).context("the consumer cannot be set up")?;
        let topics: Vec<&str> = subscription.topics.iter().map(String::as_str).collect();
        client.subscribe(&topics).context("the topics cannot be subscribed to")?;
        let client = Arc::new(client);
        let (orders, restarts) = mpsc::channel();
        let polled = Arc::clone(&client);
        let polling = std::thread::Builder::new()
            .name(format!("kafka {}", subscription.trigger_id))
            .spawn(move || Self::poll_loop(&polled, &restarts))
            .context("cannot start a thread")?;
        Ok(Self {
            client,
            commits,
            topics_are: topics_are.clone(),
            orders: Mutex::new(Some(orders)),
            polling: Mutex::new(Some(polling)),
        })
    }

    /// Serves librdkafka's events until nobody can order anything; then commits what is applied.
    fn poll_loop(client: &Client, restarts: &mpsc::Receiver<Restart>) {
        let (mut committer, mut committed_at) = (Committer::new(client), Instant::now());
        let mut looked_at = None;
        loop {
            if let Some(Err(error)) = client.poll(POLL) {
                client.context().failed(client, &error, &mut looked_at);
            }
            client.context().look_for_brokers(client, &mut looked_at);
            loop {
                match restarts.try_recv() {
                    Ok(restart) => restart.run(client),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        client.context().commit_within(client, |_| true, LAST_COMMIT_MAX);
                        return;
                    }
                }
            }
            if committed_at.elapsed() >= COMMIT_EVERY {
                committer.commit();
                committed_at = Instant::now();
            }
        }
    }

    fn orders(&self) -> Option<mpsc::Sender<Restart>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a question to the cluster on a thread that may wait.
    async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<R, Unanswered> + Send + 'static,
    ) -> Result<R, Unanswered> {
        let client = Arc::clone(&self.client);
        let asking = tokio::task::spawn_blocking(move || question(&client));
        asking.await.map_err(|error| Unanswered(error.to_string()))?
    }
}

impl Log for Consumer {
    type Queue = PartitionQueue;

    async fn describe(&self, topic: &str) -> Result<TopicDescription, Unanswered> {
        if let Some(TopicDescription { id, partitions }) = &self.topics_are {
            return Ok(TopicDescription { id: TopicId(format!("{id}-{topic}")), partitions: *partitions });
        }
        let topic = topic.to_owned();
        self.ask(move |client| {
            clients::describe_topic(client.client().native_client(), &topic, REQUEST_TIMEOUT)
                .map_err(|error| Unanswered(error.to_string()))
        })
        .await
    }

    async fn has_topic(&self, topic: &str) -> Result<bool, Unanswered> {
        if self.topics_are.is_some() {
            return Ok(true);
        }
        let topic = topic.to_owned();
        self.ask(move |client| {
            match clients::describe_topic(client.client().native_client(), &topic, REQUEST_TIMEOUT) {
                Ok(_) => Ok(true),
                Err(clients::DescribeError::NoSuchTopic) => Ok(false),
                Err(error) => Err(Unanswered(error.to_string())),
            }
        })
        .await
    }

    async fn bounds(&self, partition: &TopicPartition) -> Result<OffsetRange, Unanswered> {
        let TopicPartition { topic, partition } = partition.clone();
        self.ask(move |client| {
            let (low, high) = client.fetch_watermarks(&topic, partition.0, REQUEST_TIMEOUT).map_err(unanswered)?;
            Ok(OffsetRange { from: Offset(low), next: Offset(high) })
        })
        .await
    }

    fn known_end(&self, partition: &TopicPartition) -> Option<Offset> {
        sys::known_end(self.client.client().native_client(), partition)
    }

    async fn committed(&self, source: &Source) -> Result<Committed, Unanswered> {
        let Source { partition, topic_id, partition_count, .. } = source.clone();
        self.ask(move |client| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_range(&partition.topic, 0, (partition_count - 1).max(partition.partition.0));
            let answer = client.committed_offsets(asked, REQUEST_TIMEOUT).map_err(unanswered)?;
            let mut committed = Committed::default();
            for element in answer.elements() {
                element.error().map_err(unanswered)?;
                let topic_partition_list::Offset::Offset(offset) = element.offset() else { continue };
                if is_of_other_topic(element.metadata(), &topic_id) {
                    continue;
                }
                if element.partition() == partition.partition.0 {
                    committed.next_offset = Some(Offset(offset));
                    committed.leader_epoch = sys::leader_epoch(&answer, &partition);
                }
                let count = parse_metadata(element.metadata(), &topic_id);
                committed.first_partition_count = committed.first_partition_count.into_iter().chain(count).min();
            }
            Ok(committed)
        })
        .await
    }

    async fn offset_of(
        &self,
        partition: &TopicPartition,
        start: Start,
        bounds: OffsetRange,
    ) -> Result<Offset, Unanswered> {
        let time = match start {
            Start::Earliest => return Ok(bounds.from),
            Start::Latest => return Ok(bounds.next),
            Start::At(time) => time,
        };
        let partition = partition.clone();
        self.ask(move |client| {
            let asked = at(&partition, Offset(time)).map_err(unanswered)?;
            let answer = client.offsets_for_times(asked, REQUEST_TIMEOUT).map_err(unanswered)?;
            match answer.elements().first().map(TopicPartitionListElem::offset) {
                Some(topic_partition_list::Offset::Offset(offset)) => Ok(Offset(offset)),
                // No record is that young.
                _ => Ok(bounds.next),
            }
        })
        .await
    }

    async fn seek(
        &self,
        partition: &TopicPartition,
        offset: Offset,
        leader_epoch: Option<i32>,
    ) -> Result<(), Unanswered> {
        let partition = partition.clone();
        let orders = self.orders();
        self.ask(move |client| {
            let mut list = at(&partition, offset).map_err(unanswered)?;
            if let Some(leader_epoch) = leader_epoch {
                sys::set_leader_epoch(&mut list, &partition, leader_epoch);
            }
            let answer = client.seek_partitions(list, REQUEST_TIMEOUT).map_err(unanswered)?;
            let sought = answer.elements().iter().try_for_each(TopicPartitionListElem::error);
            match (sought, orders) {
                (Ok(()), _) => {
                    let mut list = TopicPartitionList::new();
                    list.add_partition(&partition.topic, partition.partition.0);
                    client.resume(&list).map_err(unanswered)
                }
                // An offset out of range has taken the fetcher out of service: only a new
                // assignment brings it back, and that is the polling thread's business.
                (Err(error), Some(orders)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    let (done, wait) = mpsc::channel();
                    let stopping = || Unanswered("the consumer is stopping".to_owned());
                    orders.send(Restart { partition, offset, done }).map_err(|_| stopping())?;
                    wait.recv_timeout(REQUEST_TIMEOUT).map_err(|error| Unanswered(error.to_string()))?
                }
                (Err(error), _) => Err(unanswered(error)),
            }
        })
        .await
    }

    fn commit(&self, applied: Applied) {
        self.commits.applied(applied);
    }

    async fn leave(log: Arc<Self>) {
        let who = log.client.context().who.clone();
        let leave = move || {
            drop(log.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
            let polling = log.polling.lock().unwrap_or_else(PoisonError::into_inner).take();
            let ended = polling.map_or(Ok(()), std::thread::JoinHandle::join);
            // The last one who drops the client leaves the group.
            drop(log);
            ended
        };
        if tokio::task::spawn_blocking(leave).await.is_ok_and(|ended| ended.is_err()) {
            tracing::error!(stage = %who, "the consumer's thread panicked");
        }
    }
}

/// librdkafka's name for the time in which a member has to rejoin.
const REJOIN: &str = "max.poll.interval.ms";

/// [`REJOIN_MAX_MS`], or the session where that is longer: librdkafka accepts no less.
fn rejoin_max(config: &ClientConfig) -> u64 {
    let session = config.get("session.timeout.ms").and_then(|session| session.parse().ok()).unwrap_or_default();
    REJOIN_MAX_MS.max(session)
}

fn unanswered(error: KafkaError) -> Unanswered {
    Unanswered(error.to_string())
}

/// A list of one partition, at an offset (or a time, where times are asked for).
fn at(partition: &TopicPartition, offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    let offset = topic_partition_list::Offset::Offset(offset.0);
    list.add_partition_offset(&partition.topic, partition.partition.0, offset)?;
    Ok(list)
}

#[cfg(test)]
mod tests;
