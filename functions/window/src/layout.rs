//! How pending windows are kept in PostgreSQL: what the aggregator writes, the window-closer reads.

/// The layout of `window_state` and `window_batches` that this version knows. A migration that changes it raises
/// `window_state_layout.version`, and a function of another version leaves the tables alone.
pub const LAYOUT: i64 = 2;

/// The layout that the database has, an `int8`.
pub const READ_LAYOUT: &str = "SELECT version::int8 FROM public.window_state_layout";

/// A condition of a statement: the database has the layout that is known here.
pub fn is_known() -> String {
    format!("(SELECT version FROM public.window_state_layout) = {LAYOUT}")
}
