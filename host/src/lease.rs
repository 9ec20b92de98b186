//! Leases of cron ticks in PostgreSQL: of several replicas one runs a tick.

use chrono::{DateTime, Utc};

use crate::database::{Database, literal};

/// How long a lease is remembered: longer than any replica's clock is off.
const KEPT: &str = "1 hour";

/// Leases by (stage, scheduled time).
pub struct Leases(Database);

impl Leases {
    pub fn new(database: Database) -> Self {
        Self(database)
    }

    /// True when the tick is ours.
    pub async fn take(&self, stage: &str, time: DateTime<Utc>) -> Result<bool, String> {
        let statement = format!(
            "DELETE FROM public.exagg_cron_leases WHERE scheduled_at < now() - interval '{KEPT}';
             INSERT INTO public.exagg_cron_leases (stage, scheduled_at) VALUES ({}, {}) ON CONFLICT DO NOTHING
             RETURNING stage",
            literal(stage),
            literal(&time.to_rfc3339()),
        );
        let rows = self.0.rows(&statement).await.map_err(|error| format!("{error:#}"))?;
        Ok(!rows.is_empty())
    }
}
