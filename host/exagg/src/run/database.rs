//! The pipeline's database, before the stages run and meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use exagg_clients::database::Database;
use exagg_pipeline::migrate::migrate;
use exagg_pipeline::topics::retire_forgotten;
use exagg_runtime::health::Health;
use tokio_util::sync::CancellationToken;

use crate::shutdown::Shutdown;

/// How often the database is looked at, for readiness.
const LOOK: Duration = Duration::from_secs(3);
/// Pauses between tries to reach the database at the start.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The name under which it stands in readiness.
const NAME: &str = "database";

/// Migrates the database, waiting until it can be reached; false when the host stops first. `forgotten` are the
/// topics of an embedded broker, which starts empty.
pub async fn make_ready(
    database: &Database,
    is_migrated: bool,
    forgotten: Option<&[String]>,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<bool> {
    if !is_migrated && forgotten.is_none() {
        // Nothing is wanted of it before the stages run, and they wait for it themselves.
        health.note(NAME, Some("not reached yet".to_owned()));
        return Ok(true);
    }
    health.note(NAME, Some("not migrated yet".to_owned()));
    let mut pause = PAUSE_MIN;
    loop {
        let error = match database.connect().await {
            Ok(_) => break,
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!("{error}; next try in {pause:?}");
        health.note(NAME, Some(error));
        tokio::select! {
            () = shutdown.drain.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    if is_migrated {
        migrate(database).await?;
    }
    health.note(NAME, None);
    if let Some(topics) = forgotten {
        let retired = retire_forgotten(database, topics).await?;
        if retired > 0 {
            tracing::info!(
                "the embedded broker starts empty: the progress of {retired} partitions of the last run is retired"
            );
        }
    }
    Ok(true)
}

/// Keeps readiness as the database is.
pub async fn watch(database: Database, health: Arc<Health>, stop: CancellationToken) {
    loop {
        health.note(NAME, database.connect().await.err().map(|error| format!("{error:#}")));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
