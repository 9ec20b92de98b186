//! Logs, metrics, and spans of calls for a collector. Names carry their units.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Environment;
use crate::printable::printable;

/// From a quarter of a millisecond to half a minute.
const SECONDS: [f64; 12] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The target of spans that are for a collector, not for the log.
pub const SPANS: &str = "spans";

/// What asks for spans to be sent, as the OpenTelemetry specification and the SpinKube operator say.
const COLLECTORS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Sends what is left when it goes.
pub struct Tracing(Option<SdkTracerProvider>);

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!("not all spans were sent: {error}");
        }
    }
}

/// A call of a function, as a span for a collector.
#[macro_export]
macro_rules! call_span {
    ($stage:expr, $kind:literal) => {
        tracing::debug_span!(target: $crate::telemetry::SPANS, "call", otel.name = $kind, stage = $stage)
    };
}

/// Where the environment names a collector: OTLP over HTTP (protobuf), with the other `OTEL_…`
/// variables as the exporter reads them.
fn collector(environment: &Environment) -> Option<Result<SdkTracerProvider, String>> {
    let given = |name: &str| environment.get(std::ffi::OsStr::new(name)).is_some_and(|value| !value.is_empty());
    if !COLLECTORS.iter().any(|name| given(name)) {
        return None;
    }
    // The exporter's TLS is what the process has installed; a second time is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
    let mut resource = Resource::builder();
    if !given("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name("exagg");
    }
    let provider =
        |exporter| SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    Some(exporter.map(provider).map_err(|error| error.to_string()))
}

/// Lines on standard error.
fn log<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(OneLine)
}

/// An event's fields in one line: what apps, records and peers bring into a message moves no cursor and ends
/// no line.
struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable(&text))
    }
}

/// Sets logging up: `RUST_LOG` where it is set, else information of this host and warnings of
/// the rest; and spans, where a collector is named.
pub fn init(quiet: bool, environment: &Environment) -> Tracing {
    let default = if quiet { "warn" } else { "warn,exagg=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let (provider, refused) = match collector(environment) {
        Some(Ok(provider)) => (Some(provider), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    match &provider {
        Some(provider) => {
            let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("exagg"));
            let spans = spans.with_filter(filter_fn(|metadata| metadata.target() == SPANS));
            tracing_subscriber::registry().with(log().with_filter(filter)).with(spans).init();
        }
        // One filter for all: a filter of the log's own beside a layer that is not there remembers a
        // span that it refused, and drops the next line of that thread.
        None => tracing_subscriber::registry().with(filter).with(log()).init(),
    }
    if let Some(error) = refused {
        tracing::warn!("no spans are sent: {error}");
    }
    Tracing(provider)
}

/// The host's own metrics.
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    batches: IntCounterVec,
    in_flight: IntGaugeVec,
    calls: HistogramVec,
    lag: IntGaugeVec,
    dead_letters: IntCounterVec,
    ticks: IntCounterVec,
    requests: IntCounterVec,
    swaps: IntCounterVec,
}

impl Metrics {
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
            dead_letters: counter(
                "exagg_kafka_dead_letters_total",
                "Records that went to the dead letters.",
                &["stage"],
            )?,
            ticks: counter("exagg_cron_ticks_total", "Cron ticks by result.", &["stage", "result"])?,
            requests: counter("exagg_http_requests_total", "Requests by status.", &["stage", "status"])?,
            swaps: counter("exagg_component_swaps_total", "Swaps by result.", &["component", "result"])?,
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
        Ok(metrics)
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

    pub fn lag(&self, stage: &str, topic: &str, partition: i32, records: i64) {
        self.lag.with_label_values(&[stage, topic, &partition.to_string()]).set(records);
    }

    /// The partition is not ours any more.
    pub fn forget_lag(&self, stage: &str, topic: &str, partition: i32) {
        // A partition that never reported has no series.
        let _ = self.lag.remove_label_values(&[stage, topic, &partition.to_string()]);
    }

    pub fn dead_letter(&self, stage: &str) {
        self.dead_letters.with_label_values(&[stage]).inc();
    }

    pub fn tick(&self, stage: &str, ok: bool, time: Duration) {
        self.ticks.with_label_values(&[stage, if ok { "ok" } else { "failed" }]).inc();
        self.calls.with_label_values(&[stage]).observe(time.as_secs_f64());
    }

    pub fn ticks_passed(&self, stage: &str, ticks: usize) {
        self.ticks.with_label_values(&[stage, "passed"]).inc_by(ticks as u64);
    }

    pub fn request(&self, stage: &str, status: u16, time: Duration) {
        self.requests.with_label_values(&[stage, &status.to_string()]).inc();
        self.calls.with_label_values(&[stage]).observe(time.as_secs_f64());
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

/// One batch in flight.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        let lines = Lines::default();
        let to = lines.clone();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(OneLine).with_writer(move || to.clone());
        let layer = layer.with_ansi(false).without_time();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(stage = "a\nb", "first\nERROR forged\u{1b}[2J");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.contains("first\\nERROR forged\\") && !text.contains('\u{1b}'), "{text}");
    }
}
