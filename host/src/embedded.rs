//! A broker and a PostgreSQL of the host's own, for trying out (`--embedded`). Nothing else
//! knows them: the app sees addresses in its variables.
//!
//! # Layout
//! - [`broker`]: librdkafka's mock cluster, in memory, and the guard that it loses nothing silently.
//! - [`postgres`]: a PostgreSQL in the state directory.
//! - [`place`]: where its files are, and whose.

pub mod broker;
mod place;
pub mod postgres;
mod sys;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use self::broker::Broker;
use self::postgres::{Plan, Postgres};
use crate::app::Provider;
use crate::database::{Database, literal};
use crate::template::Secret;

/// The pair: the broker runs, PostgreSQL is planned.
pub struct Embedded {
    pub broker: Broker,
    plan: Plan,
}

impl Embedded {
    /// Starts the broker and chooses PostgreSQL's address, so that the app can be checked before
    /// anything slow starts.
    pub fn plan(state_dir: &Path) -> Result<Self> {
        Ok(Self { broker: Broker::start()?, plan: Plan::new(state_dir)? })
    }

    /// The addresses as values of the app's variables.
    pub fn provider(&self) -> Provider {
        let values = [
            ("kafka_brokers", self.broker.address().to_owned()),
            ("kafka_host", self.broker.address().to_owned()),
            ("postgres_url", self.plan.url()),
            ("postgres_host", self.plan.host()),
        ];
        Provider::Static(BTreeMap::from(values.map(|(name, value)| (name.to_owned(), Secret::new(value)))))
    }

    /// Starts PostgreSQL.
    pub async fn start_postgres(&self) -> Result<Postgres> {
        let plan = self.plan.clone();
        tokio::task::spawn_blocking(move || Postgres::start(&plan)).await?
    }
}

/// The broker of the last run is gone with its topics: their progress is retired, and what was
/// not read any more becomes a gap. Returns how many partitions that were.
pub async fn retire_last_run(database: &Database, topics: &[String]) -> Result<u64> {
    if topics.is_empty() {
        return Ok(0);
    }
    let list: Vec<_> = topics.iter().map(|topic| literal(topic)).collect();
    let statement = format!(
        "SELECT coalesce(sum(public.exagg_retire(stream, topic, NULL, 'the embedded broker is in memory: it forgot')), 0)
         FROM (SELECT DISTINCT stream, topic FROM public.progress WHERE topic IN ({})) AS known",
        list.join(", ")
    );
    let rows = database.rows(&statement).await?;
    Ok(rows.first().and_then(|row| row.get(0)?.parse().ok()).unwrap_or_default())
}
