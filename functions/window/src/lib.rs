//! What is counted, where, and until when. Pure: no I/O, no clock, no async.
//!
//! # Layout, in reading order
//! - [`time`]: event times and the formats that they are written in.
//! - [`windows`]: half-open windows `[start, end)` aligned to the Unix epoch.
//! - [`fields`]: the three fields of a record that are read.
//! - [`event`]: a record's bytes to an [`event::Event`], or the reason why not. The usual record takes a
//!   short way (`shape`, `scan`, `decimal`, `words`), any other a general parser (`json`, and `path` for deeper fields).
//! - [`late`]: what becomes of a record whose window is closed.
//! - [`reject`]: why a record is not counted.
//! - [`defaults`]: what is read where a manifest does not say.
//! - [`fold`]: events to partial aggregates, one a window and code.
//! - [`fence`]: what an offset interval means beside the progress already made.
//! - [`layout`]: how what is pending is kept in PostgreSQL.
//! - [`watermark`]: before which time no event is expected, and what holds it.
#![warn(missing_docs)]

mod civil;
mod decimal;
pub mod defaults;
pub mod event;
pub mod fence;
pub mod fields;
pub mod fold;
mod json;
pub mod late;
pub mod layout;
mod path;
pub mod reject;
mod scan;
mod shape;
pub mod time;
pub mod watermark;
pub mod windows;
mod words;
