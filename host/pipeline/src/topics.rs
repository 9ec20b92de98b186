//! Topics that were recreated, and topics that are gone.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use exagg_clients::database::{Database, literal};
use exagg_clients::kafka::{LogContext, Offset, Properties, TopicId, client_config, create, describe_topic};
use futures::future::BoxFuture;
use rdkafka::consumer::{BaseConsumer, Consumer};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The function `exagg_retire` of the tables gives how many partitions it retired.
fn retired(rows: &[tokio_postgres::SimpleQueryRow]) -> u64 {
    rows.first().and_then(|row| row.get(0)?.parse().ok()).unwrap_or_default()
}

/// What a reset did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Partitions of the topic as it is now.
    pub partitions: usize,
    /// Partitions of its earlier lives whose progress was retired.
    pub retired: u64,
}

/// Retires what a stream knows of the topic's earlier lives, and begins its present one at its start.
pub fn reset<'a>(
    database: &'a Database,
    brokers: String,
    kafka: Properties,
    stream: &'a str,
    topic: &'a str,
) -> BoxFuture<'a, Result<Reset>> {
    Box::pin(async move {
        let asked = topic.to_owned();
        let (id, starts) = tokio::task::spawn_blocking(move || present(&brokers, &kafka, &asked)).await??;
        let mut statements = format!(
            "SELECT public.exagg_retire({stream}, {topic}, {id}, 'the topic was recreated');",
            stream = literal(stream),
            topic = literal(topic),
            id = literal(&id.0),
        );
        for (partition, start) in starts.iter().enumerate() {
            statements += &format!(
                "INSERT INTO public.progress
                     (stream, topic_id, partition, topic, next_offset, end_offset, partition_count, consumer_group)
                 VALUES ({}, {}, {partition}, {}, {start}, {start}, {}, 'exagg reset') ON CONFLICT DO NOTHING;",
                literal(stream),
                literal(&id.0),
                literal(topic),
                starts.len(),
            );
        }
        let rows = database.rows(&statements).await?;
        Ok(Reset { partitions: starts.len(), retired: retired(&rows) })
    })
}

/// The topic's id and the first offset of each partition.
fn present(brokers: &str, kafka: &Properties, topic: &str) -> Result<(TopicId, Vec<Offset>)> {
    let consumer: BaseConsumer<LogContext> =
        create(&client_config(brokers, kafka), LogContext { who: "reset".to_owned() })
            .context("cannot set a Kafka client up")?;
    let described = describe_topic(consumer.client().native_client(), topic, TIMEOUT);
    let described = described.map_err(|error| {
        anyhow!("the topic {topic} cannot be described: {error}; if it is gone for good: exagg forget")
    })?;
    let starts = (0..described.partitions)
        .map(|partition| Ok(Offset(consumer.fetch_watermarks(topic, partition, TIMEOUT)?.0)))
        .collect::<Result<_>>()?;
    Ok((described.id, starts))
}

/// Retires a stream's progress in a topic, so that it does not hold the watermark any more. Gives how many partitions
/// that were.
pub async fn forget(database: &Database, stream: &str, topic: &str) -> Result<u64> {
    let statement =
        format!("SELECT public.exagg_retire({}, {}, NULL, 'the topic is gone')", literal(stream), literal(topic));
    Ok(retired(&database.rows(&statement).await?))
}

/// Retires all streams' progress in topics of a broker that forgot them: what was not read any more becomes a gap.
/// Gives how many partitions that were.
pub async fn retire_forgotten(database: &Database, topics: &[String]) -> Result<u64> {
    if topics.is_empty() {
        return Ok(0);
    }
    let list: Vec<_> = topics.iter().map(|topic| literal(topic)).collect();
    let statement = format!(
        "SELECT coalesce(sum(public.exagg_retire(stream, topic, NULL, 'the embedded broker is in memory: it forgot')), 0)
         FROM (SELECT DISTINCT stream, topic FROM public.progress WHERE topic IN ({})) AS known",
        list.join(", ")
    );
    Ok(retired(&database.rows(&statement).await?))
}
