//! The host's path of a record: librdkafka takes a broker's answer apart, and the kafka trigger moves what came into the
//! columns of batches. `bench/guard.sh` counts the instructions of both, with librdkafka's mock cluster as the broker.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made has failed")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use exagg_app::TriggerSpec;
use exagg_clients::kafka::{Offset, TopicId};
use exagg_trigger_kafka::batch::{BatchBuilder, Source};
use exagg_trigger_kafka::config::Subscription;
use exagg_trigger_kafka::consumer::Brokers;
use exagg_trigger_kafka::fetch::{Fetch, Share, Wanted};
use exagg_trigger_kafka::log::{Cluster, Event, Fetched, Log, Queue};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

const TOPIC: &str = "path";
/// The mock cluster keeps 5 MiB of a partition.
const PARTITIONS: i32 = 8;
const RECORDS: i32 = 20_000;

fn fill(brokers: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .unwrap();
    for partition in 0..PARTITIONS {
        for number in 0..RECORDS {
            let (code, second) = (number % 10, number / 1_000 % 60);
            let key = format!("EX{code}");
            let value = format!(
                r#"{{"code":"{key}","markets":512,"volume":{number}.25,"bidTotal":1.5,"askTotal":2.5,"depth":4.0,"visitors":1000,"volumePerVisitor":12.25,"time":"2023-11-14 22:13:{second:02}"}}"#
            );
            producer.send(BaseRecord::to(TOPIC).partition(partition).key(&key).payload(&value)).unwrap();
        }
        producer.flush(Duration::from_secs(120)).unwrap();
    }
}

/// The one function whose instructions count on the trigger's side. (callgrind is told its name.)
#[inline(never)]
fn path_take<Q: Queue>(queue: &Q, batch: &mut BatchBuilder) -> Fetched {
    queue.fetch(batch)
}

async fn read_all(subscription: Subscription) -> usize {
    let subscription = Arc::new(subscription);
    let fetch = Fetch::new(Wanted::new(subscription.batch.bytes_max, |_| None), Share::new(1 << 30, 1), 8);
    let limits = subscription.batch;
    let brokers = Brokers { subscription, properties: BTreeMap::new(), topics_are: None };
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let log = brokers.join(&fetch, sender).unwrap();
    let mut queues = Vec::new();
    while queues.len() < usize::try_from(PARTITIONS).unwrap() {
        if let Some(Event::Assigned(assignments)) = events.recv().await {
            for mut assignment in assignments {
                assignment.queue.arm();
                log.seek(&assignment.partition, Offset(0), None).await.unwrap();
                queues.push(assignment);
            }
        }
    }
    let mut records = 0;
    for assignment in &queues {
        let partition = assignment.partition.clone();
        let source =
            Source { partition, topic_id: TopicId(String::new()), partition_count: PARTITIONS, group: "g".to_owned() };
        let (mut from, mut of_partition) = (Offset(0), 0);
        while of_partition < usize::try_from(RECORDS).unwrap() {
            let mut batch = BatchBuilder::new(&source, from, limits);
            let fetched = path_take(&assignment.queue, &mut batch);
            assert!(fetched.error.is_none(), "the broker's answer is an error");
            if batch.is_empty() {
                assignment.queue.ready().notified().await;
            }
            of_partition += batch.size().records;
            from = batch.next_offset();
            black_box(batch.finish(None));
        }
        records += of_partition;
    }
    records
}

fn main() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    fill(&brokers);
    let config = json!({ "topics": [TOPIC], "group": "g", "brokers": brokers, "headers": false });
    let config = config.as_object().unwrap().clone();
    let spec = TriggerSpec { id: "path".to_owned(), kind: "kafka".to_owned(), component: "path".to_owned(), config };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let records = runtime.block_on(read_all(Subscription::new(&spec).unwrap()));
    println!("{records} records");
}
