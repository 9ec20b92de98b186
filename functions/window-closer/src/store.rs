//! The window-closer's SQL.

use exagg_sdk::postgres::{Address, Failure, Tables};
use spin_sdk::pg::{Decode, Error, ParameterValue};
use window::layout::LAYOUT;
use window::time::EventTime;
use window::watermark::{NextCandidate, Watermark};

use crate::database::{Closed, Database, Look, StoreError, Stream};

/// What a tick begins with, by a function of `migrations/definitions.sql`, whose plan the server keeps. One JSON value: a row
/// through the sandbox costs more, and a statement more than that.
const LOOK: &str = "SELECT public.exagg_closer_look()";

/// The watermark only rises, but by a replay of other settings, after which what was computed before counts no more; its
/// row says what holds it. The advisory lock is the fair queue before
/// the row, which aggregators lock shared where late records are rejected.
const RAISE_WATERMARK: &str = "
WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('exagg stream ' || $1, 0)))
UPDATE public.streams SET
    watermark = greatest(watermark, timestamp 'epoch' + $2 * interval '1 microsecond'),
    watermark_held_by = $3,
    candidate = coalesce(timestamp 'epoch' + $5 * interval '1 microsecond', candidate),
    candidate_at = CASE WHEN $5::int8 IS NULL THEN candidate_at ELSE clock_timestamp() END,
    updated_at = clock_timestamp()
FROM gate WHERE stream = $1 AND settings_revision = $4::int8
RETURNING (extract(epoch FROM watermark) * 1000000)::int8";

const RAISE_CLOSED_BEFORE: &str = "
WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended('exagg stream ' || $1, 0)))
UPDATE public.streams SET
    closed_before = greatest(closed_before, timestamp 'epoch' + $2 * interval '1 microsecond')
FROM gate WHERE stream = $1 AND settings_revision = $3::int8";

/// Folds the oldest windows that end by $2, whole windows of at most $3 different ends. Only
/// what DELETE returned is folded: a second read of the tables would lose what is added meanwhile.
/// The advisory lock is for replays, which replace what is pending and the rows in one step.
const TAKE_WINDOWS: &str = "
WITH RECURSIVE gate AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(hashtextextended('exagg replay ' || $1, 0))
), ends AS (
    SELECT 1 AS number,
           least((SELECT min(w.window_end) FROM public.window_state w WHERE w.stream = $1),
                 (SELECT min(b.window_end) FROM public.window_batches b WHERE b.stream = $1)) AS window_end
    FROM gate
    WHERE (SELECT version FROM public.window_state_layout) = <layout>
    UNION ALL
    SELECT ends.number + 1,
           least((SELECT min(w.window_end) FROM public.window_state w
                  WHERE w.stream = $1 AND w.window_end > ends.window_end),
                 (SELECT min(b.window_end) FROM public.window_batches b
                  WHERE b.stream = $1 AND b.window_end > ends.window_end))
    FROM ends
    WHERE ends.number < $3 AND ends.window_end <= timestamp 'epoch' + $2 * interval '1 microsecond'
), closing AS (
    SELECT window_end FROM ends WHERE window_end <= timestamp 'epoch' + $2 * interval '1 microsecond'
), rows AS (
    DELETE FROM public.window_state w USING closing
    WHERE w.stream = $1 AND w.window_end = closing.window_end
    RETURNING w.window_start, w.window_end, w.code, w.records, w.sum_vol, w.min_vol, w.max_vol,
              w.first_edge, w.last_edge
), batches AS (
    DELETE FROM public.window_batches b USING closing
    WHERE b.stream = $1 AND b.window_end = closing.window_end
    RETURNING b.*
), windows AS (
    SELECT w.window_start, w.window_end,
           EXISTS (SELECT FROM public.aggregates a
                   WHERE a.window_start = w.window_start AND a.window_end = w.window_end AND a.stream = $1) AS revised
    FROM (SELECT window_start, window_end FROM rows UNION SELECT window_start, window_end FROM batches) AS w
)";

/// The fold of the windows for which a condition holds, into `aggregates`. Sorted by code first: texts
/// that differ early are compared fastest; within one window that is the index's order as well.
const FOLD: &str = "
    INSERT INTO public.aggregates AS a
        (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
         first_edge, last_edge)
    SELECT window_start, window_end, code, sum_vol / records, $1, records, sum_vol, min_vol, max_vol,
           public.exagg_edge_value(first_edge), public.exagg_edge_value(last_edge), first_edge, last_edge
    FROM (
        SELECT window_start, window_end, code, sum(records)::int8 AS records, sum(sum_vol) AS sum_vol,
               min(min_vol) AS min_vol, max(max_vol) AS max_vol,
               min(first_edge) AS first_edge, max(last_edge) AS last_edge
        FROM (
            SELECT rows.* FROM rows JOIN windows USING (window_start, window_end) WHERE <condition>
            UNION ALL
            SELECT window_start, window_end, unnest(codes), unnest(records), unnest(sum_vols), unnest(min_vols),
                   unnest(max_vols), unnest(first_edges), unnest(last_edges)
            FROM batches JOIN windows USING (window_start, window_end) WHERE <condition>
            ORDER BY code, window_start, window_end
        ) AS parts
        GROUP BY code, window_start, window_end
    ) AS folded";

/// A row that is there already is merged with, never replaced.
const MERGE: &str = "
    ON CONFLICT (window_start, window_end, stream, code) DO UPDATE SET
        records = a.records + excluded.records,
        sum_vol = a.sum_vol + excluded.sum_vol,
        avg_vol = (a.sum_vol + excluded.sum_vol) / (a.records + excluded.records),
        min_vol = least(a.min_vol, excluded.min_vol),
        max_vol = greatest(a.max_vol, excluded.max_vol),
        first_vol = public.exagg_edge_value(least(a.first_edge, excluded.first_edge)),
        last_vol = public.exagg_edge_value(greatest(a.last_edge, excluded.last_edge)),
        first_edge = least(a.first_edge, excluded.first_edge),
        last_edge = greatest(a.last_edge, excluded.last_edge),
        revision = a.revision + 1,
        closed_at = clock_timestamp()";

/// The whole of it. A window without any row yet needs no look for each of its own: rows that another
/// closer adds meanwhile are a conflict, and the statement is tried again.
fn close_windows() -> String {
    let take_windows = TAKE_WINDOWS.replace("<layout>", &LAYOUT.to_string());
    let fold = |condition: &str| FOLD.replace("<condition>", condition);
    format!(
        "{take_windows}, added AS ({}), merged AS ({}{MERGE})
         SELECT (SELECT count(*) FROM closing), (SELECT count(*) FROM batches)",
        fold("NOT revised"),
        fold("revised")
    )
}

/// The retention is somebody's for a minute.
const TAKE_RETENTION: &str = "
UPDATE public.retention SET next_at = clock_timestamp() + interval '1 minute' WHERE next_at <= clock_timestamp()";

const LEAVE_RETENTION: &str = "UPDATE public.retention SET next_at = clock_timestamp()";

const DELETE_REJECTS: &str = "
DELETE FROM public.rejected_records WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM public.rejected_records
    WHERE rejected_at < clock_timestamp() - $1 * interval '1 day' LIMIT $2))";

const DELETE_GAPS: &str = "
DELETE FROM public.gaps WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM public.gaps WHERE seen_at < clock_timestamp() - $1 * interval '1 day' LIMIT $2))";

const DELETE_AGGREGATES: &str = "
DELETE FROM public.aggregates WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM public.aggregates
    WHERE window_start < (now() AT TIME ZONE 'UTC') - $1 * interval '1 day'
      AND window_end < (now() AT TIME ZONE 'UTC') - $1 * interval '1 day' LIMIT $2))";

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let Failure { sqlstate, reason } = error.into();
        match sqlstate.as_deref() {
            Some("40P01" | "40001" | "23505") => Self::Conflict(reason),
            _ => Self::Failed(reason),
        }
    }
}

/// The closer's connection.
pub struct Store {
    tables: Tables,
}

impl Store {
    pub async fn open(address: &Address) -> Result<Self, StoreError> {
        Ok(Self { tables: address.open().await? })
    }

    /// What there is to do. Refuses a layout of `window_state` that this version does not know.
    pub async fn look(&self) -> Result<Look, StoreError> {
        let mut result = self.tables.query(LOOK, vec![]).await?;
        let row = result.rows().next().await;
        result.result().await?;
        let json: serde_json::Value = match row.as_deref() {
            Some([value]) => Decode::decode(value)?,
            _ => return Err(StoreError::Failed("the first look gave nothing".to_owned())),
        };
        let look: Look =
            serde_json::from_value(json).map_err(|error| StoreError::Failed(format!("table streams: {error}")))?;
        match look.layout {
            Some(LAYOUT) | None => Ok(look),
            Some(layout) => Err(StoreError::Failed(format!(
                "the window state has layout {layout} and this window-closer knows {LAYOUT}: run the one that goes \
                 with the migrations of this database"
            ))),
        }
    }

    /// False where another has had it within the last minute.
    pub async fn take_retention(&self) -> Result<bool, StoreError> {
        Ok(self.tables.execute(TAKE_RETENTION, vec![]).await? > 0)
    }

    /// There is more to delete: the next tick may go on.
    pub async fn leave_retention(&self) -> Result<(), StoreError> {
        self.tables.execute(LEAVE_RETENTION, vec![]).await?;
        Ok(())
    }

    pub async fn delete_rejects(&self, days: i64, rows_max: i64) -> Result<u64, StoreError> {
        Ok(self.tables.execute(DELETE_REJECTS, vec![days.into(), rows_max.into()]).await?)
    }

    pub async fn delete_gaps(&self, days: i64, rows_max: i64) -> Result<u64, StoreError> {
        Ok(self.tables.execute(DELETE_GAPS, vec![days.into(), rows_max.into()]).await?)
    }

    pub async fn delete_aggregates(&self, days: i64, rows_max: i64) -> Result<u64, StoreError> {
        Ok(self.tables.execute(DELETE_AGGREGATES, vec![days.into(), rows_max.into()]).await?)
    }

    async fn number(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Option<i64>, StoreError> {
        Ok(self.tables.number(statement, params).await?)
    }
}

impl Database for Store {
    async fn raise_watermark(&self, stream: &Stream, watermark: &Watermark) -> Result<Option<EventTime>, StoreError> {
        let candidate = match watermark.candidate {
            NextCandidate::Keep => None,
            NextCandidate::Set(time) => Some(time.0),
        };
        let params = vec![
            stream.stream.clone().into(),
            watermark.time.map(|time| time.0).into(),
            watermark.held_by.to_string().into(),
            stream.settings_revision.into(),
            candidate.into(),
        ];
        Ok(self.number(RAISE_WATERMARK, params).await?.map(EventTime))
    }

    async fn raise_closed_before(&self, stream: &Stream, closed_before: EventTime) -> Result<(), StoreError> {
        let params = vec![stream.stream.clone().into(), closed_before.0.into(), stream.settings_revision.into()];
        self.tables.execute(RAISE_CLOSED_BEFORE, params).await?;
        Ok(())
    }

    async fn close_windows(
        &self,
        stream: &str,
        closed_before: EventTime,
        windows_max: i64,
    ) -> Result<Closed, StoreError> {
        let params = vec![stream.to_owned().into(), closed_before.0.into(), windows_max.into()];
        let mut result = self.tables.query(&close_windows(), params).await?;
        let row = result.rows().next().await;
        result.result().await?;
        let number = |index: usize| -> Result<i64, StoreError> {
            let value = row.as_ref().and_then(|row| row.get(index));
            value.map_or(Ok(0), |value| Ok(i64::decode(value)?))
        };
        Ok(Closed { more: number(0)? == windows_max, packed: number(1)? > 0 })
    }
}
