//! A stream that is not wanted any more.

use anyhow::{Result, bail};
use exagg_clients::database::{Database, literal};
use tokio_postgres::SimpleQueryRow;

/// Rows that one table has of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The table's name.
    pub table: String,
    /// How many.
    pub rows: u64,
}

fn counts(rows: &[SimpleQueryRow]) -> Vec<Rows> {
    let count = |row: &SimpleQueryRow| Rows {
        table: row.get(0).unwrap_or_default().to_owned(),
        rows: row.get(1).and_then(|text| text.parse().ok()).unwrap_or_default(),
    };
    rows.iter().map(count).filter(|count| count.rows > 0).collect()
}

/// What there is of a stream.
///
/// # Errors
/// When the database does not answer.
pub async fn rows(database: &Database, stream: &str) -> Result<Vec<Rows>> {
    let statement = format!("SELECT relation, row_count FROM public.exagg_stream_rows({})", literal(stream));
    Ok(counts(&database.rows(&statement).await?))
}

/// Removes a stream with all its rows, and gives how many those were.
///
/// # Errors
/// When somebody reads for the stream now: it would be begun anew at once. Or the database does not answer.
pub async fn drop(database: &Database, stream: &str) -> Result<Vec<Rows>> {
    let name = literal(stream);
    let reads = format!(
        "SELECT consumer_group FROM public.progress
         WHERE stream = {name} AND last_seen_at > clock_timestamp() - interval '10 seconds' LIMIT 1"
    );
    if let Some(group) = database.rows(&reads).await?.first() {
        bail!(
            "the group {} reads for the stream {stream} now, and would begin it anew: stop its stage first",
            group.get(0).unwrap_or_default()
        );
    }
    let statement = format!(
        "WITH gone AS MATERIALIZED (
             SELECT relation, row_count FROM public.exagg_drop({name})
         ), noted AS MATERIALIZED (
             SELECT public.exagg_note('drop', {name}, string_agg(row_count || ' rows of ' || relation, ', ')) FROM gone
         ) SELECT relation, row_count FROM gone, noted"
    );
    Ok(counts(&database.rows(&statement).await?))
}
