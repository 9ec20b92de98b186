//! Why records of a stream are not counted, and the youngest of them.

use anyhow::Result;
use exagg_clients::database::{Database, literal};
use tokio_postgres::SimpleQueryRow;

/// How much of a value is read.
const VALUE_CHARS: usize = 120;

/// How many records were rejected for one reason, and when, as PostgreSQL writes times.
#[derive(Clone, Debug)]
pub struct Count {
    /// The text of `rejected_records.reason`, as the function wrote it (`not_json`, `late`, …).
    pub reason: String,
    /// The number of rows, in decimal digits.
    pub records: String,
    /// The least `rejected_at` of these rows, in the time zone of the session.
    pub first_at: String,
    /// The greatest `rejected_at` of these rows, in the time zone of the session.
    pub last_at: String,
}

/// A rejected record. What it lacks is `-`.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// When the row was written, by the clock of the database.
    pub rejected_at: String,
    /// The topic that the record was read from.
    pub topic: String,
    /// The number of the record's partition, from 0 on.
    pub partition: String,
    /// The record's offset in its partition (`record_offset`).
    pub offset: String,
    /// The text of `rejected_records.reason`, as the function wrote it (`not_json`, `late`, …).
    pub reason: String,
    /// The start of the window that it was too late for, in UTC; `-` where the record as a whole is rejected.
    pub window_start: String,
    /// The beginning of its value, as PostgreSQL escapes bytes.
    pub value: String,
}

/// How many records of a stream were rejected for each reason, the most frequent one first.
pub async fn counts(database: &Database, stream: &str) -> Result<Vec<Count>> {
    let statement = format!(
        "SELECT reason, count(*), min(rejected_at)::text, max(rejected_at)::text
         FROM public.rejected_records WHERE stream = {} GROUP BY reason ORDER BY 2 DESC",
        literal(stream)
    );
    let count = |row: &SimpleQueryRow| {
        let [reason, records, first_at, last_at] = [0, 1, 2, 3].map(|index| column(row, index));
        Count { reason, records, first_at, last_at }
    };
    Ok(database.rows(&statement).await?.iter().map(count).collect())
}

/// The youngest rejected records of a stream, of one reason where it is given.
pub async fn youngest(database: &Database, stream: &str, reason: Option<&str>, limit: u32) -> Result<Vec<Rejected>> {
    let reason = reason.map_or(String::new(), |reason| format!("AND reason = {}", literal(reason)));
    let statement = format!(
        "SELECT rejected_at::text, topic, partition, record_offset, reason, window_start::text,
                encode(substr(value, 1, {VALUE_CHARS}), 'escape')
         FROM public.rejected_records WHERE stream = {} {reason} ORDER BY rejected_at DESC LIMIT {limit}",
        literal(stream)
    );
    let rejected = |row: &SimpleQueryRow| {
        let [rejected_at, topic, partition, offset, reason, window_start, value] =
            [0, 1, 2, 3, 4, 5, 6].map(|index| column(row, index));
        Rejected { rejected_at, topic, partition, offset, reason, window_start, value }
    };
    Ok(database.rows(&statement).await?.iter().map(rejected).collect())
}

fn column(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or("-").to_owned()
}
