//! The listeners with clients that misbehave, on loopback.

use std::net::IpAddr;
use std::sync::Weak;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;

/// A deadline of the tests, which is a failure and not a measurement.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

/// A server that ends with the test.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    /// Lives as long as a response without end is written.
    endless: Weak<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves `/endless`, `/probe`, and the same short answer everywhere else.
async fn start(limits: ConnectionLimits) -> Server {
    let listener = bind("test", SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let (address, stop, written) = (listener.local_addr().unwrap(), CancellationToken::new(), Arc::new(()));
    let endless = Arc::downgrade(&written);
    let written = std::sync::Mutex::new(Some(written));
    let all = move |request: Request<Incoming>, _: Option<SocketAddr>| {
        let is_endless = request.uri().path() == "/endless";
        let written = is_endless.then(|| written.lock().unwrap().take()).flatten();
        let response = written.map_or_else(|| plain(StatusCode::OK, "short"), without_end);
        std::future::ready(response)
    };
    let probe =
        |request: &Request<Incoming>| (request.uri().path() == "/probe").then(|| plain(StatusCode::OK, "probed"));
    let stopped = stop.clone();
    tokio::spawn(async move { serve(Listener::Network(listener), Handlers { all, probe }, limits, stopped).await });
    Server { address, stop, endless }
}

fn without_end(written: Arc<()>) -> Response<WasiBody> {
    let chunks = stream::repeat_with(move || {
        let _ = &written;
        Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
    });
    Response::new(StreamBody::new(chunks).boxed_unsync())
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("in time")
}

async fn connect_from(address: IpAddr, server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    within(socket.connect(server.address)).await.unwrap()
}

async fn connect(server: &Server) -> TcpStream {
    connect_from(IpAddr::from([127, 0, 0, 1]), server).await
}

async fn send(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
}

/// A connection that is open and idle: its first request was answered.
async fn idle(server: &Server) -> TcpStream {
    let mut stream = connect(server).await;
    send(&mut stream, "/").await;
    let mut text = Vec::new();
    while !text.ends_with(b"short") {
        let read = within(stream.read_buf(&mut text)).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
    }
    stream
}

/// All that comes until the connection is closed, reset or not.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

async fn ask(server: &Server, path: &str) -> String {
    let mut stream = connect(server).await;
    // It may be closed already.
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    read_to_end(&mut stream).await
}

/// Three connections an address.
fn limits() -> ConnectionLimits {
    ConnectionLimits { connections_max: 8, per_address_max: 3, ..ConnectionLimits::default() }
}

async fn is_let_go(limits: ConnectionLimits, read: impl AsyncFn(&mut TcpStream)) {
    let server = start(limits).await;
    let mut client = connect(&server).await;
    send(&mut client, "/endless").await;
    let gone = async {
        while server.endless.strong_count() > 0 {
            read(&mut client).await;
        }
    };
    within(gone).await;
    assert!(ask(&server, "/").await.contains("short"), "others are served");
}

#[tokio::test]
async fn who_reads_nothing_is_let_go() {
    is_let_go(ConnectionLimits { stall_max: SHORT, ..limits() }, async |_| tokio::time::sleep(SHORT / 10).await).await;
}

#[tokio::test]
async fn who_reads_for_ever_is_let_go() {
    let read = async |client: &mut TcpStream| {
        let mut bytes = vec![0; 16 * 1024];
        let _ = client.read(&mut bytes).await;
    };
    is_let_go(ConnectionLimits { response_time_max: SHORT, ..limits() }, read).await;
}

#[tokio::test]
async fn beyond_the_bound_of_an_address_probes_are_answered_and_nothing_else() {
    let server = start(limits()).await;
    let mut open = vec![idle(&server).await, idle(&server).await, idle(&server).await];
    let answer = ask(&server, "/probe").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("probed"), "{answer}");
    let answer = ask(&server, "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("connection: close\r\n") && answer.contains("retry-after: 1\r\n"), "{answer}");
    // It has one request, whatever it asks for.
    let mut stream = connect(&server).await;
    send(&mut stream, "/probe").await;
    let _ = stream.write_all(b"GET /probe HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(read_to_end(&mut stream).await.matches("probed").count(), 1);
    // Another address is not concerned.
    let mut other = connect_from(IpAddr::from([127, 0, 0, 2]), &server).await;
    other.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut other).await.ends_with("short"));
    // The others are still there, and one that goes makes room.
    send(&mut open[0], "/").await;
    open.pop();
    let room = async {
        while !ask(&server, "/").await.ends_with("short") {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    within(room).await;
}

#[tokio::test]
async fn the_reserve_is_bounded_in_number_and_time() {
    let (per_address_max, reserve_time_max) = (0, Duration::from_secs(2));
    let limits = ConnectionLimits { per_address_max, reserve_max: 2, reserve_time_max, ..limits() };
    let server = start(limits).await;
    let mut silent = vec![connect(&server).await, connect(&server).await];
    assert_eq!(ask(&server, "/probe").await, "", "the reserve is full");
    for stream in &mut silent {
        assert_eq!(read_to_end(stream).await, "", "its time is over");
    }
    let probed = async {
        while !ask(&server, "/probe").await.ends_with("probed") {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    within(probed).await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = start(limits()).await;
    let mut stream = connect(&server).await;
    let head = format!("GET / HTTP/1.1\r\nhost: test\r\nx: {}", "x".repeat(2 * BUFFER_BYTES_MAX));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut first = [0; 13];
    // What was not read resets the connection, sometimes before the answer is there.
    if within(stream.read_exact(&mut first)).await.is_ok() {
        assert_eq!(&first, b"HTTP/1.1 431 ");
    }
}

#[tokio::test]
async fn work_on_another_runtime_ends_with_the_one_who_waits() {
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let thread = run_on(Some(other.handle()), async { std::thread::current().id() });
    assert_ne!(within(thread).await.unwrap(), std::thread::current().id());
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let work = async move {
        std::future::pending::<()>().await;
        drop(held);
    };
    assert!(tokio::time::timeout(SHORT, run_on(Some(other.handle()), work)).await.is_err());
    let gone = async {
        while weak.strong_count() > 0 {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    within(gone).await;
    other.shutdown_background();
}
