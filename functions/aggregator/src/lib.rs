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

use std::cell::OnceCell;
use std::rc::Rc;

use exagg_sdk::kafka::{Batch, Outcome};

use settings::{Settings, SettingsError};

thread_local! {
    /// Read once an instance, which may serve many batches (`reuse`): variables are what they were at the host's start.
    static SETTINGS: OnceCell<Rc<Settings>> = const { OnceCell::new() };
}

exagg_sdk::kafka_function!(handle, check = check);

async fn check() -> Result<(), String> {
    settings().await.map(|_| ()).map_err(|error| error.to_string())
}

async fn handle(batch: Batch) -> Outcome {
    match settings().await {
        Ok(settings) => apply::apply(&batch, &settings).await,
        Err(error) => Outcome::Stop(error.to_string()),
    }
}

async fn settings() -> Result<Rc<Settings>, SettingsError> {
    if let Some(known) = SETTINGS.with(|settings| settings.get().cloned()) {
        return Ok(known);
    }
    let loaded = Rc::new(Settings::load().await?);
    Ok(SETTINGS.with(|settings| Rc::clone(settings.get_or_init(|| loaded))))
}
