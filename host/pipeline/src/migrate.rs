//! Migrations: forward only, each once, under a lock, so that hosts may start at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use exagg_clients::database::{Database, literal};
use exagg_common::hex;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// In order. A file that was applied somewhere is never edited: its digest is recorded.
const MIGRATIONS: [(&str, &str); 5] = [
    ("0001_pipeline", include_str!("../../../migrations/0001_pipeline.sql")),
    ("0002_replay", include_str!("../../../migrations/0002_replay.sql")),
    ("0003_layout", include_str!("../../../migrations/0003_layout.sql")),
    ("0004_edges_and_batches", include_str!("../../../migrations/0004_edges_and_batches.sql")),
    ("0006_first_partition_count", include_str!("../../../migrations/0006_first_partition_count.sql")),
];

/// The views and functions as they are now. They change under another number, so that databases get them again; a host
/// that is older than those a database has leaves them.
const DEFINITIONS: (&str, &str) = ("0005_definitions", include_str!("../../../migrations/definitions.sql"));

/// Times that a migration is tried whose transaction ended in a deadlock with readers, and the pause between.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// The lock that migrating hosts share; any number does that nobody else uses.
const LOCK: i64 = 0x0065_7861_6767_0001;

/// Applies what is not applied yet and returns the names of it.
pub fn migrate(database: &Database) -> BoxFuture<'_, Result<Vec<&'static str>>> {
    Box::pin(async move {
        let client = database.connect().await?;
        // The lock goes with the connection, whatever happens.
        client
            .batch_execute(&format!("SELECT pg_advisory_lock({LOCK})"))
            .await
            .context("cannot lock the migrations")?;
        client
            .batch_execute(
                "SET search_path = public;
                 SET client_min_messages = warning;
                 CREATE TABLE IF NOT EXISTS public.exagg_migrations (
                     name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
                 RESET client_min_messages",
            )
            .await
            .context("cannot write the table of migrations")?;
        let mut added = Vec::new();
        for (name, sql) in wanted(&applied(&client).await?) {
            if apply(&client, name, sql).await.with_context(|| format!("migration {name}"))? {
                tracing::info!("migration {name} applied");
                added.push(name);
            }
        }
        Ok(added)
    })
}

/// The migrations that this host knows and the database does not have; none where the role may not look.
pub async fn pending(client: &Client) -> Result<Vec<&'static str>, tokio_postgres::Error> {
    const MAY_LOOK: &str = "SELECT to_regclass('public.exagg_migrations') IS NULL,
                                   has_table_privilege(to_regclass('public.exagg_migrations'), 'SELECT')";
    let answer = first_row(client.simple_query(MAY_LOOK).await?);
    let says = |column| answer.as_ref().is_some_and(|row| row.get(column) == Some("t"));
    let (is_missing, may_look) = (says(0), says(1));
    if !is_missing && !may_look {
        return Ok(Vec::new());
    }
    let known = if is_missing { BTreeSet::new() } else { applied(client).await? };
    Ok(wanted(&known).map(|(name, _)| name).filter(|name| !known.contains(*name)).collect())
}

/// The names of what was applied.
async fn applied(client: &Client) -> Result<BTreeSet<String>, tokio_postgres::Error> {
    let rows = client.simple_query("SELECT name FROM public.exagg_migrations").await?;
    let name = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(rows.iter().filter_map(name).collect())
}

/// What a database is to have that has these: all migrations, and the definitions unless it has those of a newer host.
fn wanted(known: &BTreeSet<String>) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    let is_later = |name: &String| name.ends_with("_definitions") && name.as_str() > DEFINITIONS.0;
    let definitions = (!known.iter().any(is_later)).then_some(DEFINITIONS);
    MIGRATIONS.into_iter().chain(definitions)
}

fn first_row(messages: Vec<SimpleQueryMessage>) -> Option<SimpleQueryRow> {
    messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

async fn apply(client: &Client, name: &str, sql: &str) -> Result<bool> {
    let digest = hex(&Sha256::digest(sql));
    let digest_known = format!("SELECT digest FROM public.exagg_migrations WHERE name = {}", literal(name));
    let known = first_row(client.simple_query(&digest_known).await?).and_then(|row| row.get(0).map(str::to_owned));
    match known {
        Some(known) if known == digest => Ok(false),
        Some(_) => bail!("it was applied with another content: this host and the database do not belong together"),
        None => {
            let record = format!(
                "INSERT INTO public.exagg_migrations (name, digest) VALUES ({}, {})",
                literal(name),
                literal(&digest)
            );
            let transaction = format!("BEGIN; {sql}; {record}; COMMIT");
            let mut tries = 1;
            while let Err(error) = client.batch_execute(&transaction).await {
                // Who reads two of the views meanwhile may wait for this one, and be waited for.
                if error.code() != Some(&SqlState::T_R_DEADLOCK_DETECTED) || tries == TRIES_MAX {
                    bail!("{}", exagg_clients::postgres::describe(&error));
                }
                tracing::info!("migration {name}: a reader was in the way; it is tried again");
                client.batch_execute("ROLLBACK").await?;
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_that_change_have_another_number() {
        let (name, sql) = DEFINITIONS;
        let known = ("0005_definitions", "f128973e9223e8dc5ae5a53043421d365fe200ebe99e61afda23ca8d6b06736e");
        assert_eq!((name, hex(&Sha256::digest(sql)).as_str()), known, "raise the number, and put both here");
    }
}
