//! What looking costs with many codes: one code, and the first page of the newest window, while 100,000 codes are written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::Setup;
use e2e::kafka::Kafka;
use e2e::{exchange, now, topic, wait_for};
use serde_json::{Value, json};

use crate::look::number;

const NAME: &str = "many";
const PARTITIONS: usize = 8;
const CODES: usize = 100_000;
const RECORDS_PER_SECOND: u64 = 20_000;
/// So that a whole window is pending, and some are closed.
const WARM_UP: Duration = Duration::from_secs(130);
const LOOKS: usize = 200;

const ONE_CODE: &str =
    "SELECT count(*) FROM public.exagg_live('exchanges', $1, (now() AT TIME ZONE 'UTC') - interval '1 hour',
                                                              '-infinity', 'infinity', 1000)";
const FIRST_PAGE: &str =
    "SELECT count(*) FROM public.exagg_live('exchanges', NULL, (now() AT TIME ZONE 'UTC') - interval '1 hour',
                                                                '-infinity', 'infinity', 50)";

/// Measures it, prints it, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server) -> Value {
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), i32::try_from(PARTITIONS).unwrap(), &[]);
    let mut host =
        Setup::against(&kafka.brokers, &database, NAME).components(&["aggregator-exchanges", "window-closer"]).start();
    host.wait_until_ready();
    let stop = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| write(kafka, &stop));
        let mut look = database.client();
        wait_for("closed windows", WARM_UP + Duration::from_secs(60), || {
            (number(&mut look, "SELECT count(*) FROM public.aggregates LIMIT 1") > 0).then_some(())
        });
        std::thread::sleep(Duration::from_secs(45));
        let pending = number(&mut look, "SELECT coalesce(sum(cardinality(codes)), 0)::int8 FROM public.window_batches");
        let one = looks(&database, ONE_CODE, |number| Some(code(number * 499 % CODES)));
        let page = looks(&database, FIRST_PAGE, |_| None);
        stop.store(true, Ordering::Relaxed);
        println!(
            "looking while {RECORDS_PER_SECOND} records/s of {CODES} codes are written ({pending} parts pending):"
        );
        println!("one code of an hour: p50 {} ms, p99 {} ms", one.0, one.1);
        println!("first 50 rows of the newest window: p50 {} ms, p99 {} ms", page.0, page.1);
        json!({ "pending_parts": pending, "one_code_ms": [one.0, one.1], "first_page_ms": [page.0, page.1] })
    });
    host.stop();
    measured
}

fn code(number: usize) -> String {
    format!("EX{number}")
}

fn write(kafka: &Kafka, stop: &AtomicBool) {
    let sender = kafka.producer();
    let mut random = fastrand::Rng::with_seed(5);
    let (began, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap() * RECORDS_PER_SECOND / 1000;
        while sent < due {
            let number = random.usize(..CODES);
            let partition = i32::try_from(number % PARTITIONS).unwrap();
            sender.send(&topic(NAME), partition, None, Some(exchange(&code(number), 1.0, now()).as_bytes()));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Median and 99th percentile in milliseconds.
fn looks(database: &Database, statement: &str, code: impl Fn(usize) -> Option<String>) -> (f64, f64) {
    let mut client = database.client();
    let statement = client.prepare(statement).unwrap();
    let mut times: Vec<Duration> = (0..LOOKS)
        .map(|number| {
            let began = Instant::now();
            let rows: i64 = match code(number) {
                Some(code) => client.query_one(&statement, &[&code]),
                None => client.query_one(&statement, &[]),
            }
            .unwrap()
            .get(0);
            assert!(rows > 0, "nothing was found");
            let time = began.elapsed();
            std::thread::sleep(Duration::from_millis(50));
            time
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| (times[LOOKS * percent / 100].as_secs_f64() * 10_000.0).round() / 10.0;
    (at(50), at(99))
}
