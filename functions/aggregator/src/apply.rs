//! The protocol around the fence: what happens when a batch meets the progress already made.

use std::time::{SystemTime, UNIX_EPOCH};

use exagg_sdk::kafka::{Batch, LostRange, Outcome};
use window::fence::{Decision, decide};
use window::late::Late;
use window::layout::LAYOUT;
use window::reject::Reject;
use window::time::EventTime;

use crate::aggregate::{Rejected, aggregate};
use crate::database::{Database, Opened, Refused, StoreError};
use crate::settings::Settings;
use crate::store::Store;

/// Rounds of "read again and try again" in one call. More than two or three mean contention that
/// a fresh call handles better.
const ROUNDS_MAX: usize = 8;

/// Applies the batch, or says what is to happen instead.
pub async fn apply(batch: &Batch, settings: &Settings) -> Outcome {
    let outcome = match Store::open(&settings.address).await {
        Ok(store) => run(batch, settings, &store, now()).await,
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| match error {
        StoreError::Unavailable(reason) => Outcome::RetryLater(reason),
        // The trap makes the host split the batch until the one record is found.
        #[expect(clippy::panic, reason = "a trap is how a function says that the records cannot be applied")]
        StoreError::Data(reason) => panic!("{reason}"),
    })
}

/// What time it is.
#[derive(Clone, Copy)]
enum Now {
    /// By this host's clock, which may be wrong.
    Host(EventTime),
    /// By PostgreSQL's, which decides. It is asked where the host's would reject a record, or let one pass that
    /// PostgreSQL's would not: the common batch costs no statement more.
    Database(EventTime),
}

impl Now {
    fn time(self) -> EventTime {
        match self {
            Self::Host(time) | Self::Database(time) => time,
        }
    }
}

/// The protocol itself: no I/O but by `store`, and no clock but its and `now`, which is the host's.
pub async fn run(
    batch: &Batch,
    settings: &Settings,
    store: &impl Database,
    now: EventTime,
) -> Result<Outcome, StoreError> {
    if let Some(lost) = &batch.lost {
        return skip_lost(batch, lost, settings, store).await;
    }
    let (mut from, mut now) = (batch.from_offset, Now::Host(now));
    for _ in 0..ROUNDS_MAX {
        if batch.is_empty()
            && let Some(refused) = store.write_settings(settings, &batch.group).await?
        {
            return Ok(Outcome::RetryLater(other_settings(batch, settings, refused)));
        }
        if apply_from(batch, from, settings, store, &mut now).await? {
            return Ok(Outcome::Applied);
        }
        let Some(progress) = store.progress(settings, batch).await? else {
            match store.begin_partition(settings, batch).await? {
                Opened::Begun => continue,
                Opened::OtherTopicId(id) => return Ok(Outcome::Stop(recreated(batch, settings, &id))),
            }
        };
        match decide(progress, from, batch.next_offset) {
            // Nothing was in the way of the offsets: the layout was, or the clock, or it is gone by now.
            Decision::TryAgain => match store.layout().await? {
                Some(layout) if layout != LAYOUT => return Ok(Outcome::Stop(other_layout(layout))),
                _ => now = Now::Database(store.now().await?),
            },
            Decision::AlreadyApplied => return Ok(Outcome::Applied),
            Decision::DropBefore(offset) => from = offset,
            Decision::ResumeAt(offset) => return Ok(Outcome::ResumeAt(offset)),
        }
    }
    Ok(Outcome::RetryLater(format!(
        "another consumer moves the progress of {} at the same time, or a replay of the stream is about to end",
        place(batch)
    )))
}

/// One try; false when the fence held it back.
async fn apply_from(
    batch: &Batch,
    from: i64,
    settings: &Settings,
    store: &impl Database,
    now: &mut Now,
) -> Result<bool, StoreError> {
    if batch.is_empty() {
        return store.apply_empty(settings, batch, from).await;
    }
    let closed_before = match settings.late {
        Late::Revise => None,
        // Without a row there is nothing closed; with one the statement checks it once more.
        Late::Reject => Some(store.closed_before(settings).await?.unwrap_or(i64::MIN)),
    };
    let fold = |now: Now| aggregate(batch, from, &settings.schema, settings.windows, closed_before, now.time());
    let mut aggregate = fold(*now);
    let is_future = |rejected: &Rejected| rejected.reject == Reject::Future;
    if matches!(now, Now::Host(_)) && aggregate.rejected.iter().any(is_future) {
        *now = Now::Database(store.now().await?);
        aggregate = fold(*now);
    }
    if !aggregate.rejected.is_empty() {
        aggregate.keep_values(store.values_kept(settings).await?);
    }
    store.apply(settings, batch, from, aggregate).await
}

/// The log no longer holds a range: it is written down, and skipped only where the trigger
/// was told to.
async fn skip_lost(
    batch: &Batch,
    lost: &LostRange,
    settings: &Settings,
    store: &impl Database,
) -> Result<Outcome, StoreError> {
    store.write_gap(settings, batch, lost).await?;
    let progress = store.progress(settings, batch).await?;
    if !lost.accepted {
        let how = if progress >= Some(lost.next_offset) {
            "were applied, and the log lost them: it has other records there, which were not read"
        } else {
            "were deleted before they were read"
        };
        return Ok(Outcome::Stop(format!(
            "{}: offsets {} to {} {how} (on_gap = \"stop\")",
            place(batch),
            lost.from_offset,
            lost.next_offset - 1
        )));
    }
    Ok(match progress {
        Some(progress) if progress == batch.next_offset => Outcome::Applied,
        Some(progress) => Outcome::ResumeAt(progress),
        None => Outcome::RetryLater(format!("{} has no progress yet", place(batch))),
    })
}

fn recreated(batch: &Batch, settings: &Settings, known_id: &str) -> String {
    format!(
        "topic {topic} was deleted and recreated (its id was {known_id}, now it is {id}); to start it afresh: \
         exagg reset --stream {stream} --topic {topic}",
        topic = batch.topic,
        id = batch.topic_id,
        stream = settings.stream,
    )
}

fn other_settings(batch: &Batch, settings: &Settings, refused: Refused) -> String {
    let stream = &settings.stream;
    match refused {
        Refused::OtherGroup(other) => format!(
            "the group {other} reads for the stream {stream} by other settings, and the group {group} waits until it \
             has ended: give the stages the same settings, or each a stream of its own",
            group = batch.group,
        ),
        Refused::MadeWith { settings: made_with, rows_until } => format!(
            "the stream {stream} has rows up to {rows_until} that were made with {differences}: nothing is counted \
             until it is said what becomes of them. Run exagg replay --stream {stream} --from earliest, which makes \
             them anew with the settings here, and the stage goes on; or give the stage a stream name of its own; or \
             leave them as they are (its variable on_settings_change = \"from-now-on\")",
            differences = settings.made_with.differences(&made_with),
        ),
    }
}

fn other_layout(layout: i64) -> String {
    format!(
        "the window state has layout {layout} and this aggregator knows {LAYOUT}: run the aggregator that goes with \
         the migrations of this database"
    )
}

fn place(batch: &Batch) -> String {
    format!("topic {} partition {}", batch.topic, batch.partition)
}

#[expect(clippy::disallowed_methods, reason = "once a call; the rest is given the time")]
fn now() -> EventTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
