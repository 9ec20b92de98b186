//! `make nemesis`: the pipeline with one to three hosts and settings as they come, while a seeded schedule kills,
//! stops, freezes, cuts off, slows down, redelivers, fills, locks and takes PostgreSQL and Kafka down. In the end every
//! window is computed anew from what was sent, and compared: nothing may be lost, doubled or wrong; no host may have
//! said that it is ready while it could not be; and memory, descriptors, connections and log lines have bounds.
//!
//! `SEED` (1) is the first seed, `SEEDS` (1) how many, `MINUTES` (2) how long each runs. Late records revise with even
//! seeds, and are rejected with odd ones; every third seed has 1,000 codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

mod faults;
mod hosts;
mod producer;
mod servers;
mod verdict;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::database::Server;
use e2e::gate::Gate;
use e2e::kafka::Kafka;
use e2e::{topic, wait_for};

use faults::Nemesis;
use producer::Producer;
use watch::Watch;

/// At the start; some are added.
pub const PARTITIONS: i32 = 6;
pub const PARTITIONS_ADDED: i32 = 2;
pub const WINDOW_SECONDS: i64 = 10;
pub const HOSTS: usize = 3;
/// How long the pipeline may take to come to rest when the faults have ended.
const REST_MAX: Duration = Duration::from_secs(240);

/// What a seed stands for beside its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub seed: u64,
    pub rejects_late: bool,
    pub codes: usize,
}

impl Shape {
    fn of(seed: u64) -> Self {
        Self { seed, rejects_late: seed % 2 == 1, codes: if seed.is_multiple_of(3) { 1_000 } else { 5 } }
    }
}

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
    let (mut kafka, gates) = Kafka::start_behind(HOSTS);
    let mut clean = 0;
    for seed in first..first + seeds {
        if run(Shape::of(seed), length, &postgres, &mut kafka, &gates) {
            clean += 1;
        }
    }
    println!("{clean} of {seeds} seeds are clean");
    if clean == seeds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One seed; true when nothing is lost, doubled, wrong, wrongly ready or beyond its bounds.
fn run(shape: Shape, length: Duration, postgres: &Server, kafka: &mut Kafka, gates: &[Gate]) -> bool {
    let name = format!("nemesis-{}", shape.seed);
    let database = postgres.database();
    let topic = topic(&name);
    kafka.create_topic(&topic, PARTITIONS, &[]);
    let mut nemesis = Nemesis::new(shape, &name, &database, kafka, gates);
    // The stream starts at the end of the log: what is sent from here on counts.
    wait_for("the stream's partitions", REST_MAX, || {
        (watch::number(&database, "SELECT count(*) FROM public.progress")? == i64::from(PARTITIONS)).then_some(())
    });
    let producer = Producer::start(nemesis.kafka, &topic, shape);
    let watch = Watch::start(&database);
    let ends = Instant::now() + length;
    let mut grows_at = Some(Instant::now() + length / 3);
    while Instant::now() < ends {
        nemesis.strike();
        if grows_at.is_some_and(|at| Instant::now() > at) {
            grows_at = None;
            nemesis.kafka.add_partitions(&topic, usize::try_from(PARTITIONS + PARTITIONS_ADDED).unwrap());
            producer.grow(PARTITIONS + PARTITIONS_ADDED);
        }
    }
    nemesis.heal_everything();
    let sent = producer.stop();
    let rested = Instant::now();
    wait_for("all records", REST_MAX, || (watch::progress(&database)? >= sent.total).then_some(()));
    wait_for("the last windows", REST_MAX, || (watch::pending(&database)? == 0).then_some(()));
    let (rest, pause) = (rested.elapsed(), watch.stop());
    let verdict = verdict::of(&database, &sent, shape);
    println!(
        "seed {}: {} records of {} codes in {} rows, late records {}; {} rejects, {} of them late",
        shape.seed,
        sent.counted.len(),
        shape.codes,
        verdict.rows,
        if shape.rejects_late { "are rejected" } else { "revise" },
        verdict.rejects,
        verdict.late,
    );
    println!("  faults: {}", nemesis.summary());
    println!(
        "  lost {}, doubled {}, wrong {}, wrong rejects {}; at rest {:.1} s after the last fault",
        verdict.difference.lost,
        verdict.difference.doubled,
        verdict.difference.wrong,
        verdict.wrong_rejects.len(),
        rest.as_secs_f64(),
    );
    println!("  worst pause {:.1} s, in which: {}", pause.length().as_secs_f64(), nemesis.during(&pause));
    let bounds = nemesis.bounds();
    println!("  {}; {bounds}", nemesis.readiness);
    verdict.report();
    verdict.is_clean() && nemesis.readiness.wrongly_ready == 0 && bounds.are_kept()
}
