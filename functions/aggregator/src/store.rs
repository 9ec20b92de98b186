//! The aggregator's SQL. Each batch is one statement, so that the fence, the state and the
//! rejects are one transaction on any PostgreSQL, behind any pooler.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exagg_sdk::kafka::{Batch, LostRange};
use exagg_sdk::postgres::{Address, Failure, Tables};
use spin_sdk::pg::{Error, ParameterValue, Row};
use window::late::Late;
use window::layout::LAYOUT;
use window::time::{EventTime, MICROS_PER_SECOND};

use crate::aggregate::{Aggregate, Rejected};
use crate::columns::{Columns, Place};
use crate::database::{Database, Opened, Refused, StoreError};
use crate::settings::{OnSettingsChange, Settings};

/// The one statement of a batch: `exagg_apply` of `migrations/definitions.sql`, whose plans the server keeps. Parameters:
/// 1 stream, 2 topic id, 3 partition, 4 from, 5 next, 6 end, 7 partition count, 8 group, 9 highest event time, 10 whether
/// there were events, 11 by how many microseconds an event may be ahead of PostgreSQL's clock, 12 to 18 the rows, 19 to 27
/// what is packed ([`Columns`]), 28 to 32 the rejects, 33 the earliest end of a window, where windows must be open. It
/// gives one row without columns where it was applied, and none else: their number alone is the answer.
pub const APPLY: &str = "
SELECT FROM public.exagg_apply(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26,
    $27, $28, $29, $30, $31, $32, $33, <layout>) AS applied
WHERE applied";

/// A batch without records moves the progress over holes, and says that the partition is attended.
const APPLY_EMPTY: &str = "
UPDATE public.progress SET
    next_offset = $5, end_offset = $6, partition_count = $7, consumer_group = $8, last_seen_at = clock_timestamp()
WHERE stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $4
    AND (SELECT version FROM public.window_state_layout) = <layout>";

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

const VALUES_KEPT: &str = "
SELECT reason, count(*) AS kept FROM public.rejected_records
WHERE stream = $1 AND keeps_value AND rejected_at >= date_trunc('minute', clock_timestamp()) GROUP BY reason";

const READ_LAYOUT: &str = "SELECT version::int8 FROM public.window_state_layout";

const PROGRESS: &str = "
SELECT next_offset FROM public.progress WHERE stream = $1 AND topic_id = $2 AND partition = $3";

/// Writes down where a partition starts, unless the topic is known under another id: at the log's first offset where
/// the topic had fewer partitions when the stream first saw it, for then nobody can have read it before. The advisory lock
/// is for replays, which hold the partitions still that they know of.
const BEGIN_PARTITION: &str = "
WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(hashtextextended('exagg replay ' || $1, 0)))
INSERT INTO public.progress
    (stream, topic_id, partition, topic, next_offset, end_offset, partition_count, consumer_group, first_partition_count)
SELECT $1, $2, $3, $4, CASE WHEN $3 >= known.first THEN 0::int8 ELSE $5::int8 END, $6, $7, $8, least(known.first, $7)
FROM gate,
     (SELECT min(coalesce(first_partition_count, partition_count)) AS first
      FROM public.progress WHERE stream = $1 AND topic_id = $2) AS known
WHERE NOT EXISTS (SELECT FROM public.progress WHERE stream = $1 AND topic = $4 AND topic_id <> $2)
ON CONFLICT (stream, topic_id, partition) DO NOTHING";

const OTHER_TOPIC_ID: &str = "
SELECT topic_id FROM public.progress WHERE stream = $1 AND topic = $2 AND topic_id <> $3 LIMIT 1";

/// Nothing is written, and no row locked, while they are as they were; and not while another group, which was seen
/// lately, reads for the stream by other settings, nor where the stream has rows of other settings, unless these are to
/// stay. Gives that group, or those settings. A group that is restarted with other settings replaces its own. A replay
/// has its settings in its own row.
const WRITE_SETTINGS: &str = "
WITH known AS (
    SELECT made_with,
           (window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds, max_future_seconds, late)
               = ($2, $3, $4, $5, $6, $7) AND made_with IS NOT DISTINCT FROM $9::text::jsonb AS same,
           made_with <> $9::text::jsonb
               AND EXISTS (SELECT FROM public.progress WHERE stream = $1 AND max_event_time_us IS NOT NULL) AS changed,
           (SELECT max(max_event_time_us) FROM public.progress WHERE stream = $1) AS last_us
    FROM public.streams WHERE stream = $1
), replayed AS (
    UPDATE public.replays SET made_with = $9::text::jsonb WHERE replay = $1
    RETURNING replay
), other AS (
    SELECT p.consumer_group FROM known, public.progress AS p
    WHERE NOT known.same AND p.stream = $1 AND p.consumer_group <> $8
        AND p.last_seen_at > clock_timestamp() - interval '10 seconds'
    LIMIT 1
), held AS (
    SELECT made_with::text AS made_with,
           to_char(timestamp 'epoch' + last_us * interval '1 microsecond', 'YYYY-MM-DD HH24:MI:SS') AS rows_until
    FROM known WHERE changed AND NOT $10::bool
), written AS (
    INSERT INTO public.streams AS s
        (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds, max_future_seconds, late,
         made_with)
    SELECT $1, $2, $3, $4, $5, $6, $7, $9::text::jsonb
    WHERE NOT EXISTS (SELECT FROM known WHERE same) AND NOT EXISTS (SELECT FROM replayed)
        AND NOT EXISTS (SELECT FROM other) AND NOT EXISTS (SELECT FROM held)
    ON CONFLICT (stream) DO UPDATE SET
        window_seconds = excluded.window_seconds,
        slide_seconds = excluded.slide_seconds,
        allowed_lateness_seconds = excluded.allowed_lateness_seconds,
        idle_timeout_seconds = excluded.idle_timeout_seconds,
        max_future_seconds = excluded.max_future_seconds,
        late = excluded.late,
        made_with = excluded.made_with,
        is_mixed = s.is_mixed OR EXISTS (SELECT FROM known WHERE changed),
        updated_at = clock_timestamp()
)
SELECT consumer_group, NULL::text AS made_with, NULL::text AS rows_until FROM other
UNION ALL SELECT NULL, made_with, rows_until FROM held";

const CLOSED_BEFORE: &str = "
SELECT (extract(epoch FROM closed_before) * 1000000)::int8 FROM public.streams WHERE stream = $1";

/// Writes the lost range down and, where it is accepted, moves the progress past it. A range in front of the progress
/// was applied, lost by the log, and given to other records.
const WRITE_GAP: &str = "
WITH known AS (
    SELECT next_offset >= $6 AS applied FROM public.progress
    WHERE stream = $1 AND topic_id = $2 AND partition = $3
), passed AS (
    UPDATE public.progress SET
        next_offset = $6, end_offset = greatest(end_offset, $8), last_seen_at = clock_timestamp()
    WHERE $7 AND stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $5
    RETURNING 1
)
INSERT INTO public.gaps (stream, topic_id, partition, topic, from_offset, next_offset, reason)
SELECT $1, $2, $3, $4, $5, $6, CASE WHEN EXISTS (SELECT FROM known WHERE applied)
    THEN 'the log lost its tail: other records have these offsets, and were not read'
    ELSE 'deleted from the log before it was read' END
WHERE NOT $7 OR EXISTS (SELECT FROM passed) OR EXISTS (SELECT FROM known WHERE applied)
ON CONFLICT DO NOTHING";

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let Failure { sqlstate, reason } = error.into();
        let reason = format!("PostgreSQL: {reason}");
        match sqlstate {
            Some(code) if code.starts_with("22") => Self::Data(reason),
            _ => Self::Unavailable(reason),
        }
    }
}

/// A statement with the layout that this version knows.
pub fn statement(text: &str) -> String {
    text.replace("<layout>", &LAYOUT.to_string())
}

/// What all statements of a partition begin with: parameters 1 to 3.
fn of_partition(settings: &Settings, batch: &Batch) -> Vec<ParameterValue> {
    vec![settings.stream.clone().into(), batch.topic_id.clone().into(), batch.partition.into()]
}

/// The same with parameters 4 to 8 of [`APPLY`]: from, next, end, partition count, group.
fn of_interval(settings: &Settings, batch: &Batch, from: i64) -> Vec<ParameterValue> {
    let mut params = of_partition(settings, batch);
    params.extend([
        from.into(),
        batch.next_offset.into(),
        batch.end_offset.into(),
        batch.partition_count.into(),
        batch.group.clone().into(),
    ]);
    params
}

/// The aggregator's connection.
pub struct Store {
    tables: Tables,
}

impl Store {
    pub async fn open(address: &Address) -> Result<Self, StoreError> {
        Ok(Self { tables: address.open().await? })
    }

    async fn rows(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Vec<Row>, StoreError> {
        Ok(self.tables.query(statement, params).await?.collect().await?)
    }

    async fn number(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Option<i64>, StoreError> {
        Ok(self.tables.number(statement, params).await?)
    }
}

impl Database for Store {
    async fn apply(
        &self,
        settings: &Settings,
        batch: &Batch,
        from: i64,
        aggregate: Aggregate<'_>,
    ) -> Result<bool, StoreError> {
        let mut params = of_interval(settings, batch, from);
        params.push(aggregate.fold.max_event_time().map(|time| time.0).into());
        params.push(aggregate.fold.max_event_time().is_some().into());
        params.push((settings.schema.max_future_seconds * MICROS_PER_SECOND).into());
        let place = Place { topic: &batch.topic, partition: batch.partition };
        let columns = Columns::new(&aggregate.fold.into_windows(), settings.windows, place);
        let earliest_end = columns.earliest_end;
        push_columns(&mut params, columns);
        push_rejects(&mut params, &aggregate.rejected);
        params.push(earliest_end.filter(|_| settings.late == Late::Reject).into());
        Ok(self.tables.execute(&statement(APPLY), params).await? == 1)
    }

    async fn apply_empty(&self, settings: &Settings, batch: &Batch, from: i64) -> Result<bool, StoreError> {
        let params = of_interval(settings, batch, from);
        Ok(self.tables.execute(&statement(APPLY_EMPTY), params).await? == 1)
    }

    async fn progress(&self, settings: &Settings, batch: &Batch) -> Result<Option<i64>, StoreError> {
        self.number(PROGRESS, of_partition(settings, batch)).await
    }

    async fn layout(&self) -> Result<Option<i64>, StoreError> {
        self.number(READ_LAYOUT, vec![]).await
    }

    async fn now(&self) -> Result<EventTime, StoreError> {
        let now = self.number(NOW, vec![]).await?;
        now.map(EventTime).ok_or_else(|| StoreError::Unavailable("PostgreSQL's clock gave nothing".to_owned()))
    }

    async fn values_kept(&self, settings: &Settings) -> Result<BTreeMap<String, usize>, StoreError> {
        let rows = self.rows(VALUES_KEPT, vec![settings.stream.clone().into()]).await?;
        let of_reason = |row: &Row| {
            let kept = row.get::<i64>("kept").unwrap_or_default();
            (row.get::<String>("reason").unwrap_or_default(), usize::try_from(kept).unwrap_or_default())
        };
        Ok(rows.iter().map(of_reason).collect())
    }

    async fn begin_partition(&self, settings: &Settings, batch: &Batch) -> Result<Opened, StoreError> {
        let mut params = of_partition(settings, batch);
        params.extend([
            batch.topic.clone().into(),
            batch.from_offset.into(),
            batch.end_offset.into(),
            batch.partition_count.into(),
            batch.group.clone().into(),
        ]);
        self.tables.execute(BEGIN_PARTITION, params).await?;
        let params = vec![settings.stream.clone().into(), batch.topic.clone().into(), batch.topic_id.clone().into()];
        let rows = self.rows(OTHER_TOPIC_ID, params).await?;
        Ok(match rows.first() {
            Some(row) => Opened::OtherTopicId(row.get::<String>("topic_id").unwrap_or_default()),
            None => Opened::Begun,
        })
    }

    async fn write_settings(&self, settings: &Settings, group: &str) -> Result<Option<Refused>, StoreError> {
        let params = vec![
            settings.stream.clone().into(),
            settings.windows.window_seconds().into(),
            settings.windows.slide_seconds().into(),
            settings.allowed_lateness_seconds.into(),
            settings.idle_timeout_seconds.into(),
            settings.schema.max_future_seconds.into(),
            settings.late.name().to_owned().into(),
            group.to_owned().into(),
            settings.made_with.to_string().into(),
            (settings.on_settings_change == OnSettingsChange::FromNowOn).into(),
        ];
        let refused = self.rows(WRITE_SETTINGS, params).await?;
        Ok(refused.first().map(|row| match row.get::<String>("consumer_group") {
            Some(group) => Refused::OtherGroup(group),
            None => Refused::MadeWith {
                settings: row.get::<String>("made_with").unwrap_or_default(),
                rows_until: row.get::<String>("rows_until").unwrap_or_default(),
            },
        }))
    }

    async fn closed_before(&self, settings: &Settings) -> Result<Option<i64>, StoreError> {
        self.number(CLOSED_BEFORE, vec![settings.stream.clone().into()]).await
    }

    async fn write_gap(&self, settings: &Settings, batch: &Batch, lost: &LostRange) -> Result<(), StoreError> {
        let mut params = of_partition(settings, batch);
        params.extend([
            batch.topic.clone().into(),
            lost.from_offset.into(),
            lost.next_offset.into(),
            lost.accepted.into(),
            batch.end_offset.into(),
        ]);
        self.tables.execute(WRITE_GAP, params).await?;
        Ok(())
    }
}

/// Appends parameters 12 to 27.
fn push_columns(params: &mut Vec<ParameterValue>, Columns { rows, packed, .. }: Columns) {
    params.push(rows.window_ends.into());
    params.push(rows.window_starts.into());
    params.push(rows.codes.into());
    params.push(rows.records.into());
    params.push(rows.numbers.into());
    params.push(rows.first_edges.into());
    params.push(rows.last_edges.into());
    params.push(packed.window_ends.into());
    params.push(packed.window_starts.into());
    params.push(packed.codes.into());
    params.push(packed.records.into());
    params.push(packed.sum_vols.into());
    params.push(packed.min_vols.into());
    params.push(packed.max_vols.into());
    params.push(packed.first_edges.into());
    params.push(packed.last_edges.into());
}

/// Appends parameters 28 to 32.
fn push_rejects(params: &mut Vec<ParameterValue>, rejected: &[Rejected<'_>]) {
    params.push(rejected.iter().map(|reject| reject.offset).collect::<Vec<i64>>().into());
    params.push(rejected.iter().map(|reject| reject.window_start).collect::<Vec<Option<i64>>>().into());
    params.push(rejected.iter().map(|reject| reject.reject.reason().to_owned()).collect::<Vec<String>>().into());
    params.push(rejected.iter().map(Rejected::value_bytes).collect::<Vec<Option<i64>>>().into());
    let values: Vec<Option<String>> =
        rejected.iter().map(|reject| reject.kept().map(|bytes| STANDARD.encode(bytes))).collect();
    params.push(values.into());
}
