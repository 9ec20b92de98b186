//! What a host says of itself: its row of `exagg_hosts`, for pages that have to show all hosts.

use exagg_clients::database::literal;
use serde_json::Value;

/// How long the row of a host stays that has gone without deleting it.
const KEPT: &str = "10 minutes";

/// Nobody waits for these rows: not for a lock, and not for a disk or a standby. The client gives up a little later
/// (`RUN_MAX` of the watch), and a server that went on waiting would come to have a session for each try.
const SETTINGS: &str = "SET LOCAL statement_timeout = '1s'; SET LOCAL synchronous_commit = off;";

/// Writes the row of the host of this name, and deletes those of others that have long gone.
pub fn write(host: &str, state: &Value) -> String {
    format!(
        "{SETTINGS}
         DELETE FROM public.exagg_hosts WHERE seen_at < clock_timestamp() - interval '{KEPT}' AND host <> {0};
         INSERT INTO public.exagg_hosts AS h (host, state) VALUES ({0}, {1}::jsonb)
         ON CONFLICT (host) DO UPDATE SET state = excluded.state, seen_at = clock_timestamp()",
        literal(host),
        // PostgreSQL takes no NUL in JSON.
        literal(&state.to_string().replace("\\u0000", "\\ufffd")),
    )
}

/// Notes that the host has stopped: its row says for a while what it ran.
pub fn stopped(host: &str) -> String {
    format!(
        "{SETTINGS}
         UPDATE public.exagg_hosts SET seen_at = clock_timestamp(),
             state = jsonb_set(state, '{{state}}', '\"stopped\"') WHERE host = {}",
        literal(host)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_function_says_ends_no_statement() {
        let statement = write("h", &serde_json::json!({ "reason": "it's\\ '; DROP TABLE x; -- \0 public.x" }));
        assert!(statement.contains(r"it\'s\\\\ \'; DROP"), "{statement}");
        assert!(!statement.contains("u0000") && !statement.contains("'it's"), "{statement}");
        assert_eq!(statement.matches("public.").count(), 2, "a schema is put in the place of these: {statement}");
    }
}
