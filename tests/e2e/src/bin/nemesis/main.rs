//! `make nemesis`: the pipeline with one to three hosts and settings as they come, while a seeded schedule kills,
//! stops, freezes, cuts off, slows down, redelivers, fills, locks and takes PostgreSQL and Kafka down. In the end every
//! window is computed anew from what was sent, and compared: nothing may be lost, doubled or wrong; no host may have
//! said that it is ready while it could not be; and memory, descriptors, connections and log lines have bounds.
//!
//! `SEED` (1) is the first seed, `SEEDS` (1) how many, `MINUTES` (2) how long each runs. Late records revise with even
//! seeds, and are rejected with odd ones; every third seed has 1,000 codes; with three of four pairs of seeds the clock
//! of one host is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

mod faults;
mod hosts;
mod producer;
mod verdict;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::database::Server;

use e2e::kafka::Kafka;
use e2e::{number, topic, wait_for};

use faults::{Nemesis, Servers};
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
    /// By how many seconds the clock of one of the hosts is ahead.
    pub clock_ahead_seconds: i64,
}

/// Ten minutes ahead, a minute and a half behind, and a day ahead.
const CLOCKS: [i64; 4] = [0, 600, -90, 86_400];

impl Shape {
    fn of(seed: u64) -> Self {
        let clock = CLOCKS[usize::try_from(seed / 2 % 4).unwrap_or_default()];
        Self {
            seed,
            rejects_late: seed % 2 == 1,
            codes: if seed.is_multiple_of(3) { 1_000 } else { 5 },
            clock_ahead_seconds: clock,
        }
    }
}

fn main() -> ExitCode {
    let (first, seeds, minutes) = (number("SEED", 1u64), number("SEEDS", 1u64), number("MINUTES", 2.0f64));
    let length = Duration::from_secs_f64(minutes * 60.0);
    let postgres = Server::start_on_a_small_disk();
    let (mut kafka, gates) = Kafka::start_behind(HOSTS);
    let mut clean = 0;
    for seed in first..first + seeds {
        if run(Shape::of(seed), length, Servers { postgres: &postgres, kafka: &mut kafka, gates: &gates }) {
            clean += 1;
        }
    }
    println!("{clean} of {seeds} seeds are clean");
    if clean == seeds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One seed; true when nothing is lost, doubled, wrong, wrongly ready or beyond its bounds.
fn run(shape: Shape, length: Duration, servers: Servers<'_>) -> bool {
    let name = format!("nemesis-{}", shape.seed);
    let database = servers.postgres.database();
    let topic = topic(&name);
    servers.kafka.create_topic(&topic, PARTITIONS, &[]);
    let mut nemesis = Nemesis::new(shape, &name, servers, &database);
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
    let (rest, (pause, connections)) = (rested.elapsed(), watch.stop());
    let verdict = verdict::of(&database, &sent, shape);
    println!(
        "seed {}: {} records of {} codes in {} rows, a clock {:+} s, late records {}; {} rejects, {} of them late",
        shape.seed,
        sent.counted.len(),
        shape.codes,
        verdict.rows,
        shape.clock_ahead_seconds,
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
    let bounds = nemesis.bounds(connections);
    println!("  {}; {bounds}", nemesis.readiness);
    verdict.report();
    verdict.is_clean() && nemesis.readiness.wrongly_ready == 0 && bounds.are_kept()
}
