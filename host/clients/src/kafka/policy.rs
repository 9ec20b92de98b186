//! What a cluster does to a topic's log.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::ClientConfig;

use super::error::ClientError;
use super::{LogContext, create};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a topic's log is compacted, so that it holds the last record of each key only (`cleanup.policy`); none where
/// the cluster does not tell: it wants the right `DESCRIBE_CONFIGS` on the topic.
///
/// # Errors
/// When the client cannot be made of these settings.
pub async fn is_compacted(config: &ClientConfig, topic: &str) -> Result<Option<bool>, ClientError> {
    let admin: AdminClient<LogContext> = create(config, LogContext { who: "topic settings".to_owned() })?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let Ok(described) = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await else {
        return Ok(None);
    };
    let mut entries = described.into_iter().flatten().flat_map(|resource| resource.entries);
    let policy = entries.find(|entry| entry.name == "cleanup.policy").and_then(|entry| entry.value);
    Ok(policy.map(|policy| policy.split(',').any(|policy| policy.trim() == "compact")))
}
