//! What the host's clients of Kafka and PostgreSQL share.
//!
//! - [`kafka`]: settings, addresses, errors and log lines of librdkafka's clients; what a topic is.
//! - [`postgres`]: addresses, TLS and errors.
//! - [`database`]: the host's own use of PostgreSQL.
#![warn(missing_docs)]

pub mod database;
pub mod kafka;
pub mod postgres;
