//! `exagg rejects`: why records of a stream are not counted, and the youngest of them.

use anyhow::{Context as _, Result};

use crate::cli::Rejects;
use crate::config::{AppSettings, Environment};
use crate::database::literal;
use crate::topics::database;

/// How much of a value is shown.
const VALUE_CHARS: usize = 120;

pub async fn list(args: &Rejects, environment: &Environment) -> Result<()> {
    let settings = AppSettings::load(&args.app, environment)?;
    let variables = settings.app().await?.resolve(&settings.providers)?;
    let database =
        database(&variables, settings.authorities.as_ref())?.context("the app has no variable postgres_url")?;
    let stream = literal(&args.stream);
    let counts = format!(
        "SELECT reason, count(*), min(rejected_at)::text, max(rejected_at)::text
         FROM public.rejected_records WHERE stream = {stream} GROUP BY reason ORDER BY 2 DESC"
    );
    let counts = database.rows(&counts).await?;
    if counts.is_empty() {
        println!("stream {}: nothing is rejected", args.stream);
        return Ok(());
    }
    for row in &counts {
        let column = |index| row.get(index).unwrap_or_default();
        println!("{}: {} records, from {} to {}", column(0), column(1), column(2), column(3));
    }
    let reason = args.reason.as_ref().map_or(String::new(), |reason| format!("AND reason = {}", literal(reason)));
    let youngest = format!(
        "SELECT rejected_at::text, topic, partition, record_offset, reason, window_start::text,
                encode(substr(value, 1, {VALUE_CHARS}), 'escape')
         FROM public.rejected_records WHERE stream = {stream} {reason} ORDER BY rejected_at DESC LIMIT {}",
        args.limit
    );
    println!();
    for row in &database.rows(&youngest).await? {
        let column = |index| row.get(index).unwrap_or("-");
        println!(
            "{} {}/{} offset {}: {}, window {}: {}",
            column(0),
            column(1),
            column(2),
            column(3),
            column(4),
            column(5),
            column(6)
        );
    }
    Ok(())
}
