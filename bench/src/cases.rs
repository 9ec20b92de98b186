//! Throughput: a topic that is full is read to its end, by the host and by the baseline.

use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::Setup;
use e2e::kafka::Kafka;
use e2e::{topic, wait_for};
use postgres::Client;

use crate::cost::{Cost, cpu, postgres_cpu};
use crate::{load, native};

pub struct Case {
    pub name: &'static str,
    pub codes: usize,
    pub partitions: i32,
    /// Whether a code stays in one partition.
    pub keyed: bool,
    pub compression: &'static str,
    /// Windows are 60 s long; one begins each so many.
    pub slide_seconds: u32,
    /// Unless `RECORDS` says otherwise.
    pub records: usize,
    /// The trigger's own setting; none is its default.
    pub batch_records_max: Option<u32>,
    /// A point of a curve: runs once.
    pub once: bool,
}

/// What most cases are.
const USUAL: Case = Case {
    name: "codes-10",
    codes: 10,
    partitions: 8,
    keyed: true,
    compression: "none",
    slide_seconds: 60,
    records: 2_000_000,
    batch_records_max: None,
    once: false,
};
/// What the points of the curves are.
const POINT: Case = Case { records: 1_000_000, once: true, ..USUAL };

pub const CASES: [Case; 15] = [
    Case { records: 10_000_000, ..USUAL },
    Case { name: "records-1m", records: 1_000_000, ..USUAL },
    Case { name: "codes-100000", codes: 100_000, ..USUAL },
    Case { name: "one-partition", partitions: 1, ..USUAL },
    Case { name: "un-keyed", keyed: false, ..USUAL },
    Case { name: "lz4", compression: "lz4", ..USUAL },
    Case { name: "zstd", compression: "zstd", ..USUAL },
    Case { name: "hopping", slide_seconds: 15, ..USUAL },
    Case { name: "codes-100", codes: 100, ..POINT },
    Case { name: "codes-1000", codes: 1_000, ..POINT },
    Case { name: "codes-10000", codes: 10_000, ..POINT },
    Case { name: "partitions-4", partitions: 4, ..POINT },
    Case { name: "partitions-16", partitions: 16, ..POINT },
    Case { name: "partitions-64", partitions: 64, keyed: false, ..POINT },
    // What a call costs by itself: an instance, a statement, its answer.
    Case { name: "one-record-batches", records: 20_000, batch_records_max: Some(1), ..POINT },
];

/// The longest that a run may take.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Both sides of a case.
pub struct Measured {
    pub case: &'static str,
    pub records: usize,
    pub native: Cost,
    pub host: Cost,
    /// What the window-closer and PostgreSQL took to make final rows of it, and how many.
    pub close: Cost,
    pub rows: i64,
}

impl Case {
    pub fn run(&self, kafka: &Kafka, postgres: &Server, records: usize, runs: usize) -> Measured {
        let runs = if self.once { 1 } else { runs };
        println!("{}: {records} records, {runs} runs", self.name);
        let topic = topic(self.name);
        load::fill(kafka, &topic, self, records);
        let total = i64::try_from(records).unwrap();
        let least = |cost: &Cost| cost.cpu;
        let native = (0..runs).map(|_| native::measure(kafka, postgres, &topic, self, total));
        let native = native.min_by_key(least).unwrap();
        let measured: Vec<_> = (0..runs).map(|run| self.host(kafka, postgres, total, run)).collect();
        let (host, close, rows) = measured.into_iter().min_by_key(|(host, _, _)| host.cpu).unwrap();
        Measured { case: self.name, records, native, host, close, rows }
    }

    fn host(&self, kafka: &Kafka, postgres: &Server, records: i64, run: usize) -> (Cost, Cost, i64) {
        let database = postgres.database();
        let setup = || {
            let setup = Setup::against(&kafka.brokers, &database, self.name)
                .replace(&format!("{}-exchanges", self.name), &format!("{}-{run}", self.name))
                .replace("slide_seconds = \"\"", &format!("slide_seconds = \"{}\"", self.slide_seconds));
            match self.batch_records_max {
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
        let windows = i64::from(60 / self.slide_seconds);
        assert_eq!(database.number(counted), records * windows, "every record counts once a window");
        (read, close, database.number("SELECT count(*) FROM public.aggregates"))
    }
}

fn ready(setup: Setup) -> e2e::host::Host {
    let host = setup.start();
    host.wait_until_ready();
    host
}

/// One number, by a connection that is there: a new one for each look would be counted.
fn number(client: &mut Client, statement: &str) -> i64 {
    client.query_one(statement, &[]).unwrap().get(0)
}

pub fn progress(client: &mut Client) -> i64 {
    number(client, "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
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
