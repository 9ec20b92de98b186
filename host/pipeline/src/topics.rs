//! Topics that were recreated, and topics that are gone.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
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

/// A topic that somebody read so many seconds ago is read now.
const READ_WITHIN_SECONDS: i64 = 30;

/// Retires what a stream knows of the topic's earlier lives, and begins its present one at its start. The hosts that run
/// go on by themselves.
///
/// # Errors
/// When the stream does not read the topic, or the topic was not recreated; or Kafka or the database does not answer.
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
        let known = known(database, stream, topic).await?;
        if known.iter().all(|known| *known == id.0) {
            bail!("the topic {topic} was not recreated: the stream {stream} goes on where it is, and nothing is done");
        }
        let mut statements = format!(
            "WITH done AS MATERIALIZED (
                 SELECT public.exagg_retire({stream}, {topic}, {id}, 'the topic was recreated') AS retired
             ), noted AS MATERIALIZED (
                 SELECT retired, public.exagg_note('reset', {stream}, format(
                     'topic %s starts afresh on {partitions} partitions; %s of its earlier life are retired', {topic},
                     retired)) FROM done
             ) SELECT retired FROM noted;",
            stream = literal(stream),
            topic = literal(topic),
            id = literal(&id.0),
            partitions = starts.len(),
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

/// The ids under which a stream knows a topic.
///
/// # Errors
/// When it knows none: with the topics that it reads.
async fn known(database: &Database, stream: &str, topic: &str) -> Result<Vec<String>> {
    let statement =
        format!("SELECT DISTINCT topic, topic_id FROM public.progress WHERE stream = {} ORDER BY 1", literal(stream));
    let rows = database.rows(&statement).await?;
    let column = |row: &tokio_postgres::SimpleQueryRow, index: usize| row.get(index).unwrap_or_default().to_owned();
    let ids: Vec<_> = rows.iter().filter(|row| column(row, 0) == topic).map(|row| column(row, 1)).collect();
    if ids.is_empty() {
        let read: std::collections::BTreeSet<_> = rows.iter().map(|row| column(row, 0)).collect();
        ensure!(!read.is_empty(), "there is no stream {stream}: it has read nothing");
        let read: Vec<_> = read.into_iter().collect();
        bail!("the stream {stream} does not read a topic {topic}: it reads {}", read.join(", "));
    }
    Ok(ids)
}

/// Retires a stream's progress in a topic, so that it does not hold the watermark any more. Gives how many partitions
/// that were. `is_sure`: also while the topic is read.
///
/// # Errors
/// When the stream does not read the topic, or somebody reads it now and `is_sure` is false.
pub async fn forget(database: &Database, stream: &str, topic: &str, is_sure: bool) -> Result<u64> {
    known(database, stream, topic).await?;
    let (stream_text, topic_text) = (literal(stream), literal(topic));
    let statement = format!(
        "SELECT consumer_group FROM public.progress WHERE stream = {stream_text} AND topic = {topic_text}
             AND last_seen_at > clock_timestamp() - interval '{READ_WITHIN_SECONDS} seconds' LIMIT 1"
    );
    if let Some(group) = database.rows(&statement).await?.first().filter(|_| !is_sure) {
        bail!(
            "the group {} reads topic {topic} for the stream {stream} now, and would begin it anew: stop the stage, or \
             take it out of its topics, first; --yes forgets it all the same",
            group.get(0).unwrap_or_default()
        );
    }
    let statement = format!(
        "WITH done AS MATERIALIZED (
             SELECT public.exagg_retire({stream_text}, {topic_text}, NULL, 'the topic is gone') AS retired
         ), noted AS MATERIALIZED (
             SELECT retired, public.exagg_note('forget', {stream_text}, format(
                 '%s partitions of topic %s are retired', retired, {topic_text})) FROM done
         ) SELECT retired FROM noted"
    );
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
