//! `make readiness`: what a host says of itself, beside what is so.
//!
//! Records flow all the time. A seeded schedule cuts, holds, deafens, freezes and kills PostgreSQL and Kafka, one
//! fault after the other. Four times a second the host is asked whether it is ready, and how far it lags. What is so
//! is read from the database alone: the pipeline works while the progress of every partition moves.
//!
//! `SEED` (1) chooses the schedule, `MINUTES` (5) its length. It fails where the host said that it is ready and nothing
//! had been applied for five seconds, nor was in the next three; where it said for two seconds or more that it is not,
//! although no fault was there and everything was applied; where its lag was untrue; or where a record is not counted
//! in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

mod faults;
mod samples;
mod truth;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::database::Server;
use e2e::gate::Gate;
use e2e::host::Setup;
use e2e::kafka::Kafka;
use e2e::{number, topic, wait_for};

use faults::{FAULTS, Servers};
use samples::Samples;
use truth::Truth;

pub const PARTITIONS: i32 = 4;
const NAME: &str = "readiness";
/// How long the pipeline may take to start, and to come to rest.
const REST_MAX: Duration = Duration::from_secs(120);
/// How long a fault lasts, and how long there is none, in seconds.
const FAULT_SECONDS: std::ops::Range<u64> = 2..14;
const PAUSE_SECONDS: std::ops::Range<u64> = 6..12;

fn main() -> ExitCode {
    let (seed, minutes) = (number("SEED", 1u64), number("MINUTES", 5.0f64));
    let postgres = Server::start();
    let (kafka, gates) = Kafka::start_behind(1);
    let (database, topic) = (postgres.database(), topic(NAME));
    kafka.create_topic(&topic, PARTITIONS, &[]);
    let door = Gate::opened(&database.host);
    let url = database.url.replace(&database.host, &door.address());
    let mut host = Setup::against(&gates[0].address(), &database, NAME)
        // As the manifest has it: a session of 20 s.
        .replace("\nrdkafka = { \"session.timeout.ms\" = \"6000\" }", "")
        .variable("postgres_url", &url)
        .variable("postgres_host", &door.address())
        .components(&["aggregator-exchanges", "window-closer"])
        .start();
    let truth = Truth::start(&kafka, &database, &topic);
    wait_for("the first records of every partition", REST_MAX, || truth.works().then_some(()));
    host.wait_until_ready();

    let samples = Samples::start(host.admin, truth.known());
    let mut servers = Servers { postgres: &door, database: &database, kafka, brokers: &gates[0] };
    let mut random = fastrand::Rng::with_seed(seed);
    let ends = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    // Each fault once, in an order of the seed's; then again in another.
    let mut next = Vec::new();
    while Instant::now() < ends {
        if next.is_empty() {
            next = FAULTS.to_vec();
            random.shuffle(&mut next);
        }
        let fault = next.pop().expect("there are faults");
        samples.during(Some(fault));
        servers.suffer(fault, Duration::from_secs(random.u64(FAULT_SECONDS)));
        samples.during(None);
        wait_for("records to be applied again", REST_MAX, || truth.works().then_some(()));
        std::thread::sleep(Duration::from_secs(random.u64(PAUSE_SECONDS)));
    }
    let said = samples.stop();
    let sent = truth.stop();
    let counted = "SELECT (coalesce((SELECT sum(records) FROM public.aggregates), 0)
                       + coalesce((SELECT sum(records) FROM public.pending_parts), 0))::int8";
    let until = Instant::now() + REST_MAX;
    while database.number(counted) < sent && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let (counted, ended) = (database.number(counted), host.stop().0);
    println!("seed {seed}: {sent} records sent, {counted} counted; {said}");
    if said.is_true() && counted == sent && ended.success() {
        return ExitCode::SUCCESS;
    }
    let log = e2e::root().join("target/readiness.log");
    std::fs::write(&log, host.log()).unwrap();
    println!("the host's log: {}", log.display());
    ExitCode::FAILURE
}
