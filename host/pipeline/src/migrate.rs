//! Migrations: forward only, each once, under a lock, so that hosts may start at the same time.

use anyhow::{Context, Result, bail};
use exagg_clients::database::{Database, literal};
use exagg_common::hex;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, SimpleQueryMessage};

/// In order. A file that was applied somewhere is never edited: its digest is recorded.
const MIGRATIONS: [(&str, &str); 4] = [
    ("0001_pipeline", include_str!("../../../migrations/0001_pipeline.sql")),
    ("0002_replay", include_str!("../../../migrations/0002_replay.sql")),
    ("0003_layout", include_str!("../../../migrations/0003_layout.sql")),
    ("0004_edges_and_batches", include_str!("../../../migrations/0004_edges_and_batches.sql")),
];

/// The views and functions as they are now. They change under another number, so that databases get them again; a host
/// that is older than those a database has leaves them.
const DEFINITIONS: (&str, &str) = ("0005_definitions", include_str!("../../../migrations/definitions.sql"));

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
        let mut applied = Vec::new();
        let definitions = (!has_later_definitions(&client).await?).then_some(DEFINITIONS);
        for (name, sql) in MIGRATIONS.into_iter().chain(definitions) {
            if apply(&client, name, sql).await.with_context(|| format!("migration {name}"))? {
                tracing::info!("migration {name} applied");
                applied.push(name);
            }
        }
        Ok(applied)
    })
}

async fn has_later_definitions(client: &Client) -> Result<bool> {
    let later = format!(
        "SELECT 1 FROM public.exagg_migrations WHERE name LIKE '%\\_definitions' AND name > {}",
        literal(DEFINITIONS.0)
    );
    let answer = client.simple_query(&later).await?;
    Ok(answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))))
}

async fn apply(client: &Client, name: &str, sql: &str) -> Result<bool> {
    let digest = hex(&Sha256::digest(sql));
    let known = client
        .simple_query(&format!("SELECT digest FROM public.exagg_migrations WHERE name = {}", literal(name)))
        .await?
        .into_iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
    match known {
        Some(known) if known == digest => Ok(false),
        Some(_) => bail!("it was applied with another content: this host and the database do not belong together"),
        None => {
            let record = format!(
                "INSERT INTO public.exagg_migrations (name, digest) VALUES ({}, {})",
                literal(name),
                literal(&digest)
            );
            client
                .batch_execute(&format!("BEGIN; {sql}; {record}; COMMIT"))
                .await
                .map_err(|error| anyhow::anyhow!("{}", exagg_clients::postgres::describe(&error)))?;
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
