//! What closing asks of the database.

use std::fmt;

use window::late::Late;
use window::time::EventTime;
use window::watermark::{Candidate, PartitionProgress, Watermark};

/// What a tick begins with.
#[derive(Debug, serde::Deserialize)]
pub struct Look {
    /// The database's clock, the only one that all stages share: microseconds since the epoch.
    pub now_us: i64,
    /// The layout of `window_state`; none in a database that says none.
    pub layout: Option<i64>,
    /// Whether nobody has looked for rows past their retention within the last minute.
    pub retention_is_due: bool,
    pub streams: Vec<Stream>,
}

/// A stream's settings and where its partitions stand.
#[derive(Debug, serde::Deserialize)]
pub struct Stream {
    pub stream: String,
    /// Which watermarks count: one that was computed before a replay raised it does not.
    pub settings_revision: i64,
    pub allowed_lateness_seconds: i64,
    pub idle_timeout_seconds: i64,
    pub late: Late,
    /// Where the watermark is, in microseconds since the epoch.
    pub watermark_us: Option<i64>,
    /// What is written down to hold it.
    pub held_by: Option<String>,
    /// Up to where windows are closed for good, where late records are rejected.
    pub closed_before_us: Option<i64>,
    /// The ends of the first and of the last window that is pending, in microseconds since the epoch; none: nothing is
    /// pending.
    pub pending_us: Option<(i64, i64)>,
    /// What the watermark may become.
    pub candidate: Option<Candidate>,
    pub partitions: Vec<PartitionProgress>,
}

/// A statement that failed; the next tick tries again.
#[derive(Debug)]
pub enum StoreError {
    /// A deadlock, a serialization failure or a row that another closer added first: nothing
    /// happened, try again at once.
    Conflict(String),
    Failed(String),
}

impl StoreError {
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Conflict(reason) | Self::Failed(reason)) = self;
        write!(f, "PostgreSQL: {reason}")
    }
}

impl From<StoreError> for String {
    fn from(error: StoreError) -> Self {
        error.to_string()
    }
}

/// What one statement closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// There may be more windows to close.
    pub more: bool,
    /// Windows of many codes were among them.
    pub packed: bool,
}

/// Each method is one statement, and so one transaction.
#[expect(async_fn_in_trait, reason = "functions run on one thread")]
pub trait Database {
    /// Raises the watermark, writes its candidate down, and returns where it is now; none also where the stream was read
    /// before a replay took it back.
    async fn raise_watermark(&self, stream: &Stream, watermark: &Watermark) -> Result<Option<EventTime>, StoreError>;

    /// Makes records of windows that end by then late.
    async fn raise_closed_before(&self, stream: &Stream, closed_before: EventTime) -> Result<(), StoreError>;

    /// Closes the oldest windows.
    async fn close_windows(
        &self,
        stream: &str,
        closed_before: EventTime,
        windows_max: i64,
    ) -> Result<Closed, StoreError>;
}
