//! One statement, and what can go wrong.

use futures::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::pool::PooledClient;
use super::types::{columns, parameter, value};
use crate::bindings::imports::spin::postgres4_2_0::postgres as v4;

/// Bytes of a result that one call may read: more would not fit its memory anyway.
const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What went wrong, as both versions of the interface tell it.
#[derive(Debug)]
pub enum Failure {
    Connection(String),
    BadParameter(String),
    Query(Box<v4::QueryError>),
    Conversion(String),
    Other(String),
}

/// Runs a statement and gives its rows.
pub async fn query(
    client: &PooledClient,
    statement: &str,
    params: &[v4::ParameterValue],
) -> Result<(Vec<v4::Column>, Vec<Vec<v4::DbValue>>), Failure> {
    let rows = run(client, statement, params).await?.0;
    let columns = rows.first().map(columns).unwrap_or_default();
    let rows = rows.iter().map(|row| (0..row.len()).map(|index| value(row, index)).collect()).collect::<Result<_, _>>();
    Ok((columns, rows.map_err(Failure::Conversion)?))
}

/// Runs a statement and gives the number of rows that it changed.
pub async fn execute(client: &PooledClient, statement: &str, params: &[v4::ParameterValue]) -> Result<u64, Failure> {
    Ok(run(client, statement, params).await?.1)
}

/// One round trip: the parameters' types are known, so nothing has to be prepared.
async fn run(
    client: &PooledClient,
    statement: &str,
    params: &[v4::ParameterValue],
) -> Result<(Vec<Row>, u64), Failure> {
    let params = params.iter().map(parameter).collect::<Result<Vec<_>, _>>().map_err(Failure::BadParameter)?;
    let result = client
        .run(async |client| {
            let params = params.iter().map(|(value, ty)| (value.as_ref() as &(dyn ToSql + Sync), ty.clone()));
            collect(client.query_typed_raw::<&(dyn ToSql + Sync), _>(statement, params).await.map_err(failed)?).await
        })
        .await;
    result.unwrap_or_else(|| Err(Failure::Other("the connection is closed".to_owned())))
}

async fn collect(rows: tokio_postgres::RowStream) -> Result<(Vec<Row>, u64), Failure> {
    let mut rows = std::pin::pin!(rows);
    let mut collected = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        bytes += row.raw_size_bytes();
        if bytes > RESULT_BYTES_MAX {
            return Err(Failure::Other(format!("the result is larger than {RESULT_BYTES_MAX} bytes")));
        }
        collected.push(row);
    }
    Ok((collected, rows.rows_affected().unwrap_or_default()))
}

fn failed(error: tokio_postgres::Error) -> Failure {
    let Some(db) = error.as_db_error() else {
        return Failure::Query(Box::new(v4::QueryError::Text(describe(&error))));
    };
    let extra = |name: &str, value: Option<&str>| value.map(|value| (name.to_owned(), value.to_owned()));
    Failure::Query(Box::new(v4::QueryError::DbError(v4::DbError {
        as_text: error.to_string(),
        severity: db.severity().to_owned(),
        code: db.code().code().to_owned(),
        message: db.message().to_owned(),
        detail: db.detail().map(str::to_owned),
        extras: [
            extra("hint", db.hint()),
            extra("where", db.where_()),
            extra("schema", db.schema()),
            extra("table", db.table()),
            extra("column", db.column()),
            extra("constraint", db.constraint()),
        ]
        .into_iter()
        .flatten()
        .collect(),
    })))
}

/// The error with its causes: the client's own text often says only "error connecting".
pub fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A value and the type it is sent as.
pub type Parameter = (Box<dyn ToSql + Sync + Send>, Type);
