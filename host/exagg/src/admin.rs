//! The admin interface: `/livez`, `/readyz`, `/metrics`, `/status`; and what changes things
//! (`POST /swap/…`, `/swap-back/…`), for who may open the socket in the state directory or has the
//! token. A browser's page of another origin gets nothing.

pub mod budget;
mod origin;
mod prometheus;
mod used;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exagg_app::CODE_BYTES_MAX;
use exagg_app::TriggerSpec;
use exagg_clients::database::Database;
use exagg_common::printable::{printable, printable_lines};
use exagg_common::template::Secret;
use exagg_runtime::app::LoadedApp;
use exagg_runtime::health::Health;
use exagg_runtime::metrics::Metrics;
use exagg_runtime::trigger::StageStatus;
use exagg_trigger_http::plain;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, WasiBody};

use self::prometheus::{gauges, head, label};
use crate::swap::Swaps;
use crate::triggers::Triggers;

/// How long a component may take to arrive.
const CODE_TIME_MAX: Duration = Duration::from_secs(60);
/// Questions to the database at a time.
pub const ASKING_MAX: usize = 2;
/// How long the database may take to answer a scrape or a status.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the body of a request that is refused is waited for.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

pub struct Admin {
    pub app: Arc<LoadedApp>,
    pub triggers: Arc<Triggers>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// The pipeline's tables, where the app has a `postgres_url`.
    pub database: Option<Database>,
    pub swaps: Arc<Swaps>,
    pub token: Option<Secret>,
    /// Who asks the database on behalf of this address: few at a time, for anybody may ask.
    pub asking: Semaphore,
    /// Names under which the address may be asked, beside IP addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The socket in the state directory: the file system says who may.
    Socket,
    Network,
}

/// Digests are compared, all of them whatever they say: the time it takes tells nothing of the token, not
/// even its length.
fn is_same(token: &[u8], given: &[u8]) -> bool {
    Sha256::digest(token).as_slice().ct_eq(Sha256::digest(given).as_slice()).into()
}

/// Why something was not changed.
fn refusal(status: StatusCode, error: &anyhow::Error) -> Response<WasiBody> {
    plain(status, &format!("{}\n", printable_lines(&format!("{error:#}"))))
}

/// Takes what comes and keeps nothing: who is still sending when the connection ends sees a broken
/// pipe, and not the answer. Only for a while: nobody is trusted here yet.
async fn discard(body: Incoming) {
    let mut body = Limited::new(body, CODE_BYTES_MAX);
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whether it came whole or not, the answer is the same.
    _ = tokio::time::timeout(DISCARD_TIME_MAX, all).await;
}

impl Admin {
    pub async fn handle(&self, request: Request<Incoming>, through: Through) -> Response<WasiBody> {
        let mut response = match self.refused(&request, through) {
            Some(refused) => {
                discard(request.into_body()).await;
                refused
            }
            None => self.answer(request, through).await,
        };
        origin::protect(response.headers_mut());
        response
    }

    /// The answer to a probe, which nothing has to be waited for.
    pub fn probe(&self, request: &Request<Incoming>, through: Through) -> Option<Response<WasiBody>> {
        let answer = match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "OK\n"),
            "/readyz" => self.ready(),
            _ => return None,
        };
        let mut response = self.refused(request, through).unwrap_or(answer);
        origin::protect(response.headers_mut());
        Some(response)
    }

    /// Who has the socket is no page in a browser.
    fn refused(&self, request: &Request<Incoming>, through: Through) -> Option<Response<WasiBody>> {
        if through == Through::Socket {
            return None;
        }
        let refused = origin::check(request.uri(), request.headers(), &self.hosts).err()?;
        Some(plain(refused.status(), &format!("{refused}\n")))
    }

    async fn answer(&self, request: Request<Incoming>, through: Through) -> Response<WasiBody> {
        match *request.method() {
            Method::GET | Method::HEAD => self.tell(request.uri().path()).await,
            Method::POST if through == Through::Socket || self.has_token(&request) => self.change(request).await,
            Method::POST => {
                discard(request.into_body()).await;
                plain(
                    StatusCode::UNAUTHORIZED,
                    "changing things needs the host's admin token (EXAGG_ADMIN_TOKEN on both sides), or its socket\n",
                )
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n"),
        }
    }

    fn has_token(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match (&self.token, given) {
            (Some(token), Some(given)) => is_same(token.expose().as_bytes(), given),
            _ => false,
        }
    }

    async fn change(&self, request: Request<Incoming>) -> Response<WasiBody> {
        let path = request.uri().path().to_owned();
        let changed = if let Some(id) = path.strip_prefix("/swap-back/") {
            self.swaps.back(id)
        } else if let Some(id) = path.strip_prefix("/swap/") {
            let _place = self.swaps.place().await;
            match tokio::time::timeout(CODE_TIME_MAX, Limited::new(request.into_body(), CODE_BYTES_MAX).collect()).await
            {
                Ok(Ok(code)) => self.swaps.swap(id, code.to_bytes()).await,
                Ok(Err(error)) => Err(anyhow::anyhow!("the code did not arrive: {error}")),
                Err(_) => Err(anyhow::anyhow!("the code did not arrive within {CODE_TIME_MAX:?}")),
            }
        } else {
            return plain(StatusCode::NOT_FOUND, "there is /swap/COMPONENT and /swap-back/COMPONENT\n");
        };
        let id = path.rsplit('/').next().unwrap_or_default();
        match changed {
            Ok(digest) => plain(StatusCode::OK, &format!("{digest}\n")),
            Err(error) if !self.swaps.has(id) => refusal(StatusCode::NOT_FOUND, &error),
            Err(error) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &error),
        }
    }

    async fn tell(&self, path: &str) -> Response<WasiBody> {
        match path {
            "/livez" => plain(StatusCode::OK, "OK\n"),
            "/readyz" => self.ready(),
            "/metrics" => plain(StatusCode::OK, &self.metrics().await),
            "/status" => self.status().await,
            _ => plain(StatusCode::NOT_FOUND, "there is /livez, /readyz, /metrics and /status\n"),
        }
    }

    /// 200 when every stage can do its work, else 503 with the reasons. Where requests are served, a scheduled
    /// function that fails (whose external API is away, say) does not turn them away; it is told all the same.
    pub fn ready(&self) -> Response<WasiBody> {
        let (reasons, failures) = self.reasons();
        let (status, head) =
            if reasons.is_empty() { (StatusCode::OK, "OK\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "") };
        let lines = reasons.iter().chain(&failures).map(|text| format!("{}\n", printable(text)));
        plain(status, &lines.fold(head.to_owned(), |body, line| body + &line))
    }

    /// What keeps the host from being ready, and what fails beside that.
    pub fn reasons(&self) -> (Vec<String>, Vec<String>) {
        let (mut reasons, mut failures) = (self.health.reasons(), Vec::new());
        for StageStatus { stage, not_ready, failing, .. } in self.triggers.status() {
            reasons.extend(not_ready.map(|reason| format!("{stage}: {reason}")));
            failures.extend(failing.map(|reason| format!("{stage}: {reason}")));
        }
        if !self.triggers.serve_requests() {
            reasons.append(&mut failures);
        }
        (reasons, failures)
    }

    /// The host's own metrics, then what the database's view of metrics says.
    async fn metrics(&self) -> String {
        let mut text =
            self.metrics.text() + &self.components() + &budget::metrics(&self.app) + &used::metrics(&self.app);
        let Some(database) = &self.database else { return text };
        let samples = self.one_of_few(exagg_pipeline::status::metrics(database));
        let samples = match tokio::time::timeout(DATABASE_TIMEOUT, samples).await {
            Ok(Ok(samples)) => Some(samples),
            Ok(Err(error)) => {
                tracing::debug!("metrics of the database: {error:#}");
                None
            }
            Err(_) => None,
        };
        text += &gauges(samples.as_deref().unwrap_or_default());
        text += &head("exagg_database_up", "Whether the database gave its metrics: 1 or 0.", "gauge");
        text + &format!("exagg_database_up {}\n", i32::from(samples.is_some()))
    }

    /// Which version of each component runs.
    fn components(&self) -> String {
        let mut text = head("exagg_component_info", "The component's version that runs, by its digest.", "gauge");
        for (component, slot) in &self.app.components {
            let digest = slot.status().digest;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "exagg_component_info{{component=\"{}\",digest=\"{}\"}} 1",
                label(component),
                label(&digest)
            );
        }
        let help = "Whether the last version that was swapped in was taken back: 1 or 0.";
        text += &head("exagg_component_rolled_back", help, "gauge");
        for (component, slot) in &self.app.components {
            let taken_back = i32::from(slot.status().rolled_back.is_some());
            let _ = writeln!(text, "exagg_component_rolled_back{{component=\"{}\"}} {taken_back}", label(component));
        }
        text
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

    /// The stages with their versions, partitions and troubles.
    pub fn stages(&self) -> Vec<Value> {
        let statuses: BTreeMap<String, StageStatus> =
            self.triggers.status().into_iter().map(|status| (status.stage.clone(), status)).collect();
        let stage = |trigger: &TriggerSpec| {
            let slot = self.app.components.get(&trigger.component);
            let status = slot.map(|slot| slot.status());
            let mut stage = json!({
                "id": trigger.id,
                "trigger": trigger.kind,
                "component": trigger.component,
                "partitions": statuses.get(&trigger.id).map(|status| &status.partitions),
                "not_ready": statuses.get(&trigger.id).and_then(|status| status.not_ready.as_deref()),
                "failing": statuses.get(&trigger.id).and_then(|status| status.failing.as_deref()),
                "held": slot.map(|slot| budget::held(slot.current().account())),
            });
            if let (Value::Object(stage), Value::Object(status)) = (&mut stage, json!(status)) {
                stage.extend(status);
            }
            stage
        };
        self.app.triggers.iter().map(stage).collect()
    }

    /// Each question is a connection of its own.
    async fn one_of_few<T>(&self, question: impl Future<Output = T>) -> T {
        let _permit = self.asking.acquire().await;
        question.await
    }

    async fn streams(&self) -> Value {
        let Some(database) = &self.database else { return json!([]) };
        let streams = self.one_of_few(exagg_pipeline::status::streams(database));
        match tokio::time::timeout(DATABASE_TIMEOUT, streams).await {
            Ok(Ok(streams)) => streams,
            Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
            Err(_) => json!({ "error": "the database did not answer in time" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_or_it_is_not() {
        assert!(is_same(b"token", b"token"));
        for given in [&b""[..], b"toke", b"tokens", b"Token", b"token\xff"] {
            assert!(!is_same(b"token", given), "{given:?}");
        }
    }

    #[test]
    fn errors_forge_no_line() {
        use http_body_util::BodyExt as _;
        let error = anyhow::anyhow!("it is broken:\nOK\u{1b}[2J");
        let response = refusal(StatusCode::UNPROCESSABLE_ENTITY, &error);
        let body = futures::executor::block_on(response.into_body().collect()).unwrap().to_bytes();
        assert_eq!(&body[..], b"it is broken:\n  OK\\u{1b}[2J\n");
    }
}
