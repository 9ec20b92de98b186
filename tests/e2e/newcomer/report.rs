//! Counts the orders at each tick.

use exagg_sdk::cron::Metadata;
use spin_sdk::pg::Connection;
use spin_sdk::variables;

exagg_sdk::cron_function!(report);

const IS_MENDED: bool = option_env!("MENDED").is_some();

async fn report(_: Metadata) -> Result<(), String> {
    let database = variables::get("database").await.map_err(|error| error.to_string())?;
    let database = Connection::open(database.as_str()).await.map_err(|error| error.to_string())?;
    let table = if IS_MENDED { "orders" } else { "oders" };
    let report = format!("INSERT INTO reports SELECT now(), count(*) FROM {table}");
    database.execute(report, vec![]).await.map(drop).map_err(|error| error.to_string())
}
