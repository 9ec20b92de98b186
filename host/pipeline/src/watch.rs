//! Whether a database is what the stages need: reachable, migrated, and of the same time as this host.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use chrono::DateTime;
use exagg_clients::database::Database;
use exagg_common::clock::Clock;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::migrate::pending;
use crate::requirements::{Usage, objection};

/// How long a look may take: a database that is frozen or held up is no use to the stages either.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// How long statements beside a look may take. The next look waits for them, and readiness for it: together they have to
/// stay within the seconds in which a held database is noticed.
const RUN_MAX: Duration = Duration::from_millis(1_500);

/// What was there is looked for again after so long: a database is emptied rarely, and what uses it notices.
const AGAIN: Duration = Duration::from_secs(30);

/// What is needed of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The pipeline's tables as this host knows them.
    Migrations,
    /// The table that cron ticks are leased in.
    Leases,
}

/// What a look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// What is missing, and what to do; none when nothing is.
    pub missing: Option<String>,
    /// By how many seconds this host's clock is ahead of the database's; negative where it is behind.
    pub clock_ahead_seconds: f64,
}

/// Looks again and again, over one connection as long as it is good.
pub struct Watch {
    database: Database,
    need: Need,
    clock: Arc<dyn Clock>,
    client: Option<Client>,
    /// When nothing was missing, unless something was at the last look.
    complete_at: Option<Instant>,
}

impl Watch {
    /// A watch that is not connected yet.
    pub fn new(database: Database, need: Need, clock: Arc<dyn Clock>) -> Self {
        Self { database, need, clock, client: None, complete_at: None }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the database does not answer within 3 seconds, or refuses.
    pub async fn look(&mut self) -> Result<Look> {
        let is_due = self.complete_at.is_none_or(|complete_at| complete_at.elapsed() >= AGAIN);
        // Taken, so that a connection that did not answer is not asked again.
        let kept = self.client.take();
        let looking = async {
            let client = match kept.filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.database.connect().await?,
            };
            let look = self.ask(&client, is_due).await.map_err(|error| {
                anyhow!("PostgreSQL at {}: {}", self.database.place(), exagg_clients::postgres::describe(&error))
            })?;
            anyhow::Ok((client, look))
        };
        let place = || format!("PostgreSQL at {} does not answer within {LOOK_MAX:?}", self.database.place());
        let (client, (missing, clock_ahead_seconds)) =
            tokio::time::timeout(LOOK_MAX, looking).await.with_context(place)??;
        self.client = Some(client);
        if is_due {
            self.complete_at = missing.is_none().then(Instant::now);
        }
        Ok(Look { missing, clock_ahead_seconds })
    }

    /// Runs short statements, which name the schema `public`, over the connection of the last look; nothing where that failed.
    ///
    /// # Errors
    /// When the database refuses, or does not answer within 1.5 seconds; then a look is due at once.
    pub async fn run(&mut self, statements: &str) -> Result<()> {
        // Taken, so that a connection that did not answer is not asked again.
        let Some(client) = self.client.take() else { return Ok(()) };
        let statements = self.database.sql(statements);
        let answer = tokio::time::timeout(RUN_MAX, client.batch_execute(&statements)).await;
        let answer = answer.with_context(|| format!("no answer within {RUN_MAX:?}"))?;
        self.client = Some(client);
        answer.map_err(|error| anyhow!("{}", exagg_clients::postgres::describe(&error)))
    }

    async fn ask(&self, client: &Client, is_due: bool) -> Result<(Option<String>, f64), tokio_postgres::Error> {
        let asked_at = self.clock.now();
        let answer = client.simple_query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").await?;
        let time = first(&answer).and_then(|text| DateTime::from_timestamp_micros(text.parse().ok()?));
        // It was that time somewhere between the question and the answer.
        let halfway = asked_at + (self.clock.now() - asked_at) / 2;
        let ahead = time.map(|time| (halfway - time).as_seconds_f64());
        let missing = match self.need {
            _ if !is_due => None,
            Need::Migrations => {
                let pending = pending(&self.database, client).await?;
                let not_migrated = (!pending.is_empty())
                    .then(|| format!("not migrated ({} is missing): run exagg migrate", pending.join(", ")));
                objection(client, Usage::Read).await?.or(not_migrated)
            }
            Need::Leases => {
                let answer =
                    client.simple_query(&self.database.sql("SELECT to_regclass('public.exagg_cron_leases')")).await?;
                first(&answer)
                    .is_none()
                    .then(|| "it has no table exagg_cron_leases: run exagg migrate on it".to_owned())
            }
        };
        Ok((missing, ahead.unwrap_or_default()))
    }
}

fn first(answer: &[SimpleQueryMessage]) -> Option<&str> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}
