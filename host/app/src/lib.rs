//! What an app is, and where it comes from. Nothing here runs anything.
//!
//! - [`spec`]: the app as it is written.
//! - [`source`]: where it is read from: [`manifest`], a registry ([`oci`]), or what Spin hands over ([`locked`]).
//! - [`files`]: files that its components see.
#![warn(missing_docs)]

pub mod files;
pub mod locked;
pub mod manifest;
pub mod oci;
pub mod source;
pub mod spec;

pub use self::spec::{App, Build, ComponentSpec, Files, Provider, Resolved, TriggerSpec, VariableSpec};

/// The largest component that is taken from a registry, or swapped in.
pub const CODE_BYTES_MAX: usize = 64 * 1024 * 1024;
