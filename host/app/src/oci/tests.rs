//! Against registries that do not mean well, on loopback: `localhost` and `127.0.0.1` are two hosts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::blobs::digest_of;
use super::*;

const PASSWORD: &str = "pass-word";
/// base64 of `user:pass-word`.
const BASIC: &str = "authorization: Basic dXNlcjpwYXNzLXdvcmQ=";
const MEBI: i64 = 1024 * 1024;
const CODE: &[u8] = b"\0asm";

/// Status, headers and body.
type Answer = (u16, String, Vec<u8>);

/// One that answers as it is told, and keeps what it was asked.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` is given the request's head.
    fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::default());
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || exchange(stream.unwrap(), &kept, &*answer));
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn exchange(mut stream: TcpStream, kept: &Mutex<Vec<String>>, answer: &dyn Fn(&str) -> Answer) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).unwrap();
    kept.lock().unwrap().push(head.clone());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    let (status, headers, body) = answer(&head);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n").ok()?;
    // Who has read enough goes.
    stream.write_all(&body).ok()
}

fn challenge(realm: &str) -> Answer {
    (401, format!("www-authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n"), Vec::new())
}

fn fine(body: impl Into<Vec<u8>>) -> Answer {
    (200, String::new(), body.into())
}

fn locked() -> Vec<u8> {
    let source = json!({ "content_type": "application/wasm", "digest": digest_of(CODE) });
    let component = json!({ "id": "c", "source": source });
    let app = json!({ "spin_lock_version": 0, "metadata": { "name": "n" }, "triggers": [], "components": [component] });
    app.to_string().into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() })
}

fn manifest() -> Vec<u8> {
    let layers = [descriptor(APP_TYPE, &locked()), descriptor(WASM_TYPE, CODE)];
    json!({ "schemaVersion": 2, "config": descriptor("x/config", b"{}"), "layers": layers }).to_string().into_bytes()
}

/// What an honest registry has under a request's path.
fn content(head: &str) -> Answer {
    let blob = |bytes: &[u8]| head.contains(&format!("/blobs/{}", digest_of(bytes)));
    match head {
        _ if head.contains("/manifests/") => fine(manifest()),
        _ if blob(CODE) => fine(CODE),
        _ if blob(&locked()) => fine(locked()),
        _ if head.starts_with("GET /v2/ ") => fine(""),
        _ => (404, String::new(), b"nothing\x1b[31m".to_vec()),
    }
}

fn registry(address: &str, realms: &[String], access: Access) -> Registry {
    let trust = Trust::new(Insecure::Flag(true), realms).unwrap();
    let reference = format!("{address}/app:1").parse().unwrap();
    let credentials = Credentials { user: "user".to_owned(), password: Secret::new(PASSWORD) };
    Registry { remote: Remote::new(reference, trust, Some(credentials), access).unwrap() }
}

/// Pulls with credentials: the app's name, or the error.
async fn pull(address: &str, realms: &[String]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let pulled = registry(address, realms, Access::Pull);
    let pulled = pulled.pull(&folder.path().join("registry"), &folder.path().join("assets")).await;
    pulled.map(|app| app.name).map_err(|error| format!("{error:#}"))
}

fn has(heads: &[String], text: &str) -> bool {
    heads.iter().any(|head| head.contains(text))
}

#[tokio::test]
async fn credentials_do_not_go_to_a_realm_of_another_host() {
    let realm = Server::start(|_| fine(r#"{"token":"t"}"#));
    let place = format!("http://{}/token", realm.address());
    let server = Server::start(move |_| challenge(&place));
    let address = format!("localhost:{}", server.port);
    let error = pull(&address, &[]).await.unwrap_err();
    assert!(error.contains(&address) && error.contains("to 127.0.0.1, which") && !error.contains(PASSWORD), "{error}");
    assert_eq!(realm.seen(), [""; 0], "nothing at all is sent there");
    assert!(!server.seen().is_empty() && !has(&server.seen(), "authorization"));
    // Where the operator says that it belongs to the registry, it is asked.
    let _ = pull(&address, &[format!("{address}=127.0.0.1")]).await;
    assert!(has(&realm.seen(), BASIC) && has(&realm.seen(), "scope=repository%3Aapp%3Apull&service=s"));
}

#[tokio::test]
async fn a_challenge_that_comes_late_is_no_way_around() {
    let realm = Server::start(|_| fine(r#"{"token":"t"}"#));
    let place = format!("http://{}/token", realm.address());
    let server = Server::start(move |head| match head {
        _ if head.starts_with("GET /v2/ ") => fine(""),
        _ => challenge(&place),
    });
    assert!(pull(&format!("localhost:{}", server.port), &[]).await.unwrap_err().contains("to 127.0.0.1, which"));
    assert_eq!(realm.seen(), [""; 0]);
}

#[tokio::test]
async fn a_realm_that_redirects_is_not_followed() {
    let elsewhere = Server::start(|_| fine(r#"{"token":"t"}"#));
    let place = format!("location: http://localhost:{}/\r\n", elsewhere.port);
    let realm = Server::start(move |_| (307, place.clone(), Vec::new()));
    let place = format!("http://{}/token", realm.address());
    let server = Server::start(move |_| challenge(&place));
    assert!(pull(&server.address(), &[]).await.unwrap_err().contains("Not authorized"));
    assert_eq!(elsewhere.seen(), [""; 0]);
}

#[tokio::test]
async fn a_token_of_the_registrys_own_realm_is_used_and_renewed() {
    let realm = Server::start({
        let count = Mutex::new(0);
        move |_| {
            *count.lock().unwrap() += 1;
            fine(json!({ "access_token": format!("t{}", count.lock().unwrap()) }).to_string())
        }
    });
    let place = format!("http://{}/token", realm.address());
    // The first token is good for the manifest only.
    let server = Server::start(move |head| match head {
        _ if head.contains("authorization: Bearer t2") => content(head),
        _ if head.contains("authorization: Bearer t1") && head.contains("/manifests/") => content(head),
        _ => challenge(&place),
    });
    assert_eq!(pull(&server.address(), &[]).await.unwrap(), "n");
    assert!(realm.seen().iter().all(|head| head.contains(BASIC)) && realm.seen().len() == 2);
    assert!(!has(&server.seen(), "Basic"), "who has a token needs no password");
}

#[tokio::test]
async fn a_password_that_is_refused_is_an_error_that_does_not_show_it() {
    let server = Server::start(|head| (401, "www-authenticate: Basic realm=\"x\"\r\n".to_owned(), head.into()));
    let error = pull(&server.address(), &[]).await.unwrap_err();
    assert!(error.contains("Not authorized") && !error.contains(PASSWORD), "{error}");
    assert!(has(&server.seen(), BASIC));
}

#[tokio::test]
async fn answers_are_read_up_to_a_bound() {
    let server = Server::start(|head| match head {
        _ if head.contains("/manifests/") => fine(vec![b' '; 10 * 1024 * 1024]),
        _ => content(head),
    });
    assert!(pull(&server.address(), &[]).await.unwrap_err().contains("more than 4194304 bytes"));
    let realm = Server::start(|_| fine(vec![b' '; 100_000]));
    let place = format!("http://{}/token", realm.address());
    let server = Server::start(move |_| challenge(&place));
    assert!(pull(&server.address(), &[]).await.unwrap_err().contains("more than 65536 bytes"));
    let server = Server::start(|_| (500, String::new(), vec![b'e'; 10 * 1024 * 1024]));
    let error = pull(&server.address(), &[]).await.unwrap_err();
    assert!(error.len() < 5000 && error.contains("500"), "{}", error.len());
}

/// Take out: `is_away`, or the manifests that are kept.
#[tokio::test]
async fn what_is_here_is_run_while_the_registry_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let mode = Arc::new(Mutex::new(200));
    let asked = Arc::clone(&mode);
    let server = Server::start(move |head| match *asked.lock().unwrap() {
        200 => content(head),
        status => (status, String::new(), b"no".to_vec()),
    });
    let pull = async |reference: String| {
        let registry = Registry::new(&reference, Trust::new(Insecure::Flag(true), &[]).unwrap()).unwrap();
        let pulled = registry.pull(&folder.path().join("registry"), &folder.path().join("assets")).await;
        pulled.map(|app| app.name).map_err(|error| format!("{error:#}"))
    };
    let (tag, digest) = (format!("{}/app:1", server.address()), digest_of(&manifest()));
    assert_eq!(pull(tag.clone()).await.unwrap(), "n");
    *mode.lock().unwrap() = 503;
    assert_eq!(pull(tag.clone()).await.unwrap(), "n");
    // A digest that is here is not even asked for.
    let before = server.seen().len();
    assert_eq!(pull(format!("{}/app@{digest}", server.address())).await.unwrap(), "n");
    assert_eq!(server.seen().len(), before);
    assert!(pull(format!("{}/app:2", server.address())).await.unwrap_err().contains("503"));
    // A registry that answers is believed: the tag is gone.
    *mode.lock().unwrap() = 404;
    assert!(pull(tag).await.unwrap_err().contains("404"));
}

#[tokio::test]
async fn a_blob_that_is_not_what_the_manifest_says_is_refused() {
    for (wrong, said) in
        [(vec![0; 1_000_000], "sends more than"), (vec![0; 4], "the digest"), (vec![0; 3], "sent 3 of")]
    {
        let server = Server::start(move |head| match head {
            _ if head.contains(&digest_of(CODE)) => fine(wrong.clone()),
            _ => content(head),
        });
        let error = pull(&server.address(), &[]).await.unwrap_err();
        assert!(error.contains(said) && error.contains(&digest_of(CODE)), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_to_a_storage_carries_no_authorization() {
    let storage = Server::start(content);
    let place = storage.address();
    let server = Server::start(move |head| match head {
        _ if !head.contains(BASIC) => (401, "www-authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new()),
        _ if head.contains("/blobs/") => {
            let path = head.split(' ').nth(1).unwrap();
            (307, format!("location: http://{place}{path}\r\n"), Vec::new())
        }
        _ => content(head),
    });
    assert_eq!(pull(&server.address(), &[]).await.unwrap(), "n");
    assert!(storage.seen().len() == 2 && !has(&storage.seen(), "authorization"));
}

#[tokio::test]
async fn an_upload_elsewhere_carries_no_authorization() {
    let storage = Server::start(|_| (201, String::new(), Vec::new()));
    let place = format!("location: http://{}/up?a=b\r\n", storage.address());
    let server = Server::start(move |head| match head {
        _ if !head.contains(BASIC) => (401, "www-authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new()),
        _ => (202, place.clone(), Vec::new()),
    });
    let registry = registry(&server.address(), &[], Access::Push);
    registry.remote.put_blob(&digest_of(CODE), CODE.into()).await.unwrap();
    let seen = storage.seen();
    assert!(seen.len() == 1 && seen[0].starts_with("PUT /up?a=b&digest=sha256%3A"), "{seen:?}");
    assert!(!has(&seen, "authorization"));
}

#[test]
fn an_app_that_is_too_large_is_refused_before_it_is_fetched() {
    let layer = |media_type: &str, size: i64| OciDescriptor {
        media_type: media_type.to_owned(),
        size,
        ..OciDescriptor::default()
    };
    let refused = |layers: Vec<OciDescriptor>| {
        let manifest = OciImageManifest { layers, ..OciImageManifest::default() };
        check_sizes(&manifest).map_or_else(|error| format!("{error:#}"), |()| String::new())
    };
    assert_eq!(refused(vec![layer(APP_TYPE, 4 * MEBI), layer(WASM_TYPE, 64 * MEBI), layer(DATA_TYPE, MEBI)]), "");
    assert!(refused(vec![layer(APP_TYPE, 4 * MEBI + 1)]).contains("locked app"));
    assert!(refused(vec![layer(WASM_TYPE, 64 * MEBI + 1)]).contains("the code"));
    assert!(refused(vec![layer(DATA_TYPE, 300 * MEBI), layer(DATA_TYPE, 300 * MEBI)]).contains("together"));
    assert!(refused(vec![layer(DATA_TYPE, i64::MAX), layer(DATA_TYPE, i64::MAX)]).contains("a layer"));
    assert!(refused(vec![layer(DATA_TYPE, -1)]).contains("a size of -1"));
    assert!(refused(vec![layer(DATA_TYPE, 1); 1001]).contains("1001 layers"));
}

#[test]
fn references_are_told_from_paths() {
    assert!(looks_like_reference("ghcr.io/a/b:1"));
    let digest = "0".repeat(64);
    assert!(looks_like_reference(&format!("localhost:5000/a@sha256:{digest}")));
    assert!(looks_like_reference("ghcr.io/a/b") && looks_like_reference("localhost/a"));
    assert!(!looks_like_reference("apps/mine") && !looks_like_reference("../a.b/c"));
    assert!(!looks_like_reference("./a:b"));
    assert!(!looks_like_reference("app"));
}
