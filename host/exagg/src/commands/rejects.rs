//! `exagg rejects`.

use anyhow::Result;
use exagg_common::printable::printable;
use exagg_pipeline::rejects::{counts, youngest};

use super::Target;
use crate::cli::Rejects;
use crate::config::Environment;

/// Prints why records of a stream are not counted, and the youngest of them.
pub async fn run(args: &Rejects, environment: &Environment) -> Result<()> {
    let database = Target::find(&args.app, environment).await?.database;
    let counts = counts(&database, &args.stream).await?;
    if counts.is_empty() {
        println!("stream {}: nothing is rejected", args.stream);
        return Ok(());
    }
    for count in &counts {
        let reason = printable(&count.reason);
        println!("{reason}: {} records, from {} to {}", count.records, count.first_at, count.last_at);
    }
    println!();
    for record in youngest(&database, &args.stream, args.reason.as_deref(), args.limit).await? {
        println!(
            "{} {}/{} offset {}: {}, window {}: {}",
            record.rejected_at,
            printable(&record.topic),
            record.partition,
            record.offset,
            printable(&record.reason),
            record.window_start,
            // What a record holds must not reach the terminal as it is.
            printable(&record.value)
        );
    }
    Ok(())
}
