//! `exagg reset` and `exagg forget`.

use anyhow::{Context, Result, ensure};
use exagg_clients::kafka;
use exagg_pipeline::topics;

use super::Target;
use crate::cli::Topic;
use crate::config::Environment;

/// Lets a topic that was deleted and recreated start afresh for a stream.
pub async fn reset(args: &Topic, environment: &Environment) -> Result<()> {
    let Target { settings, app, database } = Target::find(&args.app, environment).await?;
    let properties = kafka::properties(&app.variables, &settings.kafka)?;
    let brokers = app.variables.get("kafka_brokers").context("the app has no variable kafka_brokers")?;
    let brokers = brokers.expose().to_owned();
    let done = topics::reset(&database, brokers, properties, &args.stream, &args.topic).await?;
    println!(
        "stream {}: topic {} starts afresh on {} partitions; {} partitions of its earlier life are retired",
        args.stream, args.topic, done.partitions, done.retired
    );
    Ok(())
}

/// Retires a stream's progress in a topic that is gone.
pub async fn forget(args: &Topic, environment: &Environment) -> Result<()> {
    let database = Target::find(&args.app, environment).await?.database;
    let retired = topics::forget(&database, &args.stream, &args.topic).await?;
    ensure!(retired > 0, "stream {} has no progress in a topic {}", args.stream, args.topic);
    println!("stream {}: {retired} partitions of topic {} are retired", args.stream, args.topic);
    Ok(())
}
