//! `exagg stream preview`: what a topic holds, and what would come of it.
//!
//! - [`sample`]: its last records.
//! - [`guess`]: which of their fields are meant.

mod guess;
mod sample;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use exagg_clients::kafka;
use exagg_common::clock::{Clock as _, SystemClock};
use exagg_common::printable::printable;
use serde_json::Value;
use window::defaults;
use window::event::{Record, Schema};
use window::fields::Places;
use window::time::{EventTime, MICROS_PER_SECOND, TimeFormat};

use self::guess::{Guess, guess};
use self::sample::{Sample, Sampled, read};
use crate::cli::StreamPreview;
use crate::config::{AppSettings, Environment};

/// Rows and reasons that are shown.
const ROWS_MAX: usize = 10;
/// Characters of a rejected value that are shown.
const VALUE_CHARS: usize = 100;

/// Looks at the topic and prints what there is.
pub async fn run(args: &StreamPreview, environment: &Environment) -> Result<()> {
    let settings = AppSettings::load(&args.app, environment)?;
    let mut app = settings.app().await?;
    // A look needs no database, and none of its secrets.
    app.variables.values_mut().filter(|variable| variable.default.is_none()).for_each(|variable| {
        variable.default = Some(String::new());
    });
    let app = app.resolve(&settings.providers)?;
    let of_app = app.app.triggers.iter().find_map(|trigger| trigger.config.get("brokers").and_then(Value::as_str));
    let brokers = args.brokers.as_deref().or(of_app).context("no brokers: name them with --brokers")?.to_owned();
    let properties = kafka::properties(&app.variables, &settings.kafka)?;
    let (topic, records) = (args.topic.clone(), args.records);
    let sample = tokio::task::spawn_blocking(move || read(&brokers, &properties, &topic, records)).await??;
    print!("{}", told(args, &sample, SystemClock.now().timestamp_micros())?);
    Ok(())
}

/// One window of one code.
#[derive(Default)]
struct Row {
    records: u64,
    sum: f64,
}

/// All that is said of a sample.
fn told(args: &StreamPreview, sample: &Sample, now_us: i64) -> Result<String> {
    let topic = printable(&args.topic);
    let mut text = format!(
        "topic {topic}: {} partitions, about {} records; the last {} were looked at\n",
        sample.partitions,
        sample.stored,
        sample.records.len()
    );
    if sample.records.is_empty() {
        let why = if sample.stored == 0 {
            "send some records first"
        } else {
            "the records did not come within 2 s; try again"
        };
        return Ok(format!("{text}there is nothing to guess at: {why}\n"));
    }
    let said = &args.fields;
    let given = said.key.is_some() && said.value.is_some() && said.time.is_some();
    let Some(guessed) = guess(&sample.records, now_us).or_else(|| given.then(Guess::default)) else {
        return Ok(text + &no_json(&sample.records));
    };
    let key = said.key.clone().or(guessed.key).unwrap_or_else(|| defaults::KEY_FIELD.to_owned());
    let time = said.time.clone().or(guessed.time).unwrap_or_else(|| defaults::TIME_FIELD.to_owned());
    let guessed_format = guessed.time_format.filter(|_| said.time.is_none());
    let format = said.time_format.clone().or(guessed_format).unwrap_or_else(|| defaults::TIME_FORMAT.to_owned());
    let Some(value) = said.value.clone().or(guessed.value) else {
        return Ok(text + "no field is a number in most records: name one with --value\n");
    };
    let numbers_in_text = said.numbers_in_text || [&value, &time].iter().any(|place| guessed.in_text.contains(*place));
    text += &format!("key {key}, value {value}, time {time} ({format})");
    text += if numbers_in_text { ", numbers in quotes\n" } else { "\n" };
    let (names, places) = Places::parse(&key, &value, &time)?;
    let schema = Schema {
        names,
        places,
        numbers_in_text,
        time_format: TimeFormat::new(&format, defaults::TIME_ZONE)?,
        max_future_seconds: defaults::MAX_FUTURE_SECONDS.parse()?,
    };
    text += &rows(&schema, &sample.records, i64::from(args.window_seconds), now_us);
    text += "\nto average it:\n  ";
    let mut command = vec!["exagg stream add".to_owned(), name(&args.topic), "--topic".to_owned(), word(&args.topic)];
    let window = args.window_seconds.to_string();
    let flags = [
        ("--key", &key, defaults::KEY_FIELD),
        ("--value", &value, defaults::VALUE_FIELD),
        ("--time", &time, defaults::TIME_FIELD),
        ("--time-format", &format, defaults::TIME_FORMAT),
        ("--window-seconds", &window, defaults::WINDOW_SECONDS),
    ];
    for (flag, meant, _) in flags.into_iter().filter(|(_, meant, default)| meant.as_str() != *default) {
        command.extend([flag.to_owned(), word(meant)]);
    }
    command.extend(numbers_in_text.then(|| "--numbers-in-text".to_owned()));
    Ok(text + &command.join(" ") + "\n")
}

/// The windows that would come out, and what would be rejected.
fn rows(schema: &Schema, records: &[Sampled], window_seconds: i64, now_us: i64) -> String {
    let mut reader = schema.reader();
    let mut rows: BTreeMap<(i64, String), Row> = BTreeMap::new();
    // How many of each reason, and the first of them.
    let mut rejects: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    for sampled in records {
        let record = Record {
            value: sampled.value.as_deref(),
            key: sampled.key.as_deref(),
            timestamp: sampled.timestamp,
            partition: sampled.partition,
        };
        match reader.read(record, EventTime(now_us)) {
            Ok(event) => {
                let start = event.time.0.div_euclid(MICROS_PER_SECOND).div_euclid(window_seconds) * window_seconds;
                let row = rows.entry((start, event.code.into_owned())).or_default();
                row.records += 1;
                row.sum += event.value;
            }
            Err(reject) => {
                let shown = || shown(sampled.value.as_deref());
                rejects.entry(reject.reason()).or_insert_with(|| (0, shown())).0 += 1;
            }
        }
    }
    let counted: u64 = rows.values().map(|row| row.records).sum();
    let mut text = format!("{counted} records would count, in {} rows; the latest:\n", rows.len());
    for ((start, code), row) in rows.iter().rev().take(ROWS_MAX) {
        let at = chrono::DateTime::from_timestamp(*start, 0).unwrap_or_default().format("%Y-%m-%d %H:%M:%S");
        #[expect(clippy::cast_precision_loss, reason = "a count of a sample")]
        let average = row.sum / row.records as f64;
        text += &format!("  {at}  {}  average {average} of {}\n", printable(code), row.records);
    }
    for (reason, (count, example)) in &rejects {
        text += &format!("{count} would be rejected: {reason}, such as {example}\n");
    }
    text
}

fn shown(value: Option<&[u8]>) -> String {
    let Some(value) = value else { return "a record without a value".to_owned() };
    let text = String::from_utf8_lossy(value);
    let head: String = text.chars().take(VALUE_CHARS).collect();
    let more = if head.len() < text.len() { " …" } else { "" };
    format!("{}{more}", printable(&head))
}

/// What the records are like that are no JSON.
fn no_json(records: &[Sampled]) -> String {
    let values: Vec<&[u8]> = records.iter().filter_map(|record| record.value.as_deref()).collect();
    let is_wire = |value: &&&[u8]| value.len() > 5 && value[0] == 0;
    if values.iter().filter(is_wire).count() * 2 > values.len() {
        return "the records are in the wire format of a schema registry (Avro or Protobuf), which is not read yet\n"
            .to_owned();
    }
    let example = shown(values.first().copied());
    format!("most records are no JSON objects, and others are not read yet; such as {example}\n")
}

/// A name for a stream that is made of the topic's.
fn name(topic: &str) -> String {
    let plain = |each: char| if each.is_ascii_alphanumeric() { each.to_ascii_lowercase() } else { '-' };
    let text: String = topic.chars().map(plain).collect();
    // Each word of a component's name begins with a letter.
    let mut name = String::new();
    for part in text.split('-').filter(|part| !part.is_empty()) {
        if name.is_empty() && part.starts_with(|first: char| first.is_ascii_digit()) {
            name.push_str("topic");
        } else if !name.is_empty() && part.starts_with(|first: char| first.is_ascii_lowercase()) {
            name.push('-');
        }
        name.push_str(part);
    }
    if name.is_empty() { "topic".to_owned() } else { name }
}

/// A text as one word of a shell.
fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Stream};

    fn args(more: &[&str]) -> StreamPreview {
        let words = ["exagg", "stream", "preview", "--topic", "my.Trades'"].into_iter().chain(more.iter().copied());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Stream(Stream::Preview(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn sample(values: &[&str]) -> Sample {
        let record = |value: &&str| Sampled {
            partition: 0,
            timestamp: Some(1_700_000_000_000),
            key: Some(b"K".to_vec()),
            value: Some(value.as_bytes().to_vec()),
        };
        Sample { partitions: 1, stored: values.len().try_into().unwrap(), records: values.iter().map(record).collect() }
    }

    #[test]
    fn what_would_come_of_it_is_told_with_the_command() {
        let good: Vec<_> = (0..12)
            .map(|n| format!(r#"{{"s":"{}","p":"{n}.5","T":{}}}"#, ["A", "B"][n % 2], 1_700_000_000_000 + n))
            .collect();
        let mut values: Vec<&str> = good.iter().map(String::as_str).collect();
        values.push("{\"s\":\"A\",\u{1b}");
        let told = told(&args(&[]), &sample(&values), 1_700_000_100_000_000).unwrap();
        assert!(told.contains("12 records would count, in 2 rows") && told.contains("A  average 5.5 of 6"), "{told}");
        assert!(told.contains("1 would be rejected: not_json, such as {\"s\":\"A\",\\u{1b}"), "{told}");
        let command =
            "exagg stream add my-trades --topic 'my.Trades'\\''' --key s --value p --time T --numbers-in-text\n";
        assert!(told.ends_with(command), "{told}");
    }

    #[test]
    fn a_topic_gives_a_name_that_a_component_may_have() {
        for (topic, wanted) in [
            ("my.Trades'", "my-trades"),
            ("metrics_1m", "metrics1m"),
            ("2024", "topic2024"),
            ("___", "topic"),
            ("a.2b.c", "a2b-c"),
        ] {
            assert_eq!(name(topic), wanted, "{topic}");
        }
    }

    #[test]
    fn what_is_said_counts_more_than_what_is_guessed() {
        let values = [r#"{"price":1.5,"qty":"2.5"}"#; 3];
        let told = told(&args(&["--value", "qty"]), &sample(&values), 1_700_000_100_000_000).unwrap();
        assert!(told.contains("3 records would count") && told.contains("--value qty --numbers-in-text"), "{told}");
    }

    #[test]
    fn what_cannot_be_guessed_is_said() {
        let say = |values: &[&str], more: &[&str]| told(&args(more), &sample(values), 0).unwrap();
        assert!(say(&[], &[]).contains("send some records first"));
        assert!(say(&["a;b"; 3], &[]).contains("such as a;b"));
        assert!(say(&["\0\0\0\0\u{7}abc"; 3], &[]).contains("schema registry"));
        assert!(say(&[r#"{"a":"b"}"#; 3], &[]).contains("name one with --value"));
        assert!(say(&[r#"{"value":1}"#; 3], &["--value", "/x/y"]).contains("3 would be rejected: value_missing"));
    }
}
