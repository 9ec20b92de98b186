use exagg_sdk::cron::Metadata;
use exagg_sdk::producer::{self, Message};
use spin_sdk::variables;

exagg_sdk::cron_function!(tick);

/// Called at each scheduled time, never while the call before still runs. An error is logged and
/// counted; the next tick comes all the same.
async fn tick(metadata: Metadata) -> Result<(), String> {
    let message = Message {
        topic: variable("topic").await?,
        key: Some(b"tick".to_vec()),
        value: Some(format!("tick at {}", metadata.timestamp).into_bytes()),
        headers: Vec::new(),
    };
    let sent = producer::send(&variable("kafka_brokers").await?, vec![message]).await;
    sent.map(|_| ()).map_err(|error| error.to_string())
}

async fn variable(name: &str) -> Result<String, String> {
    variables::get(name).await.map_err(|error| error.to_string())
}
