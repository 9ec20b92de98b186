//! Looks at the database, by a connection that is there: a new one for each look would be counted.

use e2e::database::Database;
use postgres::Client;

/// One number.
pub fn number(client: &mut Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).unwrap().get(0)
}

/// How many records are applied.
pub fn progress(client: &mut Client) -> i64 {
    number(client, "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
}

/// Milliseconds from windows' ends and lateness to their final rows.
pub struct Lags {
    pub p50: i64,
    pub p99: i64,
    pub most: i64,
    /// How many were looked at.
    pub windows: i64,
}

/// Of the stream `exchanges`, of windows that end after this time but the first.
pub fn lags(database: &Database, since: i64, lateness_seconds: i64) -> Lags {
    let lag = format!("extract(epoch FROM min(closed_at)) - extract(epoch FROM window_end) - {lateness_seconds}");
    let statement = format!(
        "SELECT (percentile_disc(0.5) WITHIN GROUP (ORDER BY lag) * 1000)::int8,
                (percentile_disc(0.99) WITHIN GROUP (ORDER BY lag) * 1000)::int8, (max(lag) * 1000)::int8, count(*)
         FROM (SELECT {lag} AS lag FROM public.aggregates
               WHERE stream = 'exchanges' AND extract(epoch FROM window_end) > {since}
               GROUP BY window_end ORDER BY window_end OFFSET 1) AS windows"
    );
    let row = database.client().query_one(&statement, &[]).unwrap();
    Lags { p50: row.get(0), p99: row.get(1), most: row.get(2), windows: row.get(3) }
}
