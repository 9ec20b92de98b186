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
use spin_sdk::variables;

exagg_sdk::cron_function!(handle);

async fn handle(tick: Metadata) -> Result<(), String> {
    let url = exagg_sdk::postgres::url().await?;
    let retention = close::Retention {
        aggregates_days: days("retention_days").await?,
        rejects_days: days("rejects_retention_days").await?,
    };
    close::tick(&url, tick.timestamp, &retention).await
}

/// A number of days; an empty variable means "for ever".
async fn days(name: &str) -> Result<Option<i64>, String> {
    let text = variables::get(name).await.map_err(|error| format!("variable {name}: {error}"))?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(days) if days > 0 => Ok(Some(days)),
        _ => Err(format!("the variable {name} is {text:?}: a number of days above 0, or nothing, is wanted")),
    }
}
