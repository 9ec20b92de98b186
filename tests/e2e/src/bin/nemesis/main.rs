//! `make nemesis`: the pipeline with one to three hosts, while a seeded schedule kills, stops,
//! freezes, cuts off, redelivers and takes PostgreSQL and Kafka down. In the end every window is
//! computed anew from what was sent, and compared: nothing may be lost, doubled or wrong.
//!
//! `SEED` (1) is the first seed, `SEEDS` (1) how many, `MINUTES` (2) how long each runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

mod faults;
mod producer;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::kafka::Kafka;
use e2e::oracle::Difference;
use e2e::{topic, wait_for};

use faults::Nemesis;
use producer::Producer;
use watch::Watch;

pub const PARTITIONS: i32 = 6;
pub const WINDOW_SECONDS: i64 = 10;
/// How long the pipeline may take to come to rest when the faults have ended.
const REST_MAX: Duration = Duration::from_secs(180);

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{name}={text}: a number is wanted")),
        Err(_) => default,
    }
}

fn main() -> ExitCode {
    let (first, seeds, minutes) = (number("SEED", 1u64), number("SEEDS", 1u64), number("MINUTES", 2.0f64));
    let length = Duration::from_secs_f64(minutes * 60.0);
    let postgres = Server::start();
    let mut kafka = Kafka::start();
    let mut clean = 0;
    for seed in first..first + seeds {
        if run(seed, length, &postgres, &mut kafka) {
            clean += 1;
        }
    }
    println!("{clean} of {seeds} seeds are clean");
    if clean == seeds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One seed; true when nothing is lost, doubled or wrong.
fn run(seed: u64, length: Duration, postgres: &Server, kafka: &mut Kafka) -> bool {
    let name = format!("nemesis-{seed}");
    let database = postgres.database();
    kafka.create_topic(&topic(&name), PARTITIONS, &[]);
    let producer = Producer::start(kafka, &topic(&name), seed);
    let watch = Watch::start(&database);
    let mut nemesis = Nemesis::new(seed, &name, &database, kafka);
    let ends = Instant::now() + length;
    while Instant::now() < ends {
        nemesis.strike();
    }
    nemesis.heal_everything();
    let feed = producer.stop();
    let rested = Instant::now();
    wait_for("all records", REST_MAX, || (watch::progress(&database)? >= feed.total()).then_some(()));
    wait_for("the last windows", REST_MAX, || (watch::pending(&database)? == 0).then_some(()));
    let rest = rested.elapsed();
    let pause = watch.stop();
    let difference = feed.oracle.compare(&database, "exchanges");
    let rejects = wrong_rejects(&database, &feed.rejects);
    println!("seed {seed}: {} records, {} rows, {} rejects", feed.sent, feed.oracle.rows(), feed.rejects.len());
    println!("  faults: {}", nemesis.summary());
    println!(
        "  worst pause {:.1} s, at rest {:.1} s after the last fault; lost {}, doubled {}, wrong {}, wrong rejects {}",
        pause.as_secs_f64(),
        rest.as_secs_f64(),
        difference.lost,
        difference.doubled,
        difference.wrong,
        rejects.len()
    );
    report(&difference, &rejects)
}

fn report(difference: &Difference, rejects: &[String]) -> bool {
    for example in difference.examples.iter().chain(rejects.iter().take(10)) {
        println!("  {example}");
    }
    difference.is_none() && rejects.is_empty()
}

/// Rejected records that should not be, or are missing.
fn wrong_rejects(database: &Database, expected: &std::collections::BTreeMap<(i32, i64), String>) -> Vec<String> {
    let mut missing = expected.clone();
    let statement = "SELECT partition, record_offset, reason FROM public.rejected_records";
    let mut wrong = Vec::new();
    for row in database.client().query(statement, &[]).unwrap() {
        let (place, reason): ((i32, i64), String) = ((row.get(0), row.get(1)), row.get(2));
        if missing.remove(&place).as_ref() != Some(&reason) {
            wrong.push(format!("{place:?} is rejected: {reason}"));
        }
    }
    wrong.extend(missing.iter().map(|(place, reason)| format!("{place:?} is not rejected: {reason}")));
    wrong
}
