//! The window-closer: a cron function that moves each stream's watermark and folds the windows
//! behind it into final rows. Any number of them may run at once.
//!
//! # Layout
//! - [`close`]: one tick.
//! - [`database`]: what closing asks of the database.
//! - [`store`]: the only SQL.

pub mod close;
pub mod database;
pub mod store;

use exagg_sdk::cron::Metadata;
use exagg_sdk::postgres::Address;

exagg_sdk::cron_function!(handle, check = check);

async fn handle(_: Metadata) -> Result<(), String> {
    let (address, retention) = settings().await?;
    close::tick(&address, &retention).await
}

async fn check() -> Result<(), String> {
    settings().await.map(|_| ())
}

/// Where the tables are, and how long rows are kept.
async fn settings() -> Result<(Address, close::Retention), String> {
    let retention = close::Retention {
        aggregates_days: days("retention_days").await?,
        rejects_days: days("rejects_retention_days").await?,
    };
    Ok((Address::load().await?, retention))
}

/// A number of days; an empty variable means "for ever".
async fn days(name: &str) -> Result<Option<i64>, String> {
    let text = exagg_sdk::variables::get(name).await?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(days) if days > 0 => Ok(Some(days)),
        _ => Err(format!("the variable {name} is {text:?}: a number of days above 0, or nothing, is wanted")),
    }
}
