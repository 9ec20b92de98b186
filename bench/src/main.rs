//! `make bench`: what a record costs, with a real Kafka and a real PostgreSQL, beside a native
//! baseline of the same run: plain Rust, no sandbox, the same fold and the same SQL.
//!
//! `CASE` picks cases by a part of their name, `RECORDS` how many records a throughput case has,
//! `RUNS` how often each side runs (the least CPU time counts: others were disturbed).
//!
//! # Layout
//! - [`cases`]: what is measured. - [`load`]: seeded records. - [`native`]: the baseline.
//! - [`cost`]: CPU time and memory of processes. - [`latency`], [`core`]: cases of their own kind.
//! - [`report`]: the table, and the same as JSON.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made has failed"
)]

mod cases;
mod core;
mod cost;
mod latency;
mod load;
mod native;
mod report;

use e2e::database::Server;
use e2e::kafka::{Kafka, jars};
use window::event::Schema;
use window::time::TimeFormat;

use cases::CASES;
use report::Report;

/// The stream that all cases read.
pub fn schema() -> Schema {
    Schema {
        key_field: "code".to_owned(),
        value_field: "volume".to_owned(),
        time_field: "time".to_owned(),
        time_format: TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC").unwrap(),
        max_future_seconds: 60,
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|mode| mode == "native") {
        return native::child(&arguments[1..]);
    }
    assert!(jars().is_dir(), "make kafka first: the benchmarks need a real Kafka");
    let wanted = std::env::var("CASE").unwrap_or_default();
    let (records, runs) = (number("RECORDS", 2_000_000), number("RUNS", 3));
    let (postgres, kafka) = (Server::start(), Kafka::start());
    let mut report = Report::default();
    if "core".contains(&wanted) {
        core::run();
    }
    for case in CASES.iter().filter(|case| case.name.contains(&wanted)) {
        report.add(case.run(&kafka, &postgres, records, runs));
    }
    if "latency".contains(&wanted) {
        latency::run(&kafka, &postgres);
    }
    report.write();
}
