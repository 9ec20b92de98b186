//! One tick: watermarks, windows, retention.

use exagg_sdk::postgres::Address;
use window::late::Late;
use window::time::{EventTime, MICROS_PER_SECOND};
use window::watermark;

use crate::database::{Closed, Database, StoreError, Stream};
use crate::store::Store;

/// Window ends that one statement folds: bounds its memory and its locks. Each tick begins with
/// one and doubles, so that windows of any size get through within the call's time; after windows of
/// many codes the next ones go one at a time, as their sorts are cheapest.
const WINDOWS_PER_STATEMENT_MAX: i64 = 16;
/// Rows that one statement of the retention deletes.
const RETENTION_ROWS_PER_STATEMENT: i64 = 5_000;
/// Database of the retention in one tick and table; what is left waits for the next one.
const RETENTION_STATEMENTS_MAX: usize = 20;
/// Seconds between two looks for rows past their retention.
const RETENTION_EVERY_SECONDS: u64 = 60;
/// Tries of a statement that met a conflict.
const TRIES_MAX: usize = 5;

/// How long rows are kept; none is for ever.
#[derive(Debug, PartialEq, Eq)]
pub struct Retention {
    pub aggregates_days: Option<i64>,
    pub rejects_days: Option<i64>,
}

/// Closes what is behind each stream's watermark. `timestamp` is the tick's, in Unix seconds.
pub async fn tick(address: &Address, timestamp: u64, retention: &Retention) -> Result<(), String> {
    let store = Store::open(address).await?;
    store.check_layout().await?;
    let now = store.now().await?;
    let mut failures = Vec::new();
    for stream in store.streams().await? {
        // One stream's trouble must not hold the others.
        if let Err(error) = close_stream(&store, &stream, now).await {
            failures.push(format!("stream {}: {error}", stream.stream));
        }
    }
    if timestamp.is_multiple_of(RETENTION_EVERY_SECONDS) {
        retain(&store, retention).await?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Moves one stream's watermark and closes what is behind it. `now` is the database's clock.
pub async fn close_stream(store: &impl Database, stream: &Stream, now: EventTime) -> Result<(), StoreError> {
    let lateness_us = stream.allowed_lateness_seconds * MICROS_PER_SECOND;
    let closes_all = stream.pending_until_us.map(|end_us| EventTime(end_us + lateness_us));
    let computed =
        watermark::compute(&stream.partitions, stream.idle_timeout_seconds, closes_all, stream.candidate, now);
    let watermark = store.raise_watermark(stream, &computed).await?;
    let Some(watermark) = watermark else { return Ok(()) };
    let closed_before = EventTime(watermark.0 - lateness_us);
    if stream.late == Late::Reject {
        // In a statement of its own: the fold below must see what was added under the share lock.
        store.raise_closed_before(stream, closed_before).await?;
    }
    let mut windows = 1;
    loop {
        let closed = retried(async || store.close_windows(&stream.stream, closed_before, windows).await).await?;
        if !closed.more {
            return Ok(());
        }
        windows = if closed.packed { 1 } else { (windows * 2).min(WINDOWS_PER_STATEMENT_MAX) };
    }
}

/// Conflicts (40P01, 40001, 23505) are tried again at once, and logged: a host that counts lines counts
/// them.
async fn retried(statement: impl AsyncFn() -> Result<Closed, StoreError>) -> Result<Closed, StoreError> {
    let mut tries = 1;
    loop {
        match statement().await {
            Err(error) if error.is_conflict() && tries < TRIES_MAX => {
                println!("try {tries} met a conflict: {error}");
                tries += 1;
            }
            result => return result,
        }
    }
}

async fn retain(store: &Store, retention: &Retention) -> Result<(), StoreError> {
    for _ in 0..RETENTION_STATEMENTS_MAX {
        let mut deleted = 0;
        if let Some(days) = retention.rejects_days {
            deleted += store.delete_rejects(days, RETENTION_ROWS_PER_STATEMENT).await?;
            deleted += store.delete_gaps(days, RETENTION_ROWS_PER_STATEMENT).await?;
        }
        if let Some(days) = retention.aggregates_days {
            deleted += store.delete_aggregates(days, RETENTION_ROWS_PER_STATEMENT).await?;
        }
        if deleted == 0 {
            break;
        }
    }
    Ok(())
}
