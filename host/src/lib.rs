//! A Spin-compatible host with kafka, cron and http triggers.
//!
//! # Layout, in reading order
//! - [`cli`], [`config`]: the command line and the runtime configuration, and what they come to.
//! - [`source`], [`manifest`], [`locked`], [`oci`], [`files`]: where an app comes from.
//! - [`template`], [`app`]: an app whose templates are expanded.
//! - [`engine`], [`bindings`], [`instance`]: wasmtime, the WIT, and a fresh instance a call.
//! - [`slot`], [`swap`]: a component's place, and other code in it while the host runs.
//! - [`factors`]: what a component may import, one factor an interface.
//! - [`budget`]: what guests may make the host hold, and the account of it.
//! - [`triggers`]: what starts calls, one module a trigger.
//! - [`unpack`]: compressed batches within bounds, in the place of librdkafka's own functions.
//! - [`kafka`], [`postgres`], [`database`]: what Kafka's clients share; what PostgreSQL's do; the host's
//!   own SQL.
//! - [`migrate`], [`lease`], [`topics`], [`replay`], [`rejects`]: the host's uses of the database.
//! - [`server`], [`admin`], [`usage`]: the listeners and what they answer; [`client`], [`status`]: who asks.
//! - [`embedded`]: a broker and a PostgreSQL for trying out.
//! - [`run`]: a run from its start to its end; [`plugin`]: the same as a trigger of `spin up`.
//! - [`clock`], [`health`], [`memory`], [`printable`], [`private`], [`shutdown`], [`telemetry`]: leaves that
//!   everybody uses.

pub mod admin;
pub mod app;
pub mod bindings;
pub mod budget;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod database;
pub mod embedded;
pub mod engine;
pub mod factors;
pub mod files;
pub mod health;
pub mod instance;
pub mod kafka;
pub mod lease;
pub mod locked;
pub mod manifest;
pub mod memory;
pub mod migrate;
pub mod oci;
pub mod plugin;
pub mod postgres;
pub mod printable;
pub mod private;
pub mod rejects;
pub mod replay;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod slot;
pub mod source;
pub mod status;
pub mod swap;
pub mod telemetry;
pub mod template;
pub mod topics;
pub mod triggers;
pub mod unpack;
pub mod usage;

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
