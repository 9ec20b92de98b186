//! A log in memory and a function that follows a script, for tests without a broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use exagg_clients::kafka::{Offset, OffsetRange, Partition, TopicDescription, TopicId, TopicPartition};
use exagg_runtime::instance::CallError;
use exagg_runtime::instance::reuse::Reuse;
use exagg_runtime::slot::Version;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::batch::{BatchBuilder, RecordRef, Source};
use crate::bindings::exagg::kafka::types::{Batch, Outcome};
use crate::config::Start;
use crate::dispatch::Function;
use crate::fetch::Fetch;
use crate::log::{Applied, Assignment, Cluster, Committed, Event, FetchError, Fetched, Log, Queue, ReadTo, Unanswered};

/// What one partition of the fake log holds, and how it behaves.
#[derive(Default)]
pub struct Partitions {
    /// First offset and end.
    pub bounds: (i64, i64),
    /// Offsets that hold no record: aborted, compacted, or a transaction's marker.
    pub holes: Vec<i64>,
    /// Where the fetcher is; none until it was told.
    pub fetching: Option<i64>,
    /// Records are there, and do not come.
    pub is_stuck: bool,
    /// Comes once, in the place of records.
    pub error: Option<FetchError>,
    pub committed: Committed,
    /// The leader's epoch: that of all records.
    pub leader_epoch: i32,
    /// An epoch of which the log holds no more than up to this offset; none of it at all where that is 0.
    pub ended: Option<(i32, i64)>,
    pub ready: Arc<Notify>,
}

#[derive(Default)]
pub struct State {
    pub topic_id: String,
    pub partitions: BTreeMap<i32, Partitions>,
    /// Questions that the cluster does not answer.
    pub unanswered: u32,
    /// How long it takes over an answer.
    pub takes: Duration,
    pub commits: Vec<(i32, i64)>,
    pub seeks: Vec<(i32, i64)>,
    /// The topic does not exist.
    pub is_missing: bool,
    pub joined: usize,
    pub left: usize,
    /// Nobody answers who leaves.
    pub cannot_be_left: bool,
    events: Option<UnboundedSender<Event<FakeQueue>>>,
}

/// The cluster, as a test sees it.
#[derive(Clone, Default)]
pub struct FakeCluster(pub Arc<Mutex<State>>);

/// The topic of all tests.
pub fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: "t".to_owned(), partition: Partition(number) }
}

impl FakeCluster {
    /// A topic whose partitions hold records from 0 up to these ends.
    pub fn new(ends: &[i64]) -> Self {
        let cluster = Self::default();
        cluster.with(|state| {
            state.topic_id = "first".to_owned();
            for (number, end) in (0..).zip(ends) {
                state.partitions.insert(number, Partitions { bounds: (0, *end), ..Partitions::default() });
            }
        });
        cluster
    }

    pub fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.0.lock().unwrap())
    }

    pub fn on<R>(&self, number: i32, work: impl FnOnce(&mut Partitions) -> R) -> R {
        self.with(|state| work(state.partitions.get_mut(&number).unwrap()))
    }

    /// Adds so many records.
    pub fn append(&self, number: i32, records: i64) {
        self.on(number, |partition| {
            partition.bounds.1 += records;
            partition.ready.notify_one();
        });
    }

    pub fn tell(&self, event: Event<FakeQueue>) {
        let events = self.with(|state| state.events.clone());
        assert!(events.unwrap().send(event).is_ok(), "the stage has ended");
    }

    pub fn assign(&self, numbers: &[i32]) {
        let assign = |number: &i32| {
            let ready = self.on(*number, |partition| Arc::clone(&partition.ready));
            let queue = FakeQueue { cluster: self.clone(), number: *number, ready };
            Assignment { partition: partition(*number), queue }
        };
        self.tell(Event::Assigned(numbers.iter().map(assign).collect()));
    }

    /// Revokes a partition; the receiver is disconnected once the stage lets it go.
    pub fn revoke(&self, number: i32) -> std::sync::mpsc::Receiver<()> {
        let (done, wait) = std::sync::mpsc::channel();
        self.tell(Event::Revoked(vec![partition(number)], done));
        wait
    }

    pub fn commits(&self) -> Vec<(i32, i64)> {
        self.with(|state| state.commits.clone())
    }
}

impl Cluster for FakeCluster {
    type Log = FakeLog;

    fn join(&self, _: &Fetch, events: UnboundedSender<Event<FakeQueue>>) -> Result<FakeLog> {
        self.with(|state| {
            state.joined += 1;
            state.events = Some(events);
        });
        Ok(FakeLog(self.clone()))
    }
}

pub struct FakeLog(FakeCluster);

impl FakeLog {
    async fn ask<R>(&self, answer: impl FnOnce(&mut State) -> R) -> Result<R, Unanswered> {
        tokio::time::sleep(self.0.with(|state| state.takes)).await;
        self.0.with(|state| {
            if state.unanswered == 0 {
                return Ok(answer(state));
            }
            state.unanswered -= 1;
            Err(Unanswered("the cluster is away".to_owned()))
        })
    }
}

impl Log for FakeLog {
    type Queue = FakeQueue;

    async fn describe(&self, _: &str) -> Result<TopicDescription, Unanswered> {
        self.ask(|state| TopicDescription {
            id: TopicId(state.topic_id.clone()),
            partitions: i32::try_from(state.partitions.len()).unwrap(),
        })
        .await
    }

    async fn has_topic(&self, _: &str) -> Result<bool, Unanswered> {
        self.ask(|state| !state.is_missing).await
    }

    async fn bounds(&self, partition: &TopicPartition) -> Result<OffsetRange, Unanswered> {
        self.ask(|state| {
            let (from, next) = state.partitions[&partition.partition.0].bounds;
            OffsetRange { from: Offset(from), next: Offset(next) }
        })
        .await
    }

    fn known_end(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(Offset(self.0.on(partition.partition.0, |partition| partition.bounds.1)))
    }

    async fn committed(&self, source: &Source) -> Result<Committed, Unanswered> {
        self.ask(|state| state.partitions[&source.partition.partition.0].committed).await
    }

    async fn offset_of(&self, _: &TopicPartition, start: Start, bounds: OffsetRange) -> Result<Offset, Unanswered> {
        self.ask(|_| match start {
            Start::Earliest => bounds.from,
            Start::Latest => bounds.next,
            Start::At(time) => Offset(time),
        })
        .await
    }

    async fn seek(
        &self,
        partition: &TopicPartition,
        offset: Offset,
        leader_epoch: Option<i32>,
    ) -> Result<(), Unanswered> {
        let number = partition.partition.0;
        self.ask(|state| {
            state.seeks.push((number, offset.0));
            let partition = state.partitions.get_mut(&number).unwrap();
            partition.fetching = Some(offset.0);
            if let Some((epoch, end)) = partition.ended
                && Some(epoch) == leader_epoch
                && end < offset.0
            {
                partition.fetching = None;
                partition.error = Some(FetchError::Truncated { end: (end > 0).then_some(Offset(end)) });
            }
            partition.ready.notify_one();
        })
        .await
    }

    fn commit(&self, applied: Applied) {
        self.0.with(|state| state.commits.push((applied.partition.partition.0, applied.next_offset.0)));
    }

    async fn leave(log: Arc<Self>) {
        if log.0.with(|state| state.cannot_be_left) {
            std::future::pending::<()>().await;
        }
        log.0.with(|state| state.left += 1);
    }
}

pub struct FakeQueue {
    cluster: FakeCluster,
    number: i32,
    ready: Arc<Notify>,
}

impl Queue for FakeQueue {
    fn arm(&mut self) {
        self.ready.notify_one();
    }

    fn ready(&self) -> &Notify {
        &self.ready
    }

    fn fetch(&self, batch: &mut BatchBuilder) -> Fetched {
        self.cluster.on(self.number, |partition| {
            let mut fetched = Fetched::default();
            let Some(fetching) = partition.fetching.filter(|_| !partition.is_stuck) else {
                fetched.error = partition.error.take();
                return fetched;
            };
            for offset in fetching..partition.bounds.1 {
                if batch.is_full() {
                    partition.fetching = Some(offset);
                    return fetched;
                }
                if !partition.holes.contains(&offset) {
                    let value = format!("record {offset}");
                    let value = Some(value.as_bytes());
                    batch.push(&RecordRef { offset: Offset(offset), timestamp: offset, key: None, value });
                    fetched.read_to =
                        Some(ReadTo { next_offset: Offset(offset + 1), leader_epoch: partition.leader_epoch });
                }
            }
            partition.fetching = Some(partition.bounds.1.max(fetching));
            batch.end_at(Offset(partition.bounds.1));
            fetched.error = partition.error.take();
            fetched
        })
    }
}

/// What a call was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub version: &'static str,
    pub topic_id: String,
    pub from: i64,
    pub next: i64,
    pub end: i64,
    pub offsets: Vec<i64>,
    pub lost: Option<(i64, i64, bool)>,
}

pub type Answer = Box<dyn Fn(&Batch) -> Result<Outcome, CallError> + Send + Sync>;

/// A version of a function that notes what it is given, and takes some time over each call with records.
pub struct Scripted {
    pub version: &'static str,
    pub takes: Duration,
    pub answer: Answer,
    pub given: Arc<Mutex<Vec<Given>>>,
}

impl Version for Scripted {
    fn digest(&self) -> &str {
        self.version
    }
}

impl Function for Scripted {
    async fn handle_batch(self: Arc<Self>, _: &str, _: Option<Reuse>, batch: Arc<Batch>) -> Result<Outcome, CallError> {
        self.given.lock().unwrap().push(Given {
            version: self.version,
            topic_id: batch.topic_id.clone(),
            from: batch.from_offset,
            next: batch.next_offset,
            end: batch.end_offset,
            offsets: batch.offsets.clone(),
            lost: batch.lost.as_ref().map(|lost| (lost.from_offset, lost.next_offset, lost.accepted)),
        });
        if !batch.offsets.is_empty() {
            tokio::time::sleep(self.takes).await;
        }
        (self.answer)(&batch)
    }
}
