//! A live stream's final rows, alone and beside nine streams that catch up with a day each: what one backfill costs the
//! others. The difference between the two is of the same run.

use std::time::Duration;

use e2e::database::Server;
use e2e::host::{Setup, function};
use e2e::kafka::{Kafka, Sender};
use e2e::{exchange, now, topic, wait_for};
use serde_json::{Value, json};

use crate::look::{lags, number};

const NAME: &str = "beside";
const STREAMS: usize = 9;
const PARTITIONS: i32 = 4;
const RECORDS: i64 = 300_000;
const CODES: i64 = 10;
const DAY: i64 = 86_400;
/// Of the live stream.
const WINDOW_SECONDS: i64 = 2;
const LATENESS_SECONDS: i64 = 1;
const ALONE: Duration = Duration::from_secs(20);

/// Measures, prints, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server) -> Value {
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), PARTITIONS, &[]);
    let backfill = |index: usize| format!("backfill-{index}");
    for index in 0..STREAMS {
        fill(kafka, &topic(&backfill(index)));
    }
    let live = Setup::against(&kafka.brokers, &database, NAME)
        .variable("window_seconds", &WINDOW_SECONDS.to_string())
        .variable("allowed_lateness_seconds", &LATENESS_SECONDS.to_string())
        .components(&["aggregator-exchanges", "window-closer"])
        .start();
    live.wait_until_ready();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (alone, beside, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let sender = kafka.producer();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                (0..PARTITIONS).for_each(|partition| send(&sender, &topic(NAME), partition, "LIVE", now()));
                sender.poll();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        std::thread::sleep(ALONE);
        let mut look = database.client();
        let alone = lags(&database, 0, LATENESS_SECONDS);
        let began = now();
        let ids: Vec<_> = (0..STREAMS).map(backfill).collect();
        let manifest: String = ids.iter().map(|id| component(id)).collect();
        let host = Setup::against(&kafka.brokers, &database, NAME)
            .append(&manifest)
            .components(&ids.iter().map(String::as_str).collect::<Vec<_>>())
            .start();
        let all = RECORDS * i64::try_from(STREAMS).unwrap();
        wait_for("the nine streams' final rows", Duration::from_secs(600), || {
            let closed = "SELECT coalesce(sum(records), 0)::int8 FROM public.aggregates WHERE stream LIKE 'backfill-%'";
            std::thread::sleep(Duration::from_secs(1));
            (number(&mut look, closed) == all).then_some(())
        });
        let took = now() - began;
        let beside = lags(&database, began, LATENESS_SECONDS);
        drop(host);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (alone, beside, took)
    });
    println!(
        "final rows of a live stream, after the window's end and lateness: p50 {} ms and at most {} ms alone; p50 {} ms and \
         at most {} ms in the {took} s in which {STREAMS} streams beside it catch up with {RECORDS} records each",
        alone.p50, alone.most, beside.p50, beside.most
    );
    json!({ "alone_ms": [alone.p50, alone.most], "beside_ms": [beside.p50, beside.most], "backfill_seconds": took })
}

fn send(sender: &Sender, topic: &str, partition: i32, code: &str, time: i64) {
    sender.send(topic, partition, Some(code.as_bytes()), Some(exchange(code, 1.0, time).as_bytes()));
}

/// A day that is over, in order of time.
fn fill(kafka: &Kafka, topic: &str) {
    kafka.create_topic(topic, PARTITIONS, &[]);
    let sender = kafka.producer();
    let first = now() / DAY * DAY - 2 * DAY;
    for number in 0..RECORDS {
        let partition = i32::try_from(number % i64::from(PARTITIONS)).unwrap();
        send(&sender, topic, partition, &format!("EX{}", number % CODES), first + number * DAY / RECORDS);
    }
    sender.flush();
}

/// An aggregator with a stream of its own: minutes.
fn component(id: &str) -> String {
    format!(
        r#"
[[trigger.kafka]]
component = "{id}"
topics = ["{topic}"]
group = "{id}"
brokers = "{{{{ kafka_brokers }}}}"
start = "earliest"
headers = false
on_oversized = "give"
[component.{id}]
source = "{source}"
allowed_outbound_hosts = ["postgres://{{{{ postgres_host }}}}"]
[component.{id}.variables]
stream = "{id}"
key_field = "code"
value_field = "volume"
time_field = "time"
time_format = "%Y-%m-%d %H:%M:%S"
time_zone = "UTC"
window_seconds = "60"
slide_seconds = ""
allowed_lateness_seconds = "5"
idle_timeout_seconds = "3"
max_future_seconds = "60"
late = "revise"
postgres_url = "{{{{ postgres_url }}}}"
postgres_schema = ""
own_postgres_url = ""
"#,
        topic = topic(id),
        source = function("aggregator").display(),
    )
}
