//! `[[trigger.kafka]]`: the settings as they are written, and validated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use exagg_app::TriggerSpec;
use exagg_clients::kafka::Properties;
use exagg_common::template::Secret;
use exagg_runtime::instance::reuse::{Reuse, ReuseSetting};
use exagg_unpack as unpack;
use serde::Deserialize;

use crate::batch::BatchLimits;

/// The settings as they are written, templates expanded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    topics: Vec<String>,
    group: String,
    brokers: String,
    #[serde(default = "latest")]
    start: String,
    #[serde(default = "batch_records_max")]
    batch_records_max: usize,
    #[serde(default = "batch_bytes_max")]
    batch_bytes_max: usize,
    batch_interval_ms_min: Option<u64>,
    /// Its name before; deprecated.
    batch_wait_ms_max: Option<u64>,
    #[serde(default = "headers")]
    headers: bool,
    #[serde(default = "record_bytes_max")]
    record_bytes_max: usize,
    #[serde(default)]
    on_oversized: OnOversized,
    #[serde(default = "retry_attempts_max")]
    retry_attempts_max: u32,
    #[serde(default = "retry_backoff_ms_min")]
    retry_backoff_ms_min: u64,
    #[serde(default = "retry_backoff_ms_max")]
    retry_backoff_ms_max: u64,
    #[serde(default)]
    on_poison: OnPoisonName,
    dead_letter_topic: Option<String>,
    #[serde(default)]
    on_gap: OnGap,
    instance_id: Option<String>,
    reuse: Option<ReuseSetting>,
    #[serde(default)]
    rdkafka: BTreeMap<String, String>,
}

/// Where `batch_interval_ms_min` is not set.
const BATCH_INTERVAL_MS_MIN: u64 = 10;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn latest() -> String {
    "latest".to_owned()
}
fn batch_records_max() -> usize {
    10_000
}
fn batch_bytes_max() -> usize {
    2 * 1024 * 1024
}
fn headers() -> bool {
    true
}
fn record_bytes_max() -> usize {
    unpack::RECORD_BYTES_MAX
}
fn retry_attempts_max() -> u32 {
    3
}
fn retry_backoff_ms_min() -> u64 {
    100
}
fn retry_backoff_ms_max() -> u64 {
    10_000
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum OnPoisonName {
    DeadLetter,
    #[default]
    Stop,
}

/// What becomes of a record that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnPoison {
    /// It goes to this topic with its reason and place in headers (at least once).
    DeadLetter(String),
    /// The partition stops, loudly.
    Stop,
}

/// What becomes of a record that is larger than `record_bytes_max`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnOversized {
    /// It cannot be applied, and the function is not asked.
    #[default]
    Poison,
    /// The function is given its head, and how long it is.
    Give,
}

/// What becomes of offsets that the log lost before they were read.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnGap {
    /// The function is told of the range, and the partition stops in front of it; this is the default.
    #[default]
    Stop,
    /// The function is told of the range, and the partition goes on behind it.
    Continue,
}

/// Where a partition without any progress starts when the topic is first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The end of the partition: what was there before is not read.
    Latest,
    /// The first record that the log still holds.
    Earliest,
    /// The first record of this time (Unix milliseconds) or later.
    At(i64),
}

/// The validated settings of a stage.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The trigger's id in the manifest: the stage of logs, metrics and status.
    pub trigger_id: String,
    /// The id of the component whose function is called.
    pub component: String,
    /// One or more topics by their names; patterns (`^…`) are refused.
    pub topics: Vec<String>,
    /// The consumer group (`group.id` of librdkafka), which is not empty; each stage has one of its own.
    pub group: String,
    /// `host:port` pairs with commas between; `bootstrap.servers` of `[exagg.kafka]` goes before it.
    pub brokers: String,
    /// By default the end of the partition; with the embedded broker always the earliest record.
    pub start: Start,
    /// The bounds of one batch and of one record in it.
    pub batch: BatchLimits,
    /// Least time between two small batches of a partition that is never quiet.
    pub batch_interval_min: Duration,
    /// Times that a trap is tried again before the batch is split.
    pub retry_attempts_max: u32,
    /// The first pause between tries, above 0; each later one is twice as long. The default is 100 ms.
    pub retry_backoff_min: Duration,
    /// The pause that is not doubled any further, at least the first one. The default is 10 s.
    pub retry_backoff_max: Duration,
    /// The default is to stop; a dead letter needs `dead_letter_topic`.
    pub on_poison: OnPoison,
    /// The default is to treat such a record as poison.
    pub on_oversized: OnOversized,
    /// The default is to stop; the function is told of the gap in either case.
    pub on_gap: OnGap,
    /// `group.instance.id` of librdkafka (static membership); none where it is empty.
    pub instance_id: Option<String>,
    /// None: each call gets a fresh instance, which is the default.
    pub reuse: Option<Reuse>,
    /// The app's own properties of librdkafka (`rdkafka`); those of `[exagg.kafka]` go before them.
    pub properties: Properties,
}

/// What an app may set of librdkafka: how much it fetches, how long it waits, and by which name it is known.
/// Whatever concerns security, addresses, files, plugins, logging or memory beyond a partition's own is the
/// operator's (`[exagg.kafka]`): an app may come from anywhere.
const OF_APPS: [&str; 22] = [
    "check.crcs",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "fetch.error.backoff.ms",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "metadata.max.age.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "session.timeout.ms",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "topic.metadata.refresh.interval.ms",
];

/// Of these, the most that an app may ask for: they are memory of the host, for each partition.
const MOST: [(&str, u64); 2] = [("fetch.message.max.bytes", 64 << 20), ("queued.max.messages.kbytes", 64 << 10)];

/// Refuses what is not an app's to set. The value stays out of the message: it may be a password.
fn check_properties(properties: &BTreeMap<String, String>) -> Result<()> {
    if let Some(name) = properties.keys().find(|name| !OF_APPS.contains(&name.as_str())) {
        bail!(
            "rdkafka: {name:?} is not an app's to set: the operator sets it under [exagg.kafka] of the runtime \
             configuration, where it is open at all (an app may set {})",
            OF_APPS.join(", ")
        );
    }
    for (name, most) in MOST {
        let Some(value) = properties.get(name) else { continue };
        let number: u64 = value.parse().ok().with_context(|| format!("rdkafka: {name} is not a whole number"))?;
        ensure!(number <= most, "rdkafka: {name} is {number}: at most {most}");
    }
    Ok(())
}

impl Subscription {
    /// Checks the settings, templates expanded; an error names the trigger and the setting.
    pub fn new(trigger: &TriggerSpec) -> Result<Self> {
        let settings: Settings = serde_json::from_value(serde_json::Value::Object(trigger.config.clone()))
            .with_context(|| format!("[[trigger.kafka]] {}", trigger.id))?;
        settings.validate(trigger).with_context(|| format!("[[trigger.kafka]] {}", trigger.id))
    }
}

impl Settings {
    fn validate(self, trigger: &TriggerSpec) -> Result<Subscription> {
        ensure!(!self.topics.is_empty() && self.topics.iter().all(|topic| !topic.is_empty()), "topics names no topic");
        ensure!(!self.topics.iter().any(|topic| topic.starts_with('^')), "topics are names, not patterns");
        let mut topics = BTreeSet::new();
        ensure!(self.topics.iter().all(|topic| topics.insert(topic)), "topics names a topic twice");
        ensure!(!self.group.is_empty(), "group is empty");
        ensure!((1..=1_000_000).contains(&self.batch_records_max), "batch_records_max is 1 to 1000000");
        ensure!((1024..=64 << 20).contains(&self.batch_bytes_max), "batch_bytes_max is 1 KiB to 64 MiB");
        ensure!((1024..=64 << 20).contains(&self.record_bytes_max), "record_bytes_max is 1 KiB to 64 MiB");
        ensure!(self.retry_attempts_max <= 1_000, "retry_attempts_max is 0 to 1000");
        ensure!(self.retry_backoff_ms_max <= HOUR_MS, "retry_backoff_ms_max is at most an hour: {HOUR_MS}");
        ensure!(
            0 < self.retry_backoff_ms_min && self.retry_backoff_ms_min <= self.retry_backoff_ms_max,
            "retry_backoff_ms_min is above 0 and at most retry_backoff_ms_max"
        );
        exagg_clients::kafka::addresses(&self.brokers).context("brokers")?;
        check_properties(&self.rdkafka)?;
        if self.batch_wait_ms_max.is_some() {
            tracing::warn!("[[trigger.kafka]] {}: batch_wait_ms_max is called batch_interval_ms_min now", trigger.id);
        }
        let batch_interval_ms_min =
            self.batch_interval_ms_min.or(self.batch_wait_ms_max).unwrap_or(BATCH_INTERVAL_MS_MIN);
        ensure!(batch_interval_ms_min <= MINUTE_MS, "batch_interval_ms_min is at most a minute: {MINUTE_MS}");
        let on_poison = match (self.on_poison, self.dead_letter_topic) {
            (OnPoisonName::Stop, None) => OnPoison::Stop,
            (OnPoisonName::DeadLetter, Some(topic)) if !topic.is_empty() => OnPoison::DeadLetter(topic),
            (OnPoisonName::DeadLetter, _) => bail!("on_poison = \"dead-letter\" needs dead_letter_topic"),
            (OnPoisonName::Stop, Some(_)) => bail!("dead_letter_topic needs on_poison = \"dead-letter\""),
        };
        Ok(Subscription {
            trigger_id: trigger.id.clone(),
            component: trigger.component.clone(),
            topics: self.topics,
            group: self.group,
            brokers: self.brokers,
            start: start(&self.start)?,
            batch: BatchLimits {
                records_max: self.batch_records_max,
                bytes_max: self.batch_bytes_max,
                headers: self.headers,
                record_bytes_max: self.record_bytes_max,
            },
            batch_interval_min: Duration::from_millis(batch_interval_ms_min),
            retry_attempts_max: self.retry_attempts_max,
            retry_backoff_min: Duration::from_millis(self.retry_backoff_ms_min),
            retry_backoff_max: Duration::from_millis(self.retry_backoff_ms_max),
            on_poison,
            on_oversized: self.on_oversized,
            on_gap: self.on_gap,
            instance_id: self.instance_id.filter(|id| !id.is_empty()),
            reuse: self.reuse.map(ReuseSetting::parse).transpose()?.flatten(),
            properties: self.rdkafka.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
        })
    }
}

fn start(text: &str) -> Result<Start> {
    Ok(match text {
        "latest" => Start::Latest,
        "earliest" => Start::Earliest,
        time => Start::At(
            chrono::DateTime::parse_from_rfc3339(time)
                .with_context(|| format!("start is {time:?}: use latest, earliest or an RFC 3339 time"))?
                .timestamp_millis(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(more: &str) -> Result<Subscription> {
        let text = format!("topics = [\"t\"]\ngroup = \"g\"\nbrokers = \"b:9092\"\n{more}");
        let config = toml::from_str(&text).unwrap();
        Subscription::new(&TriggerSpec { id: "x".into(), kind: "kafka".into(), component: "c".into(), config })
    }

    #[test]
    fn defaults_are_safe() {
        let subscription = subscription("").unwrap();
        assert_eq!(subscription.start, Start::Latest);
        assert_eq!(subscription.on_poison, OnPoison::Stop);
        assert_eq!(subscription.on_gap, OnGap::Stop);
        assert!(subscription.batch.headers);
        assert_eq!(subscription.reuse, None);
        assert_eq!(subscription.batch.record_bytes_max, 1_114_112);
        assert_eq!(subscription.on_oversized, OnOversized::Poison);
    }

    #[test]
    fn oversized_records_may_be_given() {
        let given = subscription("on_oversized = \"give\"\nrecord_bytes_max = 2048").unwrap();
        assert_eq!((given.on_oversized, given.batch.record_bytes_max), (OnOversized::Give, 2048));
    }

    #[test]
    fn a_setting_may_have_its_name_of_before() {
        let millis = |text| subscription(text).unwrap().batch_interval_min.as_millis();
        assert_eq!(millis(""), 10);
        assert_eq!((millis("batch_wait_ms_max = 20"), millis("batch_interval_ms_min = 30")), (20, 30));
    }

    #[test]
    fn a_time_is_a_start() {
        let at = subscription("start = \"2023-11-19T20:31:15Z\"").unwrap();
        assert_eq!(at.start, Start::At(1_700_425_875_000));
    }

    /// `plugin.library.paths` ran native code of an app from a registry, which printed the operator's password.
    #[test]
    fn an_app_sets_nothing_that_is_the_operators() {
        for name in [
            "plugin.library.paths",
            "bootstrap.servers",
            "metadata.broker.list",
            "security.protocol",
            "sasl.username",
            "sasl.password",
            "sasl.kerberos.kinit.cmd",
            "sasl.oauthbearer.token.endpoint.url",
            "ssl.ca.location",
            "ssl.keystore.location",
            "ssl.engine.location",
            "enable.ssl.certificate.verification",
            "debug",
            "log_level",
            "interceptors",
            "receive.message.max.bytes",
            "group.id",
            "isolation.level",
            "Plugin.Library.Paths",
        ] {
            let error = subscription(&format!("rdkafka = {{ \"{name}\" = \"geheim\" }}")).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(name) && error.contains("[exagg.kafka]"), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let fine = subscription("rdkafka = { \"session.timeout.ms\" = \"6000\", \"fetch.min.bytes\" = \"1\" }");
        assert_eq!(fine.unwrap().properties.len(), 2);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for wrong in [
            "start = \"yesterday\"",
            "on_poison = \"dead-letter\"",
            "dead_letter_topic = \"d\"",
            "on_poison = \"drop\"",
            "batch_size = 3",
            "reuse = { calls_max = 0 }",
            "reuse = { seconds_min = 1 }",
            "batch_records_max = 0",
            "record_bytes_max = 1000",
            "record_bytes_max = 100000000",
            "on_oversized = \"drop\"",
            "rdkafka = { \"auto.offset.reset\" = \"latest\" }",
            "rdkafka = { \"queued.max.messages.kbytes\" = \"2097151\" }",
            "retry_backoff_ms_min = 0",
            "retry_backoff_ms_max = 3600001",
            "retry_attempts_max = 1001",
            "batch_interval_ms_min = 60001",
            "batch_wait_ms_max = 18446744073709551615",
        ] {
            assert!(subscription(wrong).is_err(), "{wrong}");
        }
    }
}
