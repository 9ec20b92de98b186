//! A partition's past, from a time to an offset, as batches: outside any group.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::batch::{BatchBuilder, Contents, Place, RecordRef};
use super::config::Subscription;
use super::sys::describe_topic;
use crate::bindings::kafka::exagg::kafka::types::Batch;
use crate::kafka::{LogContext, Properties, apply, client_config, create};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Batches that wait for the function.
const AHEAD: usize = 2;

/// What is to be read.
pub struct Range {
    pub topic: String,
    /// The topic must still be this one.
    pub topic_id: String,
    pub partition: i32,
    /// From the first record of this time on; none is from the log's beginning.
    pub since: Option<DateTime<Utc>>,
    /// Up to here.
    pub next_offset: i64,
}

type Client = BaseConsumer<LogContext>;

/// Reads on a thread of its own.
pub struct Backlog {
    batches: Receiver<Result<Batch>>,
    log_begins: Option<DateTime<Utc>>,
}

impl Backlog {
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
        let contents = subscription.batch;
        crate::unpack::raise_record_limit(contents.record_bytes_max);
        let (sender, batches) = channel(AHEAD);
        let (told, begins) = std::sync::mpsc::channel();
        let read = move || {
            let reader = create(&config, LogContext { who: "replay".to_owned() })
                .context("cannot set a Kafka client up")
                .and_then(|client: Client| Reader::open(client, range, contents));
            match reader {
                Ok((mut reader, log_begins)) => {
                    let _ = told.send(Ok(log_begins));
                    if let Err(error) = reader.run(&sender) {
                        let _ = sender.blocking_send(Err(error));
                    }
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        std::thread::Builder::new().name("replay".to_owned()).spawn(read)?;
        let log_begins = tokio::task::block_in_place(|| begins.recv()).map_err(|_| anyhow!("the reader ended"))??;
        Ok(Self { batches, log_begins })
    }

    /// The next batch; none at the end.
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
    place: Place,
    position: i64,
    end: i64,
    contents: Contents,
}

impl Reader {
    /// Finds out where to begin, and what the log has lost.
    fn open(client: Client, range: Range, contents: Contents) -> Result<(Self, Option<DateTime<Utc>>)> {
        let described = describe_topic(client.client().native_client(), &range.topic, REQUEST_TIMEOUT);
        let described = described.map_err(|error| anyhow!("the topic cannot be described: {error}"))?;
        if described.id != range.topic_id {
            bail!("the topic was deleted and made again: its records of then are gone");
        }
        let (low, _) = client.fetch_watermarks(&range.topic, range.partition, REQUEST_TIMEOUT)?;
        let mut list = TopicPartitionList::new();
        let position = match range.since {
            None => low,
            Some(time) => {
                list.add_partition_offset(&range.topic, range.partition, Offset::Offset(time.timestamp_millis()))?;
                let answer = client.offsets_for_times(list, REQUEST_TIMEOUT)?;
                match answer.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset) {
                    Some(Offset::Offset(offset)) => offset,
                    // No record is that young.
                    _ => range.next_offset,
                }
            }
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&range.topic, range.partition, Offset::Offset(position))?;
        client.assign(&list)?;
        let place = Place {
            topic: range.topic,
            topic_id: range.topic_id,
            partition: range.partition,
            partition_count: described.partitions,
            group: "exagg replay".to_owned(),
        };
        let mut reader = Self { client, place, position, end: range.next_offset, contents };
        let log_begins = if position == low && low > 0 { reader.first_time()? } else { None };
        Ok((reader, log_begins))
    }

    /// The time of the first record; where there is none any more, now.
    fn first_time(&mut self) -> Result<Option<DateTime<Utc>>> {
        let millis = match self.client.poll(REQUEST_TIMEOUT) {
            Some(Ok(message)) => message.timestamp().to_millis(),
            Some(Err(KafkaError::PartitionEOF(_))) => None,
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the log gave nothing for {REQUEST_TIMEOUT:?}"),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.place.topic, self.place.partition, Offset::Offset(self.position))?;
        self.client.assign(&list)?;
        #[expect(clippy::disallowed_methods, reason = "a log without any record has lost all of the past")]
        Ok(Some(millis.and_then(DateTime::from_timestamp_millis).unwrap_or_else(Utc::now)))
    }

    fn run(&mut self, batches: &Sender<Result<Batch>>) -> Result<()> {
        while self.position < self.end {
            let batch = self.batch()?;
            self.position = batch.next_offset;
            // An interval without records tells the function nothing.
            if !batch.offsets.is_empty() && batches.blocking_send(Ok(batch)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<Batch> {
        let mut builder = BatchBuilder::new(&self.place, self.position, self.contents);
        while !builder.is_full() {
            match self.client.poll(REQUEST_TIMEOUT) {
                Some(Ok(message)) if message.offset() >= self.end => {
                    builder.end_at(self.end);
                    break;
                }
                Some(Ok(message)) => {
                    let record = RecordRef {
                        offset: message.offset(),
                        timestamp: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key(),
                        value: message.payload(),
                    };
                    if builder.push(&record) {
                        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
                            builder.push_header(header.key, header.value);
                        }
                    }
                    if message.offset() + 1 == self.end {
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
