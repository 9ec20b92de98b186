//! The baseline: plain Rust with rdkafka and sonic-rs. The same fold, and the same statement a batch,
//! without a sandbox, a group, retries or rejects. Reads a topic to its end, then waits to be let go, so
//! that its times can be read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made has failed"
)]

use std::time::Duration;

use aggregator::columns::{Columns, Place};
use aggregator::store::{APPLY, statement};
use postgres::{Client, NoTls, Statement};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use window::event::Event;
use window::fold::Fold;
use window::time::TimeFormat;
use window::windows::Windows;

/// Two consumers cost less CPU than one or eight.
const THREADS: i32 = 2;
const BATCH_RECORDS_MAX: usize = 10_000;

/// The fields that are asked for; the parser ignores the rest.
#[derive(serde::Deserialize)]
struct Exchange<'a> {
    #[serde(borrow)]
    code: std::borrow::Cow<'a, str>,
    volume: f64,
    time: &'a str,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, partitions, url, slide_seconds] = arguments.as_slice() else {
        panic!("usage: native BROKERS TOPIC PARTITIONS DATABASE-URL SLIDE-SECONDS");
    };
    let partitions: i32 = partitions.parse().unwrap();
    let windows = Windows::new(60, slide_seconds.parse().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS.min(partitions) {
            let mine: Vec<i32> = (0..partitions).filter(|partition| partition % THREADS == thread).collect();
            scope.spawn(move || read(brokers, topic, &mine, url, partitions, windows));
        }
    });
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// One partition's batch.
struct Batch {
    fold: Fold<'static>,
    records: usize,
    from: i64,
    next: i64,
    end: i64,
}

fn read(brokers: &str, topic: &str, mine: &[i32], url: &str, partitions: i32, windows: Windows) {
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
    let statement = client.prepare(&statement(APPLY)).unwrap();
    let format = TimeFormat::new("%Y-%m-%d %H:%M:%S", "UTC").unwrap();
    let mut left: i64 = batches.values().map(|batch| batch.end).sum();
    while left > 0 {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let exchange: Exchange<'_> = sonic_rs::from_slice(message.payload().unwrap()).unwrap();
        let batch = batches.get_mut(&message.partition()).unwrap();
        let event = Event {
            code: exchange.code.into_owned().into(),
            value: exchange.volume,
            time: format.parse_text(exchange.time.as_bytes()).unwrap(),
        };
        batch.fold.add(event, message.offset(), windows, |_| true);
        batch.records += 1;
        batch.next = message.offset() + 1;
        left -= 1;
        if batch.records == BATCH_RECORDS_MAX || batch.next == batch.end {
            apply(&mut client, &statement, Place { topic, partition: message.partition() }, partitions, batch, windows);
        }
    }
}

/// How far an event may be ahead of PostgreSQL's clock, as the app's default has it.
const MAX_FUTURE_US: i64 = 60_000_000;

fn apply(
    client: &mut Client,
    statement: &Statement,
    place: Place<'_>,
    count: i32,
    batch: &mut Batch,
    windows: Windows,
) {
    let fold = std::mem::take(&mut batch.fold);
    let max_time = fold.max_event_time().map(|time| time.0);
    let Columns { rows, packed, .. } = Columns::new(&fold.into_windows(), windows, place);
    let (no_numbers, no_texts): (Vec<i64>, Vec<String>) = (Vec::new(), Vec::new());
    let no_end: Option<i64> = None;
    let moved = client
        .execute(
            statement,
            &[
                &"exchanges",
                &"id",
                &place.partition,
                &batch.from,
                &batch.next,
                &batch.end,
                &count,
                &"native",
                &max_time,
                &true,
                &MAX_FUTURE_US,
                &rows.window_ends,
                &rows.window_starts,
                &rows.codes,
                &rows.records,
                &rows.numbers,
                &rows.first_edges,
                &rows.last_edges,
                &packed.window_ends,
                &packed.window_starts,
                &packed.codes,
                &packed.records,
                &packed.sum_vols,
                &packed.min_vols,
                &packed.max_vols,
                &packed.first_edges,
                &packed.last_edges,
                &no_numbers,
                &no_numbers,
                &no_texts,
                &no_numbers,
                &no_texts,
                &no_end,
            ],
        )
        .unwrap();
    assert_eq!(moved, 1, "the fence held");
    (batch.from, batch.records) = (batch.next, 0);
}
