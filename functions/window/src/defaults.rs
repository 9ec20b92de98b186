//! What variables of an aggregator are that a manifest does not give, as texts: those that whoever writes a manifest has to
//! know too. docs/streams.md has all of them.

/// The record's own key.
pub const KEY_FIELD: &str = "kafka:key";
/// A name at the top level.
pub const VALUE_FIELD: &str = "value";
/// The record's own time.
pub const TIME_FIELD: &str = "kafka:timestamp";
/// Whatever can be told apart: see [`TimeFormat::Auto`](crate::time::TimeFormat::Auto).
pub const TIME_FORMAT: &str = "auto";
/// Of times without one.
pub const TIME_ZONE: &str = "UTC";
/// The length of a window.
pub const WINDOW_SECONDS: &str = "60";
/// How far an event may be ahead of the clock.
pub const MAX_FUTURE_SECONDS: &str = "60";
