//! What is left of calls before: in the instance's memory, and in the session of its connection.

use std::sync::atomic::{AtomicU32, Ordering};

use spin_sdk::pg::Connection;

static CALLS: AtomicU32 = AtomicU32::new(0);

/// Counts, as text.
pub fn calls() -> String {
    format!("ok call {}", CALLS.fetch_add(1, Ordering::Relaxed) + 1)
}

/// The mark that an earlier one left, and leaves one.
pub async fn session(database: &Connection) -> String {
    let mark = "SELECT coalesce(current_setting('exagg.mark', true), '') AS mark";
    let mut found = database.query(mark, vec![]).await.expect("an answer");
    let row = found.next().await.expect("a row");
    let mark = row.get::<String>("mark").expect("a text");
    database.execute("SET exagg.mark = 'left'", vec![]).await.expect("a setting");
    format!("ok mark {mark:?}")
}
