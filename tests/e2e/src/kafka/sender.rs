//! Sends records.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::REQUEST;

/// A producer that keeps the order of each partition.
pub struct Sender(BaseProducer);

impl Sender {
    /// With settings that win over the usual ones.
    pub fn new(config: &mut ClientConfig, settings: &[(&str, &str)]) -> Self {
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "200000")
            .set("message.max.bytes", "4000000");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        Self(config.create().unwrap())
    }

    /// Its records come in transactions.
    pub fn transactional(config: &ClientConfig) -> Self {
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(REQUEST).unwrap();
        Self(producer)
    }

    /// Puts a record into a partition.
    pub fn send(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
        record.key = key;
        record.payload = value;
        self.send_record(record);
    }

    /// Puts a record with one header into the first partition.
    pub fn send_with_header(&self, topic: &str, value: &[u8], name: &str) {
        let headers = OwnedHeaders::new().insert(Header { key: name, value: Some("of the record") });
        self.send_record(BaseRecord::to(topic).partition(0).payload(value).headers(headers));
    }

    fn send_record(&self, mut record: BaseRecord<'_, [u8], [u8]>) {
        while let Err((error, back)) = self.0.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            self.0.poll(Duration::from_millis(10));
            record = back;
        }
    }

    pub fn begin(&self) {
        self.0.begin_transaction().unwrap();
    }

    pub fn commit(&self) {
        self.0.commit_transaction(REQUEST).unwrap();
    }

    pub fn abort(&self) {
        self.flush();
        self.0.abort_transaction(REQUEST).unwrap();
    }

    /// Forgets the records that are stored. Without any time it would forget one batch only.
    pub fn poll(&self) {
        self.0.poll(Duration::from_millis(2));
    }

    /// Waits until all records are stored.
    pub fn flush(&self) {
        self.0.flush(REQUEST * 4).unwrap();
    }
}
