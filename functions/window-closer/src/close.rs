//! One tick: watermarks, windows, retention.
//!
//! Streams are closed side by side, a statement of each in turn, the freshest first: one that catches up with a long past
//! delays no other. A tick ends after a second, wherever it is: each statement is whole, and the next tick goes on.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use exagg_sdk::postgres::Address;
use futures::future::join_all;
use window::late::Late;
use window::time::{EventTime, MICROS_PER_SECOND};
use window::watermark::{self, NextCandidate, Watermark};

use crate::database::{Closed, Database, Look, StoreError, Stream};
use crate::store::Store;

/// Window ends that one statement folds: bounds its memory and its locks. Each tick begins with
/// one and doubles, so that windows of any size get through within the call's time; after windows of
/// many codes the next ones go one at a time, as their sorts are cheapest.
const WINDOWS_PER_STATEMENT_MAX: i64 = 16;
/// A statement that took longer is followed by a smaller one of the same stream.
const STATEMENT_LONG: Duration = Duration::from_millis(200);
/// Streams that are closed at the same time, each over a connection of its own.
const SIDE_BY_SIDE: usize = 4;
/// After which no statement begins: the next tick, a second later, sees where watermarks are by then.
const TICK_MAX: Duration = Duration::from_millis(800);
/// Rows that one statement of the retention deletes.
const RETENTION_ROWS_PER_STATEMENT: i64 = 5_000;
/// Statements of the retention in one tick and table; what is left waits for the next one.
const RETENTION_STATEMENTS_MAX: usize = 20;
/// Tries of a statement that met a conflict.
const TRIES_MAX: usize = 5;

/// How long rows are kept; none is for ever.
#[derive(Debug, PartialEq, Eq)]
pub struct Retention {
    pub aggregates_days: Option<i64>,
    pub rejects_days: Option<i64>,
}

/// Closes what is behind each stream's watermark.
pub async fn tick(address: &Address, retention: &Retention) -> Result<(), String> {
    let clock = Clock::start();
    let store = Store::open(address).await?;
    let Look { now_us, retention_is_due, mut streams, .. } = store.look().await?;
    streams.sort_by_key(|stream| Reverse(stream.partitions.iter().filter_map(|p| p.max_event_time_us).max()));
    let work = Work::default();
    for stream in &streams {
        match Closing::begin(&store, stream, EventTime(now_us)).await {
            Ok(Some(closing)) if closing.is_needed() => work.queue.borrow_mut().push_back(closing),
            Ok(_) => {}
            // One stream's trouble must not hold the others.
            Err(error) => work.failed(stream, &error),
        }
    }
    let others = work.queue.borrow().len().min(SIDE_BY_SIDE).saturating_sub(1);
    let beside = join_all((0..others).map(|_| async {
        match Store::open(address).await {
            Ok(store) => work.run(&store, &clock).await,
            Err(error) => work.failures.borrow_mut().push(error.to_string()),
        }
    }));
    futures::join!(work.run(&store, &clock), beside);
    let mut failures = work.failures.into_inner();
    if retention_is_due && let Err(error) = retain(&store, retention, &clock).await {
        failures.push(format!("retention: {error}"));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// How long a tick has lasted.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn is_over(&self) -> bool {
        self.elapsed() >= TICK_MAX
    }
}

/// What is to be closed in one tick.
#[derive(Default)]
struct Work<'a> {
    /// The next one first; who had a statement goes to the end.
    queue: RefCell<VecDeque<Closing<'a>>>,
    failures: RefCell<Vec<String>>,
}

impl Work<'_> {
    /// Takes one stream after the other, until none is left or the tick is over.
    async fn run(&self, store: &Store, clock: &Clock) {
        while !clock.is_over() {
            let Some(mut closing) = self.queue.borrow_mut().pop_front() else { return };
            let began = clock.elapsed();
            match closing.step(store).await {
                Ok(true) => {
                    if clock.elapsed().saturating_sub(began) > STATEMENT_LONG {
                        closing.windows = (closing.windows / 4).max(1);
                    }
                    self.queue.borrow_mut().push_back(closing);
                }
                Ok(false) => {}
                Err(error) => self.failed(closing.stream, &error),
            }
        }
    }

    fn failed(&self, stream: &Stream, error: &StoreError) {
        self.failures.borrow_mut().push(format!("stream {}: {error}", stream.stream));
    }
}

/// A stream whose windows are closed up to a time.
pub struct Closing<'a> {
    stream: &'a Stream,
    closed_before: EventTime,
    /// How many different ends the next statement takes.
    windows: i64,
}

impl<'a> Closing<'a> {
    /// Moves the stream's watermark; none where it has none, or where nothing is new and nothing to be closed. `now` is the
    /// database's clock.
    pub async fn begin(store: &impl Database, stream: &'a Stream, now: EventTime) -> Result<Option<Self>, StoreError> {
        let lateness_us = stream.allowed_lateness_seconds * MICROS_PER_SECOND;
        let closes_all = stream.pending_us.map(|(_, last_us)| EventTime(last_us + lateness_us));
        let computed =
            watermark::compute(&stream.partitions, stream.idle_timeout_seconds, closes_all, stream.candidate, now);
        if is_known(stream, &computed) {
            // An idle stream costs no write a tick.
            return Ok(None);
        }
        let Some(watermark) = store.raise_watermark(stream, &computed).await? else { return Ok(None) };
        let closed_before = EventTime(watermark.0 - lateness_us);
        if stream.late == Late::Reject {
            // In a statement of its own: the fold must see what was added under the share lock.
            store.raise_closed_before(stream, closed_before).await?;
        }
        Ok(Some(Self { stream, closed_before, windows: 1 }))
    }

    /// Whether anything was pending that is to be closed; what came since waits for the next tick.
    fn is_needed(&self) -> bool {
        self.stream.pending_us.is_some_and(|(first_us, _)| first_us <= self.closed_before.0)
    }

    /// Closes the oldest windows; true where there may be more.
    pub async fn step(&mut self, store: &impl Database) -> Result<bool, StoreError> {
        let close = async || store.close_windows(&self.stream.stream, self.closed_before, self.windows).await;
        let closed = retried(close).await?;
        self.windows = if closed.packed { 1 } else { (self.windows * 2).min(WINDOWS_PER_STATEMENT_MAX) };
        Ok(closed.more)
    }
}

/// Whether all that was computed is written down already, and nothing is pending that it closes.
fn is_known(stream: &Stream, computed: &Watermark) -> bool {
    let lateness_us = stream.allowed_lateness_seconds * MICROS_PER_SECOND;
    let closed_before_us = stream.watermark_us.map(|watermark_us| watermark_us - lateness_us);
    let is_raised = computed.time.is_none_or(|time| stream.watermark_us >= Some(time.0));
    let is_closed = stream.late != Late::Reject || stream.closed_before_us >= closed_before_us;
    let is_due = stream.pending_us.is_some_and(|(first_us, _)| closed_before_us >= Some(first_us));
    is_raised
        && is_closed
        && !is_due
        && computed.candidate == NextCandidate::Keep
        && stream.held_by.as_deref() == Some(computed.held_by.to_string().as_str())
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

/// Deletes rows that are past their time: once a minute, whoever comes first, and again at once while some are left.
async fn retain(store: &Store, retention: &Retention, clock: &Clock) -> Result<(), StoreError> {
    if *retention == (Retention { aggregates_days: None, rejects_days: None }) || !store.take_retention().await? {
        return Ok(());
    }
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
            return Ok(());
        }
        if clock.is_over() {
            break;
        }
    }
    store.leave_retention().await
}
