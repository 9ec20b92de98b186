//! The last records of a topic, read outside of any group: nothing is committed, and nobody's partitions move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use exagg_clients::kafka::{LogContext, Properties, addresses, client_config, create};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// For one question to the cluster.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// For all records: those that have come by then will do.
const READ_MAX: Duration = Duration::from_secs(2);
/// Bytes of a value that are looked at: larger ones are not what is averaged.
const FETCH_BYTES: &str = "4194304";
/// Bytes of all of them.
const BYTES_MAX: usize = 64 << 20;

/// A record.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub partition: i32,
    /// Unix milliseconds.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// What was read, and of how much.
pub struct Sample {
    pub partitions: usize,
    /// What the topic holds, as far as offsets tell.
    pub stored: i64,
    pub records: Vec<Sampled>,
}

type Client = BaseConsumer<LogContext>;

/// Reads about so many of the last records, as many of each partition. Blocks.
pub fn read(brokers: &str, properties: &Properties, topic: &str, records: u32) -> Result<Sample> {
    // What stands there besides hosts and ports would be shown below.
    let hosts = addresses(brokers).map_err(|error| anyhow!("the brokers: {error}"))?;
    let hosts = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ");
    let mut config = client_config(brokers, properties);
    config
        // A consumer has to have one; without subscribing and committing it is no member.
        .set("group.id", "exagg-preview")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.message.max.bytes", FETCH_BYTES);
    let client: Client =
        create(&config, LogContext { who: "preview".to_owned() }).context("cannot set a Kafka client up")?;
    let metadata = client.fetch_metadata(Some(topic), REQUEST_MAX);
    let metadata = metadata.with_context(|| format!("no Kafka broker of {hosts} answers"))?;
    let found = metadata.topics().first().context("the cluster says nothing of the topic")?;
    if let Some(error) = found.error() {
        bail!("the topic {topic} cannot be read: {}", RDKafkaErrorCode::from(error));
    }
    let partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    ensure!(!partitions.is_empty(), "there is no topic {topic}");
    let each = i64::from(records).div_euclid(i64::try_from(partitions.len())?).max(1);
    let (mut list, mut stored) = (TopicPartitionList::new(), 0);
    for partition in &partitions {
        let (first, end) = client.fetch_watermarks(topic, *partition, REQUEST_MAX)?;
        stored += end - first;
        if end > first {
            list.add_partition_offset(topic, *partition, Offset::Offset((end - each).max(first)))?;
        }
    }
    let records = if list.count() == 0 { Vec::new() } else { poll(&client, &list, usize::try_from(records)?)? };
    Ok(Sample { partitions: partitions.len(), stored, records })
}

/// Until each partition has come to its end, there are enough, or it takes too long.
fn poll(client: &Client, list: &TopicPartitionList, enough: usize) -> Result<Vec<Sampled>> {
    client.assign(list)?;
    let (deadline, mut records, mut open, mut bytes) = (Instant::now() + READ_MAX, Vec::new(), list.count(), 0);
    while open > 0 && records.len() < enough && bytes < BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match client.poll(left) {
            None => break,
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            // A broker that another one stands in for; and a group is of no use here, whoever may be in it.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ))) => {}
            Some(Err(error)) => bail!("the records cannot be read: {error}"),
            Some(Ok(message)) => {
                bytes += message.payload_len() + message.key_len();
                records.push(Sampled {
                    partition: message.partition(),
                    timestamp: message.timestamp().to_millis().filter(|time| *time >= 0),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                });
            }
        }
    }
    Ok(records)
}
