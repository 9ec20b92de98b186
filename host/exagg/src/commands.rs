//! The commands beside `exagg up`: each asks for what it needs, and says what came of it.
//!
//! - [`migrate`], [`topics`], [`replay`], [`rejects`], [`drop`]: what is done with the pipeline's tables.
//! - [`status`], [`swap`]: what a running host is asked.
//! - [`push`]: an app to a registry. [`stream`], [`preview`]: a topic of one's own.

pub mod drop;
pub mod migrate;
pub mod preview;
pub mod push;
pub mod rejects;
pub mod replay;
pub mod status;
pub mod stream;
pub mod swap;
pub mod topics;

use anyhow::{Result, bail};
use exagg_app::Resolved;
use exagg_clients::database::Database;
use futures::future::LocalBoxFuture;

use crate::cli::{AppArgs, Command, Registry, Stream};
use crate::config::{AppSettings, Environment};
use crate::{plugin, run};

/// Runs a command to its end. Boxed here, or the program would compile once more what it awaits.
pub fn run(command: Command, environment: &Environment) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async move {
        match command {
            Command::Up(flags) => run::up(flags, environment).await,
            Command::Migrate(args) => migrate::run(&args, environment).await,
            Command::Status(args) => status::run(&args, environment).await,
            Command::Swap(args) => swap::run(&args, environment).await,
            Command::Reset(args) => topics::reset(&args, environment).await,
            Command::Forget(args) => topics::forget(&args, environment).await,
            Command::Replay(args) => replay::run(&args, environment).await,
            Command::Drop(args) => drop::run(&args, environment).await,
            Command::Rejects(args) => rejects::run(&args, environment).await,
            Command::Stream(Stream::Add(args)) => stream::add(&args),
            Command::Stream(Stream::Preview(args)) => preview::run(&args, environment).await,
            Command::Registry(Registry::Push(args)) => push::run(&args).await,
            // It runs without threads, before there is a runtime.
            Command::Compile(_) => Ok(()),
            Command::Trigger { kind, plugin: flags } => match plugin::trigger_type(&kind) {
                Some(kind) => plugin::run(kind, flags, environment).await,
                None => bail!("there is no trigger {kind}: there is kafka and cron"),
            },
        }
    })
}

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
