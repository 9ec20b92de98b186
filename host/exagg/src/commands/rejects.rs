//! `exagg rejects`.

use anyhow::Result;
use exagg_common::printable::printable;
use exagg_pipeline::rejects::{Count, Rejected, Wanted, counts, youngest};

use super::Target;
use crate::cli::Rejects;
use crate::config::Environment;

/// Prints why records of a stream are not counted, and the youngest of them.
pub async fn run(args: &Rejects, environment: &Environment) -> Result<()> {
    let database = Target::find(&args.app, environment).await?.database;
    let wanted = Wanted {
        reason: args.reason.clone(),
        topic: args.topic.clone(),
        partition: args.partition,
        offset: args.offset,
        since: args.since,
        before: args.before,
    };
    let counts = counts(&database, &args.stream, &wanted).await?;
    let records = youngest(&database, &args.stream, &wanted, args.limit).await?;
    if args.json {
        println!("{}", serde_json::json!({ "stream": args.stream, "counts": counts, "records": records }));
        return Ok(());
    }
    if counts.is_empty() {
        println!("stream {}: nothing of it is rejected", printable(&args.stream));
        return Ok(());
    }
    for count in &counts {
        println!("{}", count_line(count));
    }
    println!();
    for record in &records {
        println!("{}", record_line(record));
    }
    let all: u64 = counts.iter().map(|count| count.records).sum();
    if let Some(last) = records.last().filter(|_| all > u64::from(args.limit)) {
        println!("\nolder ones: --before {}", last.rejected_at);
    }
    Ok(())
}

fn count_line(count: &Count) -> String {
    let since = match count.counted_since {
        0 => String::new(),
        since => format!(", {since} of them counted since by a replay"),
    };
    let reason = printable(&count.reason);
    format!("{reason}: {} records, from {} to {}{since}", count.records, count.first_at, count.last_at)
}

fn record_line(record: &Rejected) -> String {
    let windows = match record.windows.as_slice() {
        [] => String::new(),
        windows => format!(", for the windows {}", windows.join(" ")),
    };
    let counted = record.counted_at.as_ref().map_or(String::new(), |at| format!(", counted at {at}"));
    format!(
        "{} {}/{} offset {}: {}{windows}{counted}: {}",
        record.rejected_at,
        printable(&record.topic),
        record.partition,
        record.offset,
        printable(&record.reason),
        // What a record holds must not reach the terminal as it is.
        record.value.as_ref().map_or("-".into(), |value| printable(value))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_in_one_line_with_what_a_replay_made_of_it() {
        let record = Rejected {
            rejected_at: "2026-01-01T00:00:00.000000Z".into(),
            topic: "t".into(),
            partition: 1,
            offset: 5,
            reason: "late".into(),
            windows: vec!["2026-01-01T00:00:00Z".into(), "2026-01-01T00:01:00Z".into()],
            counted_at: Some("2026-01-02T00:00:00Z".into()),
            value_bytes: Some(3),
            value: Some("a\u{1b}[2J".into()),
        };
        let line = record_line(&record);
        assert!(
            line.starts_with("2026-01-01T00:00:00.000000Z t/1 offset 5: late, for the windows 2026-01-01T00:00:00Z")
        );
        assert!(line.contains("counted at 2026-01-02T00:00:00Z") && !line.contains('\u{1b}'), "{line}");
        let count =
            Count { reason: "late".into(), records: 3, counted_since: 2, first_at: "a".into(), last_at: "b".into() };
        assert_eq!(count_line(&count), "late: 3 records, from a to b, 2 of them counted since by a replay");
    }
}
