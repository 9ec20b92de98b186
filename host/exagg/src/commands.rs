//! The commands beside `exagg up`: each asks for what it needs, and says what came of it.
//!
//! - [`migrate`], [`topics`], [`replay`], [`rejects`]: what is done with the pipeline's tables.
//! - [`status`], [`swap`]: what a running host is asked.
//! - [`push`]: an app to a registry.

pub mod migrate;
pub mod push;
pub mod rejects;
pub mod replay;
pub mod status;
pub mod swap;
pub mod topics;

use anyhow::Result;
use exagg_app::Resolved;
use exagg_clients::database::Database;

use crate::cli::AppArgs;
use crate::config::{AppSettings, Environment};

/// The app that a command is about, and its database.
struct Target {
    settings: AppSettings,
    app: Resolved,
    database: Database,
}

impl Target {
    async fn find(args: &AppArgs, environment: &Environment) -> Result<Self> {
        let settings = AppSettings::load(args, environment)?;
        let app = settings.app().await?.resolve(&settings.providers)?;
        let database = settings.database_needed(&app.variables)?;
        Ok(Self { settings, app, database })
    }
}
