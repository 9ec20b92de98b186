//! What consumers and producers share: settings, logging, addresses.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use crate::template::{Secret, Variables};

/// librdkafka properties, of which any may be a secret.
pub type Properties = BTreeMap<String, Secret>;

/// The host's properties (`[exagg.kafka]`), with the app's variables in the places of their names.
pub fn properties(variables: &Variables, templates: &BTreeMap<String, String>) -> Result<Properties> {
    let expand = |(name, template): (&String, &String)| {
        let value = variables.expand(template).with_context(|| format!("[exagg.kafka] {name}"))?;
        Ok((name.clone(), Secret::new(value)))
    };
    templates.iter().map(expand).collect()
}

/// A client's configuration: the host's properties (`[exagg.kafka]`) first, the caller's on top.
pub fn client_config(brokers: &str, shared: &Properties) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "exagg")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "5000")
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    apply(&mut config, shared);
    config
}

/// Sets each property.
pub fn apply(config: &mut ClientConfig, properties: &Properties) {
    for (name, value) in properties {
        config.set(name, value.expose());
    }
}

/// librdkafka's own lines go to the host's log.
pub struct LogContext {
    /// Which client speaks: a stage's id.
    pub who: String,
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.who, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(client = %self.who, "kafka: {error}: {reason}");
    }
}

impl ConsumerContext for LogContext {}

/// One line of librdkafka's.
pub fn log(who: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(client = %who, "kafka: {facility}: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(client = %who, "kafka: {facility}: {message}"),
        _ => tracing::debug!(client = %who, "kafka: {facility}: {message}"),
    }
}

/// Host and port of each broker in a list `host:port,host:port`.
pub fn addresses(brokers: &str) -> Result<Vec<(String, u16)>, String> {
    let parse = |broker: &str| {
        let broker = broker.trim();
        let (host, port) = broker.rsplit_once(':').ok_or_else(|| format!("the broker {broker:?} has no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| format!("the broker {broker:?} has no port"))?;
        if host.is_empty() || host.contains('/') {
            return Err(format!("the broker {broker:?} is not of the form host:port"));
        }
        Ok((host.to_owned(), port))
    };
    brokers.split(',').map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_host_and_port() {
        let expected = vec![("a".to_owned(), 1), ("::1".to_owned(), 9092)];
        assert_eq!(addresses("a:1, [::1]:9092"), Ok(expected));
        for wrong in ["", "a", "a:", "a:b", ":1", "SSL://a:1", "a:1,"] {
            assert!(addresses(wrong).is_err(), "{wrong}");
        }
    }
}
