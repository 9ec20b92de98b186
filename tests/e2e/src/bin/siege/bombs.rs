//! Records that are small on the wire and 140 MB in memory, in the pipeline's own topic, each between two good ones.

use std::time::Duration;

use e2e::kafka::Kafka;
use e2e::oracle::Counted;
use e2e::{exchange, now};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::FEED_PARTITIONS;
use crate::attacks::{Field, more};

const BOMB_BYTES: usize = 140_000_000;
const CODECS: [&str; 3] = ["gzip", "zstd", "lz4"];
const PAUSE: Duration = Duration::from_secs(4);
const SENT_TIME_MAX: Duration = Duration::from_secs(120);
/// Beside the feed's: each side knows the offsets of its own.
const PARTITION: usize = FEED_PARTITIONS;

pub struct Bombs {
    producers: Vec<BaseProducer>,
    value: Vec<u8>,
}

impl Bombs {
    pub fn new(kafka: &Kafka) -> Self {
        let producer = |codec| {
            kafka
                .config()
                .set("enable.idempotence", "true")
                .set("compression.type", codec)
                .set("message.max.bytes", "200000000")
                .set("batch.size", "200000000")
                .set("linger.ms", "500")
                .set("message.timeout.ms", "120000")
                .create()
                .unwrap()
        };
        Self { producers: CODECS.map(producer).into(), value: vec![b' '; BOMB_BYTES] }
    }

    /// Gives the good records.
    pub fn send_all(&self, field: &Field<'_>) -> Vec<Counted> {
        let partition = i32::try_from(PARTITION).unwrap();
        let (mut counted, mut offset) = (Vec::new(), 0);
        for producer in self.producers.iter().cycle() {
            if !field.goes_on() {
                break;
            }
            let time = now();
            let good = exchange("BESIDE", 1.0, time);
            for value in [good.as_bytes(), &self.value, good.as_bytes()] {
                let record: BaseRecord<'_, [u8], [u8]> =
                    BaseRecord::to(field.topic).partition(partition).payload(value);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(SENT_TIME_MAX).unwrap();
            assert_eq!(producer.in_flight_count(), 0, "a bomb is not stored");
            for offset in [offset, offset + 2] {
                let code = "BESIDE".to_owned();
                counted.push(Counted { code, value: 1.0, time_us: time * 1_000_000, partition, offset });
            }
            offset += 3;
            more(&field.counts.bombs);
            field.pause(PAUSE);
        }
        counted
    }
}
