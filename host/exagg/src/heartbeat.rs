//! What the host says of itself in the pipeline's database (`exagg_hosts`), for pages that show all hosts: its stages, their
//! versions and calls, and the partitions that they read. A row every few seconds and at each change.
//!
//! # Layout
//! - here: what the row has, and when it is written.
//! - [`since`]: when a state began.
//! - [`trend`]: rates, quantiles and a history of what a stage does.

mod since;
mod trend;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use exagg_common::memory;
use exagg_pipeline::hosts;
use exagg_runtime::budget::Resource;
use exagg_runtime::metrics::StageNumbers;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::since::Since;
use self::trend::{Sample, Trend};
use crate::admin::Admin;

/// A row is no older than this while its host is there, unless the database is slow.
const EVERY: Duration = Duration::from_secs(2);
/// Partitions of a stage in the row, and those of them whose reason is in it; those in trouble come first.
const PARTITIONS_MAX: usize = 1_000;
const REASONS_MAX: usize = 50;
/// Bytes of a reason: it may be a function's own words, and of any length.
const REASON_BYTES_MAX: usize = 500;

/// A stage that has this in its settings closes windows.
const CLOSES: &str = "exagg_closable";

/// Makes the rows of this host.
pub struct Heartbeat {
    /// Of this process.
    host: String,
    name: String,
    admin: Arc<Admin>,
    /// The stream of each component that writes one.
    streams: BTreeMap<String, String>,
    /// Told when the host begins to stop.
    stops: CancellationToken,
    since: Since,
    trends: BTreeMap<String, Trend>,
    of_host: Trend,
    /// What was last written but for numbers, and when.
    written: Option<(Value, Instant)>,
}

impl Heartbeat {
    /// Nothing is written yet.
    pub fn new(admin: Arc<Admin>, streams: BTreeMap<String, String>, stops: CancellationToken) -> Self {
        Self {
            host: Uuid::new_v4().to_string(),
            name: machine(),
            admin,
            streams,
            stops,
            since: Since::default(),
            trends: BTreeMap::new(),
            of_host: Trend::default(),
            written: None,
        }
    }

    /// The statements that write the row, where that is due: something changed, or the last one grows old. To be asked every
    /// second. `clock_ahead_seconds`: of this host's clock before the database's.
    pub fn beat(&mut self, clock_ahead_seconds: f64, now: DateTime<Utc>) -> Option<String> {
        let at = Instant::now();
        self.since.begin(now);
        let numbers = self.admin.metrics.stages();
        let stages: Vec<Value> =
            self.admin.stages().into_iter().map(|stage| self.stage(stage, &numbers, at, now)).collect();
        let (mut reasons, _) = self.admin.reasons();
        reasons.truncate(REASONS_MAX);
        reasons.iter_mut().for_each(clip);
        let state = match () {
            () if self.stops.is_cancelled() => "stopping",
            () if reasons.is_empty() => "ready",
            () => "not-ready",
        };
        self.of_host.add(at, Sample { cpu: process_time(), ..Sample::default() });
        let essence = json!([state, reasons, stages.iter().map(essence).collect::<Vec<_>>()]);
        let is_due =
            self.written.as_ref().is_none_or(|(last, written_at)| *last != essence || at - *written_at >= EVERY);
        if !is_due {
            return None;
        }
        self.written = Some((essence, at));
        let row = json!({
            "name": self.name,
            "app": self.admin.app.name,
            "state": state,
            "reasons": reasons,
            "memory_bytes": memory::resident(),
            "memory_budget_bytes": Some(memory::budget()).filter(|bytes| *bytes != u64::MAX),
            "cpu_percent": self.of_host.cpu_per_second() * 100.0,
            "clock_ahead_seconds": clock_ahead_seconds,
            "stages": stages,
        });
        Some(hosts::write(&self.host, &row))
    }

    /// The last beat was not written.
    pub fn was_not_written(&mut self) {
        self.written = None;
    }

    /// The statement that notes the end.
    pub fn end(&self) -> String {
        hosts::stopped(&self.host)
    }

    /// A stage as `exagg status` has it, and what it has used and done.
    fn stage(
        &mut self,
        mut stage: Value,
        numbers: &BTreeMap<String, StageNumbers>,
        at: Instant,
        now: DateTime<Utc>,
    ) -> Value {
        let text = |name: &str| stage[name].as_str().unwrap_or_default().to_owned();
        let (id, component) = (text("id"), text("component"));
        let numbers = numbers.get(&id).cloned().unwrap_or_default();
        let slot = self.admin.app.components.get(&component).map(|slot| slot.current());
        let used = slot.as_ref().map(|version| version.used());
        for state in ["not_ready", "failing", "rolled_back"] {
            let since = self.since.of(format!("{id} {state}"), !stage[state].is_null());
            stage[format!("{state}_since")] = json!(since);
        }
        for state in ["not_ready", "failing", "rolled_back"] {
            clip_value(&mut stage[state]);
        }
        let partition_count = stage["partitions"].as_array().map(Vec::len);
        let lag = self.partitions(&id, &mut stage["partitions"]);
        let trend = self.trends.entry(id.clone()).or_default();
        trend.add(
            at,
            Sample {
                records: numbers.records,
                calls: numbers.calls,
                within: numbers.within.clone(),
                cpu: used.map(|used| used.cpu).unwrap_or_default(),
            },
        );
        trend.lag(lag, now);
        let refused = slot.as_ref().map_or(0, |version| {
            Resource::ALL.into_iter().map(|resource| version.account().refused(resource)).sum::<u64>()
        });
        let refused_since = trend.refused(refused, at).then(|| self.since.of(format!("{id} refused"), true)).flatten();
        let trigger = self.admin.app.triggers.iter().find(|trigger| trigger.id == id);
        let setting = |name: &str| trigger.and_then(|trigger| trigger.config.get(name));
        let what = match setting("topics").and_then(Value::as_array) {
            Some(topics) => topics.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            None => ["cron_expression", "route"]
                .into_iter()
                .find_map(setting)
                .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        };
        let more = json!({
            "what": what,
            "partition_count": partition_count,
            "stream": self.streams.get(&component),
            "closes": setting("wake_on").is_some_and(|channel| channel == CLOSES),
            "calls": numbers.calls,
            "errors": numbers.errors,
            "timeouts": used.map(|used| used.timeouts),
            "calls_per_second": trend.calls_per_second(),
            "p50_ms": trend.quantile(0.5).map(|seconds| seconds * 1e3),
            "p99_ms": trend.quantile(0.99).map(|seconds| seconds * 1e3),
            "records": numbers.records,
            "records_per_second": trend.records_per_second(),
            "dead_letters": numbers.dead_letters,
            "cpu_seconds": used.map(|used| used.cpu.as_secs_f64()),
            "memory_bytes": slot.as_ref().map(|version| version.account().used(Resource::InstanceBytes)),
            "postgres_seconds": used.map(|used| used.postgres.as_secs_f64()),
            "cold_starts": used.map(|used| used.instances),
            "refused": refused,
            "refused_since": refused_since,
            "lag_history": trend.history(),
            "lag_slot": trend.slot(),
        });
        if let (Value::Object(stage), Value::Object(more)) = (&mut stage, more) {
            stage.extend(more);
        }
        stage
    }

    /// Adds since when each of them is in its state; with the age of the oldest record that is not applied.
    fn partitions(&mut self, stage: &str, partitions: &mut Value) -> Option<f64> {
        let partitions = partitions.as_array_mut()?;
        let mut lag = None;
        for partition in partitions.iter_mut() {
            let seconds = partition["lag_seconds"].as_f64().unwrap_or_default();
            lag = Some(seconds.max(lag.unwrap_or_default()));
            let key = format!("{stage} {} {} {}", partition["topic"], partition["partition"], partition["state"]);
            partition["since"] = json!(self.since.of(key, true));
        }
        partitions.sort_by_key(|partition| partition["state"] == "reading");
        partitions.truncate(PARTITIONS_MAX);
        for (number, partition) in partitions.iter_mut().enumerate() {
            if number < REASONS_MAX {
                clip_value(&mut partition["reason"]);
            } else {
                partition["reason"] = Value::Null;
            }
        }
        lag
    }
}

/// No more of a text than is shown.
fn clip(text: &mut String) {
    if text.len() > REASON_BYTES_MAX {
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        text.push('…');
    }
}

fn clip_value(value: &mut Value) {
    if let Value::String(text) = value {
        clip(text);
    }
}

/// What of a stage is told at once when it changes.
fn essence(stage: &Value) -> Value {
    let partitions = stage["partitions"].as_array().into_iter().flatten();
    let partitions: Vec<_> = partitions.map(|p| json!([p["topic"], p["partition"], p["state"], p["reason"]])).collect();
    let names = [
        "id",
        "digest",
        "on_trial",
        "previous",
        "rolled_back",
        "not_ready",
        "failing",
        "refused_since",
        "dead_letters",
    ];
    json!([names.map(|name| &stage[name]), partitions])
}

/// The name of this machine.
fn machine() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    said.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "host".to_owned())
}

/// Processor time of this process.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_function_says_is_told_up_to_a_length() {
        let mut text = json!("é".repeat(1_000));
        clip_value(&mut text);
        let text = text.as_str().unwrap();
        assert!(text.ends_with("é…") && text.len() <= REASON_BYTES_MAX + 3, "{}", text.len());
        let mut none = Value::Null;
        clip_value(&mut none);
        assert!(none.is_null());
    }
}
