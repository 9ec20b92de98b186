//! The next batches of a partition: they fill while one is in flight, and while the next waits for its turn.
//!
//! A record in a batch takes a third of what it takes in librdkafka's queue, which is emptied by this, and goes on
//! fetching.

use std::collections::VecDeque;
use std::convert::Infallible;

use exagg_clients::kafka::Offset;

use crate::batch::{BatchBuilder, BatchLimits, Size, Source};
use crate::bindings::exagg::kafka::types::Batch;
use crate::log::{FetchError, Queue, ReadTo};

/// Batches that wait at the most: however few records each may have, more would be for nothing.
const BATCHES_MAX: usize = 32;

/// The batches that wait, in order; the last one fills.
#[derive(Default)]
pub struct Ahead {
    batches: VecDeque<Waiting>,
    /// An error that came behind them.
    error: Option<FetchError>,
    /// What the last batch held: the next one is like it.
    like: Size,
}

struct Waiting {
    batch: BatchBuilder,
    /// What is known of the log's history at its last record.
    read_to: Option<ReadTo>,
}

/// From where batches are filled.
pub struct Tap<'a, Q> {
    /// The partition's fetched records.
    pub queue: &'a Q,
    /// Where they are from.
    pub source: &'a Source,
    /// Where the first batch begins.
    pub from: Offset,
    /// What a batch may hold.
    pub limits: BatchLimits,
    /// What all that wait may hold, but for the end of the last one.
    pub bytes_max: usize,
}

impl Ahead {
    /// What waits is read again, from another offset.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many records are in the next batch.
    pub fn next_records(&self) -> usize {
        self.batches.front().map_or(0, |next| next.batch.size().records)
    }

    /// Whether there is room for more.
    fn is_open<Q>(&self, tap: &Tap<'_, Q>) -> bool {
        let bytes: usize = self.batches.iter().map(|waiting| waiting.batch.size().bytes()).sum();
        let last_is_full = self.batches.back().is_none_or(|last| last.batch.is_full());
        let has_room = bytes < tap.bytes_max && self.batches.len() < BATCHES_MAX;
        self.error.is_none() && (!last_is_full || has_room)
    }

    /// Takes in what is there, without waiting, as long as there is room.
    pub fn fill<Q: Queue>(&mut self, tap: &Tap<'_, Q>) {
        while self.is_open(tap) {
            let last = self.batches.back();
            if last.is_none_or(|last| last.batch.is_full()) {
                let from = last.map_or(tap.from, |last| last.batch.next_offset());
                let batch = BatchBuilder::new(tap.source, from, tap.limits).reserve(self.like);
                self.batches.push_back(Waiting { batch, read_to: None });
            }
            let Some(last) = self.batches.back_mut() else { return };
            let fetched = tap.queue.fetch(&mut last.batch);
            last.read_to = fetched.read_to.or(last.read_to);
            self.error = fetched.error;
            if last.batch.is_empty() {
                self.batches.pop_back();
                return;
            }
            if !last.batch.is_full() {
                return;
            }
        }
    }

    /// Takes in what comes, for as long as it is waited for.
    pub async fn keep_filling<Q: Queue>(&mut self, tap: Tap<'_, Q>) -> Infallible {
        while self.is_open(&tap) {
            tap.queue.ready().notified().await;
            self.fill(&tap);
        }
        std::future::pending().await
    }

    /// The next batch and its place in the log's history; none where there is nothing. `partition_count` is the topic's
    /// now: it may have grown while the batch filled.
    ///
    /// # Errors
    /// What came in the place of records. What came behind some is told when these are taken.
    pub fn take(
        &mut self,
        end: Option<Offset>,
        partition_count: i32,
    ) -> Result<Option<(Batch, Option<ReadTo>)>, FetchError> {
        let Some(Waiting { batch, read_to }) = self.batches.pop_front() else {
            self.like = Size::default();
            return self.error.take().map_or(Ok(None), Err);
        };
        self.like = batch.size();
        let mut batch = batch.finish(end);
        batch.partition_count = partition_count;
        Ok(Some((batch, read_to)))
    }
}
