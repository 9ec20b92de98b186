//! What the protocol asks of the database.

use std::collections::BTreeMap;

use exagg_sdk::kafka::{Batch, LostRange};

use window::time::EventTime;

use crate::aggregate::Aggregate;
use crate::settings::Settings;

/// What a failed statement means.
#[derive(Debug)]
pub enum StoreError {
    /// The database is away, overloaded or not migrated: the records are not to blame. Whether
    /// the statement had its effect is not known.
    Unavailable(String),
    /// PostgreSQL refuses the data of this batch (class 22).
    Data(String),
}

/// What came of beginning a partition.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    Begun,
    /// The stream has progress under another id of the same topic.
    OtherTopicId(String),
}

/// Why the settings were not written: they are as they were.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// This group reads for the stream, now, by other settings.
    OtherGroup(String),
    /// The stream has rows of other settings: these, as one JSON object, and the time up to which there are rows.
    MadeWith { settings: String, rows_until: String },
}

/// Each method is one statement, and so one transaction.
#[expect(async_fn_in_trait, reason = "functions run on one thread")]
pub trait Database {
    /// Applies the batch from offset `from` on; false when the fence held it back, or an event is further ahead of
    /// PostgreSQL's clock than the settings allow.
    async fn apply(
        &self,
        settings: &Settings,
        batch: &Batch,
        from: i64,
        aggregate: Aggregate<'_>,
    ) -> Result<bool, StoreError>;

    /// Says that the partition is attended and where it ends; false when the fence held it back.
    async fn apply_empty(&self, settings: &Settings, batch: &Batch, from: i64) -> Result<bool, StoreError>;

    /// How far the partition is applied, read by a statement of its own: the one that lost its
    /// compare-and-set still sees the old row.
    async fn progress(&self, settings: &Settings, batch: &Batch) -> Result<Option<i64>, StoreError>;

    /// How `window_state` is laid out; the fence holds where that is not
    /// [`window::layout::LAYOUT`].
    async fn layout(&self) -> Result<Option<i64>, StoreError>;

    /// The clock that all hosts share.
    async fn now(&self) -> Result<EventTime, StoreError>;

    /// How many values of rejected records the stream has kept in this minute, by reason; a reason that is not there has
    /// none.
    async fn values_kept(&self, settings: &Settings) -> Result<BTreeMap<String, usize>, StoreError>;

    /// Writes down where the partition starts: at the batch's first offset, or at the log's where the partition was
    /// added after the stream first saw the topic.
    async fn begin_partition(&self, settings: &Settings, batch: &Batch) -> Result<Opened, StoreError>;

    /// The closer and the status read the stream's settings from here. Gives why they are not written, if they are not.
    async fn write_settings(&self, settings: &Settings, group: &str) -> Result<Option<Refused>, StoreError>;

    /// Unix microseconds up to which windows are closed for good.
    async fn closed_before(&self, settings: &Settings) -> Result<Option<i64>, StoreError>;

    /// Writes a lost range down and, where it is accepted, moves the progress past it.
    async fn write_gap(&self, settings: &Settings, batch: &Batch, lost: &LostRange) -> Result<(), StoreError>;
}
