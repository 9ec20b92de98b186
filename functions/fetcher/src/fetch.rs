//! The calls to the API: time-outs, retries, and the pause that the API asks for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use spin_sdk::http::send;
use spin_sdk::key_value::Store;
use spin_sdk::time::sleep;
use spin_sdk::wasip3::http::types::{ErrorCode, RequestOptions};
use spin_sdk::wasip3::http_compat::RequestOptionsExtension;

use crate::livecoinwatch::{Response, interpret, request_body};
use crate::record::Record;
use crate::settings::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Tries in one tick; the schedule's next tick is a retry as well.
const TRIES_MAX: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(500);
/// A longer pause is not slept through: it is written down and later ticks honour it.
const PAUSE_SECONDS_MAX: u64 = 3;
/// Ten exchanges with their pictures are below 1 MiB.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks the API for the exchanges. Empty while the API wants a pause.
pub async fn exchanges(settings: &Settings) -> Result<Vec<Record>, String> {
    if settings.api_key.is_empty() {
        return Err("no API key: set livecoinwatch_api_key, or exchanges_source = \"random\"".to_owned());
    }
    let pause = Pause::open(&settings.stream).await?;
    if let Some(seconds) = pause.left().await? {
        println!("the API asked for a pause: {seconds} s left");
        return Ok(Vec::new());
    }
    let mut backoff = BACKOFF;
    for tries in 1..=TRIES_MAX {
        let (reason, after_seconds) = match call(settings).await {
            Response::Records(records) => return Ok(records),
            Response::Failed(reason) => return Err(redacted(&reason, settings)),
            Response::Retry { reason, after_seconds } => (redacted(&reason, settings), after_seconds),
        };
        if let Some(seconds) = after_seconds.filter(|seconds| *seconds > PAUSE_SECONDS_MAX) {
            pause.begin(seconds).await?;
            return Err(format!("{reason}; the API wants a pause of {seconds} s"));
        }
        if tries == TRIES_MAX {
            return Err(format!("{reason}; given up after {tries} tries, the next tick tries again"));
        }
        println!("try {tries}: {reason}");
        sleep(after_seconds.map_or(backoff, Duration::from_secs)).await;
        backoff *= 2;
    }
    Ok(Vec::new())
}

/// A server may send back what it was sent: the key must not reach a log that way.
fn redacted(reason: &str, settings: &Settings) -> String {
    reason.replace(&settings.api_key, "***")
}

async fn call(settings: &Settings) -> Response {
    let request = match request(settings) {
        Ok(request) => request,
        Err(reason) => return Response::Failed(reason),
    };
    let failed = |error: String| Response::Retry { reason: format!("the call failed: {error}"), after_seconds: None };
    let response = match send(request).await {
        Ok(response) => response,
        Err(error) => return failed(plain(&error)),
    };
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    match Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => interpret(status, retry_after.as_deref(), &body.to_bytes(), unix_seconds()),
        Err(error) => failed(format!("the body broke off: {error}")),
    }
}

/// The usual failures in words; the others by their names in the interface.
fn plain(error: &ErrorCode) -> String {
    match error {
        ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
            "the API did not answer in time".to_owned()
        }
        ErrorCode::ConnectionRefused => "the API refuses connections".to_owned(),
        ErrorCode::DnsError(_) => "the API's name cannot be resolved".to_owned(),
        ErrorCode::HttpRequestDenied => "the API's address is not in allowed_outbound_hosts".to_owned(),
        other => other.to_string(),
    }
}

fn request(settings: &Settings) -> Result<http::Request<Full<Bytes>>, String> {
    let mut request = http::Request::post(format!("{}/exchanges/list", settings.api_url.trim_end_matches('/')))
        .header("content-type", "application/json")
        .header("x-api-key", &settings.api_key)
        .body(Full::new(Bytes::from(request_body(&settings.currency, settings.limit))))
        .map_err(|_| "livecoinwatch_url or livecoinwatch_api_key cannot be part of a request".to_owned())?;
    let options = RequestOptions::new();
    let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).ok();
    let set = [
        options.set_connect_timeout(nanos(CONNECT_TIMEOUT)),
        options.set_first_byte_timeout(nanos(ANSWER_TIMEOUT)),
        options.set_between_bytes_timeout(nanos(ANSWER_TIMEOUT)),
    ];
    if set.iter().any(Result::is_err) {
        return Err("the host does not support time-outs".to_owned());
    }
    request.extensions_mut().insert(RequestOptionsExtension(options));
    Ok(request)
}

#[expect(clippy::disallowed_methods, reason = "the shell asks; what interprets is given the time")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The pause that the API asked for, kept from tick to tick.
struct Pause {
    store: Store,
    key: String,
}

impl Pause {
    async fn open(stream: &str) -> Result<Self, String> {
        let store = Store::open_default().await.map_err(|error| format!("key-value store: {error}"))?;
        Ok(Self { store, key: format!("{stream}:paused-until") })
    }

    /// Seconds until the API may be called again.
    async fn left(&self) -> Result<Option<u64>, String> {
        let value = self.store.get(&self.key).await.map_err(|error| format!("key-value store: {error}"))?;
        let until: Option<u64> = value.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
        Ok(until.and_then(|until| until.checked_sub(unix_seconds())).filter(|left| *left > 0))
    }

    async fn begin(&self, seconds: u64) -> Result<(), String> {
        let until = unix_seconds().saturating_add(seconds).to_string();
        self.store.set(&self.key, until.as_bytes()).await.map_err(|error| format!("key-value store: {error}"))
    }
}
