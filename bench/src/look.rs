//! Looks at the database, by a connection that is there: a new one for each look would be counted.

use postgres::Client;

/// One number.
pub fn number(client: &mut Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).unwrap().get(0)
}

/// How many records are applied.
pub fn progress(client: &mut Client) -> i64 {
    number(client, "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
}
