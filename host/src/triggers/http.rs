//! The http trigger: routes to functions, `wasi:http` 0.2 and 0.3, a fresh instance a request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::Sleep;
use tracing::Instrument;
use wasmtime::component::InstancePre;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::Context;
use crate::app::TriggerSpec;
use crate::call_span;
use crate::instance::{Component, State};
use crate::slot::{Call, Slot};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    route: RawRoute,
    #[serde(default)]
    executor: Option<Executor>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawRoute {
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

/// All `[[trigger.http]]` of the app.
#[derive(Default)]
pub struct HttpTrigger {
    routes: Vec<Route>,
}

struct Route {
    pattern: Pattern,
    stage: String,
    handler: ProxyHandler<Handler>,
}

/// Seconds that a response's body may take beyond the call itself.
const BODY_TIME: Duration = Duration::from_secs(30);

impl HttpTrigger {
    pub fn add(&mut self, trigger: &TriggerSpec, slot: Arc<Slot>) -> Result<()> {
        let in_trigger = || format!("[[trigger.http]] {}", trigger.id);
        let raw: Raw =
            serde_json::from_value(serde_json::Value::Object(trigger.config.clone())).with_context(in_trigger)?;
        if let Some(executor) = raw.executor {
            ensure!(executor.r#type == "http", "{}: executor {:?} is not known", in_trigger(), executor.r#type);
        }
        let RawRoute::Public(text) = raw.route else { return Ok(()) };
        let pattern = Pattern::parse(&text).with_context(in_trigger)?;
        ensure!(
            !self.routes.iter().any(|route| route.pattern.text == pattern.text),
            "{}: the route {text} is there twice",
            in_trigger()
        );
        let handler = ProxyHandler::new(Handler { slot });
        self.routes.push(Route { pattern, stage: trigger.id.clone(), handler });
        // The most specific route first.
        self.routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.rank()));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub fn stages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routes.iter().map(|route| (route.stage.as_str(), route.pattern.text.as_str()))
    }

    /// Answers one request.
    pub async fn handle(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        context: &Context,
    ) -> Response<WasiBody> {
        let path = request.uri().path().to_owned();
        let found = self.routes.iter().find_map(|route| Some((route, route.pattern.matches(&path)?)));
        let Some((route, matched)) = found else {
            return plain(StatusCode::NOT_FOUND, "there is nothing here\n");
        };
        let started = Instant::now();
        let response = match prepare(request, client, &route.pattern, &matched) {
            Ok(request) => {
                let answered = route.handler.handle((), request).instrument(call_span!(&*route.stage, "http request"));
                answered.await.unwrap_or_else(|error| {
                    tracing::error!(stage = %route.stage, "request failed: {error:#}");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the function failed\n")
                })
            }
            Err(error) => plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        context.metrics.request(&route.stage, response.status().as_u16(), started.elapsed());
        response
    }
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
fn prepare(
    request: Request<Incoming>,
    client: SocketAddr,
    pattern: &Pattern,
    matched: &Matched,
) -> Result<Request<WasiBody>> {
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
    spin_headers(&mut parts.headers, &full_url, client, pattern, matched)?;
    Ok(Request::from_parts(parts, body.map_err(Error::from).boxed_unsync()))
}

fn spin_headers(
    headers: &mut HeaderMap,
    full_url: &str,
    client: SocketAddr,
    pattern: &Pattern,
    matched: &Matched,
) -> Result<()> {
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
    set("spin-matched-route", &pattern.text)?;
    set("spin-raw-component-route", &pattern.text)?;
    set("spin-component-route", pattern.text.trim_end_matches("/..."))?;
    set("spin-base-path", "/")?;
    set("spin-client-addr", &client.to_string())?;
    for (parameter, value) in &matched.parameters {
        set(&format!("spin-path-match-{}", parameter.to_ascii_lowercase()), value)?;
    }
    Ok(())
}

/// A route: exact (`/a/b`), with parameters (`/a/:b`), or with everything below (`/a/...`).
#[derive(Debug)]
struct Pattern {
    text: String,
    segments: Vec<Segment>,
    below: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Exact(String),
    Parameter(String),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Matched {
    parameters: BTreeMap<String, String>,
    /// The path behind a `/...`.
    rest: String,
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        ensure!(text.starts_with('/'), "the route {text:?} must begin with /");
        let (path, below) = match text.strip_suffix("/...") {
            Some(path) => (path, true),
            None => (text, false),
        };
        ensure!(!path.contains("..."), "the route {text:?} may have ... only at its end");
        let segment = |segment: &str| match segment.strip_prefix(':') {
            Some(name) => Segment::Parameter(name.to_owned()),
            None => Segment::Exact(segment.to_owned()),
        };
        Ok(Self { text: text.to_owned(), segments: segments(path).into_iter().map(segment).collect(), below })
    }

    /// Exact before parameters before `/...`; longer before shorter.
    fn rank(&self) -> (bool, usize, usize) {
        let exact = self.segments.iter().filter(|segment| matches!(segment, Segment::Exact(_))).count();
        (!self.below, self.segments.len(), exact)
    }

    fn matches(&self, path: &str) -> Option<Matched> {
        let path = segments(path);
        if path.len() < self.segments.len() || (!self.below && path.len() > self.segments.len()) {
            return None;
        }
        let mut matched = Matched::default();
        for (segment, part) in self.segments.iter().zip(&path) {
            match segment {
                Segment::Exact(exact) if exact != part => return None,
                Segment::Exact(_) => {}
                Segment::Parameter(name) => {
                    matched.parameters.insert(name.clone(), (*part).to_owned());
                }
            }
        }
        matched.rest = path[self.segments.len()..].iter().flat_map(|part| ["/", part]).collect();
        Some(matched)
    }
}

/// Makes an instance a request.
struct Handler {
    slot: Arc<Slot>,
}

impl HandlerState for Handler {
    type StoreData = State;
    type WorkerExpiration = Deadline;
    type WorkerState = OneRequest;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Deadline, OneRequest>> {
        let component = self.slot.current();
        let time_max = component.limits().call_time_max;
        let permit = component.permit("http").await;
        let mut store = component.store(&component.watch(), Some(component.lanes().turn()));
        let proxy = proxy(component.pre().clone())?.instantiate_async(&mut store).await.inspect_err(|_| {
            self.slot.report(&component, Call::Bad("no instance could be made"));
        })?;
        let expiration = Deadline(Box::pin(tokio::time::sleep(time_max + BODY_TIME)));
        let state = OneRequest { slot: Arc::clone(&self.slot), component, time_max, _permit: permit };
        Ok(Instance { store, proxy, view: <State as WasiHttpView>::http, expiration, state })
    }
}

/// An instance takes one request.
struct OneRequest {
    slot: Arc<Slot>,
    component: Arc<Component>,
    time_max: Duration,
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
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

    fn drop(&self, _: Store<State>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            tracing::error!(component = %self.slot.id, "the function failed: {error:#}");
            self.slot.report(&self.component, Call::Bad("a request failed"));
        } else {
            self.slot.report(&self.component, Call::Good);
        }
    }
}

/// Ends an instance that lives too long, whatever it does.
struct Deadline(Pin<Box<Sleep>>);

impl WorkerExpiration for Deadline {
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, _: WorkerStatus, _: Instant) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> Option<Matched> {
        Pattern::parse(pattern).unwrap().matches(path)
    }

    #[test]
    fn routes_match_as_in_spin() {
        assert!(matches("/", "/").is_some());
        assert!(matches("/", "/a").is_none());
        assert!(matches("/a", "/a/").is_some());
        assert!(matches("/a", "/a/b").is_none());
        assert_eq!(matches("/a/...", "/a/b/c").unwrap().rest, "/b/c");
        assert_eq!(matches("/a/...", "/a").unwrap().rest, "");
        assert!(matches("/a/...", "/ab").is_none());
        assert_eq!(matches("/...", "/x/y").unwrap().rest, "/x/y");
        assert_eq!(matches("/a/:id", "/a/7").unwrap().parameters["id"], "7");
    }

    #[test]
    fn the_most_specific_route_comes_first() {
        let mut patterns: Vec<_> =
            ["/...", "/a/...", "/a/:id", "/a/b"].iter().map(|text| Pattern::parse(text).unwrap()).collect();
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
        let order: Vec<_> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
        assert_eq!(order, ["/a/b", "/a/:id", "/a/...", "/..."]);
    }

    #[test]
    fn routes_that_cannot_be_right_are_refused() {
        assert!(Pattern::parse("a").is_err());
        assert!(Pattern::parse("/a/.../b").is_err());
    }
}
