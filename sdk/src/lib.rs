//! Kafka and cron functions, as short as a Spin HTTP function.
//!
//! # Layout
//! - [`kafka`]: the batch that a Kafka function is given, as an iterator of messages.
//! - [`producer`]: publishing records.
//! - [`cron`]: scheduled functions.
//! - [`check`]: settings that are checked before anything runs.
//! - [`variables`]: a component's variables, and why one cannot be read.
//! - [`postgres`]: the address of a function's database, and what its statements answer.
//!
//! A whole Kafka function:
//!
//! ```text
//! use exagg_sdk::kafka::{Batch, Outcome};
//!
//! exagg_sdk::kafka_function!(handle);
//!
//! async fn handle(batch: Batch) -> Outcome {
//!     for message in batch.messages() {
//!         println!("{}: {:?}", message.offset, message.value);
//!     }
//!     Outcome::Applied
//! }
//! ```
#![warn(missing_docs)]

pub mod check;
pub mod cron;
pub mod kafka;
pub mod postgres;
pub mod producer;
pub mod variables;

#[doc(hidden)]
pub use spin_sdk;
