//! Throughput: a topic that is full is read to its end, by the host and by the baseline.

use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::Setup;
use e2e::kafka::Kafka;
use e2e::{topic, wait_for};
use postgres::Client;

use crate::cases::Case;
use crate::cost::{Cost, Measured, cpu, postgres_cpu};
use crate::look::{number, progress};
use crate::{load, native};

/// The longest that a run may take.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Runs a case, `runs` times on each side; of each side the run with the least CPU time counts.
pub fn run(case: &Case, kafka: &Kafka, postgres: &Server, records: usize, runs: usize) -> Measured {
    let runs = if case.once { 1 } else { runs };
    println!("{}: {records} records, {runs} runs", case.name);
    let topic = topic(case.name);
    load::fill(kafka, &topic, case, records);
    let total = i64::try_from(records).unwrap();
    let least = |cost: &Cost| cost.cpu;
    let native = (0..runs).map(|_| native::measure(kafka, postgres, &topic, case, total));
    let native = native.min_by_key(least).unwrap();
    let measured: Vec<_> = (0..runs).map(|run| host(case, kafka, postgres, total, run)).collect();
    let (host, close, rows) = measured.into_iter().min_by_key(|(host, _, _)| host.cpu).unwrap();
    Measured { case: case.name, records, native, host, close, rows }
}

fn host(case: &Case, kafka: &Kafka, postgres: &Server, records: i64, run: usize) -> (Cost, Cost, i64) {
    let database = postgres.database();
    let setup = || {
        let setup = Setup::against(&kafka.brokers, &database, case.name)
            .replace(&format!("{}-exchanges", case.name), &format!("{}-{run}", case.name))
            .replace("slide_seconds = \"\"", &format!("slide_seconds = \"{}\"", case.slide_seconds));
        match case.batch_records_max {
            Some(max) => setup.replace(
                "start = \"earliest\"",
                &format!("start = \"earliest\"\nbatch_records_max = {max}\nbatch_interval_ms_min = 0"),
            ),
            None => setup,
        }
    };
    // The migrations are not counted.
    drop(ready(setup().components(&["dashboard"])));
    let read = measure(&database, setup().components(&["aggregator-exchanges"]), |look| progress(look) >= records);
    // The aggregator is there to say that its partitions are idle: nothing closes without.
    let both = setup().components(&["aggregator-exchanges", "window-closer"]);
    let close = measure(&database, both, |look| {
        number(look, "SELECT count(*) FROM (SELECT FROM public.pending_parts LIMIT 1) AS one") == 0
    });
    let counted = "SELECT coalesce(sum(records), 0)::int8 FROM public.aggregates";
    let windows = i64::from(60 / case.slide_seconds);
    assert_eq!(database.number(counted), records * windows, "every record counts once a window");
    (read, close, database.number("SELECT count(*) FROM public.aggregates"))
}

fn ready(setup: Setup) -> e2e::host::Host {
    let host = setup.start();
    host.wait_until_ready();
    host
}

/// Runs a host until `done`.
fn measure(database: &Database, setup: Setup, done: impl Fn(&mut Client) -> bool) -> Cost {
    let mut look = database.client();
    let before = postgres_cpu(database);
    let began = Instant::now();
    let mut host = setup.start();
    wait_for("the end of the run", TIME_MAX, || done(&mut look).then_some(()));
    let wall = began.elapsed();
    let (cpu, peak_memory_bytes) = (cpu(host.pid()), host.peak_memory());
    host.stop();
    Cost { wall, cpu, postgres_cpu: postgres_cpu(database).saturating_sub(before), peak_memory_bytes }
}
