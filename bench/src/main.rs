//! `make bench`: what a record costs, with a real Kafka and a real PostgreSQL, beside a native
//! baseline of the same run: plain Rust, no sandbox, the same fold and the same SQL.
//!
//! `CASE` names cases (with commas between), `RECORDS` how many records a throughput case has, `RUNS`
//! how often each side runs (the least CPU time counts: others were disturbed), `MINUTES` how long memory is
//! watched.
//!
//! # Layout
//! - [`cases`]: what is measured. [`load`]: seeded records in a topic. [`throughput`]: the topic read to its end, by
//!   the host and by [`native`], the baseline, a program of its own.
//! - [`beside`]: a live stream's final rows while others catch up. [`closing`]: how soon rows are final. [`many`]: looking
//!   at 100,000 codes. [`rows`]: the dashboard's routes over 10,000,000 rows. [`pages`]: 500 pages that are open. [`scale`]: a topic read by more and more hosts. [`streams`]: many idle streams. [`live`]: starts,
//!   latency, swaps, memory. [`cost`]: CPU time and memory of processes.
//! - [`report`]: the table, the same as JSON, and a plot of the last runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made has failed"
)]

mod beside;
mod cases;
mod closing;
mod cost;
mod live;
mod load;
mod look;
mod many;
mod native;
mod pages;
mod report;
mod rows;
mod scale;
mod streams;
mod throughput;

use std::time::Duration;

use e2e::database::Server;
use e2e::kafka::{Kafka, jars};

use cases::{CASES, SCALE};
use report::Report;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

fn main() {
    assert!(jars().is_dir(), "make kafka first: the benchmarks need a real Kafka");
    let wanted = std::env::var("CASE").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    let runs = number("RUNS", 2);
    let (postgres, kafka) = (Server::start(), Kafka::start());
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| is_wanted(case.name)) {
        report.add(throughput::run(case, &kafka, &postgres, number("RECORDS", case.records), runs));
    }
    if is_wanted("live") {
        let steady_time = Duration::from_secs(60 * number("MINUTES", 2) as u64);
        report.live = Some(live::run(&kafka, &postgres, steady_time));
    }
    if is_wanted("beside") {
        report.beside = Some(beside::run(&kafka, &postgres));
    }
    if is_wanted("closing") {
        report.closing = Some(closing::run(&kafka, &postgres));
    }
    if is_wanted("many") {
        report.many = Some(many::run(&kafka, &postgres));
    }
    if is_wanted("rows") {
        report.rows = Some(rows::run(&postgres));
    }
    if is_wanted("pages") {
        report.pages = Some(pages::run(&kafka, &postgres));
    }
    if is_wanted("scale") {
        report.scale = Some(scale::run(&kafka, &postgres, &SCALE, number("RECORDS", SCALE.records)));
    }
    if is_wanted("streams") {
        report.streams = Some(streams::run(&kafka, &postgres));
    }
    report.write();
}
