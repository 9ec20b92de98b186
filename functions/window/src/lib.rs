//! What is counted, where, and until when. Pure: no I/O, no clock, no async.
//!
//! # Layout, in reading order
//! - [`time`]: event times and the formats that they are written in.
//! - [`windows`]: half-open windows `[start, end)` aligned to the Unix epoch.
//! - [`event`]: a record's bytes to an [`event::Event`], or the reason why not.
//!   The usual record takes a short way: `shape`, `scan`, `decimal`, `civil`.
//! - [`reject`]: why a record is not counted.
//! - [`fold`]: events to partial aggregates, one a window and code.
//! - [`fence`]: what an offset interval means beside the progress already made.
//! - [`watermark`]: before which time no event is expected, and what holds it.

mod civil;
mod decimal;
pub mod event;
pub mod fence;
pub mod fold;
pub mod reject;
mod scan;
mod shape;
pub mod time;
pub mod watermark;
pub mod windows;
