//! Bytes of a connection to the admin address: whoever does not have the token changes nothing, and is not
//! told it.
#![allow(clippy::unwrap_used, reason = "a target says by panicking what does not hold")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, LazyLock};

use exagg::admin::{Admin, Through};
use exagg::swap::Swaps;
use exagg::triggers::{Settings, Triggers};
use exagg_common::clock::SystemClock;
use exagg_common::template::Secret;
use exagg_runtime::app::LoadedApp;
use exagg_runtime::budget::{Account, Limits};
use exagg_runtime::metrics::Metrics;
use exagg_runtime::trigger::Context;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

const TOKEN: &str = "geheim-7f3a";
const PIPE_BYTES: usize = 64 * 1024;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

/// The admin interface of an app that has nothing in it.
static ADMIN: LazyLock<Admin> = LazyLock::new(|| {
    let app = Arc::new(LoadedApp {
        name: "empty".to_owned(),
        triggers: Vec::new(),
        components: BTreeMap::new(),
        account: Account::root("the host", Limits::NONE),
    });
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Arc::new(SystemClock);
    let context = Context { metrics: Arc::clone(&metrics), clock, drain_max: std::time::Duration::from_secs(30) };
    Admin {
        swaps: Arc::new(Swaps::new(Arc::clone(&app), Arc::clone(&metrics))),
        token: Some(Secret::new(TOKEN)),
        asking: Semaphore::new(2),
        hosts: Vec::new(),
        triggers: Arc::new(Triggers::new(&context, Settings::default())),
        health: Arc::default(),
        database: None,
        app,
        metrics,
    }
});

pub fn check(bytes: &[u8]) {
    let answer = RUNTIME.block_on(converse(bytes));
    let token = TOKEN.as_bytes();
    let has = |text: &[u8]| text.windows(token.len()).any(|window| window == token);
    assert!(!has(&answer) || has(bytes), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
}

/// Sends the bytes over a connection that is closed behind them; gives what comes back.
async fn converse(bytes: &[u8]) -> Vec<u8> {
    let (client, server) = duplex(PIPE_BYTES);
    let (mut reader, mut writer) = split(client);
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let send = async {
        // A server that has heard enough hangs up.
        if writer.write_all(bytes).await.is_ok() {
            let _ = writer.shutdown().await;
        }
    };
    let mut answer = Vec::new();
    let (_, (), _) = tokio::join!(connection, send, reader.read_to_end(&mut answer));
    answer
}

/// The host's own answer, judged beside the request.
async fn answer(
    request: Request<Incoming>,
) -> Response<impl Body<Data = Bytes, Error = impl Into<Box<dyn Error + Send + Sync>>>> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let right = format!("Bearer {TOKEN}");
    let has_token = request.headers().get(header::AUTHORIZATION).is_some_and(|value| value == right.as_str());
    let is_plain = is_plain(request.uri(), request.headers());
    let response = ADMIN.handle(request, Through::Network).await;
    let status = response.status();
    assert!(status != StatusCode::OK || matches!(method, Method::GET | Method::HEAD), "{method} {path}");
    if matches!(status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST) {
        assert!(!is_plain, "a request that no page of another origin can send is refused: {method} {path}");
        return response;
    }
    match method {
        Method::POST if has_token => assert_eq!(status, StatusCode::NOT_FOUND, "there is nothing to change: {path}"),
        Method::POST => assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}"),
        Method::GET | Method::HEAD => {
            let is_known = matches!(path.as_str(), "/livez" | "/readyz" | "/metrics" | "/status");
            assert_eq!(status, if is_known { StatusCode::OK } else { StatusCode::NOT_FOUND }, "{path}");
        }
        _ => assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}"),
    }
    response
}

/// A request as a scraper sends it: to the address by its number, in the header alone, and from no page.
fn is_plain(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_number = hosts.next().is_some_and(|host| host == "127.0.0.1:9464") && hosts.next().is_none();
    is_number
        && uri.authority().is_none()
        && !headers.contains_key(header::ORIGIN)
        && !headers.contains_key("sec-fetch-site")
}
