//! What the pipeline's views say of its streams.

use anyhow::{Context, Result};
use exagg_clients::database::Database;
use serde_json::Value;

/// One sample of the view `exagg_metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The metric's name in `/metrics`; the host leaves a sample out whose name Prometheus would not take.
    pub name: String,
    /// The text of the metric's `# HELP` line.
    pub help: String,
    /// The value of the only label, `stream`.
    pub stream: String,
    /// A `double precision` as PostgreSQL writes it; the unit is a part of the metric's name.
    pub value: String,
}

/// The samples, by name and stream.
pub async fn metrics(database: &Database) -> Result<Vec<Sample>> {
    let rows =
        database.rows("SELECT name, help, stream, value FROM public.exagg_metrics ORDER BY name, stream").await?;
    let sample = |row: &tokio_postgres::SimpleQueryRow| {
        let [name, help, stream, value] = [0, 1, 2, 3].map(|index| row.get(index).unwrap_or_default().to_owned());
        Sample { name, help, stream, value }
    };
    Ok(rows.iter().map(sample).collect())
}

/// The view `stream_status`: a list with an object for each stream.
pub async fn streams(database: &Database) -> Result<Value> {
    let statement = "SELECT coalesce(json_agg(to_json(s) ORDER BY stream), '[]') FROM public.stream_status AS s";
    let rows = database.rows(statement).await?;
    let streams = rows.first().and_then(|row| serde_json::from_str(row.get(0)?).ok());
    streams.context("the database answered nothing")
}
