//! What one process at a time may do: a row with an expiry, renewed while the work goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use exagg_clients::database::{Database, literal};
use tokio_util::task::AbortOnDropHandle;

/// How long a claim holds that is not renewed: the process has ended, or cannot reach the database.
const HELD: &str = "60 seconds";
const RENEW_EVERY: Duration = Duration::from_secs(15);
const RENEW_MAX: Duration = Duration::from_secs(10);

/// A claim that this process has.
pub struct Claim {
    database: Database,
    name: String,
    holder: String,
    is_lost: Arc<AtomicBool>,
    _renewing: AbortOnDropHandle<()>,
}

impl Claim {
    /// Takes the claim of this name; none while another process has it.
    ///
    /// # Errors
    /// When the database does not answer, or is not migrated.
    pub async fn take(database: &Database, name: &str) -> Result<Option<Self>> {
        let holder = uuid::Uuid::new_v4().simple().to_string();
        let statement = format!(
            "INSERT INTO public.exagg_claims AS c (name, holder, expires_at)
             VALUES ({}, {}, now() + interval '{HELD}')
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE c.expires_at < now() RETURNING holder",
            literal(name),
            literal(&holder)
        );
        if database.rows(&statement).await?.is_empty() {
            return Ok(None);
        }
        let is_lost = Arc::new(AtomicBool::new(false));
        let renewing = tokio::spawn(renew(database.clone(), held(name, &holder), Arc::clone(&is_lost)));
        Ok(Some(Self {
            database: database.clone(),
            name: name.to_owned(),
            holder,
            is_lost,
            _renewing: AbortOnDropHandle::new(renewing),
        }))
    }

    /// Whether it is still this process's, as far as is known.
    ///
    /// # Errors
    /// When another process has taken it over, because it was not renewed in time.
    pub fn check(&self) -> Result<()> {
        if self.is_lost.load(Ordering::Acquire) {
            bail!("{}: another process has taken it over, for it was not renewed for {HELD}", self.name);
        }
        Ok(())
    }

    /// A condition on `public.exagg_claims` that holds as long as it is this process's.
    pub fn condition(&self) -> String {
        held(&self.name, &self.holder)
    }

    /// Gives it back.
    pub async fn release(self) {
        let statement = format!("DELETE FROM public.exagg_claims WHERE {}", self.condition());
        // Else it expires.
        if let Err(error) = self.database.rows(&statement).await {
            tracing::debug!("{}: {error:#}", self.name);
        }
    }
}

/// Whoever takes it over writes another holder: until then it is this one's, also when it has expired.
fn held(name: &str, holder: &str) -> String {
    format!("name = {} AND holder = {}", literal(name), literal(holder))
}

async fn renew(database: Database, held: String, is_lost: Arc<AtomicBool>) {
    let statement =
        format!("UPDATE public.exagg_claims SET expires_at = now() + interval '{HELD}' WHERE {held} RETURNING holder");
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match tokio::time::timeout(RENEW_MAX, database.rows(&statement)).await {
            Ok(Ok(rows)) if rows.is_empty() => return is_lost.store(true, Ordering::Release),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("a claim is not renewed: {error:#}"),
            Err(_) => tracing::warn!("a claim is not renewed: no answer within {RENEW_MAX:?}"),
        }
    }
}
