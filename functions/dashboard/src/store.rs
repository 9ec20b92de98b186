//! The dashboard's SQL. Each answer is JSON, made by PostgreSQL.

use exagg_sdk::postgres::{Address, Failure, Tables};
use jiff::civil::DateTime;
use serde::Deserialize;
use spin_sdk::pg::{DbValue, ParameterValue};

use crate::overview::facts::Facts;
use crate::routes::cursor::RejectCursor;
use crate::routes::query::{Aggregates, Codes, OneWindow, Rejects, Series, Windows};

/// Windows that a page of rows looks at, at the most.
const WINDOWS_MAX: i64 = 2_000;
/// Bytes of a rejected value that are shown.
const VALUE_BYTES_MAX: i64 = 1_024;

/// Without `from` it begins an hour before `to`, or now; `exagg_live_page` has the rest.
const AGGREGATES: &str = r#"
SELECT coalesce(jsonb_agg(jsonb_build_object(
           'stream', r.stream, 'code', r.code,
           'window_start', to_char(r.window_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           'window_end', to_char(r.window_end, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           'avg_vol', r.avg_vol, 'records', r.records, 'sum_vol', r.sum_vol, 'min_vol', r.min_vol, 'max_vol', r.max_vol,
           'first_vol', r.first_vol, 'last_vol', r.last_vol, 'revision', r.revision,
           'closed_at', to_char(r.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           'is_final', r.is_final) ORDER BY r.n) FILTER (WHERE r.code IS NOT NULL), '[]'::jsonb),
       count(r.code),
       coalesce(bool_or(r.code IS NULL), false),
       (array_agg(jsonb_build_array(to_char(r.window_start, 'YYYY-MM-DD"T"HH24:MI:SS'),
                                    to_char(r.window_end, 'YYYY-MM-DD"T"HH24:MI:SS'), r.stream, r.code)
                  ORDER BY r.n DESC))[1]::text
FROM public.exagg_live_page(
    $1, $2,
    coalesce($3::timestamp,
        coalesce($4::timestamp, now() AT TIME ZONE 'UTC') - interval '1 hour'
        - (SELECT coalesce(max(window_seconds), 0) FROM public.streams) * interval '1 second'),
    CASE WHEN $3::timestamp IS NULL
        THEN coalesce($4::timestamp, now() AT TIME ZONE 'UTC') - interval '1 hour' ELSE '-infinity' END,
    coalesce($4::timestamp, 'infinity'),
    $5, $6, $7, $8, $9, $10) WITH ORDINALITY
    AS r(window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol, revision,
         closed_at, is_final, n)"#;

const SERIES: &str = "
SELECT public.exagg_series($1, $2,
    coalesce($3::timestamp, coalesce($4::timestamp, now() AT TIME ZONE 'UTC') - interval '1 hour'),
    coalesce($4::timestamp, now() AT TIME ZONE 'UTC'), $5)";

const CODES: &str = "SELECT public.exagg_codes($1, $2, $3)";
const WINDOWS: &str = "SELECT public.exagg_windows($1, $2)";
const WINDOW: &str = "SELECT public.exagg_window($1, $2, $3, $4)";
const OVERVIEW: &str = "SELECT public.exagg_overview()";
const REJECT_COUNTS: &str = "SELECT public.exagg_reject_counts($1)";

/// Whether this role may read values, which are people's own data.
const MAY_READ_VALUES: &str =
    "SELECT CASE WHEN has_column_privilege('public.rejected_records', 'value', 'SELECT') THEN 1::int8 END";

/// `VALUE` stands for the value, or for null where this role may not read it.
const REJECTS: &str = "
SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.rejected_us DESC, p.topic_id DESC, p.partition DESC, p.record_offset DESC,
                                               p.window_us DESC NULLS LAST), '[]'::jsonb)
FROM (SELECT (extract(epoch FROM r.rejected_at) * 1000000)::int8 AS rejected_us, r.stream, r.topic, r.topic_id, r.partition,
             r.record_offset, (extract(epoch FROM r.window_start) * 1000000)::int8 AS window_us, r.reason, r.value_bytes,
             VALUE AS value_hex
      FROM public.rejected_records r
      WHERE r.stream = $1 AND ($2::text IS NULL OR r.reason = $2)
          AND r.rejected_at <= coalesce(timestamptz 'epoch' + $4 * interval '1 microsecond', 'infinity')
          AND ($4::int8 IS NULL
               OR (r.rejected_at, r.topic_id, r.partition, r.record_offset, coalesce(r.window_start, '-infinity'))
                  < (timestamptz 'epoch' + $4 * interval '1 microsecond', $5::varchar, $6::int4, $7::int8,
                     coalesce(timestamp 'epoch' + $8 * interval '1 microsecond', '-infinity')))
      ORDER BY r.rejected_at DESC, r.topic_id DESC, r.partition DESC, r.record_offset DESC,
               coalesce(r.window_start, '-infinity') DESC
      LIMIT $3) AS p";

/// A page of rows.
pub struct Page {
    pub json: Vec<u8>,
    /// Where the next page begins, as a cursor; none on the last one.
    pub next: Option<String>,
}

/// A row of `rejected_records`.
#[derive(Clone, Debug, Deserialize)]
pub struct Rejected {
    /// Microseconds since the epoch.
    pub rejected_us: i64,
    pub stream: String,
    pub topic: String,
    pub topic_id: String,
    pub partition: i32,
    pub record_offset: i64,
    pub window_us: Option<i64>,
    pub reason: String,
    pub value_bytes: Option<i64>,
    /// Its beginning; none where it was not kept, or may not be read.
    pub value_hex: Option<String>,
}

pub struct Store {
    tables: Tables,
}

impl Store {
    pub async fn open(address: &Address) -> Result<Self, Failure> {
        Ok(Self { tables: address.open().await? })
    }

    /// The aggregates as a JSON array, newest window first.
    pub async fn aggregates(&self, query: &Aggregates) -> Result<Page, Failure> {
        let cursor = query.cursor.clone();
        let (start, end, stream, code) = match cursor {
            Some(cursor) => (Some(cursor.window_start), Some(cursor.window_end), Some(cursor.stream), cursor.code),
            None => (None, None, None, None),
        };
        let params = vec![
            query.stream.clone().into(),
            query.code.clone().into(),
            timestamp(query.from),
            timestamp(query.to),
            timestamp(start),
            timestamp(end),
            stream.into(),
            code.into(),
            query.limit.into(),
            WINDOWS_MAX.into(),
        ];
        let row = self.row(AGGREGATES, params).await?;
        match row.as_slice() {
            [DbValue::Jsonb(json), DbValue::Int64(count), DbValue::Boolean(is_cut), last] => Ok(Page {
                json: json.clone(),
                next: match last {
                    DbValue::Str(last) if *is_cut || *count >= query.limit => Some(last.clone()),
                    _ => None,
                },
            }),
            other => Err(unexpected(other.len())),
        }
    }

    /// None: there is no such stream.
    pub async fn series(&self, query: &Series) -> Result<Option<Vec<u8>>, Failure> {
        let params = vec![
            query.stream.clone().into(),
            query.code.clone().into(),
            timestamp(query.from),
            timestamp(query.to),
            query.points.into(),
        ];
        match self.row(SERIES, params).await?.as_slice() {
            [DbValue::Jsonb(json)] => Ok(Some(json.clone())),
            [DbValue::DbNull] => Ok(None),
            other => Err(unexpected(other.len())),
        }
    }

    pub async fn codes(&self, query: &Codes) -> Result<Vec<u8>, Failure> {
        self.json(CODES, vec![query.stream.clone().into(), query.search.clone().into(), query.limit.into()]).await
    }

    pub async fn windows(&self, query: &Windows) -> Result<Vec<u8>, Failure> {
        self.json(WINDOWS, vec![query.stream.clone().into(), query.limit.into()]).await
    }

    pub async fn window(&self, query: &OneWindow) -> Result<Vec<u8>, Failure> {
        let (start, end) = (timestamp(Some(query.start)), timestamp(Some(query.end)));
        self.json(WINDOW, vec![query.stream.clone().into(), start, end, query.code.clone().into()]).await
    }

    /// What the first screen is made of.
    pub async fn overview(&self) -> Result<Facts, Failure> {
        parsed(&self.json(OVERVIEW, vec![]).await?)
    }

    /// Rejects, the latest first, and whether their values may be read.
    pub async fn rejects(&self, query: &Rejects) -> Result<(Vec<Rejected>, bool), Failure> {
        let shows_values = self.tables.number(MAY_READ_VALUES, vec![]).await?.is_some();
        let value = if shows_values {
            format!("encode(substr(r.value, 1, {VALUE_BYTES_MAX}), 'hex')")
        } else {
            "NULL::text".to_owned()
        };
        let cursor = query.cursor.clone();
        let of = |part: fn(&RejectCursor) -> ParameterValue| cursor.as_ref().map_or(ParameterValue::DbNull, part);
        let params = vec![
            query.stream.clone().into(),
            query.reason.clone().into(),
            query.limit.into(),
            of(|cursor| cursor.rejected_us.into()),
            of(|cursor| cursor.topic_id.clone().into()),
            of(|cursor| cursor.partition.into()),
            of(|cursor| cursor.offset.into()),
            of(|cursor| cursor.window_us.into()),
        ];
        let json = self.json(&REJECTS.replace("VALUE", &value), params).await?;
        Ok((parsed(&json)?, shows_values))
    }

    /// How many of each reason in each minute.
    pub async fn reject_counts(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        self.json(REJECT_COUNTS, vec![stream.to_owned().into()]).await
    }

    async fn json(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Vec<u8>, Failure> {
        match self.row(statement, params).await?.as_slice() {
            [DbValue::Jsonb(json)] => Ok(json.clone()),
            other => Err(unexpected(other.len())),
        }
    }

    /// The only row.
    async fn row(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Vec<DbValue>, Failure> {
        let mut result = self.tables.query(statement, params).await?;
        let row = result.rows().next().await;
        result.result().await?;
        row.ok_or_else(|| unexpected(0))
    }
}

fn unexpected(columns: usize) -> Failure {
    Failure {
        sqlstate: None,
        reason: format!("PostgreSQL answered {columns} columns, which are not those of the statement"),
    }
}

fn parsed<T: for<'a> Deserialize<'a>>(json: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure { sqlstate: None, reason: format!("PostgreSQL's answer is another one: {error}") })
}

fn timestamp(time: Option<DateTime>) -> ParameterValue {
    time.map_or(ParameterValue::DbNull, |time| {
        let part = |value: i8| u8::try_from(value).unwrap_or_default();
        let (month, day) = (part(time.month()), part(time.day()));
        let (hour, minute, second) = (part(time.hour()), part(time.minute()), part(time.second()));
        let nanosecond = u32::try_from(time.subsec_nanosecond()).unwrap_or_default();
        ParameterValue::Datetime((time.year().into(), month, day, hour, minute, second, nanosecond))
    })
}
