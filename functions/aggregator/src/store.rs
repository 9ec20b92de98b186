//! The aggregator's SQL. Each batch is one statement, so that the fence, the state and the
//! rejects are one transaction on any PostgreSQL, behind any pooler.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exagg_sdk::kafka::{Batch, LostRange};
use spin_sdk::pg::{Connection, Decode, Error, ParameterValue, PgError, QueryError, Row};

use crate::aggregate::{Aggregate, Rejected};
use crate::settings::{Late, Settings};
use crate::statements::{Opened, Statements, StoreError};

/// Moves the progress by compare-and-set; everything else in the statement hangs on its row.
/// Parameters: 1 stream, 2 topic id, 3 partition, 4 from, 5 next, 6 end, 7 partition count,
/// 8 group, 9 highest event time, 10 whether there were events (bad records are silence: they must
/// not hold the watermark). A batch's end may be older than the one a heartbeat told.
const FENCE: &str = "
UPDATE public.progress SET
    next_offset = $5, end_offset = greatest(end_offset, $6), partition_count = $7, consumer_group = $8,
    max_event_time_us = greatest(max_event_time_us, $9),
    last_record_at = CASE WHEN $10 THEN clock_timestamp() ELSE last_record_at END,
    last_seen_at = clock_timestamp()
WHERE stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $4
    AND (SELECT version FROM public.window_state_layout) = 1";

/// In reject mode the windows must still be open when the statement runs: the share lock makes
/// the window-closer wait, and a window it has closed meanwhile makes the fence hold.
/// The advisory lock is the fair queue before it: row locks alone let new readers pass a waiting
/// writer for ever.
const CLOSED: &str = "
gate AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtextextended('exagg stream ' || $1, 0))
), closed AS MATERIALIZED (
    SELECT s.closed_before FROM gate, public.streams AS s WHERE s.stream = $1 FOR SHARE OF s
),";
const STILL_OPEN: &str = "
    AND NOT EXISTS (SELECT FROM closed WHERE closed_before >= timestamp 'epoch' + $25 * interval '1 second')";

/// Parameters 11 to 19: the partial aggregates as columns; 20 to 24: the rejects; 25: the
/// earliest end of a window.
const STATE_AND_REJECTS: &str = "
    RETURNING topic
), state AS (
    INSERT INTO public.window_state AS s
        (stream, window_end, window_start, code, topic, partition, records, sum_vol, min_vol, max_vol,
         first_vol, last_vol, first_time_us, first_offset, last_time_us, last_offset)
    SELECT $1, timestamp 'epoch' + f.window_end * interval '1 second',
           timestamp 'epoch' + f.window_start * interval '1 second',
           f.code, fence.topic, $3, f.records, f.numbers[1], f.numbers[2], f.numbers[3], f.numbers[4], f.numbers[5],
           f.first_time, f.first_offset, f.last_time, f.last_offset
    FROM fence,
         (SELECT window_end, window_start, code, records, numbers::float8[] AS numbers,
                 first_time, first_offset, last_time, last_offset
          FROM unnest($11::int8[], $12::int8[], $13::text[], $14::int8[], $15::text[],
                      $16::int8[], $17::int8[], $18::int8[], $19::int8[])
               AS u(window_end, window_start, code, records, numbers,
                    first_time, first_offset, last_time, last_offset)) AS f
    ON CONFLICT (stream, window_end, window_start, code, topic, partition) DO UPDATE SET
        records = s.records + excluded.records,
        sum_vol = s.sum_vol + excluded.sum_vol,
        min_vol = least(s.min_vol, excluded.min_vol),
        max_vol = greatest(s.max_vol, excluded.max_vol),
        first_vol = CASE WHEN (excluded.first_time_us, excluded.first_offset) < (s.first_time_us, s.first_offset)
            THEN excluded.first_vol ELSE s.first_vol END,
        first_time_us = least(s.first_time_us, excluded.first_time_us),
        first_offset = CASE WHEN (excluded.first_time_us, excluded.first_offset) < (s.first_time_us, s.first_offset)
            THEN excluded.first_offset ELSE s.first_offset END,
        last_vol = CASE WHEN (excluded.last_time_us, excluded.last_offset) > (s.last_time_us, s.last_offset)
            THEN excluded.last_vol ELSE s.last_vol END,
        last_time_us = greatest(s.last_time_us, excluded.last_time_us),
        last_offset = CASE WHEN (excluded.last_time_us, excluded.last_offset) > (s.last_time_us, s.last_offset)
            THEN excluded.last_offset ELSE s.last_offset END
), rejects AS (
    INSERT INTO public.rejected_records
        (stream, topic, topic_id, partition, record_offset, window_start, reason, value_bytes, value)
    SELECT $1, fence.topic, $2, $3, r.record_offset, timestamp 'epoch' + r.window_start * interval '1 second',
           r.reason, r.value_bytes, decode(r.value, 'base64')
    FROM fence,
         unnest($20::int8[], $21::int8[], $22::text[], $23::int8[], $24::text[])
             AS r(record_offset, window_start, reason, value_bytes, value)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM fence";

/// A batch without records moves the progress over holes, and says that the partition is attended.
const APPLY_EMPTY: &str = "
UPDATE public.progress SET
    next_offset = $5, end_offset = $6, partition_count = $7, consumer_group = $8, last_seen_at = clock_timestamp()
WHERE stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $4
    AND (SELECT version FROM public.window_state_layout) = 1";

const LAYOUT: &str = "SELECT version::int8 FROM public.window_state_layout";

const PROGRESS: &str = "
SELECT next_offset FROM public.progress WHERE stream = $1 AND topic_id = $2 AND partition = $3";

/// Writes down where a partition starts, unless the topic is known under another id.
const BEGIN_PARTITION: &str = "
INSERT INTO public.progress (stream, topic_id, partition, topic, next_offset, end_offset, partition_count, consumer_group)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
WHERE NOT EXISTS (SELECT FROM public.progress WHERE stream = $1 AND topic = $4 AND topic_id <> $2)
ON CONFLICT (stream, topic_id, partition) DO NOTHING";

const OTHER_TOPIC_ID: &str = "
SELECT topic_id FROM public.progress WHERE stream = $1 AND topic = $2 AND topic_id <> $3 LIMIT 1";

/// Nothing is written, and no row locked, while they are as they were.
const WRITE_SETTINGS: &str = "
INSERT INTO public.streams AS s
    (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds, max_future_seconds, late)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE NOT EXISTS (
    SELECT FROM public.streams
    WHERE (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds, max_future_seconds, late)
        = ($1, $2, $3, $4, $5, $6, $7))
ON CONFLICT (stream) DO UPDATE SET
    window_seconds = excluded.window_seconds,
    slide_seconds = excluded.slide_seconds,
    allowed_lateness_seconds = excluded.allowed_lateness_seconds,
    idle_timeout_seconds = excluded.idle_timeout_seconds,
    max_future_seconds = excluded.max_future_seconds,
    late = excluded.late,
    updated_at = clock_timestamp()";

const CLOSED_BEFORE: &str = "
SELECT (extract(epoch FROM closed_before) * 1000000)::int8 FROM public.streams WHERE stream = $1";

/// Writes the lost range down and, where it is accepted, moves the progress past it.
const WRITE_GAP: &str = "
WITH passed AS (
    UPDATE public.progress SET
        next_offset = $6, end_offset = greatest(end_offset, $8), last_seen_at = clock_timestamp()
    WHERE $7 AND stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $5
    RETURNING 1
)
INSERT INTO public.gaps (stream, topic_id, partition, topic, from_offset, next_offset, reason)
SELECT $1, $2, $3, $4, $5, $6, 'deleted from the log before it was read'
WHERE NOT $7 OR EXISTS (SELECT FROM passed)
ON CONFLICT DO NOTHING";

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::PgError(PgError::QueryFailed(QueryError::DbError(error))) => {
                let reason = format!("PostgreSQL: {} ({})", error.message, error.code);
                match error.code.as_str() {
                    code if code.starts_with("22") => Self::Data(reason),
                    "42P01" | "42703" => Self::Unavailable(format!("{reason}: run exagg migrate")),
                    _ => Self::Unavailable(reason),
                }
            }
            other => Self::Unavailable(format!("PostgreSQL: {other}")),
        }
    }
}

/// The one statement of a batch.
pub fn statement(late: Late) -> String {
    let (closed, still_open) = match late {
        Late::Revise => ("", ""),
        Late::Reject => (CLOSED, STILL_OPEN),
    };
    format!("WITH {closed} fence AS ({FENCE}{still_open}{STATE_AND_REJECTS}")
}

/// The aggregator's connection.
pub struct Store {
    connection: Connection,
}

impl Store {
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Ok(Self { connection: Connection::open(url).await? })
    }

    async fn rows(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query(statement, params).await?.collect().await?)
    }

    /// The first column of the first row, an int8; none where there is no row or it is null.
    async fn number(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Option<i64>, StoreError> {
        let mut result = self.connection.query(statement, params).await?;
        let row = result.rows().next().await;
        result.result().await?;
        Ok(row.and_then(|row| row.first().and_then(|value| Option::<i64>::decode(value).ok().flatten())))
    }
}

impl Statements for Store {
    async fn apply(
        &self,
        settings: &Settings,
        batch: &Batch,
        from: i64,
        aggregate: Aggregate<'_>,
    ) -> Result<bool, StoreError> {
        let statement = statement(settings.late);
        let mut params = vec![
            settings.stream.clone().into(),
            batch.topic_id.clone().into(),
            batch.partition.into(),
            from.into(),
            batch.next_offset.into(),
            batch.end_offset.into(),
            batch.partition_count.into(),
            batch.group.clone().into(),
            aggregate.fold.max_event_time().map(|time| time.0).into(),
            aggregate.fold.max_event_time().is_some().into(),
        ];
        let earliest_end = push_partials(&mut params, settings, aggregate);
        if settings.late == Late::Reject {
            params.push(earliest_end.into());
        }
        Ok(self.number(&statement, params).await? == Some(1))
    }

    async fn apply_empty(&self, settings: &Settings, batch: &Batch, from: i64) -> Result<bool, StoreError> {
        let params = vec![
            settings.stream.clone().into(),
            batch.topic_id.clone().into(),
            batch.partition.into(),
            from.into(),
            batch.next_offset.into(),
            batch.end_offset.into(),
            batch.partition_count.into(),
            batch.group.clone().into(),
        ];
        Ok(self.connection.execute(APPLY_EMPTY, params).await? == 1)
    }

    async fn progress(&self, settings: &Settings, batch: &Batch) -> Result<Option<i64>, StoreError> {
        let params = vec![settings.stream.clone().into(), batch.topic_id.clone().into(), batch.partition.into()];
        self.number(PROGRESS, params).await
    }

    async fn layout(&self) -> Result<Option<i64>, StoreError> {
        self.number(LAYOUT, vec![]).await
    }

    async fn begin_partition(&self, settings: &Settings, batch: &Batch) -> Result<Opened, StoreError> {
        let params = vec![
            settings.stream.clone().into(),
            batch.topic_id.clone().into(),
            batch.partition.into(),
            batch.topic.clone().into(),
            batch.from_offset.into(),
            batch.end_offset.into(),
            batch.partition_count.into(),
            batch.group.clone().into(),
        ];
        self.connection.execute(BEGIN_PARTITION, params).await?;
        let params = vec![settings.stream.clone().into(), batch.topic.clone().into(), batch.topic_id.clone().into()];
        let rows = self.rows(OTHER_TOPIC_ID, params).await?;
        Ok(match rows.first() {
            Some(row) => Opened::OtherTopicId(row.get::<String>("topic_id").unwrap_or_default()),
            None => Opened::Begun,
        })
    }

    async fn write_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        let params = vec![
            settings.stream.clone().into(),
            settings.windows.window_seconds().into(),
            settings.windows.slide_seconds().into(),
            settings.allowed_lateness_seconds.into(),
            settings.idle_timeout_seconds.into(),
            settings.schema.max_future_seconds.into(),
            settings.late.name().to_owned().into(),
        ];
        self.connection.execute(WRITE_SETTINGS, params).await?;
        Ok(())
    }

    async fn closed_before(&self, settings: &Settings) -> Result<Option<i64>, StoreError> {
        self.number(CLOSED_BEFORE, vec![settings.stream.clone().into()]).await
    }

    async fn write_gap(&self, settings: &Settings, batch: &Batch, lost: &LostRange) -> Result<(), StoreError> {
        let params = vec![
            settings.stream.clone().into(),
            batch.topic_id.clone().into(),
            batch.partition.into(),
            batch.topic.clone().into(),
            lost.from_offset.into(),
            lost.next_offset.into(),
            lost.accepted.into(),
            batch.end_offset.into(),
        ];
        self.connection.execute(WRITE_GAP, params).await?;
        Ok(())
    }
}

/// Appends parameters 11 to 24 and returns the earliest end of a window (Unix seconds).
fn push_partials(params: &mut Vec<ParameterValue>, settings: &Settings, aggregate: Aggregate<'_>) -> i64 {
    let rows = aggregate.fold.into_sorted();
    let times = |pick: fn(&window::fold::Partial) -> i64| -> Vec<i64> { rows.iter().map(|row| pick(&row.2)).collect() };
    let ends: Vec<i64> = rows.iter().map(|row| settings.windows.end(row.0)).collect();
    let earliest_end = ends.iter().min().copied().unwrap_or(i64::MAX / 1_000_000_000);
    params.push(ends.into());
    params.push(rows.iter().map(|row| row.0).collect::<Vec<i64>>().into());
    params.push(rows.iter().map(|row| row.1.clone().into_owned()).collect::<Vec<String>>().into());
    params.push(times(|partial| partial.records).into());
    params.push(rows.iter().map(|row| numbers(&row.2)).collect::<Vec<String>>().into());
    params.push(times(|partial| partial.first.time.0).into());
    params.push(times(|partial| partial.first.offset).into());
    params.push(times(|partial| partial.last.time.0).into());
    params.push(times(|partial| partial.last.offset).into());
    push_rejects(params, &aggregate.rejected);
    earliest_end
}

/// The five doubles of a partial aggregate as an array literal: the interface has no arrays of
/// floats, and Rust writes the shortest text that reads back as the same double.
fn numbers(partial: &window::fold::Partial) -> String {
    format!(
        "{{{:e},{:e},{:e},{:e},{:e}}}",
        partial.sum, partial.min, partial.max, partial.first.value, partial.last.value
    )
}

fn push_rejects(params: &mut Vec<ParameterValue>, rejected: &[Rejected<'_>]) {
    params.push(rejected.iter().map(|reject| reject.offset).collect::<Vec<i64>>().into());
    params.push(rejected.iter().map(|reject| reject.window_start).collect::<Vec<Option<i64>>>().into());
    params.push(rejected.iter().map(|reject| reject.reject.reason().to_owned()).collect::<Vec<String>>().into());
    params.push(rejected.iter().map(Rejected::value_bytes).collect::<Vec<Option<i64>>>().into());
    let values: Vec<Option<String>> =
        rejected.iter().map(|reject| reject.kept().map(|bytes| STANDARD.encode(bytes))).collect();
    params.push(values.into());
}
