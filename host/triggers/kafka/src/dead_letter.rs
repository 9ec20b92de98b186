//! Records that cannot be applied, to a topic of their own. Dead letters are at least once.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use exagg_clients::kafka::{LogContext, Offset, Properties, client_config, create};
use exagg_unpack::marker;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::batch::{cut_lengths, records};
use crate::bindings::exagg::kafka::types::Batch;
use crate::config::Subscription;

const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where records go that cannot be applied.
#[async_trait]
pub trait DeadLetterQueue: Send + Sync {
    /// Publishes one record of the batch with its reason.
    async fn publish(&self, batch: &Batch, offset: Offset, reason: &str) -> Result<(), PublishError>;
}

/// A dead letter was not stored, for this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PublishError(pub String);

/// A topic of dead letters.
pub struct DeadLetterTopic {
    producer: FutureProducer<LogContext>,
    topic: String,
}

impl DeadLetterTopic {
    /// Sets the producer up.
    pub fn open(subscription: &Subscription, shared: &Properties, topic: &str) -> anyhow::Result<Self> {
        let mut config = client_config(&subscription.brokers, shared);
        config.set("enable.idempotence", "true").set("message.timeout.ms", "30000");
        let producer = create(&config, LogContext { who: format!("{} dead letters", subscription.trigger_id) })
            .context("the producer of dead letters cannot be set up")?;
        Ok(Self { producer, topic: topic.to_owned() })
    }
}

#[async_trait]
impl DeadLetterQueue for DeadLetterTopic {
    /// The reason, and where the record is from, stand in headers.
    async fn publish(&self, batch: &Batch, offset: Offset, reason: &str) -> Result<(), PublishError> {
        let Some((record, headers)) = records(batch).find(|(record, _)| record.offset == offset) else {
            return Err(PublishError(format!("offset {offset} is not in the batch")));
        };
        let mut origin = vec![
            ("exagg-reason", reason.to_owned()),
            ("exagg-topic", batch.topic.clone()),
            ("exagg-topic-id", batch.topic_id.clone()),
            ("exagg-partition", batch.partition.to_string()),
            ("exagg-offset", offset.to_string()),
        ];
        if let Some((key_bytes, value_bytes)) = cut_lengths(headers) {
            // The letter has the head of a record that was too large; null has no length.
            origin.extend(key_bytes.map(|bytes| ("exagg-key-bytes", bytes.to_string())));
            origin.extend(value_bytes.map(|bytes| ("exagg-value-bytes", bytes.to_string())));
        }
        let mut all = OwnedHeaders::new_with_capacity(headers.len() + origin.len());
        for header in headers.iter().filter(|header| header.name != marker::NAME) {
            all = all.insert(Header { key: &header.name, value: header.value.as_deref() });
        }
        for (key, value) in &origin {
            all = all.insert(Header { key, value: Some(value.as_str()) });
        }
        let mut letter: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic).headers(all);
        letter.key = record.key;
        letter.payload = record.value;
        let sent = self.producer.send(letter, QUEUE_TIMEOUT).await;
        sent.map(|_| ()).map_err(|(error, _)| PublishError(error.to_string()))
    }
}
