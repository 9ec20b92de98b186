//! What the host knows of the pipeline's tables (`migrations/`). Functions have their own SQL, in their stores.
//!
//! - [`claim`]: what one process at a time may do.
//! - [`drop`]: a stream that is not wanted any more.
//! - [`hosts`]: what a host says of itself.
//! - [`migrate`]: brings a database to this layout.
//! - [`requirements`]: what a server and its database have to be.
//! - [`status`]: what the views say of streams, for status and metrics.
//! - [`streams`]: streams of one app: who writes them.
//! - [`watch`]: whether a database is what the stages need.
//! - [`lease`]: of several replicas, which runs a cron tick; [`alarm`]: what wakes a stage beside its schedule.
//! - [`replay`]: windows computed anew from Kafka.
//! - [`topics`]: topics that were recreated, and topics that are gone.
//! - [`rejects`]: records that are not counted, and why.
#![warn(missing_docs)]

pub mod alarm;
pub mod claim;
pub mod drop;
pub mod hosts;
pub mod lease;
pub mod migrate;
pub mod rejects;
pub mod replay;
pub mod requirements;
pub mod status;
pub mod streams;
pub mod topics;
pub mod watch;
