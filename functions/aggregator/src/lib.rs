//! The aggregator: a Kafka function that folds a batch in memory and applies it by one SQL
//! statement behind the offset fence, so that each record is applied once.
//!
//! # Layout
//! - [`settings`]: the component's variables.
//! - [`aggregate`]: a batch to partial aggregates and rejects (pure).
//! - [`columns`]: partial aggregates as the statement's parameters (pure).
//! - [`apply`]: the protocol around the fence.
//! - [`database`]: what the protocol asks of the database.
//! - [`store`]: the only SQL.

pub mod aggregate;
pub mod apply;
pub mod columns;
pub mod database;
pub mod settings;
pub mod store;

use exagg_sdk::kafka::{Batch, Outcome};

exagg_sdk::kafka_function!(handle, check = check);

async fn check() -> Result<(), String> {
    settings::Settings::load().await.map(|_| ()).map_err(|error| error.to_string())
}

async fn handle(batch: Batch) -> Outcome {
    let settings = match settings::Settings::load().await {
        Ok(settings) => settings,
        Err(error) => return Outcome::Stop(error.to_string()),
    };
    apply::apply(&batch, &settings).await
}
