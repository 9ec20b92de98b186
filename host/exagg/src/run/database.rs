//! The pipeline's database, before the stages run and meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use exagg_clients::database::{Database, is_transient};
use exagg_common::clock::Clock;
use exagg_pipeline::migrate::migrate;
use exagg_pipeline::topics::retire_forgotten;
use exagg_pipeline::watch::{Look, Watch};
use exagg_runtime::health::Health;
use exagg_runtime::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Heartbeat;
use crate::shutdown::Shutdown;

/// How often a database is looked at, for readiness.
const LOOK: Duration = Duration::from_secs(1);
/// Seconds by which clocks may differ.
const CLOCKS_DIFFER: f64 = 5.0;
/// Pauses between tries to reach the database at the start.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The names under which the pipeline's database, and the one that cron ticks are leased in, stand in readiness.
pub const NAME: &str = "database";
pub const LEASES: &str = "database of leases";

/// Who is told how a database is.
#[derive(Clone)]
pub struct Told {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

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
        let trying = async {
            if is_migrated { migrate(database).await.map(|_| ()) } else { database.connect().await.map(|_| ()) }
        };
        // A server that accepts and never answers must not keep the host from stopping. What is under way there is a
        // transaction: it is done or not.
        let done = tokio::select! {
            () = shutdown.drain.cancelled() => return Ok(false),
            done = trying => done,
        };
        let error = match done {
            Ok(()) => break,
            // A server that goes away in the middle comes again; what it refuses it refuses again.
            Err(error) if is_transient(&error) => format!("{error:#}"),
            Err(error) => return Err(error),
        };
        tracing::warn!("{error}; next try in {pause:?}");
        health.note(NAME, Some(error));
        tokio::select! {
            () = shutdown.drain.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
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

/// Keeps readiness as a database is, and says when the clocks differ. Writes the host's row where it has one.
pub async fn watch(
    name: &'static str,
    mut watch: Watch,
    told: Told,
    mut heartbeat: Option<Heartbeat>,
    clock: Arc<dyn Clock>,
    ended: CancellationToken,
) {
    let (mut differ, mut is_refused) = (false, false);
    loop {
        let mut pause = LOOK;
        let look = watch.look().await;
        let missing = match &look {
            Ok(look) => look.missing.clone(),
            Err(error) => Some(format!("{error:#}")),
        };
        told.health.note(name, missing.clone());
        if let (Ok(look), None, Some(heartbeat)) = (&look, missing, &mut heartbeat)
            && let Some(row) = heartbeat.beat(look.clock_ahead_seconds, clock.now())
        {
            let written = watch.run(&row).await;
            if let Err(error) = &written {
                heartbeat.was_not_written();
                // The first time it may be the database that has gone: readiness does not wait to say so.
                if !is_refused {
                    pause = Duration::ZERO;
                    tracing::warn!(
                        "the dashboard does not show this host, whose row in exagg_hosts is not written: {error:#}"
                    );
                }
            }
            is_refused = written.is_err();
        }
        if let Ok(Look { clock_ahead_seconds: ahead, .. }) = look {
            told.metrics.clock_ahead(name, ahead);
            // Some way apart, so that a clock at the edge is not told again and again.
            let limit = if differ { CLOCKS_DIFFER / 2.0 } else { CLOCKS_DIFFER };
            if (ahead.abs() > limit) != differ {
                differ = !differ;
                tell_clocks(name, ahead, differ);
            }
        }
        tokio::select! {
            () = ended.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(heartbeat) = heartbeat
        && let Err(error) = watch.run(&heartbeat.end()).await
    {
        tracing::debug!("that this host has stopped is not written into exagg_hosts: {error:#}");
    }
}

fn tell_clocks(name: &str, ahead: f64, differ: bool) {
    let direction = if ahead < 0.0 { "behind" } else { "ahead of" };
    let by = ahead.abs();
    if differ {
        tracing::warn!(
            "this host's clock is {by:.1} s {direction} that of PostgreSQL ({name}): records are judged by \
             PostgreSQL's, cron schedules follow the host's; set the clock"
        );
    } else {
        tracing::info!("this host's clock agrees with that of PostgreSQL ({name}) again");
    }
}
