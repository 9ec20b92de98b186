//! A Spin-compatible host with kafka, cron and http triggers.
//!
//! # Layout, in reading order
//! - [`cli`], [`config`]: the command line and the runtime configuration, and what they come to.
//! - [`manifest`], [`template`], [`app`]: `spin.toml` to an app whose templates are expanded.
//! - [`engine`], [`bindings`], [`instance`]: wasmtime, the WIT, and a fresh instance a call.
//! - [`factors`]: what a component may import, one factor an interface.
//! - [`triggers`]: what starts calls, one module a trigger.
//! - [`kafka`], [`postgres`], [`database`]: what Kafka's clients share; what PostgreSQL's do; the host's
//!   own SQL.
//! - [`migrate`], [`lease`], [`topics`], [`replay`], [`rejects`]: the host's uses of the database.
//! - [`server`], [`admin`], [`status`]: the listeners and what they answer.
//! - [`embedded`]: a broker and a PostgreSQL for trying out.
//! - [`run`]: a run from its start to its end.
//! - [`clock`], [`health`], [`shutdown`], [`telemetry`]: leaves that everybody uses.

pub mod admin;
pub mod app;
pub mod bindings;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod embedded;
pub mod engine;
pub mod factors;
pub mod health;
pub mod instance;
pub mod kafka;
pub mod lease;
pub mod manifest;
pub mod migrate;
pub mod postgres;
pub mod rejects;
pub mod replay;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod template;
pub mod topics;
pub mod triggers;
