//! The dashboard's SQL. Each answer is one JSON value, made by PostgreSQL.

use exagg_sdk::postgres::{Address, Tables};
use spin_sdk::pg::{DbValue, ParameterValue};

use crate::routes::Query;

const AGGREGATES: &str = r#"
SELECT coalesce(jsonb_agg(to_jsonb(rows)), '[]'::jsonb)
FROM (SELECT stream, code,
             to_char(window_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS window_start,
             to_char(window_end, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS window_end,
             avg_vol, records, sum_vol, min_vol, max_vol, first_vol, last_vol, revision, is_final
      FROM public.exagg_live(
          $1, $2,
          coalesce($3::timestamp,
              coalesce($4::timestamp, now() AT TIME ZONE 'UTC') - interval '1 hour'
              - (SELECT coalesce(max(window_seconds), 0) FROM public.streams) * interval '1 second'),
          CASE WHEN $3::timestamp IS NULL
              THEN coalesce($4::timestamp, now() AT TIME ZONE 'UTC') - interval '1 hour' ELSE '-infinity' END,
          coalesce($4::timestamp, 'infinity'),
          $5)) AS rows"#;

const STREAMS: &str = r#"
SELECT coalesce(jsonb_agg(to_jsonb(rows) ORDER BY stream), '[]'::jsonb)
FROM (SELECT stream, window_seconds, slide_seconds, allowed_lateness_seconds, late,
             to_char(watermark, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS watermark,
             watermark_held_by, partitions, lag_records, open_windows, rejected_records, gaps
      FROM public.stream_status) AS rows"#;

pub struct Store {
    tables: Tables,
}

impl Store {
    pub async fn open(address: &Address) -> Result<Self, String> {
        let tables = address.open().await.map_err(|error| error.to_string())?;
        Ok(Self { tables })
    }

    /// The aggregates as a JSON array, newest window first.
    pub async fn aggregates(&self, query: &Query) -> Result<Vec<u8>, String> {
        let params = vec![
            query.stream.clone().into(),
            query.code.clone().into(),
            timestamp(query.from),
            timestamp(query.to),
            query.limit.into(),
        ];
        self.json(AGGREGATES, params).await
    }

    /// The streams with their watermarks as a JSON array.
    pub async fn streams(&self) -> Result<Vec<u8>, String> {
        self.json(STREAMS, vec![]).await
    }

    async fn json(&self, statement: &str, params: Vec<ParameterValue>) -> Result<Vec<u8>, String> {
        let mut result = self.tables.query(statement, params).await.map_err(|error| error.to_string())?;
        let row = result.rows().next().await;
        result.result().await.map_err(|error| error.to_string())?;
        match row.as_deref() {
            Some([DbValue::Jsonb(json)]) => Ok(json.clone()),
            other => Err(format!("PostgreSQL answered {} columns, not one JSON value", other.map_or(0, <[_]>::len))),
        }
    }
}

fn timestamp(time: Option<jiff::civil::DateTime>) -> ParameterValue {
    time.map_or(ParameterValue::DbNull, |time| {
        let part = |value: i8| u8::try_from(value).unwrap_or_default();
        let (month, day) = (part(time.month()), part(time.day()));
        let (hour, minute, second) = (part(time.hour()), part(time.minute()), part(time.second()));
        let nanosecond = u32::try_from(time.subsec_nanosecond()).unwrap_or_default();
        ParameterValue::Datetime((time.year().into(), month, day, hour, minute, second, nanosecond))
    })
}
