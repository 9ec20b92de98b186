//! `exagg rejects`: why records of a stream are not counted, and the youngest of them.

use anyhow::Result;

use crate::cli::Rejects;
use crate::config::{AppSettings, Environment};
use crate::database::literal;
use crate::printable::printable;

/// How much of a value is shown.
const VALUE_CHARS: usize = 120;

pub async fn list(args: &Rejects, environment: &Environment) -> Result<()> {
    let settings = AppSettings::load(&args.app, environment)?;
    let variables = settings.app().await?.resolve(&settings.providers)?;
    let database = settings.database_needed(&variables)?;
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
        println!("{}: {} records, from {} to {}", printable(column(0)), column(1), column(2), column(3));
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
            printable(column(1)),
            column(2),
            column(3),
            printable(column(4)),
            column(5),
            // What a record holds must not reach the terminal as it is.
            printable(column(6))
        );
    }
    Ok(())
}
