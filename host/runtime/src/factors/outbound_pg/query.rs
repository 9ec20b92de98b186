//! One statement.

use std::sync::Arc;

use futures::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Opened;
use super::failure::Failure;
use super::types::{columns, parameter, value};
use super::weight::{self, Meter, RESULT_BYTES_MAX};
use crate::budget::{Account, Held, Resource};
use crate::factors::bindings::spin::postgres4_2_0::postgres as v4;

/// Rows, charged to the call as long as the guard lives.
pub struct ResultSet {
    pub columns: Vec<v4::Column>,
    pub rows: Vec<Vec<v4::DbValue>>,
    pub held: Held,
}

/// Runs a statement and gives its rows.
pub async fn query(connection: &Opened, statement: &str, params: &[v4::ParameterValue]) -> Result<ResultSet, Failure> {
    let mut meter = Meter::new(&connection.call)?;
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    let take = |row: Row| {
        if row.raw_size_bytes() as u64 > RESULT_BYTES_MAX {
            return Err(Failure::Other(format!("a row is larger than {RESULT_BYTES_MAX} bytes")));
        }
        if rows.is_empty() {
            names = columns(&row);
        }
        let values = (0..row.len()).map(|index| value(&row, index)).collect::<Result<Vec<_>, _>>();
        let values = values.map_err(Failure::Conversion)?;
        meter.add(weight::row(&values))?;
        rows.push(values);
        Ok(())
    };
    run(connection, statement, params, take).await?;
    Ok(ResultSet { columns: names, rows, held: meter.finish()? })
}

/// Runs a statement and gives the number of rows that it changed; rows that it returns are not kept.
pub async fn execute(connection: &Opened, statement: &str, params: &[v4::ParameterValue]) -> Result<u64, Failure> {
    run(connection, statement, params, |_| Ok(())).await
}

/// The statement and its parameters, charged to the call while it runs.
fn hold(call: &Arc<Account>, statement: &str, params: &[v4::ParameterValue]) -> Result<Held, Failure> {
    let bytes = 2 * statement.len() + weight::parameters(params);
    Ok(call.hold(Resource::HostBytes, bytes as u64)?)
}

/// One round trip: the parameters' types are known, so nothing has to be prepared. Each row is taken as it comes;
/// the client does not read on while one waits.
async fn run(
    connection: &Opened,
    statement: &str,
    params: &[v4::ParameterValue],
    mut take: impl FnMut(Row) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let _held = hold(&connection.call, statement, params)?;
    let params = params.iter().map(parameter).collect::<Result<Vec<_>, _>>()?;
    let _wait = connection.waits.begin_postgres(format!("an answer of PostgreSQL at {}", connection.client.place()));
    let result = connection
        .client
        .run(async |client| {
            let params = params.iter().map(|(value, ty)| (value.as_ref() as &(dyn ToSql + Sync), ty.clone()));
            let rows = client.query_typed_raw::<&(dyn ToSql + Sync), _>(statement, params).await.map_err(failed)?;
            let mut rows = std::pin::pin!(rows);
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                if let Err(refused) = take(row) {
                    // The client would read the rest, and PostgreSQL make it.
                    connection.client.end(client).await;
                    while let Ok(Some(_)) = rows.try_next().await {}
                    return Err(refused);
                }
            }
            Ok(rows.rows_affected().unwrap_or_default())
        })
        .await;
    result.unwrap_or_else(|| Err(Failure::Other("the connection is closed".to_owned())))
}

fn failed(error: tokio_postgres::Error) -> Failure {
    let Some(db) = error.as_db_error() else {
        return Failure::Query(Box::new(v4::QueryError::Text(exagg_clients::postgres::describe(&error))));
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
