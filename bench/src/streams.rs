//! How many streams one host carries, and what one costs at rest: each is a kafka stage with a component and a topic of its
//! own, in which nothing happens.

use std::time::{Duration, Instant};

use e2e::database::Server;
use e2e::host::Setup;
use e2e::kafka::Kafka;
use e2e::{streams, topic, wait_for};
use serde_json::{Value, json};

use crate::cost::cpu;

const STREAMS: [usize; 3] = [10, 100, 300];
const READY_MAX: Duration = Duration::from_secs(300);
const SETTLING: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(30);

/// Measures it, prints it, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server) -> Value {
    println!("\n| idle streams | ready after, s | memory, MiB | threads | CPU, % of a core |\n|---|---|---|---|---|");
    (0..STREAMS.into_iter().max().unwrap_or_default())
        .for_each(|number| kafka.create_topic(&topic(&streams::name("streams", number)), 1, &[]));
    json!(STREAMS.map(|streams| at(kafka, postgres, streams)))
}

fn at(kafka: &Kafka, postgres: &Server, streams: usize) -> Value {
    let database = postgres.database();
    // It migrates.
    let mut first = Setup::against(&kafka.brokers, &database, "streams-first").components(&["dashboard"]).start();
    first.wait_until_ready();
    first.stop();
    let setup = streams::setup("streams", streams, kafka, &database, &database.url);
    let began = Instant::now();
    let mut host = setup.start();
    wait_for("readiness", READY_MAX, || {
        let answer = e2e::http::try_get(host.admin, "/readyz")?;
        (answer.status == 200).then_some(())
    });
    let ready = began.elapsed().as_secs_f64();
    std::thread::sleep(SETTLING);
    let before = cpu(host.pid());
    std::thread::sleep(MEASURED);
    let used = cpu(host.pid()).saturating_sub(before);
    let percent = 100.0 * used.as_secs_f64() / MEASURED.as_secs_f64();
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (mebibytes, threads) = (field("VmRSS:") / 1024, field("Threads:"));
    println!("| {streams} | {ready:.1} | {mebibytes} | {threads} | {percent:.1} |");
    host.stop();
    json!({ "streams": streams, "ready_s": ready, "memory_mib": mebibytes, "threads": threads, "cpu_percent": percent })
}
