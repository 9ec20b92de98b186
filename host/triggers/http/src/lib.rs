//! The http trigger: routes to functions, `wasi:http` 0.2 and 0.3, a fresh instance a request.
//!
//! # Layout
//! - here: the trigger, and one request.
//! - [`route`]: which route a path takes.
//! - [`call`]: a request's instance.
//! - [`shared`]: answers that many requests share.
#![warn(missing_docs)]

mod call;
mod route;
mod shared;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use exagg_app::TriggerSpec;
use exagg_runtime::budget::plan::CallMemory;
use exagg_runtime::call_span;
use exagg_runtime::instance::{State, World};
use exagg_runtime::slot::Slot;
use exagg_runtime::trigger::{Context, StageStatus, Stop, Trigger};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::Instrument;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::handler::{ProxyHandler, ProxyPre};
use wasmtime_wasi_http::{Error, WasiBody};

use self::call::{Handler, Permit, Progress, Whole};
use self::route::{Matched, Table};
use self::shared::{Key, Look, Shared};

/// The settings as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    route: RouteSetting,
    #[serde(default)]
    executor: Option<Executor>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RouteSetting {
    Public(String),
    /// `{ private = true }`: for service chaining, which this host does not do.
    Private {
        #[serde(rename = "private")]
        _private: bool,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Executor {
    r#type: String,
}

/// The world that an http component exports: `wasi:http`, of either version.
pub struct HttpWorld;

#[async_trait]
impl World for HttpWorld {
    fn trigger_type(&self) -> &'static str {
        TYPE
    }

    fn name(&self) -> &'static str {
        "wasi:http"
    }

    fn memory(&self) -> CallMemory {
        CallMemory { eighths: 2, call_bytes: 4 << 20 }
    }

    fn check(&self, pre: &InstancePre<State>) -> wasmtime::Result<()> {
        proxy(pre.clone()).map(|_| ())
    }

    async fn instantiate(&self, pre: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<()> {
        proxy(pre.clone())?.instantiate_async(store).await.map(|_| ())
    }
}

/// All `[[trigger.http]]` of the app.
pub struct HttpTrigger {
    context: Context,
    table: Table,
    /// By the table's numbers.
    routes: Vec<Route>,
    shared: Shared,
}

#[async_trait]
impl Trigger for HttpTrigger {
    fn world(&self) -> Arc<dyn World> {
        Arc::new(HttpWorld)
    }

    fn add(&mut self, spec: &TriggerSpec, slot: Arc<Slot>) -> Result<()> {
        self.add_route(spec, slot)
    }

    fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Requests come through the listener, which calls [`HttpTrigger::handle`].
    async fn run(&self, stop: Stop) -> Result<()> {
        stop.readers.cancelled().await;
        Ok(())
    }

    fn status(&self) -> Vec<StageStatus> {
        Vec::new()
    }
}

struct Route {
    written: String,
    stage: String,
    slot: Arc<Slot>,
    /// Places for requests that wait for an instance.
    waiting: Semaphore,
}

/// The type of this trigger.
const TYPE: &str = "http";

/// Requests of one route that wait for an instance at one time.
const WAITING_MAX: usize = 256;
/// How long a request waits for an instance.
const WAITING_TIME_MAX: Duration = Duration::from_secs(10);

impl HttpTrigger {
    /// A trigger without routes yet.
    pub fn new(context: Context) -> Self {
        Self { context, table: Table::default(), routes: Vec::new(), shared: Shared::default() }
    }

    fn add_route(&mut self, trigger: &TriggerSpec, slot: Arc<Slot>) -> Result<()> {
        let in_trigger = || format!("[[trigger.http]] {}", trigger.id);
        let settings: Settings =
            serde_json::from_value(serde_json::Value::Object(trigger.config.clone())).with_context(in_trigger)?;
        if let Some(executor) = settings.executor {
            ensure!(executor.r#type == "http", "{}: executor {:?} is not known", in_trigger(), executor.r#type);
        }
        let RouteSetting::Public(text) = settings.route else {
            bail!(
                "{}: a private route is for service chaining (http://{}.spin.internal), which this host does not do",
                in_trigger(),
                trigger.component
            );
        };
        self.table.add(&text, self.routes.len()).with_context(in_trigger)?;
        let waiting = Semaphore::new(WAITING_MAX);
        self.routes.push(Route { written: text, stage: trigger.id.clone(), slot, waiting });
        Ok(())
    }

    /// Each stage's id and its route.
    pub fn stages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routes.iter().map(|route| (route.stage.as_str(), route.written.as_str()))
    }

    /// Answers one request.
    pub fn handle(&self, request: Request<Incoming>, client: SocketAddr) -> BoxFuture<'_, Response<WasiBody>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let found = self.table.find(&path).and_then(|matched| Some((self.routes.get(matched.number)?, matched)));
            let Some((route, matched)) = found else {
                return plain(StatusCode::NOT_FOUND, "there is nothing here\n");
            };
            match prepare(request, client, &matched) {
                Ok(request) => self.answer(matched.number, route, request).await,
                Err(error) => plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
            }
        })
    }

    /// By what is kept for many, or by a call.
    async fn answer(&self, number: usize, route: &Route, request: Request<WasiBody>) -> Response<WasiBody> {
        let (mut asked, body) = request.into_parts();
        let component = route.slot.current();
        let Some(key) = Key::of(number, &component.digest, &asked) else {
            return self.call(route, Request::from_parts(asked, body)).await;
        };
        let as_it_was = asked.clone();
        let flight = loop {
            let answer = match self.shared.look(&key, &asked) {
                Look::Call => break None,
                Look::Lead(flight) => break Some(flight),
                Look::Answer(answer) => Some(answer),
                Look::Wait(waiting) => waiting.answer(&asked).await,
            };
            if let Some(answer) = answer {
                self.context.metrics.shared_request(&route.stage, answer.status().as_u16());
                return answer;
            }
        };
        if flight.is_some() {
            for name in [http::header::IF_NONE_MATCH, http::header::IF_MODIFIED_SINCE] {
                asked.headers.remove(name);
            }
        }
        let answer = self.call(route, Request::from_parts(asked, body)).await;
        self.shared.landed(number, &as_it_was, answer, flight, component.account()).await
    }

    async fn call(&self, route: &Route, request: Request<WasiBody>) -> Response<WasiBody> {
        let started = Instant::now();
        let response = route.answer(request).instrument(call_span!(&*route.stage, "http request")).await;
        self.context.metrics.request(&route.stage, response.status().as_u16(), started.elapsed());
        response
    }
}

impl Route {
    async fn answer(&self, request: Request<WasiBody>) -> Response<WasiBody> {
        let Some(permit) = within_bounds(&self.waiting, WAITING_TIME_MAX, self.permit()).await.flatten() else {
            return busy("all instances are in use\n");
        };
        let progress = Arc::new(Progress::default());
        let state = Handler::new(Arc::clone(&self.slot), permit, Arc::clone(&progress));
        match ProxyHandler::new(state).handle((), request).await {
            Ok(response) => {
                progress.answered();
                response.map(|body| Whole::new(body, progress).boxed_unsync())
            }
            Err(error) => {
                tracing::error!(stage = %self.stage, "request failed: {error:#}");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the function failed\n")
            }
        }
    }

    async fn permit(&self) -> Option<Permit> {
        self.slot.current().permit(TYPE).await
    }
}

/// What is waited for, unless too many wait for it already or it takes too long.
async fn within_bounds<T>(places: &Semaphore, time_max: Duration, waited: impl Future<Output = T>) -> Option<T> {
    let _place = places.try_acquire().ok()?;
    tokio::time::timeout(time_max, waited).await.ok()
}

/// The host has no room for a request now.
pub fn busy(text: &str) -> Response<WasiBody> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A short answer of the host's own.
pub fn plain(status: StatusCode, text: &str) -> Response<WasiBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(Error::from).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A component that answers either version of the interface.
pub fn proxy(pre: InstancePre<State>) -> wasmtime::Result<ProxyPre<State>> {
    match wasmtime_wasi_http::p3::bindings::ServicePre::new(pre.clone()) {
        Ok(service) => Ok(ProxyPre::P3(service)),
        Err(_) => Ok(ProxyPre::P2(wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre)?)),
    }
}

/// The request as a function sees it: an absolute URI, and Spin's headers about the route.
fn prepare(request: Request<Incoming>, client: SocketAddr, matched: &Matched<'_>) -> Result<Request<WasiBody>> {
    let (mut parts, body) = request.into_parts();
    let host = parts
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| Some(parts.headers.get(http::header::HOST)?.to_str().ok()?.to_owned()))
        .context("the request names no host")?;
    let path_and_query = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    parts.uri = http::Uri::builder().scheme("http").authority(host.as_str()).path_and_query(path_and_query).build()?;
    let full_url = parts.uri.to_string();
    spin_headers(&mut parts.headers, &full_url, client, matched)?;
    Ok(Request::from_parts(parts, body.map_err(Error::from).boxed_unsync()))
}

fn spin_headers(headers: &mut HeaderMap, full_url: &str, client: SocketAddr, matched: &Matched<'_>) -> Result<()> {
    // What a client sends under these names is not the host's word.
    let claimed: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("spin-")).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut set = |name: &str, value: &str| -> Result<()> {
        headers.insert(http::HeaderName::try_from(name)?, HeaderValue::from_str(value)?);
        Ok(())
    };
    set("spin-full-url", full_url)?;
    set("spin-path-info", &matched.rest)?;
    set("spin-matched-route", matched.rooted)?;
    set("spin-raw-component-route", matched.written)?;
    set("spin-component-route", matched.prefix())?;
    set("spin-base-path", "/")?;
    set("spin-client-addr", &client.to_string())?;
    for (parameter, value) in &matched.parameters {
        let parameter = parameter.to_ascii_lowercase().replace('_', "-");
        set(&format!("spin-path-match-{parameter}"), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_wait_and_so_long() {
        let (places, short, long) = (Semaphore::new(1), Duration::from_millis(100), Duration::from_secs(60));
        assert_eq!(within_bounds(&places, long, async { 7 }).await, Some(7));
        // One that waits leaves no place for another, which is told at once.
        let first = within_bounds(&places, short, std::future::pending::<()>());
        let second = async { tokio::time::timeout(long, within_bounds(&places, long, async {})).await };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (None, Ok(None)));
        assert_eq!(within_bounds(&places, long, async { 7 }).await, Some(7), "the place is free again");
    }
}
