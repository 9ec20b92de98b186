//! The http trigger: routes to functions, `wasi:http` 0.2 and 0.3, a fresh instance a request.
#![warn(missing_docs)]

mod route;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use exagg_app::TriggerSpec;
use exagg_runtime::budget::plan::CallMemory;
use exagg_runtime::call_span;
use exagg_runtime::instance::{Component, State, World};
use exagg_runtime::slot::{CallResult, Slot};
use exagg_runtime::trigger::{Context, StageStatus, Stop, Trigger};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tracing::Instrument;
use wasmtime::component::InstancePre;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use self::route::{Matched, Table};

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

/// Leave to make an instance, held as long as the instance is there.
type Permit = tokio::sync::OwnedSemaphorePermit;

/// How long a response's body may take beyond the call itself.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How much later than its own end a call that has not answered is given up.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// Requests of one route that wait for an instance at one time.
const WAITING_MAX: usize = 256;
/// How long a request waits for an instance.
const WAITING_TIME_MAX: Duration = Duration::from_secs(10);

impl HttpTrigger {
    /// A trigger without routes yet.
    pub fn new(context: Context) -> Self {
        Self { context, table: Table::default(), routes: Vec::new() }
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
            let started = Instant::now();
            let response = match prepare(request, client, &matched) {
                Ok(request) => route.answer(request).instrument(call_span!(&*route.stage, "http request")).await,
                Err(error) => plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
            };
            self.context.metrics.request(&route.stage, response.status().as_u16(), started.elapsed());
            response
        })
    }
}

impl Route {
    async fn answer(&self, request: Request<WasiBody>) -> Response<WasiBody> {
        let Some(permit) = within_bounds(&self.waiting, WAITING_TIME_MAX, self.permit()).await.flatten() else {
            return busy("all instances are in use\n");
        };
        let progress = Arc::new(Progress::default());
        let state =
            Handler { slot: Arc::clone(&self.slot), permit: Mutex::new(Some(permit)), progress: Arc::clone(&progress) };
        match ProxyHandler::new(state).handle((), request).await {
            Ok(response) => {
                progress.answered.store(true, Ordering::Release);
                response.map(|body| Whole { body, progress }.boxed_unsync())
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

/// How far a request has come, for its instance and for the body of its response.
#[derive(Default)]
struct Progress {
    /// The response has its head.
    answered: AtomicBool,
    /// The instance was ended because its time was over while it waited: for its client, mostly.
    expired: AtomicBool,
    /// The instance did not come to its own end.
    failed: AtomicBool,
}

/// A body that ends with an error when the function did not end it: cut off, it must not look whole.
struct Whole {
    body: WasiBody,
    progress: Arc<Progress>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() && self.progress.failed.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Makes the instance for one request.
struct Handler {
    slot: Arc<Slot>,
    permit: Mutex<Option<Permit>>,
    progress: Arc<Progress>,
}

impl HandlerState for Handler {
    type StoreData = State;
    type WorkerExpiration = Deadline;
    type WorkerState = OneRequest;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Deadline, OneRequest>> {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let permit = permit.ok_or_else(|| wasmtime::format_err!("a request has one instance"))?;
        let component = self.slot.current();
        let time_max = component.limits().call_time_max;
        let mut store = component.store();
        let proxy = proxy(component.pre().clone())?.instantiate_async(&mut store).await.inspect_err(|_| {
            self.slot.record(&component, CallResult::Bad("no instance could be made"));
        })?;
        let progress = Arc::clone(&self.progress);
        let expiration = Deadline::new(time_max, Arc::clone(&progress));
        let state = OneRequest { slot: Arc::clone(&self.slot), component, time_max, progress, _permit: permit };
        Ok(Instance { store, proxy, view: <State as WasiHttpView>::http, expiration, state })
    }
}

/// An instance takes one request.
struct OneRequest {
    slot: Arc<Slot>,
    component: Arc<Component>,
    time_max: Duration,
    progress: Arc<Progress>,
    _permit: Permit,
}

impl WorkerState for OneRequest {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, _: usize, total: usize) -> ShouldAccept {
        if total == 0 { ShouldAccept::Yes } else { ShouldAccept::Never }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State>,
        (): (),
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(tokio::time::sleep(self.time_max))
    }

    fn drop(&self, store: Store<State>, result: Result<(), wasmtime::Error>) {
        let expired = self.progress.expired.load(Ordering::Acquire);
        let call = match result {
            Ok(()) => CallResult::Good,
            Err(_) if store.data().lacked_room() => {
                tracing::warn!(component = %self.slot.id, "a request failed for want of memory that others hold");
                CallResult::Neutral
            }
            // A client that sends or reads slowly says nothing of the component.
            Err(_) if expired => {
                let at = if self.progress.answered.load(Ordering::Acquire) { "its response" } else { "a request" };
                tracing::warn!(component = %self.slot.id, "the function waited too long over {at}: it is given up");
                CallResult::Neutral
            }
            Err(error) => {
                tracing::error!(component = %self.slot.id, "the function failed: {error:#}");
                CallResult::Bad("a request failed")
            }
        };
        // Before the store goes, and with it the other end of the body.
        self.progress.failed.store(!matches!(call, CallResult::Good), Ordering::Release);
        self.slot.record(&self.component, call);
        drop(store);
    }
}

/// Ends an instance that lives too long, whatever it does: soon where it has not answered by its time, and
/// later where its response is still read.
struct Deadline {
    answer: Pin<Box<Sleep>>,
    body: Pin<Box<Sleep>>,
    progress: Arc<Progress>,
}

impl Deadline {
    fn new(time_max: Duration, progress: Arc<Progress>) -> Self {
        let sleep = |time| Box::pin(tokio::time::sleep(time));
        Self { answer: sleep(time_max + ANSWER_GRACE), body: sleep(time_max + BODY_TIME), progress }
    }

    fn poll_over(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let answered = self.progress.answered.load(Ordering::Acquire);
        // Either wakes the worker at its time, which then looks which of them counts.
        ready!(if answered { &mut self.body } else { &mut self.answer }.as_mut().poll(cx));
        self.progress.expired.store(true, Ordering::Release);
        Poll::Ready(())
    }
}

impl WorkerExpiration for Deadline {
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, _: WorkerStatus, _: Instant) -> Poll<()> {
        self.poll_over(cx)
    }
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

    #[tokio::test]
    async fn a_body_that_was_cut_off_does_not_look_whole() {
        for failed in [false, true] {
            let progress = Arc::new(Progress { failed: failed.into(), ..Progress::default() });
            let body = Full::new(Bytes::from_static(b"half")).map_err(Error::from).boxed_unsync();
            let mut whole = Whole { body, progress };
            assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
            assert_eq!(whole.frame().await.is_some_and(|end| end.is_err()), failed);
        }
    }

    #[tokio::test]
    async fn a_request_has_less_time_than_its_response() {
        let over = async |answered: bool| {
            let progress = Arc::new(Progress { answered: answered.into(), ..Progress::default() });
            let mut deadline = Deadline::new(Duration::ZERO, Arc::clone(&progress));
            let over = std::future::poll_fn(|cx| deadline.poll_over(cx));
            let over = tokio::time::timeout(ANSWER_GRACE * 4, over).await.is_ok();
            assert_eq!(progress.expired.load(Ordering::Acquire), over);
            over
        };
        assert!(over(false).await, "nothing was answered");
        assert!(!over(true).await, "the response is still read");
    }
}
