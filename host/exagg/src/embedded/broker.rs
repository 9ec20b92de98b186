//! librdkafka's mock cluster as a broker for trying out: in memory, one process, gone with it.
//!
//! Each partition keeps 5 MiB and drops its oldest records silently beyond that. The guard
//! makes sure that nothing is dropped unread: a producer waits while the readers are behind by
//! more than half.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exagg_clients::kafka::{Offset, Partition, TopicDescription, TopicId, TopicPartition};
use exagg_runtime::factors::outbound_kafka::ProduceGate;
use exagg_trigger_kafka::partition::AppliedObserver;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use tokio::sync::Notify;

use super::sys;

/// Partitions of each topic.
const PARTITIONS: i32 = 4;
/// Half of what the mock cluster keeps of a partition, in bytes and in batches.
const UNREAD_BYTES_MAX: usize = 5 * 1024 * 1024 / 2;
const UNREAD_RECORDS_MAX: usize = 50_000;
/// What a record takes beside its key and value.
const RECORD_OVERHEAD: usize = 128;

/// The broker. It ends when this is dropped.
pub struct Broker {
    client: BaseProducer<DefaultProducerContext>,
    address: String,
    id: String,
}

impl Broker {
    pub fn start() -> Result<Self> {
        let client: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set("log_level", "3")
            .create()
            .context("the embedded broker cannot start")?;
        let address = {
            let cluster = client.client().mock_cluster().context("the embedded broker did not start")?;
            cluster.bootstrap_servers()
        };
        ensure!(sys::set_group_delay(client.client().native_ptr(), 0), "the embedded broker cannot be set up");
        Ok(Self { client, address, id: format!("embedded-{}", uuid::Uuid::new_v4().simple()) })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// What each of its topics is: the mock cluster cannot say it itself. The id is new with each
    /// start, so that offsets that begin at 0 again are not taken for redelivered ones.
    pub fn description(&self) -> TopicDescription {
        TopicDescription { id: TopicId(self.id.clone()), partitions: PARTITIONS }
    }

    /// Makes the topics.
    pub fn create(&self, topics: &[String]) -> Result<()> {
        let cluster = self.client.client().mock_cluster().context("the embedded broker is gone")?;
        for topic in topics {
            cluster
                .create_topic(topic, PARTITIONS, 1)
                .with_context(|| format!("the embedded broker cannot make the topic {topic}"))?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Track {
    /// Stored and not applied yet: offset and bytes.
    unread: VecDeque<(Offset, usize)>,
    bytes: usize,
    applied: Offset,
}

impl Track {
    fn forget_applied(&mut self) {
        while let Some((offset, bytes)) = self.unread.front() {
            if *offset >= self.applied {
                break;
            }
            self.bytes -= bytes;
            self.unread.pop_front();
        }
    }

    fn is_full(&self) -> bool {
        self.bytes > UNREAD_BYTES_MAX || self.unread.len() > UNREAD_RECORDS_MAX
    }
}

/// Knows both ends of each partition that this process reads.
pub struct Guard {
    topics: Vec<String>,
    tracks: Mutex<HashMap<TopicPartition, Track>>,
    moved: Notify,
}

impl Guard {
    /// `topics` are those that a stage of this process reads.
    pub fn new(topics: Vec<String>) -> Arc<Self> {
        Arc::new(Self { topics, tracks: Mutex::default(), moved: Notify::new() })
    }

    fn with<R>(&self, partition: TopicPartition, work: impl FnOnce(&mut Track) -> R) -> R {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        work(tracks.entry(partition).or_default())
    }

    fn any(&self, is: impl Fn(&str, &Track) -> bool) -> bool {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.iter().any(|(partition, track)| is(&partition.topic, track))
    }

    /// Waits until everything stored is applied, or the time is over; says which.
    pub async fn drained(&self, timeout: Duration) -> bool {
        let wait = async {
            loop {
                let moved = self.moved.notified();
                if !self.any(|_, track| !track.unread.is_empty()) {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(timeout, wait).await.is_ok()
    }
}

impl ProduceGate for Guard {
    fn room(&self, topic: &str) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let topic = topic.to_owned();
        Box::pin(async move {
            loop {
                let moved = self.moved.notified();
                if !self.any(|other, track| other == topic && track.is_full()) {
                    return;
                }
                moved.await;
            }
        })
    }

    fn stored(&self, topic: &str, partition: i32, offset: i64, bytes: usize) {
        if !self.topics.iter().any(|read| read == topic) {
            return;
        }
        let partition = TopicPartition { topic: topic.to_owned(), partition: Partition(partition) };
        self.with(partition, |track| {
            track.unread.push_back((Offset(offset), bytes + RECORD_OVERHEAD));
            track.bytes += bytes + RECORD_OVERHEAD;
            track.forget_applied();
        });
    }
}

impl AppliedObserver for Guard {
    fn applied(&self, partition: &TopicPartition, next_offset: Offset) {
        self.with(partition.clone(), |track| {
            track.applied = track.applied.max(next_offset);
            track.forget_applied();
        });
        self.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_producer_waits_while_the_readers_are_behind_by_half() {
        let guard = Guard::new(vec!["t".to_owned()]);
        guard.stored("t", 0, 0, UNREAD_BYTES_MAX);
        let waits = async |topic| tokio::time::timeout(Duration::from_millis(20), guard.room(topic)).await.is_err();
        assert!(waits("t").await);
        assert!(!waits("other").await);
        guard.applied(&TopicPartition { topic: "t".to_owned(), partition: Partition(0) }, Offset(1));
        assert!(!waits("t").await);
        assert!(guard.drained(Duration::from_millis(20)).await);
    }

    #[tokio::test]
    async fn topics_that_nobody_reads_are_not_waited_for() {
        let guard = Guard::new(vec![]);
        guard.stored("t", 0, 0, 10 * UNREAD_BYTES_MAX);
        assert!(guard.drained(Duration::from_millis(20)).await);
    }
}
