//! What pages cost that are open: each asks for the first screen every second and for rows every two, as `app.js` does, while
//! records are read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::database::Server;
use e2e::host::{Host, Setup};
use e2e::kafka::Kafka;
use e2e::{exchange, now, topic};
use serde_json::{Value, json};

use crate::cost::{cpu, postgres_cpu};
use crate::look::progress;

const NAME: &str = "pages";
const PAGES: usize = 500;
const RECORDS_PER_SECOND: u64 = 50_000;
const PARTITIONS: i32 = 4;
const SETTLING: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(30);

/// What was used and read in the time.
struct Part {
    host_cpu: f64,
    postgres_cpu: f64,
    records_per_second: f64,
    /// Calls of the dashboard.
    calls: f64,
}

/// Measures, prints, and gives it as JSON.
pub fn run(kafka: &Kafka, postgres: &Server) -> Value {
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), PARTITIONS, &[]);
    let host = Setup::against(&kafka.brokers, &database, NAME)
        .components(&["aggregator-exchanges", "window-closer", "dashboard"])
        // All pages come from one machine here.
        .configured(&format!("[exagg]\nhttp_connections_max = {}\nhttp_connections_per_address_max = {0}\n", 2 * PAGES))
        .start();
    host.wait_until_ready();
    let (stop, oldest_ms, answers) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| write(kafka, &stop));
        std::thread::sleep(SETTLING);
        let measure = || {
            let mut client = database.client();
            let calls = |host: &Host| {
                let metrics = host.admin("/metrics").body;
                let count = "exagg_call_seconds_count{stage=\"dashboard-http-trigger\"} ";
                metrics.lines().find_map(|line| line.strip_prefix(count)?.parse::<f64>().ok()).unwrap_or(0.0)
            };
            let before =
                (cpu(host.pid()), postgres_cpu(&database), progress(&mut client), calls(&host), Instant::now());
            std::thread::sleep(MEASURED);
            let seconds = before.4.elapsed().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a few millions")]
            Part {
                host_cpu: cpu(host.pid()).saturating_sub(before.0).as_secs_f64() / seconds,
                postgres_cpu: (postgres_cpu(&database).saturating_sub(before.1)).as_secs_f64() / seconds,
                records_per_second: (progress(&mut client) - before.2) as f64 / seconds,
                calls: calls(&host) - before.3,
            }
        };
        let without = measure();
        for number in 0..PAGES {
            let (stop, oldest_ms, answers, port) = (&stop, &oldest_ms, &answers, host.listen);
            scope.spawn(move || {
                // Not all in the same moment.
                std::thread::sleep(Duration::from_millis(2 * number as u64));
                page(port, stop, oldest_ms, answers);
            });
        }
        std::thread::sleep(SETTLING);
        oldest_ms.store(0, Ordering::Relaxed);
        answers.store(0, Ordering::Relaxed);
        let with = measure();
        stop.store(true, Ordering::Relaxed);
        let oldest_ms = oldest_ms.load(Ordering::Relaxed);
        let answers = f64::from(u32::try_from(answers.load(Ordering::Relaxed)).unwrap());
        println!(
            "{PAGES} pages beside {RECORDS_PER_SECOND} records/s: {:.0} records/s ({:.0} without them), host {:.2} cores \
             ({:.2}), PostgreSQL {:.2} ({:.2}), {:.1} calls of the dashboard a second for {:.0} answers, the oldest \
             answer {oldest_ms} ms",
            with.records_per_second,
            without.records_per_second,
            with.host_cpu,
            without.host_cpu,
            with.postgres_cpu,
            without.postgres_cpu,
            with.calls / MEASURED.as_secs_f64(),
            answers / MEASURED.as_secs_f64(),
        );
        json!({ "pages": PAGES, "records_per_second": [without.records_per_second, with.records_per_second],
                "host_cores": [without.host_cpu, with.host_cpu], "postgres_cores": [without.postgres_cpu, with.postgres_cpu],
                "calls": with.calls, "answers": answers, "oldest_ms": oldest_ms })
    })
}

/// One page: it asks on over one connection, and notes how old the oldest thing is that it has shown.
fn page(port: u16, stop: &AtomicBool, oldest_ms: &AtomicU64, answers: &AtomicU64) {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    let mut shown = String::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let answer = ask(&mut stream, "/api/overview");
        answers.fetch_add(1, Ordering::Relaxed);
        if let Some(at) = answer.split("\"now\":\"").nth(1).and_then(|rest| rest.split('"').next()) {
            at.clone_into(&mut shown);
        }
        oldest_ms.fetch_max(age_ms(&shown) + 1_000, Ordering::Relaxed);
        number += 1;
        if number % 2 == 0 {
            ask(&mut stream, "/api/aggregates?stream=exchanges&limit=200");
            answers.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
    }
}

/// How old a time is now.
fn age_ms(time: &str) -> u64 {
    let clock = |text: &str| text.parse::<f64>().unwrap_or_default();
    let parts: Vec<f64> = time.get(11..23).unwrap_or("00:00:00.000").split(':').map(clock).collect();
    let shown = parts.iter().fold(0.0, |seconds, part| seconds * 60.0 + part);
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() % 86_400.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a day")]
    let age = ((day - shown).max(0.0) * 1e3) as u64;
    age
}

/// A request over a connection that stays, and the body of its answer.
fn ask(stream: &mut BufReader<TcpStream>, path: &str) -> String {
    write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut length = None;
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let head = line.trim().to_ascii_lowercase();
        if head.is_empty() {
            break;
        }
        length = length.or(head.strip_prefix("content-length: ").and_then(|length| length.parse::<usize>().ok()));
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            stream.read_exact(&mut body).unwrap();
        }
        None => loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let begun = body.len();
            body.resize(begun + size + 2, 0);
            stream.read_exact(&mut body[begun..]).unwrap();
            body.truncate(begun + size);
            if size == 0 {
                break;
            }
        },
    }
    String::from_utf8(body).unwrap()
}

fn write(kafka: &Kafka, stop: &AtomicBool) {
    let sender = kafka.producer();
    let (began, mut sent) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap() * RECORDS_PER_SECOND / 1000;
        let time = now();
        while sent < due {
            let partition = i32::try_from(sent % 4).unwrap();
            let record = exchange(&format!("EX{}", sent % 10), 1.0, time);
            sender.send(&topic(NAME), partition, None, Some(record.as_bytes()));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
