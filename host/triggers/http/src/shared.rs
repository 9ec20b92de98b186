//! Answers that many requests share. A function that says so (`Cache-Control: public, s-maxage=1`) is called once in that
//! time, however many clients ask for the same: a page that many people have open costs as much as for one.
//!
//! That is a part of RFC 9111, chosen so that nobody gets what was meant for somebody else: an answer is kept only where it
//! has `s-maxage` and nothing against it (`private`, `no-store`, `no-cache`, `Set-Cookie`, a `Vary` beyond what is compared
//! here), and given only to requests without a body, `Authorization` or `Range`. Of the time it goes by a clock that nobody
//! sets. What a client says of caches is about those on its own side, and not heeded, as before any origin.
//!
//! While an answer is not there, one request calls the function and the others wait for it; where it comes to nothing they
//! take their turn. So that this holds nobody up who asks a function that shares nothing, a route is watched: once an answer
//! of it was not to be shared, its requests are calls until one is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use exagg_runtime::budget::{Account, Held, Resource};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::watch;
use tokio::time::Instant;
use wasmtime_wasi_http::{Error, WasiBody};

/// Answers that are kept at a time, of all routes; the one that was used longest ago goes.
const ANSWERS_MAX: usize = 256;
/// Bytes of an answer that is kept.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of all of them.
const BYTES_MAX: usize = 8 << 20;
/// Longer than this none is kept.
const AGE_MAX: Duration = Duration::from_secs(3_600);

/// Headers of a request that are compared: an answer may vary by them.
const COMPARED: [&str; 2] = ["accept", "accept-encoding"];
/// Headers of one connection.
const OF_A_HOP: [&str; 7] =
    ["connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authenticate"];

/// What is asked for, of which version of the component, and in which form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    route: usize,
    digest: String,
    host: String,
    target: String,
    compared: [Vec<u8>; COMPARED.len()],
}

impl Key {
    /// Of a request to this route; none where it cannot be answered by what is kept.
    pub fn of(route: usize, digest: &str, asked: &Parts) -> Option<Self> {
        let has_body = asked.headers.contains_key(header::TRANSFER_ENCODING)
            || asked.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
        let is_somebodys =
            [header::AUTHORIZATION, header::RANGE, header::UPGRADE].iter().any(|name| asked.headers.contains_key(name));
        if asked.method != Method::GET || has_body || is_somebodys {
            return None;
        }
        let joined = |name: &str| {
            let values = asked.headers.get_all(name).iter().map(HeaderValue::as_bytes);
            values.collect::<Vec<_>>().join(&b',')
        };
        Some(Self {
            route,
            digest: digest.to_owned(),
            host: asked.uri.authority().map(ToString::to_string).unwrap_or_default(),
            target: asked.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            compared: COMPARED.map(joined),
        })
    }
}

/// Answers by what they are to.
#[derive(Default)]
pub struct Shared(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    kept: HashMap<Key, Entry>,
    /// Calls that others wait for.
    flights: HashMap<Key, watch::Receiver<Option<Arc<Kept>>>>,
    /// Whether the last answer of a route was to be shared.
    shares: HashMap<usize, bool>,
    bytes: usize,
    /// How many looks there were: the entry with the least was used longest ago.
    looks: u64,
}

struct Entry {
    kept: Arc<Kept>,
    used: u64,
}

/// An answer, whole.
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    made_at: Instant,
    until: Instant,
    /// Charged to the component as long as it is kept.
    _charge: Held,
}

/// What is to be done about a request.
pub enum Look {
    /// It has its answer.
    Answer(Response<WasiBody>),
    /// Call the function: its route shares nothing.
    Call,
    /// Call it for all who ask: without the client's own conditions, so that the answer is whole.
    Lead(Flight),
    /// Somebody else calls it.
    Wait(Waiting),
}

/// The call that others wait for. If it goes without an answer for all, the next one takes its place.
pub struct Flight {
    key: Key,
    /// None once it is over.
    sender: Option<watch::Sender<Option<Arc<Kept>>>>,
    answers: Arc<Mutex<Answers>>,
}

impl Flight {
    fn land(&self, kept: Arc<Kept>) {
        if let Some(sender) = &self.sender {
            // Nobody may be waiting.
            let _ = sender.send(Some(kept));
        }
    }
}

impl Drop for Flight {
    /// However it ends, also where the client goes away.
    fn drop(&mut self) {
        self.sender = None;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have taken its place.
        if answers.flights.get(&self.key).is_some_and(|flight| flight.has_changed().is_err()) {
            answers.flights.remove(&self.key);
        }
    }
}

/// Waits for a call of somebody else's.
pub struct Waiting(watch::Receiver<Option<Arc<Kept>>>);

impl Waiting {
    /// Its answer; none where it had none for all.
    pub async fn answer(mut self, asked: &Parts) -> Option<Response<WasiBody>> {
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.as_ref().map(|kept| kept.answer(asked))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done about a request.
    pub fn look(&self, key: &Key, asked: &Parts) -> Look {
        let mut answers = self.lock();
        answers.looks += 1;
        let look = answers.looks;
        if let Some(entry) = answers.kept.get_mut(key)
            && Instant::now() < entry.kept.until
        {
            entry.used = look;
            return Look::Answer(entry.kept.answer(asked));
        }
        // One whose sender is gone has come to nothing.
        if let Some(flight) = answers.flights.get(key).filter(|flight| flight.has_changed().is_ok()) {
            return Look::Wait(Waiting(flight.clone()));
        }
        if answers.shares.get(&key.route) == Some(&false) {
            return Look::Call;
        }
        let (sender, receiver) = watch::channel(None);
        answers.flights.insert(key.clone(), receiver);
        Look::Lead(Flight { key: key.clone(), sender: Some(sender), answers: Arc::clone(&self.0) })
    }

    /// Sees whether the answer of a call is to be shared; that of a flight is kept then, and given to those who wait. The
    /// answer for the one who asked.
    pub async fn landed(
        &self,
        route: usize,
        asked: &Parts,
        answer: Response<WasiBody>,
        flight: Option<Flight>,
        account: &Arc<Account>,
    ) -> Response<WasiBody> {
        let age_max = shared_for(answer.headers());
        self.lock().shares.insert(route, age_max.is_some());
        let (Some(flight), Some(age_max)) = (flight, age_max) else { return answer };
        let (head, body) = answer.into_parts();
        let body = match whole(body).await {
            Ok(body) => body,
            Err(body) => return Response::from_parts(head, body),
        };
        let Ok(charge) = account.hold(Resource::HostBytes, body.len() as u64) else {
            return Response::from_parts(head, full(body));
        };
        let made_at = Instant::now();
        let until = made_at + age_max;
        let mut headers = head.headers;
        for name in OF_A_HOP {
            headers.remove(name);
        }
        let kept = Arc::new(Kept { status: head.status, headers, body, made_at, until, _charge: charge });
        self.lock().keep(flight.key.clone(), Arc::clone(&kept));
        let answer = kept.answer(asked);
        flight.land(kept);
        answer
    }
}

impl Answers {
    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.kept.remove(key) {
            self.bytes -= entry.kept.body.len();
        }
    }

    fn keep(&mut self, key: Key, kept: Arc<Kept>) {
        self.forget(&key);
        let now = Instant::now();
        // Those of a version that went go with it, and those that are too old.
        let is_gone = |known: &Key, entry: &Entry| {
            (known.route == key.route && known.digest != key.digest) || entry.kept.until <= now
        };
        let gone: Vec<Key> =
            self.kept.iter().filter(|(known, entry)| is_gone(known, entry)).map(|(known, _)| known.clone()).collect();
        for key in &gone {
            self.forget(key);
        }
        self.bytes += kept.body.len();
        self.kept.insert(key, Entry { kept, used: self.looks });
        while self.kept.len() > ANSWERS_MAX || self.bytes > BYTES_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            match oldest {
                Some(key) => self.forget(&key),
                None => return,
            }
        }
    }
}

/// How long an answer may be given to others; none where it may not.
fn shared_for(headers: &HeaderMap) -> Option<Duration> {
    let words = |name: HeaderName| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase()).collect::<Vec<_>>()
    };
    let cache_control = words(header::CACHE_CONTROL);
    let is_private = cache_control
        .iter()
        .any(|word| ["private", "no-store", "no-cache"].iter().any(|refused| word.split('=').next() == Some(refused)));
    let varies = words(header::VARY).iter().any(|word| !COMPARED.contains(&word.as_str()));
    if is_private || varies || headers.contains_key(header::SET_COOKIE) {
        return None;
    }
    let seconds = cache_control.iter().find_map(|word| word.strip_prefix("s-maxage=")?.trim_matches('"').parse().ok());
    seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds).min(AGE_MAX))
}

impl Kept {
    /// For one who asks, who may have it already.
    fn answer(&self, asked: &Parts) -> Response<WasiBody> {
        let tag = self.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let is_known = self.status == StatusCode::OK && tag.is_some_and(|tag| has(&asked.headers, tag));
        let mut answer = Response::new(full(if is_known { Bytes::new() } else { self.body.clone() }));
        *answer.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { self.status };
        *answer.headers_mut() = self.headers.clone();
        if is_known {
            answer.headers_mut().remove(header::CONTENT_LENGTH);
        }
        answer.headers_mut().insert(header::AGE, self.made_at.elapsed().as_secs().into());
        answer
    }
}

/// Whether the client says that it has this version.
fn has(asked: &HeaderMap, tag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    known.flat_map(|known| known.split(',')).any(|known| known.trim() == "*" || plain(known) == plain(tag))
}

fn full(body: Bytes) -> WasiBody {
    Full::new(body).map_err(Error::from).boxed_unsync()
}

/// The bytes of a body; where it is too large, or breaks off, a body that goes on as it came.
async fn whole(mut body: WasiBody) -> Result<Bytes, WasiBody> {
    let mut bytes = Vec::new();
    loop {
        let other = match body.frame().await {
            None => return Ok(bytes.into()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    bytes.extend_from_slice(&data);
                    None
                }
                // Trailers belong to this one answer.
                Err(frame) => Some(Ok(frame)),
            },
            Some(Err(error)) => Some(Err(error)),
        };
        if other.is_some() || bytes.len() > BODY_BYTES_MAX {
            let begun = std::iter::once(Ok(Frame::data(Bytes::from(bytes)))).chain(other);
            let rest =
                futures::stream::unfold(body, |mut body| async { body.frame().await.map(|frame| (frame, body)) });
            let all = futures::StreamExt::chain(futures::stream::iter(begun.collect::<Vec<_>>()), rest);
            return Err(StreamBody::new(all).boxed_unsync());
        }
    }
}

#[cfg(test)]
mod tests;
