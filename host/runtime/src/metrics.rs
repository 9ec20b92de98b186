//! The host's own metrics, and the spans of calls. Names carry their units.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::{Bucket, Metric, MetricFamily};
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// From a quarter of a millisecond to half a minute.
const SECONDS: [f64; 12] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The target of spans that are for a collector, not for the log.
pub const SPANS: &str = "spans";

/// A call of a function, as a span for a collector.
#[macro_export]
macro_rules! call_span {
    ($stage:expr, $kind:literal) => {
        tracing::debug_span!(target: $crate::metrics::SPANS, "call", otel.name = $kind, stage = $stage)
    };
}

/// The host's own metrics.
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    batches: IntCounterVec,
    in_flight: IntGaugeVec,
    calls: HistogramVec,
    lag: IntGaugeVec,
    lag_seconds: GaugeVec,
    partitions: IntGaugeVec,
    dead_letters: IntCounterVec,
    ticks: IntCounterVec,
    requests: IntCounterVec,
    swaps: IntCounterVec,
    clock_ahead: GaugeVec,
}

impl Metrics {
    /// Registers all metrics with a registry of their own; an error is a fault in one of the names.
    pub fn new() -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            registry: Registry::new(),
            records: counter("exagg_kafka_records_total", "Records in batches that were applied.", &["stage"])?,
            batches: counter("exagg_kafka_batches_total", "Batches by the function's answer.", &["stage", "outcome"])?,
            in_flight: IntGaugeVec::new(
                Opts::new("exagg_kafka_batches_in_flight", "Batches given to the function and not answered yet."),
                &["stage"],
            )?,
            calls: HistogramVec::new(
                HistogramOpts::new("exagg_call_seconds", "Time of a call, instance and waiting included.")
                    .buckets(SECONDS.to_vec()),
                &["stage"],
            )?,
            lag: IntGaugeVec::new(
                Opts::new("exagg_kafka_lag_records", "Records between the position and the end of the partition."),
                &["stage", "topic", "partition"],
            )?,
            lag_seconds: GaugeVec::new(
                Opts::new("exagg_kafka_lag_seconds", "Age of the oldest record that is not applied; 0 without one."),
                &["stage", "topic", "partition"],
            )?,
            partitions: IntGaugeVec::new(
                Opts::new("exagg_kafka_partitions", "Partitions by what they do: reading, waiting, stopped."),
                &["stage", "state"],
            )?,
            dead_letters: counter(
                "exagg_kafka_dead_letters_total",
                "Records that went to the dead letters.",
                &["stage"],
            )?,
            ticks: counter("exagg_cron_ticks_total", "Cron ticks by result.", &["stage", "result"])?,
            requests: counter("exagg_http_requests_total", "Requests by status.", &["stage", "status"])?,
            swaps: counter("exagg_component_swaps_total", "Swaps by result.", &["component", "result"])?,
            clock_ahead: GaugeVec::new(
                Opts::new(
                    "exagg_clock_ahead_seconds",
                    "By how much the host's clock is ahead of the database's; negative where it is behind.",
                ),
                &["database"],
            )?,
        };
        let counters = [
            &metrics.records,
            &metrics.batches,
            &metrics.dead_letters,
            &metrics.ticks,
            &metrics.requests,
            &metrics.swaps,
        ];
        for collector in counters {
            metrics.registry.register(Box::new(collector.clone()))?;
        }
        metrics.registry.register(Box::new(metrics.in_flight.clone()))?;
        metrics.registry.register(Box::new(metrics.calls.clone()))?;
        metrics.registry.register(Box::new(metrics.lag.clone()))?;
        metrics.registry.register(Box::new(metrics.lag_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.partitions.clone()))?;
        metrics.registry.register(Box::new(metrics.clock_ahead.clone()))?;
        Ok(metrics)
    }

    /// What the stages have done since the host started, by their ids; one that had no call is not there.
    pub fn stages(&self) -> BTreeMap<String, StageNumbers> {
        let mut stages: BTreeMap<String, StageNumbers> = BTreeMap::new();
        let mut each = |families: Vec<MetricFamily>, note: &dyn Fn(&mut StageNumbers, &Metric)| {
            for metric in families.iter().flat_map(MetricFamily::get_metric) {
                note(stages.entry(label(metric, "stage").to_owned()).or_default(), metric);
            }
        };
        each(self.calls.collect(), &|stage, metric| {
            let histogram = metric.get_histogram();
            let bound = |bucket: &Bucket| (bucket.upper_bound(), bucket.cumulative_count());
            stage.calls = histogram.get_sample_count();
            stage.within = histogram.get_bucket().iter().map(bound).collect();
        });
        each(self.batches.collect(), &|stage, metric| {
            stage.errors += count(metric, !matches!(label(metric, "outcome"), "applied" | "resume-at"));
        });
        each(self.ticks.collect(), &|stage, metric| stage.errors += count(metric, label(metric, "result") == "failed"));
        each(self.requests.collect(), &|stage, metric| {
            stage.errors += count(metric, label(metric, "status").starts_with('5'));
        });
        each(self.records.collect(), &|stage, metric| stage.records += count(metric, true));
        each(self.dead_letters.collect(), &|stage, metric| stage.dead_letters += count(metric, true));
        stages
    }

    /// A batch is given to the function, until the guard goes.
    pub fn in_flight(&self, stage: &str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[stage]);
        gauge.inc();
        InFlight(gauge)
    }

    /// A batch was answered.
    pub fn batch(&self, stage: &str, outcome: &str, records: usize, time: Duration) {
        self.batches.with_label_values(&[stage, outcome]).inc();
        self.calls.with_label_values(&[stage]).observe(time.as_secs_f64());
        if outcome == "applied" {
            self.records.with_label_values(&[stage]).inc_by(records as u64);
        }
    }

    /// Sets a partition's lag: records up to the end of the partition as it was last heard of, and the age of the
    /// oldest of them.
    pub fn lag(&self, stage: &str, topic: &str, partition: i32, records: i64, seconds: f64) {
        let labels = [stage, topic, &partition.to_string()];
        self.lag.with_label_values(&labels).set(records);
        self.lag_seconds.with_label_values(&labels).set(seconds);
    }

    /// The partition is not ours any more.
    pub fn forget_lag(&self, stage: &str, topic: &str, partition: i32) {
        // A partition that never reported has no series.
        let labels = [stage, topic, &partition.to_string()];
        let _ = self.lag.remove_label_values(&labels);
        let _ = self.lag_seconds.remove_label_values(&labels);
    }

    /// Sets how many of the stage's partitions are in a state (`reading`, `waiting`, `stopped`).
    pub fn partitions(&self, stage: &str, doing: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.partitions.with_label_values(&[stage, doing]).set(count);
    }

    /// Sets by how many seconds the host's clock is ahead of that of a database, which has this name in readiness.
    pub fn clock_ahead(&self, database: &str, seconds: f64) {
        self.clock_ahead.with_label_values(&[database]).set(seconds);
    }

    /// One record of the stage was stored in the topic of dead letters.
    pub fn dead_letter(&self, stage: &str) {
        self.dead_letters.with_label_values(&[stage]).inc();
    }

    /// A tick ended; `ok` is false where the function gave an error, or the call had no answer.
    pub fn tick(&self, stage: &str, ok: bool, time: Duration) {
        self.ticks.with_label_values(&[stage, if ok { "ok" } else { "failed" }]).inc();
        self.calls.with_label_values(&[stage]).observe(time.as_secs_f64());
    }

    /// So many scheduled times passed while a tick ran; they are counted as `passed`.
    pub fn ticks_skipped(&self, stage: &str, ticks: usize) {
        self.ticks.with_label_values(&[stage, "passed"]).inc_by(ticks as u64);
    }

    /// A request was answered with this HTTP status, `time` after it was routed.
    pub fn request(&self, stage: &str, status: u16, time: Duration) {
        self.requests.with_label_values(&[stage, &status.to_string()]).inc();
        self.calls.with_label_values(&[stage]).observe(time.as_secs_f64());
    }

    /// A request was answered by what another call of the stage had answered.
    pub fn shared_request(&self, stage: &str, status: u16) {
        self.requests.with_label_values(&[stage, &status.to_string()]).inc();
    }

    /// A component was swapped (`swapped`, `refused`, `back`).
    pub fn swap(&self, component: &str, result: &str) {
        self.swaps.with_label_values(&[component, result]).inc();
    }

    /// The Prometheus text form.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!("metrics cannot be written: {error}");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What a stage has done since the host started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageNumbers {
    /// Calls that ended, however they did.
    pub calls: u64,
    /// How many of them took so many seconds at the most, for each bound of the histogram.
    pub within: Vec<(f64, u64)>,
    /// Batches that were not applied, ticks that failed, requests with a status of 500 and above.
    pub errors: u64,
    /// Records in batches that were applied.
    pub records: u64,
    /// Records that went to the dead letters.
    pub dead_letters: u64,
}

/// The value of a label; empty without it.
fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

/// A counter's value where it is of those that count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter of whole things, far below 2^53"
)]
fn count(metric: &Metric, is: bool) -> u64 {
    if is { metric.get_counter().get_value() as u64 } else { 0 }
}

/// One batch in flight.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_told_by_its_numbers() {
        let metrics = Metrics::new().unwrap();
        metrics.batch("k", "applied", 7, Duration::from_millis(2));
        metrics.batch("k", "retry-later", 7, Duration::from_millis(2));
        metrics.dead_letter("k");
        metrics.tick("c", false, Duration::from_secs(2));
        metrics.ticks_skipped("c", 3);
        metrics.request("h", 503, Duration::ZERO);
        metrics.request("h", 404, Duration::ZERO);
        let stages = metrics.stages();
        let told = |id: &str| (stages[id].calls, stages[id].errors, stages[id].records, stages[id].dead_letters);
        assert_eq!((told("k"), told("c"), told("h")), ((2, 1, 7, 1), (1, 1, 0, 0), (2, 1, 0, 0)));
        let within = |seconds: f64| stages["k"].within.iter().find(|(bound, _)| *bound >= seconds).unwrap().1;
        assert_eq!((within(0.001), within(0.0025)), (0, 2));
    }
}
