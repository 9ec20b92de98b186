//! What is said to a registry, and how much of its answers is read.
//!
//! A registry is not trusted: credentials go to it, and to a realm that belongs to it ([`super::trust`]);
//! a token goes to it alone, over no redirect; every answer is read up to a bound.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use exagg_common::template::Secret;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_auth::parser::ChallengeParser;
use oci_client::Reference;
use oci_client::manifest::{IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, Response};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::blobs::digest_of;
use super::trust::{Trust, gives_up_tls};

/// As the specification advises.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const TOKEN_BYTES_MAX: usize = 64 * 1024;
const ERROR_BYTES_MAX: usize = 4096;
const REDIRECTS_MAX: usize = 5;
/// How long nothing at all may come.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long one upload may take.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(600);

/// The registry answers that it cannot answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Away(String);

/// Whether a registry could not be asked, rather than answered something else.
pub fn is_away(error: &anyhow::Error) -> bool {
    let unanswered = |error: &reqwest::Error| error.is_connect() || error.is_timeout() || error.is_request();
    error.chain().any(|cause| cause.is::<Away>() || cause.downcast_ref::<reqwest::Error>().is_some_and(unanswered))
}

/// A name and a password for a registry.
pub struct Credentials {
    pub user: String,
    pub password: Secret,
}

/// What is asked of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

/// What a registry wants to see before it answers.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Token { realm: String, service: Option<String> },
    Password,
}

/// A token server's answer.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// One request.
struct Asked {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Where it goes, without what may be a signature.
    fn place(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        format!("{} {url}", self.method)
    }
}

/// What the registry accepts.
enum Authorization {
    /// It was not asked yet what it wants.
    Unknown,
    Nothing,
    Header(HeaderValue),
}

impl Authorization {
    fn header(&self) -> Option<&HeaderValue> {
        if let Self::Header(header) = self { Some(header) } else { None }
    }
}

/// One repository of a registry.
pub struct Remote {
    pub reference: Reference,
    trust: Trust,
    credentials: Option<Credentials>,
    access: Access,
    origin: Url,
    /// Follows redirects, and gives up on silence.
    reading: Client,
    /// Follows none.
    direct: Client,
    authorization: Mutex<Authorization>,
}

impl Remote {
    pub fn new(reference: Reference, trust: Trust, credentials: Option<Credentials>, access: Access) -> Result<Self> {
        // The client makes its TLS from what the process has installed; a second time is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = reference.resolve_registry();
        let origin = Url::parse(&format!("{}://{registry}/", trust.scheme(registry)))
            .with_context(|| format!("{registry:?} is not a registry's address"))?;
        let client = || {
            Client::builder()
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(SILENCE_MAX)
        };
        let reading = client().redirect(Policy::custom(follow)).read_timeout(SILENCE_MAX).build();
        let direct = client().redirect(Policy::none()).build();
        Ok(Self {
            reading: reading.context("cannot make an HTTP client")?,
            direct: direct.context("cannot make an HTTP client")?,
            authorization: Mutex::new(Authorization::Unknown),
            reference,
            trust,
            credentials,
            access,
            origin,
        })
    }

    fn url(&self, rest: &str) -> Result<Url> {
        Ok(self.origin.join(&format!("/v2/{}/{rest}", self.reference.repository()))?)
    }

    fn manifest_url(&self) -> Result<Url> {
        let named = self.reference.digest().or(self.reference.tag()).unwrap_or("latest");
        self.url(&format!("manifests/{named}"))
    }

    /// The manifest that the reference names, its digest, and its bytes.
    pub async fn manifest(&self) -> Result<(OciImageManifest, String, Vec<u8>)> {
        let asked = Asked::new(Method::GET, self.manifest_url()?);
        let kinds = HeaderValue::try_from(format!("{OCI_IMAGE_MEDIA_TYPE}, {IMAGE_MANIFEST_MEDIA_TYPE}"))?;
        let response = self.send(asked.with(header::ACCEPT, kinds), StatusCode::OK).await?;
        let said = response.headers().get("docker-content-digest").cloned();
        let body = read(response, MANIFEST_BYTES_MAX).await?;
        let digest = digest_of(&body);
        if let Some(wanted) = self.reference.digest() {
            ensure!(digest == wanted, "its manifest has the digest {digest}, {wanted} was asked for");
        }
        if let Some(said) = said.as_ref().and_then(|said| said.to_str().ok()).filter(|said| said.starts_with("sha256:"))
        {
            ensure!(digest == said, "its manifest has the digest {digest}, and the registry says {said}");
        }
        Ok((parse(&body)?, digest, body))
    }

    /// A blob; the caller bounds what it reads of it, and looks at the digest.
    pub async fn blob(&self, digest: &str) -> Result<Response> {
        self.send(Asked::new(Method::GET, self.url(&format!("blobs/{digest}"))?), StatusCode::OK).await
    }

    pub async fn put_blob(&self, digest: &str, bytes: Bytes) -> Result<()> {
        let begun = Asked::new(Method::POST, self.url("blobs/uploads/")?);
        let response = self.send(begun, StatusCode::ACCEPTED).await?;
        let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let location = location.context("the registry says not where to upload to")?;
        let mut url = response.url().join(location).context("the registry's place to upload to is not a URL")?;
        ensure!(!gives_up_tls(&self.origin, &url), "the registry wants the upload without TLS");
        url.query_pairs_mut().append_pair("digest", digest);
        let octets = HeaderValue::from_static("application/octet-stream");
        let upload = Asked { body: bytes, ..Asked::new(Method::PUT, url).with(header::CONTENT_TYPE, octets) };
        self.send(upload, StatusCode::CREATED).await.map(|_| ())
    }

    pub async fn put_manifest(&self, manifest: &OciImageManifest) -> Result<()> {
        let kind = HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        let put = Asked::new(Method::PUT, self.manifest_url()?).with(header::CONTENT_TYPE, kind);
        let put = Asked { body: serde_json::to_vec(manifest)?.into(), ..put };
        self.send(put, StatusCode::CREATED).await.map(|_| ())
    }

    /// Sends it with what the registry accepts, and once more when that is no longer accepted.
    async fn send(&self, asked: Asked, wanted: StatusCode) -> Result<Response> {
        let mut response = self.send_once(&asked).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && self.is_own(response.url())
            && let Some(challenge) = challenge(response.headers())
        {
            let renewed = self.answer(challenge).await?;
            *self.authorization.lock().await = renewed;
            response = self.send_once(&asked).await?;
        }
        if response.status() == wanted {
            return Ok(response);
        }
        let status = response.status();
        let refused = if status == StatusCode::UNAUTHORIZED { "Not authorized: " } else { "" };
        // What is longer is cut: it is for people.
        let said = read_start(response, ERROR_BYTES_MAX).await;
        let said = format!("{refused}{} gave {status}: {}", asked.place(), printable(&said));
        if status.is_server_error() {
            return Err(Away(said).into());
        }
        bail!(said)
    }

    async fn send_once(&self, asked: &Asked) -> Result<Response> {
        let client = if asked.method == Method::GET { &self.reading } else { &self.direct };
        let mut request = client.request(asked.method.clone(), asked.url.clone()).headers(asked.headers.clone());
        if asked.method != Method::GET {
            request = request.timeout(UPLOAD_TIME_MAX).header(header::CONTENT_LENGTH, asked.body.len());
            request = request.body(asked.body.clone());
        }
        if self.is_own(&asked.url)
            && let Some(header) = self.authorization().await?
        {
            request = request.header(header::AUTHORIZATION, header);
        }
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        sent.with_context(|| format!("{} failed", asked.place()))
    }

    /// Whether it is the registry itself: the only one that is shown what it accepts.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }

    /// What the registry accepts; the first time it is asked what it wants.
    async fn authorization(&self) -> Result<Option<HeaderValue>> {
        let mut known = self.authorization.lock().await;
        if !matches!(*known, Authorization::Unknown) {
            return Ok(known.header().cloned());
        }
        let asked = self.direct.get(self.origin.join("/v2/")?).timeout(SILENCE_MAX).send().await;
        let response = asked.map_err(reqwest::Error::without_url);
        let response = response.with_context(|| format!("cannot reach {}", self.origin))?;
        *known = match challenge(response.headers()) {
            Some(challenge) => self.answer(challenge).await?,
            None => Authorization::Nothing,
        };
        Ok(known.header().cloned())
    }

    async fn answer(&self, challenge: Challenge) -> Result<Authorization> {
        let header = match (challenge, &self.credentials) {
            (Challenge::Password, None) => return Ok(Authorization::Nothing),
            (Challenge::Password, Some(credentials)) => credentials.header()?,
            (Challenge::Token { realm, service }, _) => {
                let token = self.token(&realm, service.as_deref()).await?;
                sensitive(&format!("Bearer {}", token.expose()))?
            }
        };
        Ok(Authorization::Header(header))
    }

    /// Asks the realm for a token, if it may be asked.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<Secret> {
        let registry = self.reference.resolve_registry();
        let mut url = self.trust.realm(registry, realm, self.credentials.is_some())?;
        let actions = if self.access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let place = url.host_str().unwrap_or_default().to_owned();
        let mut request = self.direct.get(url).timeout(SILENCE_MAX);
        if let Some(credentials) = &self.credentials {
            request = request.header(header::AUTHORIZATION, credentials.header()?);
        }
        let response = request.send().await.map_err(reqwest::Error::without_url);
        let response = response.with_context(|| format!("cannot get a token for {registry} from {place}"))?;
        // What it says stays out of the error: it may be what it was sent.
        let status = response.status();
        ensure!(
            status == StatusCode::OK,
            "Not authorized: {place}, which has the tokens for {registry}, gave {status}"
        );
        let body = read(response, TOKEN_BYTES_MAX).await.with_context(|| format!("the token from {place}"))?;
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.map(Secret::new).with_context(|| format!("{place}, which has the tokens for {registry}, gave none"))
    }
}

impl Credentials {
    fn header(&self) -> Result<HeaderValue> {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.user, self.password.expose());
        sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
    }
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    // The error would show the text.
    let value = HeaderValue::from_str(text).ok();
    let mut value = value.context("the registry's credentials or its token cannot be put into a header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Authorization is left behind by the client itself where host, port or scheme changes.
fn follow(attempt: Attempt) -> Action {
    let gives_up = attempt.previous().last().is_some_and(|from| gives_up_tls(from, attempt.url()));
    if gives_up {
        return attempt.error("the registry redirects to a place without TLS");
    }
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("the registry redirects again and again");
    }
    attempt.follow()
}

/// The first challenge of a kind that can be answered; a token is preferred.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut password = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for challenge in ChallengeParser::new(value).map_while(Result::ok) {
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("Bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Challenge::Token { realm, service: parameter("service") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("Basic") {
                password = Some(Challenge::Password);
            }
        }
    }
    password
}

/// Only of images: an index of several has no place for an app.
pub fn parse(body: &[u8]) -> Result<OciImageManifest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: u64,
        media_type: Option<String>,
    }
    let kind: Kind = serde_json::from_slice(body).context("its manifest is not one")?;
    ensure!(kind.schema_version == 2, "its manifest has the version {}: 2 is read", kind.schema_version);
    let kind = kind.media_type.as_deref().unwrap_or(OCI_IMAGE_MEDIA_TYPE);
    let is_image = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE].contains(&kind);
    ensure!(is_image, "its manifest is of the type {kind:?}: an app's is {OCI_IMAGE_MEDIA_TYPE}");
    serde_json::from_slice(body).context("its manifest is not that of an image")
}

/// The whole body, if it has no more bytes than that.
async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        ensure!(body.len() + chunk.len() <= bytes_max, "the answer has more than {bytes_max} bytes, which is the most");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What there is at the body's start.
async fn read_start(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < bytes_max {
        let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE_MAX, response.chunk()).await else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(bytes_max);
    body
}

/// On one line, without what a terminal might obey.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (header::WWW_AUTHENTICATE, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let both = headers(&["Basic realm=\"x\"", "bearer realm=\"https://a/t\",service=\"a, b\",scope=\"c\""]);
        let token = Challenge::Token { realm: "https://a/t".to_owned(), service: Some("a, b".to_owned()) };
        assert_eq!(challenge(&both), Some(token));
        assert_eq!(challenge(&headers(&["Basic realm=\"x\""])), Some(Challenge::Password));
        assert_eq!(challenge(&headers(&["Bearer service=\"x\""])), None);
        assert_eq!(challenge(&headers(&["Negotiate", "\""])), None);
    }

    #[test]
    fn only_manifests_of_images_are_read() {
        let index = format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\"}}", "application/vnd.oci.image.index.v1+json");
        assert!(format!("{:#}", parse(index.as_bytes()).unwrap_err()).contains("index"));
        assert!(parse(b"{\"schemaVersion\":1}").is_err() && parse(b"[").is_err());
    }

    #[test]
    fn what_a_registry_says_cannot_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\r\nc\n"), "a [2Jb  c");
    }
}
