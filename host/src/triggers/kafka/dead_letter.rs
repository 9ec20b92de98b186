//! Records that cannot be applied, to a topic of their own. Dead letters are at least once.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::batch::{cut_lengths, records};
use super::config::Subscription;
use crate::bindings::kafka::exagg::kafka::types::Batch;
use crate::kafka::{LogContext, Properties, client_config, create};
use crate::unpack::marker;

const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

pub struct DeadLetters {
    producer: FutureProducer<LogContext>,
    topic: String,
}

impl DeadLetters {
    pub fn open(subscription: &Subscription, shared: &Properties, topic: &str) -> Result<Self> {
        let mut config = client_config(&subscription.brokers, shared);
        config.set("enable.idempotence", "true").set("message.timeout.ms", "30000");
        let producer = create(&config, LogContext { who: format!("{} dead letters", subscription.trigger_id) })
            .context("the producer of dead letters cannot be set up")?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Publishes one record of the batch with its reason and place in headers.
    pub async fn publish(&self, batch: &Batch, offset: i64, reason: &str) -> Result<(), String> {
        let Some((record, headers)) = records(batch).find(|(record, _)| record.offset == offset) else {
            return Err(format!("offset {offset} is not in the batch"));
        };
        let mut place = vec![
            ("exagg-reason", reason.to_owned()),
            ("exagg-topic", batch.topic.clone()),
            ("exagg-topic-id", batch.topic_id.clone()),
            ("exagg-partition", batch.partition.to_string()),
            ("exagg-offset", offset.to_string()),
        ];
        if let Some((key_bytes, value_bytes)) = cut_lengths(headers) {
            // The letter has the head of a record that was too large; null has no length.
            place.extend(key_bytes.map(|bytes| ("exagg-key-bytes", bytes.to_string())));
            place.extend(value_bytes.map(|bytes| ("exagg-value-bytes", bytes.to_string())));
        }
        let mut all = OwnedHeaders::new_with_capacity(headers.len() + place.len());
        for header in headers.iter().filter(|header| header.name != marker::NAME) {
            all = all.insert(Header { key: &header.name, value: header.value.as_deref() });
        }
        for (key, value) in &place {
            all = all.insert(Header { key, value: Some(value.as_str()) });
        }
        let mut letter: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).headers(all);
        letter.key = record.key;
        letter.payload = record.value;
        self.producer.send(letter, QUEUE_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error.to_string())
    }
}
