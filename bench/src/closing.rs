//! How long after its window could close a final row is there, at several rates; and what a tick costs that finds nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::Setup;
use e2e::kafka::{Kafka, Sender};
use e2e::{exchange, now, topic};
use serde_json::{Value, json};

use crate::cost::postgres_cpu;
use crate::look::{Lags, lags};

/// Records a second.
const RATES: [u64; 2] = [1_000, 100_000];
const PARTITIONS: u64 = 4;
const CODES: u64 = 10;
const WINDOW_SECONDS: i64 = 2;
const LATENESS_SECONDS: i64 = 1;
const SETTLING: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(60);
/// As many ticks.
const IDLE: Duration = Duration::from_secs(30);

/// Measures, prints, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server) -> Value {
    let databases = RATES.map(|_| postgres.database());
    let measured = std::array::from_fn::<_, { RATES.len() }, _>(|index| {
        let rate = RATES[index];
        let Lags { p50, p99, most, windows } = at_rate(kafka, &databases[index], rate);
        println!(
            "final rows at {rate} records/s, after the window's end and lateness: p50 {p50} ms, p99 {p99} ms, at most \
             {most} ms ({windows} windows)"
        );
        json!({ "records_per_second": rate, "p50_ms": p50, "p99_ms": p99, "most_ms": most, "windows": windows })
    });
    let idle_us = idle_tick(&databases[0]);
    println!("a tick of the closer that finds nothing: {idle_us} µs of PostgreSQL");
    json!({ "rates": measured, "idle_tick_postgres_us": idle_us })
}

/// PostgreSQL's CPU time for one tick of a closer alone, in microseconds: nobody reads the stream any more, so that nothing
/// closes.
fn idle_tick(database: &Database) -> u128 {
    let host = Setup::against("127.0.0.1:1", database, "closing-idle").components(&["window-closer"]).start();
    host.wait_until_ready();
    let used = || {
        let before = postgres_cpu(database);
        std::thread::sleep(IDLE);
        postgres_cpu(database).saturating_sub(before)
    };
    std::thread::sleep(SETTLING);
    let with = used();
    drop(host);
    std::thread::sleep(SETTLING);
    let without = used();
    with.saturating_sub(without).as_micros() / u128::from(IDLE.as_secs())
}

fn at_rate(kafka: &Kafka, database: &Database, rate: u64) -> Lags {
    let name = format!("closing-{rate}");
    kafka.create_topic(&topic(&name), i32::try_from(PARTITIONS).unwrap(), &[]);
    let host = Setup::against(&kafka.brokers, database, &name)
        .variable("window_seconds", &WINDOW_SECONDS.to_string())
        .variable("allowed_lateness_seconds", &LATENESS_SECONDS.to_string())
        .components(&["aggregator-exchanges", "window-closer"])
        .start();
    host.wait_until_ready();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| steady(&kafka.producer(), &topic(&name), rate, &stop));
        std::thread::sleep(SETTLING);
        let since = now();
        std::thread::sleep(MEASURED);
        let lags = lags(database, since, LATENESS_SECONDS);
        stop.store(true, Ordering::Relaxed);
        lags
    })
}

/// Sends so many records a second, to all partitions in turn.
fn steady(sender: &Sender, topic: &str, rate: u64, stop: &AtomicBool) {
    let (began, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap() * rate / 1000;
        let time = now();
        let records: Vec<String> = (0..CODES).map(|code| exchange(&format!("EX{code}"), 1.0, time)).collect();
        while sent < due {
            let record = &records[usize::try_from(sent % CODES).unwrap()];
            sender.send(topic, i32::try_from(sent % PARTITIONS).unwrap(), None, Some(record.as_bytes()));
            sent += 1;
        }
        sender.poll();
        std::thread::sleep(Duration::from_millis(2));
    }
}
