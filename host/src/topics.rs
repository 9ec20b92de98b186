//! `exagg reset` and `exagg forget`: topics that were made again, and topics that are gone.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::app::App;
use crate::cli::Topic;
use crate::config::{AppSettings, Environment};
use crate::database::{Database, literal};
use crate::kafka::{LogContext, Properties, client_config, create};
use crate::triggers::kafka::describe_topic;

const TIMEOUT: Duration = Duration::from_secs(10);

struct Target {
    database: Database,
    brokers: String,
    kafka: Properties,
}

async fn target(args: &Topic, environment: &Environment) -> Result<Target> {
    let settings = AppSettings::load(&args.app, environment)?;
    let app: App = settings.app().await?;
    let variables = app.resolve(&settings.providers)?;
    Ok(Target {
        kafka: crate::kafka::properties(&variables, &settings.kafka)?,
        database: settings.database_needed(&variables)?,
        brokers: variables.get("kafka_brokers").context("the app has no variable kafka_brokers")?.expose().to_owned(),
    })
}

/// Retires what is known of the topic's earlier lives and begins its present one at its start.
pub async fn reset(args: &Topic, environment: &Environment) -> Result<()> {
    let target = target(args, environment).await?;
    let (brokers, kafka, topic) = (target.brokers, target.kafka, args.topic.clone());
    let (id, starts) = tokio::task::spawn_blocking(move || present(&brokers, &kafka, &topic)).await??;
    let mut statements = format!(
        "BEGIN; SELECT public.exagg_retire({stream}, {topic}, {id}, 'the topic was made again');",
        stream = literal(&args.stream),
        topic = literal(&args.topic),
        id = literal(&id),
    );
    for (partition, start) in starts.iter().enumerate() {
        statements += &format!(
            "INSERT INTO public.progress
                 (stream, topic_id, partition, topic, next_offset, end_offset, partition_count, consumer_group)
             VALUES ({}, {}, {partition}, {}, {start}, {start}, {}, 'exagg reset') ON CONFLICT DO NOTHING;",
            literal(&args.stream),
            literal(&id),
            literal(&args.topic),
            starts.len(),
        );
    }
    let rows = target.database.rows(&(statements + "COMMIT")).await?;
    let retired = rows.first().and_then(|row| row.get(0)).unwrap_or("0").to_owned();
    println!(
        "stream {}: topic {} starts afresh on {} partitions; {retired} partitions of its earlier life are retired",
        args.stream,
        args.topic,
        starts.len()
    );
    Ok(())
}

/// The topic's id and the first offset of each partition.
fn present(brokers: &str, kafka: &Properties, topic: &str) -> Result<(String, Vec<i64>)> {
    let consumer: BaseConsumer<LogContext> =
        create(&client_config(brokers, kafka), LogContext { who: "reset".to_owned() })
            .context("cannot set a Kafka client up")?;
    let described = describe_topic(consumer.client().native_client(), topic, TIMEOUT);
    let described = described.map_err(|error| {
        anyhow!("the topic {topic} cannot be described: {error}; if it is gone for good: exagg forget")
    })?;
    let starts = (0..described.partitions)
        .map(|partition| Ok(consumer.fetch_watermarks(topic, partition, TIMEOUT)?.0))
        .collect::<Result<_>>()?;
    Ok((described.id, starts))
}

/// Retires a stream's progress in a topic, so that it does not hold the watermark any more.
pub async fn forget(args: &Topic, environment: &Environment) -> Result<()> {
    let target = target(args, environment).await?;
    let statement = format!(
        "SELECT public.exagg_retire({}, {}, NULL, 'the topic is gone')",
        literal(&args.stream),
        literal(&args.topic)
    );
    let rows = target.database.rows(&statement).await?;
    match rows.first().and_then(|row| row.get(0)) {
        Some("0") | None => bail!("stream {} has no progress in a topic {}", args.stream, args.topic),
        Some(retired) => {
            println!("stream {}: {retired} partitions of topic {} are retired", args.stream, args.topic);
            Ok(())
        }
    }
}
