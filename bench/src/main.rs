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
mod cost;
mod latency;
mod load;
mod native;
mod report;

use e2e::database::Server;
use e2e::kafka::{Kafka, jars};

use cases::CASES;
use report::Report;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

fn main() {
    assert!(jars().is_dir(), "make kafka first: the benchmarks need a real Kafka");
    let wanted = std::env::var("CASE").unwrap_or_default();
    let runs = number("RUNS", 3);
    let (postgres, kafka) = (Server::start(), Kafka::start());
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| wanted.is_empty() || wanted.split(',').any(|name| name == case.name)) {
        report.add(case.run(&kafka, &postgres, number("RECORDS", case.records), runs));
    }
    if "latency".contains(&wanted) {
        latency::run(&kafka, &postgres);
    }
    report.write();
}
