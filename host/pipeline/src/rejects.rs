//! Why records of a stream are not counted, and which.

use anyhow::Result;
use chrono::{DateTime, Utc};
use exagg_clients::database::{Database, literal};
use serde::Serialize;
use tokio_postgres::SimpleQueryRow;

/// How much of a value is read.
const VALUE_CHARS: usize = 120;

/// How many records were rejected for one reason, and when, as PostgreSQL writes times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The text of `rejected_records.reason`, as the function wrote it (`not_json`, `late`, …).
    pub reason: String,
    /// Records, each once however many of its windows rejected it.
    pub records: u64,
    /// Those of them that a replay has counted since.
    pub counted_since: u64,
    /// The least `rejected_at` of them, in the time zone of the session.
    pub first_at: String,
    /// The greatest `rejected_at` of them, in the time zone of the session.
    pub last_at: String,
}

/// A rejected record. What it lacks is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// When the row was written, by the clock of the database, in UTC (RFC 3339).
    pub rejected_at: String,
    /// The topic that the record was read from.
    pub topic: String,
    /// The number of the record's partition, from 0 on.
    pub partition: i32,
    /// The record's offset in its partition (`record_offset`).
    pub offset: i64,
    /// The text of `rejected_records.reason`, as the function wrote it (`not_json`, `late`, …).
    pub reason: String,
    /// The starts of the windows that it was too late for, in UTC; empty where the record as a whole is rejected.
    pub windows: Vec<String>,
    /// When a replay counted it, in UTC.
    pub counted_at: Option<String>,
    /// The true length of its value.
    pub value_bytes: Option<i64>,
    /// The beginning of its value, as PostgreSQL escapes bytes.
    pub value: Option<String>,
}

/// Which rejected records are asked for; what is none is no condition.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The text of `rejected_records.reason`.
    pub reason: Option<String>,
    /// The topic's name.
    pub topic: Option<String>,
    /// The number of the partition.
    pub partition: Option<i32>,
    /// The record at this offset.
    pub offset: Option<i64>,
    /// Rejected then or later.
    pub since: Option<DateTime<Utc>>,
    /// Rejected before: the time of the last one of a page gives the next page.
    pub before: Option<DateTime<Utc>>,
}

impl Wanted {
    fn condition(&self, stream: &str) -> String {
        let text =
            |column: &str, value: &Option<String>| value.as_ref().map(|value| format!("{column} = {}", literal(value)));
        let time = |comparison: &str, value: Option<DateTime<Utc>>| {
            value.map(|time| format!("rejected_at {comparison} timestamptz '{}'", time.to_rfc3339()))
        };
        let conditions = [
            Some(format!("stream = {}", literal(stream))),
            text("reason", &self.reason),
            text("topic", &self.topic),
            self.partition.map(|number| format!("partition = {number}")),
            self.offset.map(|offset| format!("record_offset = {offset}")),
            time(">=", self.since),
            time("<", self.before),
        ];
        conditions.into_iter().flatten().collect::<Vec<_>>().join(" AND ")
    }
}

/// How many records of a stream were rejected for each reason, the most frequent one first.
///
/// # Errors
/// When the database does not answer.
pub async fn counts(database: &Database, stream: &str, wanted: &Wanted) -> Result<Vec<Count>> {
    let statement = format!(
        "SELECT reason, count(*), count(counted_at), min(rejected_at)::text, max(rejected_at)::text
         FROM (SELECT reason, min(rejected_at) AS rejected_at, min(counted_at) AS counted_at
               FROM public.rejected_records WHERE {}
               GROUP BY reason, topic_id, partition, record_offset) AS records
         GROUP BY reason ORDER BY 2 DESC",
        wanted.condition(stream)
    );
    let count = |row: &SimpleQueryRow| Count {
        reason: text(row, 0),
        records: number(row, 1),
        counted_since: number(row, 2),
        first_at: text(row, 3),
        last_at: text(row, 4),
    };
    Ok(database.rows(&statement).await?.iter().map(count).collect())
}

/// The youngest rejected records of a stream that are wanted.
///
/// # Errors
/// When the database does not answer.
pub async fn youngest(database: &Database, stream: &str, wanted: &Wanted, limit: u32) -> Result<Vec<Rejected>> {
    let statement = format!(
        "SELECT to_char(max(rejected_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), topic, partition,
                record_offset, reason,
                string_agg(to_char(window_start, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), ' ' ORDER BY window_start),
                to_char(min(counted_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), max(value_bytes),
                max(encode(substr(value, 1, {VALUE_CHARS}), 'escape'))
         FROM public.rejected_records WHERE {}
         GROUP BY topic, topic_id, partition, record_offset, reason
         ORDER BY max(rejected_at) DESC, partition, record_offset DESC LIMIT {limit}",
        wanted.condition(stream)
    );
    let rejected = |row: &SimpleQueryRow| Rejected {
        rejected_at: text(row, 0),
        topic: text(row, 1),
        partition: number(row, 2),
        offset: number(row, 3),
        reason: text(row, 4),
        windows: row.get(5).unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        counted_at: row.get(6).map(str::to_owned),
        value_bytes: row.get(7).and_then(|text| text.parse().ok()),
        value: row.get(8).map(str::to_owned),
    };
    Ok(database.rows(&statement).await?.iter().map(rejected).collect())
}

fn text(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or_default().to_owned()
}

fn number<T: std::str::FromStr + Default>(row: &SimpleQueryRow, index: usize) -> T {
    row.get(index).and_then(|text| text.parse().ok()).unwrap_or_default()
}
