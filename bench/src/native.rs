//! The baseline: plain Rust with rdkafka and sonic-rs, in a process of its own. The same fold, and the
//! same statement a batch, without a sandbox, a group, retries or rejects.

use std::process::Command;
use std::time::{Duration, Instant};

use aggregator::settings::Late;
use aggregator::store::statement;
use e2e::database::{Database, Server};
use e2e::kafka::Kafka;
use postgres::{Client, NoTls, Statement};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use window::event::Event;
use window::fold::Fold;
use window::time::TimeFormat;
use window::windows::Windows;

use crate::cost::{Cost, cpu, postgres_cpu};

/// Two consumers cost less CPU than one or eight.
const THREADS: i32 = 2;
const BATCH_RECORDS_MAX: usize = 10_000;

/// The fields that are asked for; the parser passes over the rest.
#[derive(serde::Deserialize)]
struct Exchange<'a> {
    #[serde(borrow)]
    code: std::borrow::Cow<'a, str>,
    volume: f64,
    time: &'a str,
}

/// Runs the baseline over the topic, into a database of its own.
pub fn measure(kafka: &Kafka, postgres: &Server, topic: &str, partitions: i32, records: i64) -> Cost {
    let database = postgres.database();
    migrate(&database);
    let before = postgres_cpu(&database);
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["native", &kafka.brokers, topic, &partitions.to_string(), &database.url, &records.to_string()])
        .spawn()
        .unwrap();
    // Its times are read while it is there: at its end it waits to be let go.
    let done = |database: &Database| crate::cases::progress(database) >= records;
    e2e::wait_for("the baseline", Duration::from_secs(600), || done(&database).then_some(()));
    let wall = began.elapsed();
    let peak = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_memory_bytes = peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024;
    let cost = Cost {
        wall,
        cpu: cpu(child.id()),
        postgres_cpu: postgres_cpu(&database).saturating_sub(before),
        peak_memory_bytes,
    };
    child.kill().unwrap();
    child.wait().unwrap();
    cost
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

/// The process: reads its part of the partitions on each thread, then sleeps until it is killed.
pub fn child(arguments: &[String]) {
    let [brokers, topic, partitions, url, _] = arguments else { panic!("{arguments:?}") };
    let partitions: i32 = partitions.parse().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS.min(partitions) {
            let mine: Vec<i32> = (0..partitions).filter(|partition| partition % THREADS == thread).collect();
            scope.spawn(move || read(brokers, topic, &mine, url, partitions));
        }
    });
    std::thread::sleep(Duration::from_secs(600));
}

/// One partition's batch.
struct Batch {
    fold: Fold<'static>,
    records: usize,
    from: i64,
    next: i64,
    end: i64,
}

fn read(brokers: &str, topic: &str, mine: &[i32], url: &str, partitions: i32) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "native")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "16384")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let mut batches = std::collections::HashMap::new();
    for partition in mine {
        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        let (_, end) = consumer.fetch_watermarks(topic, *partition, Duration::from_secs(30)).unwrap();
        batches.insert(*partition, Batch { fold: Fold::default(), records: 0, from: 0, next: 0, end });
    }
    consumer.assign(&list).unwrap();
    let mut client = Client::connect(url, NoTls).unwrap();
    for partition in mine {
        let begin = "INSERT INTO public.progress (stream, topic_id, partition, topic, next_offset, end_offset,
                     partition_count, consumer_group) VALUES ('exchanges', 'id', $1, $2, 0, 0, $3, 'native')";
        client.execute(begin, &[partition, &topic, &partitions]).unwrap();
    }
    let statement = client.prepare(&statement(Late::Revise)).unwrap();
    let (format, windows) = (TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC").unwrap(), Windows::new(60, 60).unwrap());
    let mut left: i64 = batches.values().map(|batch| batch.end).sum();
    while left > 0 {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let exchange: Exchange<'_> = sonic_rs::from_slice(message.payload().unwrap()).unwrap();
        let batch = batches.get_mut(&message.partition()).unwrap();
        let event = Event {
            code: exchange.code.into_owned().into(),
            value: exchange.volume,
            time: format.parse_text(exchange.time).unwrap(),
        };
        batch.fold.add(event, message.offset(), windows, |_| true);
        batch.records += 1;
        batch.next = message.offset() + 1;
        left -= 1;
        if batch.records == BATCH_RECORDS_MAX || batch.next == batch.end {
            apply(&mut client, &statement, message.partition(), partitions, batch, windows);
        }
    }
}

fn apply(client: &mut Client, statement: &Statement, partition: i32, count: i32, batch: &mut Batch, windows: Windows) {
    let fold = std::mem::take(&mut batch.fold);
    let max_time = fold.max_event_time().map(|time| time.0);
    let rows = fold.into_sorted();
    let ends: Vec<i64> = rows.iter().map(|row| windows.end(row.0)).collect();
    let starts: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let codes: Vec<&str> = rows.iter().map(|row| row.1.as_ref()).collect();
    let pick = |pick: fn(&window::fold::Partial) -> i64| -> Vec<i64> { rows.iter().map(|row| pick(&row.2)).collect() };
    let numbers: Vec<String> = rows
        .iter()
        .map(|(_, _, p)| format!("{{{:e},{:e},{:e},{:e},{:e}}}", p.sum, p.min, p.max, p.first.value, p.last.value))
        .collect();
    let (records, first_times, first_offsets) =
        (pick(|p| p.records), pick(|p| p.first.time.0), pick(|p| p.first.offset));
    let (last_times, last_offsets) = (pick(|p| p.last.time.0), pick(|p| p.last.offset));
    let (no_numbers, no_texts): (Vec<i64>, Vec<String>) = (Vec::new(), Vec::new());
    let moved: i64 = client
        .query_one(
            statement,
            &[
                &"exchanges",
                &"id",
                &partition,
                &batch.from,
                &batch.next,
                &batch.end,
                &count,
                &"native",
                &max_time,
                &true,
                &ends,
                &starts,
                &codes,
                &records,
                &numbers,
                &first_times,
                &first_offsets,
                &last_times,
                &last_offsets,
                &no_numbers,
                &no_numbers,
                &no_texts,
                &no_numbers,
                &no_texts,
            ],
        )
        .unwrap()
        .get(0);
    assert_eq!(moved, 1, "the fence held");
    (batch.from, batch.records) = (batch.next, 0);
}
