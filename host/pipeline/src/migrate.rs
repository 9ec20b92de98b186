//! Migrations: forward only, each once, under a lock, so that hosts may start at the same time.

use anyhow::{Context, Result, bail};
use exagg_clients::database::{Database, literal};
use exagg_common::hex;
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, SimpleQueryMessage};

/// In order. A file that was applied somewhere is never edited: its digest is recorded.
const MIGRATIONS: [(&str, &str); 4] = [
    ("0001_pipeline", include_str!("../../../migrations/0001_pipeline.sql")),
    ("0002_replay", include_str!("../../../migrations/0002_replay.sql")),
    ("0003_layout", include_str!("../../../migrations/0003_layout.sql")),
    ("0004_edges_and_batches", include_str!("../../../migrations/0004_edges_and_batches.sql")),
];

/// The lock that migrating hosts share; any number does that nobody else uses.
const LOCK: i64 = 0x0065_7861_6767_0001;

/// Applies what is not applied yet and returns the names of it.
pub async fn migrate(database: &Database) -> Result<Vec<&'static str>> {
    let client = database.connect().await?;
    // The lock goes with the connection, whatever happens.
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await.context("cannot lock the migrations")?;
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
    for (name, sql) in MIGRATIONS {
        if apply(&client, name, sql).await.with_context(|| format!("migration {name}"))? {
            tracing::info!("migration {name} applied");
            applied.push(name);
        }
    }
    Ok(applied)
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
