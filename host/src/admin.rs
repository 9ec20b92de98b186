//! The admin interface: `/livez`, `/readyz`, `/metrics`, `/status`. Nothing here changes
//! anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::app::LoadedApp;
use crate::database::Database;
use crate::health::Health;
use crate::telemetry::Metrics;
use crate::triggers::Triggers;
use crate::triggers::http::plain;

/// How long the database may take to answer a scrape or a status.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

pub struct Admin {
    pub app: Arc<LoadedApp>,
    pub triggers: Arc<Triggers>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// The pipeline's tables, where the app has a `postgres_url`.
    pub database: Option<Database>,
}

impl Admin {
    pub async fn handle(&self, request: &Request<Incoming>) -> Response<WasiBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "OK\n"),
            "/readyz" => self.ready(),
            "/metrics" => plain(StatusCode::OK, &self.metrics().await),
            "/status" => self.status().await,
            _ => plain(StatusCode::NOT_FOUND, "there is /livez, /readyz, /metrics and /status\n"),
        }
    }

    /// 200 when every stage can do its work, else 503 with the reasons.
    pub fn ready(&self) -> Response<WasiBody> {
        let mut reasons = self.health.reasons();
        for trigger in &self.triggers.kafka {
            let waiting = trigger.status.waiting();
            reasons.extend(waiting.map(|reason| format!("{}: {reason}", trigger.subscription().trigger_id)));
        }
        if reasons.is_empty() {
            return plain(StatusCode::OK, "OK\n");
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, &(reasons.join("\n") + "\n"))
    }

    /// The host's own metrics, then what the database's view of metrics says.
    async fn metrics(&self) -> String {
        let mut text = self.metrics.text();
        for (component, digest) in self.app.components.values().map(|c| (&c.id, &c.digest)) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "exagg_component_info{{component=\"{component}\",digest=\"{digest}\"}} 1");
        }
        let Some(database) = &self.database else { return text };
        let rows = database.rows("SELECT name, help, stream, value FROM public.exagg_metrics ORDER BY name, stream");
        match tokio::time::timeout(DATABASE_TIMEOUT, rows).await {
            Ok(Ok(rows)) => {
                let mut last = String::new();
                for row in &rows {
                    let column = |index| row.get(index).unwrap_or_default();
                    if column(0) != last {
                        column(0).clone_into(&mut last);
                        let _ = write!(text, "# HELP {last} {}\n# TYPE {last} gauge\n", column(1));
                    }
                    let stream = column(2).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    let _ = writeln!(text, "{last}{{stream=\"{stream}\"}} {}", column(3));
                }
                text + "exagg_database_up 1\n"
            }
            Ok(Err(error)) => {
                tracing::debug!("metrics of the database: {error:#}");
                text + "exagg_database_up 0\n"
            }
            Err(_) => text + "exagg_database_up 0\n",
        }
    }

    async fn status(&self) -> Response<WasiBody> {
        let body = json!({
            "app": self.app.name,
            "ready": self.ready().status() == StatusCode::OK,
            "stages": self.stages(),
            "streams": self.streams().await,
        });
        let body = Full::new(Bytes::from(body.to_string())).map_err(Error::from).boxed_unsync();
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn stages(&self) -> Vec<Value> {
        let partitions: BTreeMap<&str, Value> = self
            .triggers
            .kafka
            .iter()
            .map(|trigger| (trigger.subscription().trigger_id.as_str(), json!(trigger.status.all())))
            .collect();
        let stage = |trigger: &crate::app::TriggerSpec| {
            let component = self.app.components.get(&trigger.component);
            json!({
                "id": trigger.id,
                "trigger": trigger.kind,
                "component": trigger.component,
                "digest": component.map(|component| &component.digest),
                "partitions": partitions.get(trigger.id.as_str()),
            })
        };
        self.app.triggers.iter().map(stage).collect()
    }

    async fn streams(&self) -> Value {
        let Some(database) = &self.database else { return json!([]) };
        let statement = "SELECT coalesce(json_agg(to_json(s) ORDER BY stream), '[]') FROM public.stream_status AS s";
        match tokio::time::timeout(DATABASE_TIMEOUT, database.rows(statement)).await {
            Ok(Ok(rows)) => rows
                .first()
                .and_then(|row| serde_json::from_str(row.get(0)?).ok())
                .unwrap_or_else(|| json!({ "error": "the database answered nothing" })),
            Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
            Err(_) => json!({ "error": "the database did not answer in time" }),
        }
    }
}
