//! Streams of any topic: added in one command, read by their own fields.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::host::{exagg, manifest};
use e2e::oracle::{Counted, Oracle};
use serde_json::json;

use super::{World, now, wait_for_records, wait_until_closed};

const PARTITIONS: i32 = 2;
const RECORDS: i32 = 400;

/// A stream as somebody has it: what `exagg stream preview` has to guess of it, and a record by its number.
struct Own {
    name: &'static str,
    flags: &'static [&'static str],
    /// The Kafka key, the value, and what has to be counted; none where it has to be rejected.
    record: fn(i32, i64) -> Made,
}

/// A record's key and value, and what is to be counted of it: code, value, and time in microseconds (none: Kafka's). None: it
/// has to be rejected.
type Made = (Option<String>, String, Option<(String, f64, Option<i64>)>);

/// What users have: objects in objects with numbers as keys; an exchange's trades, whose numbers stand in quotes and whose
/// times are milliseconds; and readings that have no time but Kafka's, and no key but the record's.
const STREAMS: [Own; 3] = [
    Own {
        name: "nested",
        flags: &["--key", "/device/id", "--value", "/stats/1/mean", "--time", "/meta/at"],
        record: |number, time| {
            let id = number % 4;
            let value = f64::from(number) / 7.0;
            let id = if number % 8 < 4 { json!(id) } else { json!(f64::from(id)) };
            let at =
                if number % 3 == 0 { json!(time) } else { json!(format!("{}Z", super::utc(time).replace(' ', "T"))) };
            let record =
                json!({ "device": { "id": id }, "stats": [{}, { "mean": value }], "meta": { "at": at }, "id": "no" });
            let bad = number % 50 == 7;
            let record = if bad { json!({ "device": [], "stats": {}, "meta": { "at": time } }) } else { record };
            (None, record.to_string(), (!bad).then(|| ((number % 4).to_string(), value, Some(time * 1_000_000))))
        },
    },
    Own {
        name: "trades",
        flags: &["--key", "s", "--value", "p", "--time", "T", "--numbers-in-text"],
        record: |number, time| {
            let (symbol, millis) = (
                ["BTCUSDT", "ETHUSDT", "<b>"][usize::try_from(number % 3).unwrap()],
                time * 1_000 + i64::from(number % 1_000),
            );
            let price = format!("{}.{:08}", 60_000 + number, number * 12_345);
            let bad = number % 40 == 9;
            let shown = if bad { "NaN" } else { price.as_str() };
            let record = json!({ "e": "trade", "E": millis + 5, "s": symbol, "t": number, "p": shown, "q": "0.001", "T": millis, "m": true });
            let counted = (symbol.to_owned(), price.parse().unwrap(), Some(millis * 1_000));
            (Some(symbol.to_owned()), record.to_string(), (!bad).then_some(counted))
        },
    },
    Own {
        name: "readings",
        flags: &[],
        record: |number, _| {
            let key = format!("sensor {}", number % 5);
            let value = f64::from(number) / 3.0;
            // A record without a key belongs to nobody.
            let bad = number % 60 == 11;
            let record = json!({ "value": value, "unit": "K" }).to_string();
            ((!bad).then(|| key.clone()), record, (!bad).then_some((key, value, None)))
        },
    },
];

/// The manifest with a stage for each of them, by the command that a look at the topic gives.
fn added(world: &World, name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spin.toml");
    std::fs::write(&file, manifest()).unwrap();
    for own in &STREAMS {
        let topic = format!("{name}.{}", own.name);
        let preview = ["stream", "preview", "--topic", &topic, "--brokers", &world.kafka().brokers, "-f"];
        let output = Command::new(exagg()).args(preview).arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!world.kafka().groups().contains(&"exagg-preview".to_owned()), "a look is no member of a group");
        let words: Vec<&str> = told.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words[..3], ["exagg", "stream", "add"], "{told}");
        assert_eq!(words[6..], *own.flags, "{told}");
        assert!(told.contains("would be rejected: "), "{told}");
        let output =
            Command::new(exagg()).args(&words[1..3]).arg(own.name).args(&words[4..]).arg("-f").arg(&file).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::read_to_string(file).unwrap()
}

/// Each is counted as an independent computation has it, and stands in the dashboard without another step. Take out: a place
/// of `Places::parse`, or `numbers_in_text`.
pub fn a_topic_of_ones_own_is_averaged_after_two_commands(world: &World) {
    let (database, name) = (world.postgres.database(), "own-streams");
    let first = now() / 60 * 60 - 3_600;
    let mut oracles: BTreeMap<&str, (Oracle, i64)> = BTreeMap::new();
    for own in &STREAMS {
        let topic = format!("{name}.{}", own.name);
        world.kafka().create_topic(&topic, PARTITIONS, &[]);
        let sender = world.kafka().producer();
        let records: Vec<_> = (0..RECORDS).map(|number| (own.record)(number, first + i64::from(number) * 5)).collect();
        for (number, (key, value, _)) in (0..).zip(&records) {
            sender.send(&topic, number % PARTITIONS, key.as_deref().map(str::as_bytes), Some(value.as_bytes()));
        }
        sender.flush();
        // Kafka's own time is known once they are stored.
        let stored = world.kafka().read_all(&topic, PARTITIONS);
        let (oracle, rejected) = oracles.entry(own.name).or_default();
        for (number, (_, _, counted)) in (0..).zip(records) {
            let (partition, offset) = (number % PARTITIONS, i64::from(number / PARTITIONS));
            let Some((code, value, time_us)) = counted else {
                *rejected += 1;
                continue;
            };
            let is = |record: &&e2e::kafka::Stored| (record.partition, record.offset) == (partition, offset);
            let time_us = time_us.unwrap_or_else(|| stored.iter().find(is).unwrap().timestamp * 1_000);
            oracle.count(&Counted { code, value, time_us, partition, offset }, 60, 60);
        }
    }
    let stages = ["aggregator-nested", "aggregator-trades", "aggregator-readings", "window-closer", "dashboard"];
    let host = world.setup(&database, name).manifest(&added(world, name)).components(&stages).start();
    for (stream, (oracle, rejected)) in &oracles {
        wait_for_records(&database, stream, i64::from(RECORDS) - rejected);
        wait_until_closed(&database, stream);
        oracle.assert_equal(&database, stream);
        let reasons = format!("SELECT count(*) FROM public.rejected_records WHERE stream = '{stream}'");
        assert_eq!((database.number(&reasons), *rejected > 0), (*rejected, true), "{stream}");
    }
    let streams = host.get("/api/streams").json();
    let names: Vec<_> = streams.as_array().unwrap().iter().map(|stream| stream["stream"].as_str().unwrap()).collect();
    assert_eq!(names, ["nested", "readings", "trades"]);
    let codes = host.get("/api/codes?stream=trades").json();
    assert_eq!(codes, json!(["<b>", "BTCUSDT", "ETHUSDT"]));
}

/// What cannot be right is said at the start, with what would be.
pub fn a_place_or_a_format_that_is_none_is_refused_at_the_start(world: &World) {
    let database = world.postgres.database();
    for (from, to, told) in [
        ("time_field = \"time\"", "time_field = \"kafka:time\"", "kafka:timestamp"),
        ("key_field = \"code\"", "key_field = \"$.a[x]\"", "an index is a number"),
        (
            "time_format = \"%Y-%m-%d %H:%M:%S\"\ntime_zone = \"UTC\"\nwindow_seconds",
            "time_format = \"unix_milis\"\nwindow_seconds",
            "unix_millis",
        ),
    ] {
        let setup = world.setup(&database, "no-place").replace(from, to).components(&["aggregator-exchanges"]);
        let error = setup.refused();
        assert!(error.contains("aggregator-exchanges") && error.contains(told), "{error}");
    }
}
