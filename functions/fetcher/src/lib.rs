//! The fetcher: a cron function that publishes one record per exchange or city and tick.
//!
//! # Layout
//! - [`settings`]: the component's variables.
//! - [`record`]: what is published.
//! - [`simulate`]: simulated exchanges and weather, the same for the same seed and time (pure).
//! - [`livecoinwatch`]: the request and what its answers mean (pure).
//! - [`fetch`]: the calls, their time-outs and retries.

pub mod fetch;
pub mod livecoinwatch;
pub mod record;
pub mod settings;
pub mod simulate;

use exagg_sdk::cron::Metadata;
use exagg_sdk::producer;

use crate::settings::{Settings, Source};

exagg_sdk::cron_function!(handle, check = check);

async fn check() -> Result<(), String> {
    Settings::load().await.map(|_| ())
}

async fn handle(tick: Metadata) -> Result<(), String> {
    let settings = Settings::load().await?;
    let records = match settings.source {
        Source::Random if settings.stream == "weather" => {
            simulate::weather(&settings.cities, settings.seed, tick.timestamp)
        }
        Source::Random => simulate::exchanges(settings.limit, settings.seed, tick.timestamp),
        Source::LiveCoinWatch => fetch::exchanges(&settings).await?,
    };
    if records.is_empty() {
        return Ok(());
    }
    let messages = records.into_iter().map(|record| record.into_message(&settings.topic)).collect();
    producer::send(&settings.kafka_brokers, messages)
        .await
        .map(|_| ())
        .map_err(|error| format!("topic {}: {error:?}", settings.topic))
}
