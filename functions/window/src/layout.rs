//! How pending windows are kept in PostgreSQL: what the aggregator writes, the window-closer reads.

/// The layout of `window_state` and `window_batches` that this version knows. A migration that changes it raises
/// `window_state_layout.version`, and a function of another version leaves the tables alone.
pub const LAYOUT: i64 = 2;
