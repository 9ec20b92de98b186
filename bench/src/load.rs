//! Seeded records of the exchange's shape in a topic. Loading is not counted.

use std::time::Duration;

use e2e::kafka::Kafka;
use e2e::{exchange, now};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::cases::Case;

/// Windows that the records of a case lie in.
pub const WINDOWS: i64 = 30;

/// Fills the topic, roughly in order of time over windows of the past.
pub fn fill(kafka: &Kafka, topic: &str, case: &Case, records: usize) {
    kafka.create_topic(topic, case.partitions, &[]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("compression.type", case.compression)
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let first = (now() / 60 - WINDOWS - 10) * 60;
    let total = i64::try_from(records).unwrap();
    for number in 0..total {
        let code = random.usize(..case.codes);
        let partition = i32::try_from(if case.keyed { code } else { random.usize(..64) }).unwrap() % case.partitions;
        let name = format!("EX{code}");
        let time = first + number * (WINDOWS * 60 - 5) / total + random.i64(0..5);
        let value = exchange(&name, (random.f64() * 1e12).round() / 100.0, time);
        let mut record = BaseRecord::to(topic).partition(partition).key(&name).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}
