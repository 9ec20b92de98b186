//! Outbound HTTP, WASI 0.2 and 0.3, behind the allow-list. Redirects are the guest's business:
//! each is a request of its own and is checked again.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use exagg_app::ComponentSpec;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::outbound_networking::{AllowedHosts, Destination};
use super::waits::{Wait, Waits};
use super::{Call, Configure, Factor, Link};
use crate::budget::{Account, Held, Limits, Resource};

/// Time-outs where the guest sets none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// From the request to the end of the answer's body, whatever the guest sets.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a component's failed requests are logged at most.
const FAILURES_LOGGED_EVERY: Duration = Duration::from_secs(5);
/// Requests of one component that may be under way, over all its calls.
const UNDER_WAY_MAX: u64 = 64;

/// Serves `wasi:http` to guests, each request behind its component's allow-list.
pub struct OutboundHttpFactor;

/// One component's allow-list, and its requests that are under way.
#[derive(Clone)]
pub struct ComponentHttp {
    allowed: Arc<AllowedHosts>,
    requests: Arc<Requests>,
}

/// Requests under way; the first that is refused is logged, and all are counted by the account.
struct Requests {
    account: Arc<Account>,
    was_refused: AtomicBool,
    failed_at: Mutex<Option<Instant>>,
}

/// One instance's context.
pub struct InstanceHttp {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

/// What is asked before each request.
struct Hooks {
    component: ComponentHttp,
    waits: Waits,
}

impl Factor for OutboundHttpFactor {
    type Component = ComponentHttp;
    type Instance = InstanceHttp;

    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<Self::Component> {
        Ok(ComponentHttp {
            allowed: Arc::clone(&context.allowed_hosts),
            requests: Arc::new(Requests::new(&context.account)),
        })
    }

    fn prepare(&self, component: &Self::Component, call: &Call) -> Self::Instance {
        let hooks = Hooks { component: component.clone(), waits: call.waits.clone() };
        InstanceHttp { ctx: WasiHttpCtx::new(), hooks }
    }
}

impl<S: WasiHttpView + 'static> Link<S> for OutboundHttpFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)
    }
}

impl Requests {
    fn new(account: &Arc<Account>) -> Self {
        let limits = Limits::NONE.with(Resource::Requests, UNDER_WAY_MAX);
        let account = account.below(&format!("the requests of {}", account.owner()), limits);
        Self { account, was_refused: AtomicBool::new(false), failed_at: Mutex::default() }
    }

    /// The guest is told the kind of error alone, and often passes on less.
    fn failed(&self, component: &str, place: &str, error: &Error) {
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if failed_at.is_none_or(|failed_at| failed_at.elapsed() >= FAILURES_LOGGED_EVERY) {
            *failed_at = Some(Instant::now());
            tracing::warn!("component {component}: the request to {place} failed: {error:?}");
        }
    }

    fn begin(&self) -> Result<Held, Error> {
        self.account.hold(Resource::Requests, 1).map_err(|exceeded| {
            if !self.was_refused.swap(true, Ordering::Relaxed) {
                tracing::warn!("{exceeded}; more of these are counted, not logged");
            }
            Error::ConnectionLimitReached
        })
    }
}

impl InstanceHttp {
    /// As wasmtime's own implementation wants it.
    pub fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { ctx: &mut self.ctx, table, hooks: &mut self.hooks }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let (ComponentHttp { allowed, requests }, waits) = (self.component.clone(), self.waits.clone());
        Box::new(async move {
            let destination = destination(request.uri())?;
            check(&allowed, destination)?;
            // Neither path nor query: there may be a key in them.
            let Destination { scheme, host, port } = destination;
            let place = format!("{scheme}://{host}:{port}");
            let held = requests.begin()?;
            let deadline = Instant::now() + TOTAL_TIMEOUT;
            let wait = waits.begin(format!("an answer of {place}"));
            let sent = wasmtime_wasi_http::default_send_request(request, Some(bounded(options)));
            let answer = timeout_at(deadline, sent).await.unwrap_or(Err(Error::HttpResponseTimeout));
            let (response, io) = answer.inspect_err(|error| requests.failed(allowed.component(), &place, error))?;
            let io = async move { timeout_at(deadline, io).await.unwrap_or(Err(Error::HttpResponseTimeout)) };
            let under_way = |body: WasiBody| UnderWay::new(body, (held, Some(wait)), deadline);
            let response = response.map(|body| under_way(body.boxed_unsync()).boxed_unsync());
            Ok((response, Box::new(io) as Io))
        })
    }
}

/// The guest's time-outs, or ours where it has none.
fn bounded(given: Option<RequestOptions>) -> RequestOptions {
    let given = given.unwrap_or_default();
    let bound = |given: Option<Duration>, usual: Duration| Some(given.unwrap_or(usual).min(TOTAL_TIMEOUT));
    RequestOptions {
        connect_timeout: bound(given.connect_timeout, CONNECT_TIMEOUT),
        first_byte_timeout: bound(given.first_byte_timeout, ANSWER_TIMEOUT),
        between_bytes_timeout: bound(given.between_bytes_timeout, ANSWER_TIMEOUT),
    }
}

/// An answer's body: the request is under way until it ends, is dropped, or takes too long.
struct UnderWay {
    body: WasiBody,
    guards: Option<Guards>,
    deadline: Pin<Box<Sleep>>,
}

/// Held while it is under way.
type Guards = (Held, Option<Wait>);

impl UnderWay {
    fn new(body: WasiBody, guards: Guards, deadline: Instant) -> Self {
        Self { body, guards: Some(guards), deadline: Box::pin(sleep_until(deadline)) }
    }
}

impl Body for UnderWay {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // The deadline first: a body that never makes one wait is not without end for that.
        let frame = if self.deadline.as_mut().poll(context).is_ready() {
            Some(Err(Error::HttpResponseTimeout))
        } else {
            std::task::ready!(Pin::new(&mut self.body).poll_frame(context))
        };
        if !matches!(frame, Some(Ok(_))) {
            self.guards = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn destination(uri: &http::Uri) -> Result<Destination<'_>, Error> {
    let scheme = uri.scheme_str().unwrap_or("https");
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
    let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    Ok(Destination { scheme, host, port })
}

fn check(allowed: &AllowedHosts, destination: Destination<'_>) -> Result<(), Error> {
    allowed.check(destination).map_err(|error| {
        tracing::warn!("{error}");
        Error::HttpRequestDenied
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    /// Take out: the guard in `UnderWay`.
    #[tokio::test]
    async fn a_request_is_under_way_until_its_answer_ends() {
        let component = Account::root("component a", Limits::NONE);
        let requests = Requests::new(&component);
        let answer = || {
            let body = Full::new(Bytes::from_static(b"answer")).map_err(|never| match never {}).boxed_unsync();
            UnderWay::new(body, (requests.begin().unwrap(), None), Instant::now() + TOTAL_TIMEOUT)
        };
        let mut answers: Vec<_> = (0..UNDER_WAY_MAX).map(|_| answer()).collect();
        assert!(matches!(requests.begin(), Err(Error::ConnectionLimitReached)));
        assert_eq!(component.used(Resource::Requests), UNDER_WAY_MAX);
        let mut last = answers.pop().unwrap();
        assert!(matches!(last.frame().await, Some(Ok(_))));
        assert!(requests.begin().is_err(), "its end was not seen yet");
        assert!(last.frame().await.is_none());
        assert!(requests.begin().is_ok());
        drop(answers);
        assert_eq!(component.used(Resource::Requests), 0);
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_ends() {
        let component = Account::root("component a", Limits::NONE);
        let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        let held = Requests::new(&component).begin().unwrap();
        let mut late = UnderWay::new(body, (held, None), Instant::now());
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(matches!(late.frame().await, Some(Err(Error::HttpResponseTimeout))));
        assert_eq!(component.used(Resource::Requests), 0);
    }

    #[test]
    fn no_time_out_of_a_guest_is_longer_than_the_whole_may_take() {
        let hours = Some(Duration::from_hours(5));
        let asked = RequestOptions { connect_timeout: hours, first_byte_timeout: hours, between_bytes_timeout: None };
        let options = bounded(Some(asked));
        assert_eq!(options.first_byte_timeout, Some(TOTAL_TIMEOUT));
        assert_eq!(options.between_bytes_timeout, Some(ANSWER_TIMEOUT));
    }
}
