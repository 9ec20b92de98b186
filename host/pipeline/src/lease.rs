//! Leases of cron ticks in PostgreSQL: of several replicas one runs a tick.

use anyhow::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use exagg_clients::database::{Database, literal};
use exagg_trigger_cron::stage::TickLease;

/// How long a lease is remembered: longer than any replica's clock is off.
const KEPT: &str = "1 hour";

/// Leases by stage and scheduled time.
pub struct Leases(Database);

impl Leases {
    /// Leases in this database.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl TickLease for Leases {
    async fn take(&self, stage: &str, time: DateTime<Utc>) -> Result<bool> {
        let statement = format!(
            "DELETE FROM public.exagg_cron_leases WHERE scheduled_at < now() - interval '{KEPT}';
             INSERT INTO public.exagg_cron_leases (stage, scheduled_at) VALUES ({}, {}) ON CONFLICT DO NOTHING
             RETURNING stage",
            literal(stage),
            literal(&time.to_rfc3339()),
        );
        Ok(!self.0.rows(&statement).await?.is_empty())
    }
}
