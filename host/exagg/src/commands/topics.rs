//! `exagg reset` and `exagg forget`.

use anyhow::{Context, Result};
use exagg_clients::kafka;
use exagg_pipeline::topics;

use super::Target;
use crate::cli::{Forget, Topic};
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
pub async fn forget(args: &Forget, environment: &Environment) -> Result<()> {
    let Forget { topic: Topic { app, stream, topic }, yes } = args;
    let database = Target::find(app, environment).await?.database;
    let retired = topics::forget(&database, stream, topic, *yes).await?;
    println!("stream {stream}: {retired} partitions of topic {topic} are retired");
    Ok(())
}
