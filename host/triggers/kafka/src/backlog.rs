//! A partition's past, from a time to an offset, as batches: outside any group.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use exagg_clients::kafka::{
    LogContext, Offset, Properties, TopicId, TopicPartition, apply, client_config, create, describe_topic,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{self, TopicPartitionList};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::batch::{BatchBuilder, BatchLimits, RecordRef, Source, empty};
use crate::bindings::exagg::kafka::types::Batch;
use crate::config::Subscription;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Batches that wait for the function.
const AHEAD: usize = 2;

/// What is to be read.
pub struct Range {
    /// The one partition that is assigned, without a group.
    pub partition: TopicPartition,
    /// The topic must still be this one.
    pub topic_id: TopicId,
    /// From the first record of this time on; none is from the log's beginning.
    pub since: Option<DateTime<Utc>>,
    /// What lies before was read earlier; none: nothing was.
    pub from: Option<Offset>,
    /// Up to here.
    pub next_offset: Offset,
}

type Client = BaseConsumer<LogContext>;

/// Reads on a thread of its own.
pub struct Backlog {
    batches: Receiver<Result<Batch>>,
    log_begins: Option<DateTime<Utc>>,
    position: Offset,
}

impl Backlog {
    /// Blocks until the first offset is known: it needs a tokio runtime with several threads.
    pub fn open(subscription: &Subscription, kafka: &Properties, range: Range) -> Result<Self> {
        let mut config = client_config(&subscription.brokers, kafka);
        apply(&mut config, &subscription.properties);
        // The operator has the last word on what the host does not fix.
        apply(&mut config, kafka);
        config
            .set("group.id", format!("{}-replay", subscription.group))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed");
        let limits = subscription.batch;
        exagg_unpack::raise_record_limit(limits.record_bytes_max);
        let (sender, batches) = channel(AHEAD);
        let (told, begins) = std::sync::mpsc::channel();
        let read = move || {
            let reader = create(&config, LogContext { who: "replay".to_owned() })
                .context("cannot set a Kafka client up")
                .and_then(|client: Client| Reader::open(client, range, limits));
            match reader {
                Ok((mut reader, log_begins)) => {
                    let _ = told.send(Ok((log_begins, reader.position)));
                    if let Err(error) = reader.run(&sender) {
                        let _ = sender.blocking_send(Err(error));
                    }
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        std::thread::Builder::new().name("replay".to_owned()).spawn(read)?;
        let begins = tokio::task::block_in_place(|| begins.recv()).map_err(|_| anyhow!("the reader ended"))?;
        let (log_begins, position) = begins?;
        Ok(Self { batches, log_begins, position })
    }

    /// Where it begins to read.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// The next batch, without a hole between two; none at the end. The first has no records.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        self.batches.recv().await.transpose()
    }

    /// The time of the first record that the log still holds, where it has lost earlier ones.
    pub fn log_begins(&self) -> Option<DateTime<Utc>> {
        self.log_begins
    }
}

struct Reader {
    client: Client,
    source: Source,
    position: Offset,
    end: Offset,
    limits: BatchLimits,
}

impl Reader {
    /// Finds out where to begin, and what the log has lost.
    fn open(client: Client, range: Range, limits: BatchLimits) -> Result<(Self, Option<DateTime<Utc>>)> {
        let described = describe_topic(client.client().native_client(), &range.partition.topic, REQUEST_TIMEOUT);
        let described = described.map_err(|error| anyhow!("the topic cannot be described: {error}"))?;
        if described.id != range.topic_id {
            bail!("the topic was deleted and recreated: its records of then are gone");
        }
        let TopicPartition { topic, partition } = &range.partition;
        let (low, _) = client.fetch_watermarks(topic, partition.0, REQUEST_TIMEOUT)?;
        let low = Offset(low);
        let mut list = TopicPartitionList::new();
        let position = match range.since {
            None => low,
            Some(time) => {
                let millis = topic_partition_list::Offset::Offset(time.timestamp_millis());
                list.add_partition_offset(topic, partition.0, millis)?;
                let answer = client.offsets_for_times(list, REQUEST_TIMEOUT)?;
                match answer.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset) {
                    Some(topic_partition_list::Offset::Offset(offset)) => Offset(offset),
                    // No record is that young.
                    _ => range.next_offset,
                }
            }
        };
        let position = position.min(range.next_offset);
        let source = Source {
            partition: range.partition,
            topic_id: range.topic_id,
            partition_count: described.partitions,
            group: "exagg replay".to_owned(),
        };
        let mut reader = Self { client, source, position, end: range.next_offset, limits };
        let log_begins = if position == low && low > Offset(0) { reader.first_time()? } else { None };
        if let Some(from) = range.from {
            if from < low {
                bail!(
                    "the log has lost records from offset {from} to {low} since this replay was stopped: start it afresh"
                );
            }
            reader.position = from;
        }
        // Once: librdkafka ends the process when an assignment is replaced before it has begun.
        assign(&reader.client, &reader.source.partition, reader.position)?;
        Ok((reader, log_begins))
    }

    /// The time of the first record; where there is none any more, now.
    fn first_time(&mut self) -> Result<Option<DateTime<Utc>>> {
        assign(&self.client, &self.source.partition, self.position)?;
        let millis = match self.client.poll(REQUEST_TIMEOUT) {
            Some(Ok(message)) => message.timestamp().to_millis(),
            Some(Err(KafkaError::PartitionEOF(_))) => None,
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the log gave nothing for {REQUEST_TIMEOUT:?}"),
        };
        #[expect(clippy::disallowed_methods, reason = "a log without any record has lost all of the past")]
        Ok(Some(millis.and_then(DateTime::from_timestamp_millis).unwrap_or_else(Utc::now)))
    }

    fn run(&mut self, batches: &Sender<Result<Batch>>) -> Result<()> {
        let mut batch = empty(&self.source, self.position, self.end);
        while batches.blocking_send(Ok(batch)).is_ok() && self.position < self.end {
            batch = self.batch()?;
            self.position = Offset(batch.next_offset);
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<Batch> {
        let mut builder = BatchBuilder::new(&self.source, self.position, self.limits);
        while !builder.is_full() {
            match self.client.poll(REQUEST_TIMEOUT) {
                Some(Ok(message)) if message.offset() >= self.end.0 => {
                    builder.end_at(self.end);
                    break;
                }
                Some(Ok(message)) => {
                    let record = RecordRef {
                        offset: Offset(message.offset()),
                        timestamp: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key(),
                        value: message.payload(),
                    };
                    if builder.push(&record) {
                        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
                            builder.push_header(header.key, header.value);
                        }
                    }
                    if message.offset() + 1 == self.end.0 {
                        break;
                    }
                }
                // What is behind the last record is holes.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    builder.end_at(self.end);
                    break;
                }
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the log gave nothing for {REQUEST_TIMEOUT:?}"),
            }
        }
        Ok(builder.finish(Some(self.end)))
    }
}

/// Reads the partition from this offset on.
fn assign(client: &Client, partition: &TopicPartition, offset: Offset) -> Result<()> {
    let mut list = TopicPartitionList::new();
    let offset = topic_partition_list::Offset::Offset(offset.0);
    list.add_partition_offset(&partition.topic, partition.partition.0, offset)?;
    Ok(client.assign(&list)?)
}
