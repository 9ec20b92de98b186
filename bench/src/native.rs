//! The baseline as a process (`bench/native`).

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::kafka::Kafka;

use crate::cases::Case;
use crate::cost::{Cost, cpu, peak_memory, postgres_cpu};
use crate::look::progress;

/// Runs the baseline over the topic, into a database of its own.
pub fn measure(kafka: &Kafka, postgres: &Server, topic: &str, case: &Case, records: i64) -> Cost {
    let database = postgres.database();
    migrate(&database);
    let before = postgres_cpu(&database);
    let began = Instant::now();
    let mut child = Command::new(e2e::root().join("target/release/native"))
        .args([&kafka.brokers, topic, &case.partitions.to_string(), &database.url, &case.slide_seconds.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut look = database.client();
    e2e::wait_for("the baseline", Duration::from_secs(600), || {
        (progress(&mut look) >= records || ended(&mut child)).then_some(())
    });
    assert!(!ended(&mut child), "the baseline failed");
    let cost = Cost {
        wall: began.elapsed(),
        cpu: cpu(child.id()),
        postgres_cpu: postgres_cpu(&database).saturating_sub(before),
        peak_memory_bytes: peak_memory(child.id()),
    };
    child.kill().unwrap();
    child.wait().unwrap();
    cost
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

fn migrate(database: &Database) {
    let output = Command::new(e2e::host::exagg())
        .args(["migrate", "--from"])
        .arg(e2e::root())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
