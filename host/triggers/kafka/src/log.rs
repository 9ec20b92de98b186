//! The log that a stage reads, as the stage's loops see it. [`crate::consumer`] is librdkafka's; the tests have one
//! in memory.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Result;
use exagg_clients::kafka::{Offset, OffsetRange, TopicDescription, TopicId, TopicPartition};
use rdkafka::error::KafkaError;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::batch::{BatchBuilder, Source};
use crate::config::Start;
use crate::fetch::Fetch;

/// The cluster did not answer a question, for this reason. Who asks asks again: it may be away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// Why a rebalance failed. The stage is not ready until another one succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebalanceError {
    /// librdkafka refused the new assignment, or to let the old one go.
    Refused(KafkaError),
    /// These partitions are assigned and have no queue of their own: they are not read.
    WithoutQueue(Vec<TopicPartition>),
}

impl std::error::Error for RebalanceError {}

impl fmt::Display for RebalanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::WithoutQueue(partitions) => {
                let names: Vec<_> = partitions.iter().map(ToString::to_string).collect();
                write!(f, "{} have no queue, and are not read", names.join(", "))
            }
        }
    }
}

impl From<KafkaError> for RebalanceError {
    fn from(error: KafkaError) -> Self {
        Self::Refused(error)
    }
}

/// Came in the place of records. Whatever it is, the partition's position is validated anew: an offset that is out
/// of range is a gap, a topic that was recreated has another id, anything else passes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The log has another history than the one that was read: what it held of the leader epoch that it was asked by
    /// ends in front of the position.
    #[error("the log lost its tail")]
    Truncated {
        /// Where that epoch ends now; other records follow, if any. None where the log has records of earlier epochs
        /// only: nothing of what was read in this one is left.
        end: Option<Offset>,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What is known of the history of a log: up to here it was read, and the last record was one of this epoch.
///
/// A leader that is elected begins another epoch. A log that loses its tail and grows again has records of a later
/// epoch in their place: the broker is asked where the epoch ends ([KIP-320]).
///
/// [KIP-320]: https://cwiki.apache.org/confluence/display/KAFKA/KIP-320%3A+Allow+fetchers+to+detect+and+handle+log+truncation
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTo {
    /// The offset behind the last record.
    pub next_offset: Offset,
    /// The leader epoch of that record.
    pub leader_epoch: i32,
}

impl ReadTo {
    /// From where on the log lost what was read, by where its epoch ends now (none: the log does not have it). None where
    /// it lost nothing: behind the last record whose epoch is known there may be records of another one.
    pub fn lost_from(self, end: Option<Offset>) -> Option<Offset> {
        // The last record at least.
        let end = end.unwrap_or(Offset(self.next_offset.0 - 1));
        (end < self.next_offset).then_some(end)
    }
}

/// What a look into the queue gave beside the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The last record's place in the history; none without a record, or where the brokers know no epochs.
    pub read_to: Option<ReadTo>,
    /// Came behind the records.
    pub error: Option<FetchError>,
}

/// A partition that is assigned to this host now.
pub struct Assignment<Q> {
    /// It is paused until its task seeks to where it goes on.
    pub partition: TopicPartition,
    /// Its fetched records, handed over to its task.
    pub queue: Q,
}

/// What happens to a member of a group.
pub enum Event<Q> {
    /// Partitions came; those that the member has already stay its own.
    Assigned(Vec<Assignment<Q>>),
    /// The partitions go when the sender is dropped.
    Revoked(Vec<TopicPartition>, mpsc::Sender<()>),
    /// The group has gone on without this member, whose partitions are revoked next; it joins again, which ends with an
    /// assignment, be it an empty one.
    Lost,
    /// The client takes part in no further rebalance, and the group waits for it: the member has to leave and to join
    /// anew.
    LeftBehind,
    /// No broker can be reached, or one can again.
    Reachable(bool),
    /// Partitions came or went, and librdkafka could not follow: they may be nobody's until the next rebalance.
    RebalanceFailed(RebalanceError),
    /// The client is of no use any more (another member has its instance id, say).
    Failed(String),
}

/// Where a group is in a partition, by what it committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// None where the group committed nothing of this partition, or only of a topic that had the name before.
    pub next_offset: Option<Offset>,
    /// The least number of partitions that the topic had when the group first committed any.
    pub first_partition_count: Option<i32>,
    /// The leader epoch that was committed beside the next offset.
    pub leader_epoch: Option<i32>,
}

/// What is committed of a partition, once it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The partition whose offset is committed.
    pub partition: TopicPartition,
    /// The topic that was read: it goes into the commit's metadata, to tell a recreated one apart.
    pub topic_id: TopicId,
    /// The offset behind the last one that is applied.
    pub next_offset: Offset,
    /// Goes into the commit's metadata: a partition beyond this number was added later.
    pub first_partition_count: i32,
    /// The epoch of the record in front of the next offset; none where that is not known.
    pub leader_epoch: Option<i32>,
}

/// Where a stage's records are.
pub trait Cluster: Send + Sync + 'static {
    /// The member of a group that joining makes.
    type Log: Log;

    /// Joins the stage's group; what happens to the member is told to `events`.
    fn join(&self, fetch: &Fetch, events: UnboundedSender<Event<<Self::Log as Log>::Queue>>) -> Result<Self::Log>;
}

/// One member's view of the log. Questions to the cluster have a time-out of their own.
pub trait Log: Send + Sync + Sized + 'static {
    /// Where fetched records of one partition wait.
    type Queue: Queue;

    /// What the topic is now.
    fn describe(&self, topic: &str) -> impl Future<Output = Result<TopicDescription, Unanswered>> + Send;

    /// Whether the topic exists.
    fn has_topic(&self, topic: &str) -> impl Future<Output = Result<bool, Unanswered>> + Send;

    /// The offsets that the partition has now: the first record's, and the end.
    fn bounds(&self, partition: &TopicPartition) -> impl Future<Output = Result<OffsetRange, Unanswered>> + Send;

    /// The end of the partition as the last fetch saw it; nobody is asked.
    fn known_end(&self, partition: &TopicPartition) -> Option<Offset>;

    /// Where the group is, by what it committed of this very topic.
    fn committed(&self, source: &Source) -> impl Future<Output = Result<Committed, Unanswered>> + Send;

    /// The offset that a policy begins at.
    fn offset_of(
        &self,
        partition: &TopicPartition,
        start: Start,
        bounds: OffsetRange,
    ) -> impl Future<Output = Result<Offset, Unanswered>> + Send;

    /// Fetches from this offset on. With the leader epoch of the record in front of it the log's history is validated
    /// first, and may give [`FetchError::Truncated`] in the place of records.
    fn seek(
        &self,
        partition: &TopicPartition,
        offset: Offset,
        leader_epoch: Option<i32>,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;

    /// Notes what is applied; it is committed soon, and before the partition goes.
    fn commit(&self, applied: Applied);

    /// Commits what is applied and leaves the group.
    fn leave(log: Arc<Self>) -> impl Future<Output = ()> + Send;
}

/// Fetched records of one partition.
pub trait Queue: Send + Sync + 'static {
    /// Has [`Queue::ready`] notified from now on. An earlier holder of the partition's queue must be gone.
    fn arm(&mut self);

    /// Notified when the queue has become non-empty.
    fn ready(&self) -> &Notify;

    /// Moves what is there into the batch, without waiting, until the batch is full.
    fn fetch(&self, batch: &mut BatchBuilder) -> Fetched;
}
