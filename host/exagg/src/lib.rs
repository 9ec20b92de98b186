//! A Spin-compatible host with kafka, cron and http triggers: the program `exagg`.
//!
//! What an app is stands in `exagg-app`, what runs components in `exagg-runtime`, the triggers in `exagg-trigger-*`,
//! what is known of the pipeline's tables in `exagg-pipeline`.
//!
//! # Layout, in reading order
//! - [`cli`], [`config`]: the command line and the runtime configuration, and the validated settings.
//! - [`run`]: a run from its start to its end, in steps; [`plugin`]: the same as a trigger of `spin up`.
//! - [`triggers`]: the one list of the types of triggers.
//! - [`server`], [`admin`], [`swap`]: the listeners, and what the admin interface answers and does.
//! - [`heartbeat`]: what the host says of itself in the pipeline's database.
//! - [`commands`]: the commands beside `exagg up`; [`admin_client`]: how they reach a running host.
//! - [`embedded`]: a broker and a PostgreSQL for trying out.
//! - [`telemetry`], [`shutdown`]: log lines and spans; when to stop.

pub mod admin;
pub mod admin_client;
pub mod cli;
pub mod commands;
pub mod config;
pub mod embedded;
pub mod heartbeat;
pub mod plugin;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod swap;
pub mod telemetry;
pub mod triggers;
