//! Components: compiled, linked to what they import, called in fresh instances, swapped.
//!
//! # Layout, in reading order
//! - [`engine`]: wasmtime, compiling in a process of its own, compiled code on disk, threads for long calls.
//! - [`factors`]: what a component may import, one factor an interface.
//! - [`instance`]: a component, and the fresh instance that each call gets.
//! - [`slot`]: a component's place: which version runs, and whether it has proven itself.
//! - [`app`]: the app, ready to run.
//! - [`trigger`]: what starts calls.
//! - [`budget`]: what guests may make the host hold, and the account of it.
//! - [`meter`], [`metrics`], [`health`]: what the host says of itself.
#![warn(missing_docs)]

pub mod app;
pub mod budget;
pub mod engine;
pub mod factors;
pub mod health;
pub mod instance;
pub mod meter;
pub mod metrics;
pub mod slot;
pub mod trigger;
