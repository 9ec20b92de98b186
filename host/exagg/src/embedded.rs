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
use exagg_app::Provider;
use exagg_common::template::Secret;

use self::broker::Broker;
use self::postgres::{Plan, Postgres};

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
