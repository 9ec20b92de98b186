//! Log lines, and spans of calls for a collector.

use std::io::IsTerminal;

use exagg_common::printable::printable;
use exagg_runtime::metrics::SPANS;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Environment;

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

/// Where the environment names a collector: OTLP over HTTP (protobuf), with the other `OTEL_…`
/// variables as the exporter reads them.
fn collector(environment: &Environment) -> Option<Result<SdkTracerProvider, ExporterBuildError>> {
    let given = |name: &str| environment.get(std::ffi::OsStr::new(name)).is_some_and(|value| !value.is_empty());
    if !COLLECTORS.iter().any(|name| given(name)) {
        return None;
    }
    // The exporter's TLS is what the process has installed; a second time is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder().with_http().build();
    let mut resource = Resource::builder();
    if !given("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name("exagg");
    }
    let provider =
        |exporter| SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
    Some(exporter.map(provider))
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
