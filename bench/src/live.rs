//! What a user of a running pipeline waits for: a start, a row, a final row, a swap, a backlog; and
//! whether its memory grows. All under a steady 1,000 records a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::host::{Host, Setup, function, variant};
use e2e::kafka::{Kafka, Sender};
use e2e::{exchange, now, topic, wait_for};
use serde_json::{Value, json};

use crate::look::number;

const NAME: &str = "live";
const PARTITIONS: usize = 4;
const RECORDS_PER_SECOND: u64 = 1_000;
const PROBES: usize = 300;
const WINDOW_SECONDS: i64 = 10;
/// The manifest's own.
const LATENESS_SECONDS: i64 = 5;
const SWAPS: usize = 5;
const BACKLOG: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// Measures all of it, prints it, and gives it as JSON; `steady_time` is how long memory is watched.
pub fn run(kafka: &Kafka, postgres: &Server, steady_time: Duration) -> Value {
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), i32::try_from(PARTITIONS).unwrap(), &[]);
    let setup = || {
        Setup::against(&kafka.brokers, &database, NAME)
            .variable("window_seconds", &WINDOW_SECONDS.to_string())
            .components(&["aggregator-exchanges", "window-closer"])
    };
    let sender = kafka.producer();
    let state = tempfile::tempdir().unwrap();
    // Migrates; it is not counted.
    let mut host = setup().start();
    host.wait_until_ready();
    host.stop();
    let cold = setup().argument("--state-dir").argument(state.path().to_str().unwrap());
    let (cold, mut host) = start(&database, cold, &sender);
    host.stop();
    let (warm, mut host) = start(&database, setup(), &sender);
    println!("start to the first applied batch: {warm} ms warm, {cold} ms cold");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| steady(kafka, &stop));
        let (p50, p99) = latency(&database, &sender);
        println!("latency at {RECORDS_PER_SECOND} records/s, produced to visible: p50 {p50} ms, p99 {p99} ms");
        let last = final_row(&database, &sender);
        println!("final row: {last} ms after the window's end and lateness");
        let (gap, swap) = swaps(&database, &host);
        println!("swap: {swap} ms for the command, {gap} ms the longest pause between two applied batches");
        let (before, after) = memory(&host, steady_time);
        println!("memory: {before} KiB, {after} KiB after {} s more", steady_time.as_secs());
        host.stop();
        std::thread::sleep(BACKLOG);
        let caught_up = catch_up(&database, &mut host);
        println!("catch-up: {caught_up} ms from the start until {} s of records are applied", BACKLOG.as_secs());
        stop.store(true, Ordering::Relaxed);
        json!({
            "start_warm_ms": warm, "start_cold_ms": cold, "latency_p50_ms": p50, "latency_p99_ms": p99,
            "final_row_ms": last, "swap_pause_ms": gap, "memory_kib": [before, after], "catch_up_ms": caught_up,
        })
    })
}

fn send(sender: &Sender, code: &str, time: i64) {
    let partition = i32::try_from(fastrand::usize(..PARTITIONS)).unwrap();
    sender.send(&topic(NAME), partition, None, Some(exchange(code, 1.0, time).as_bytes()));
}

fn steady(kafka: &Kafka, stop: &AtomicBool) {
    let sender = kafka.producer();
    let (began, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        while sent < millis(began) * RECORDS_PER_SECOND / 1000 {
            send(&sender, &format!("EX{}", sent % 10), now());
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

/// Milliseconds from the command to the first applied batch of records.
fn start(database: &Database, setup: Setup, sender: &Sender) -> (u64, Host) {
    let mut look = database.client();
    let applied = "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress";
    let before = number(&mut look, applied);
    send(sender, "FIRST", now());
    sender.flush();
    let began = Instant::now();
    let host = setup.start();
    while number(&mut look, applied) == before {
        assert!(began.elapsed() < MINUTE, "nothing is applied");
        std::thread::sleep(Duration::from_millis(2));
    }
    (millis(began), host)
}

/// From produced to visible in `live_aggregates`: median and 99th percentile in milliseconds.
fn latency(database: &Database, sender: &Sender) -> (u128, u128) {
    let mut look = database.client();
    let seen = "SELECT count(*) FROM public.live_aggregates WHERE stream = 'exchanges' AND code = $1";
    let seen = look.prepare(seen).unwrap();
    let mut times: Vec<Duration> = (0..PROBES)
        .map(|number| {
            let code = format!("PROBE{number}");
            let produced = Instant::now();
            send(sender, &code, now());
            while look.query_one(&seen, &[&code]).unwrap().get::<_, i64>(0) == 0 {
                std::thread::sleep(Duration::from_micros(500));
            }
            let time = produced.elapsed();
            std::thread::sleep(Duration::from_millis(fastrand::u64(..20)));
            time
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| times[PROBES * percent / 100].as_millis();
    (at(50), at(99))
}

/// Milliseconds from the end of a window and its lateness, by the clock, to its final row; the
/// closer's tick of a second is part of it.
fn final_row(database: &Database, sender: &Sender) -> i64 {
    let mut look = database.client();
    let start = now() / WINDOW_SECONDS * WINDOW_SECONDS;
    send(sender, "FINAL", now());
    let closed = "SELECT count(*) FROM public.aggregates WHERE code = 'FINAL'";
    wait_for("the final row", MINUTE, || (number(&mut look, closed) > 0).then_some(()));
    let at = "SELECT (extract(epoch FROM min(closed_at)) * 1000)::int8 FROM public.aggregates WHERE code = 'FINAL'";
    number(&mut look, at) - (start + WINDOW_SECONDS + LATENESS_SECONDS) * 1000
}

/// The longest pause between two applied batches over some swaps, and the longest command, in
/// milliseconds.
fn swaps(database: &Database, host: &Host) -> (u64, u64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut look = database.client();
            let applied = "SELECT sum(next_offset)::int8 FROM public.progress";
            let (mut last, mut since, mut longest) = (0, Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                let applied = number(&mut look, applied);
                if applied != last {
                    (last, longest, since) = (applied, longest.max(millis(since)), Instant::now());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        let mut command = 0;
        for number in 0..SWAPS {
            let code = variant(&function("aggregator"), number, host.setup.folder());
            let began = Instant::now();
            let output = host.command("swap", &["aggregator-exchanges", code.to_str().unwrap()]);
            assert!(output.status.success(), "{output:?}");
            command = command.max(millis(began));
            std::thread::sleep(Duration::from_secs(2));
        }
        stop.store(true, Ordering::Relaxed);
        (watcher.join().unwrap(), command)
    })
}

/// Resident KiB before and after a time of steady load.
fn memory(host: &Host, steady_time: Duration) -> (u64, u64) {
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = resident();
    std::thread::sleep(steady_time);
    (before, resident())
}

/// Milliseconds from a start to the moment when what came meanwhile is applied.
fn catch_up(database: &Database, host: &mut Host) -> u64 {
    let mut look = database.client();
    let lag = "SELECT coalesce(sum(end_offset - next_offset), 1)::int8 FROM public.progress
               WHERE last_seen_at > now() - interval '1 second'";
    let applied = "SELECT sum(next_offset)::int8 FROM public.progress";
    let before = number(&mut look, applied);
    let backlog = i64::try_from(BACKLOG.as_secs() * RECORDS_PER_SECOND).unwrap();
    let began = Instant::now();
    host.restart();
    wait_for("the end of the backlog", MINUTE, || {
        (number(&mut look, applied) >= before + backlog && number(&mut look, lag) < 100).then_some(())
    });
    millis(began)
}
