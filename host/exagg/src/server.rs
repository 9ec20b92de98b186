//! The two listeners: the app's own address with the probes of the operator, and the admin one. Neither
//! idle nor slow clients keep others out: connections are bounded, by address too, those beyond the bound
//! still get an answer to a probe, and who does not take its response is let go.

mod connections;
mod stall;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use exagg_trigger_http::{busy, plain};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::WasiBody;

pub use self::connections::ConnectionLimits;
use self::connections::{Admitted, Connections, Kind};
use self::stall::{ResponseEnd, Unstalled};
use crate::admin::{Admin, Through};
use crate::triggers::Triggers;

/// A client may take so long over its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request may be so long; more is answered with 431. So much of a response is held for a
/// client that is slow.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How often the log says that connections are turned away.
const TURNED_AWAY_LOG: Duration = Duration::from_secs(60);

/// Takes the address, before anything runs.
pub async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what}: cannot listen on {address}"))
}

/// The admin socket in the state directory, in a folder that only its owner may enter.
pub struct AdminSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl AdminSocket {
    pub fn bind(path: &Path) -> Result<Self> {
        let in_path = || format!("cannot listen on {}", path.display());
        let folder = path.parent().unwrap_or(Path::new("."));
        exagg_common::private::folder(folder).with_context(in_path)?;
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!("{}: another host uses it", path.display());
        }
        // What a host that was killed left behind.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(in_path)?;
        Ok(Self { path: path.to_owned(), listener })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

type Stream = Either<TcpStream, UnixStream>;

/// What is listened on.
enum Listener {
    Network(TcpListener),
    Socket(AdminSocket),
}

impl Listener {
    /// A connection, and the client's address where it has one.
    async fn accept(&self) -> std::io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Network(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Either::Left(stream), Some(client)))
            }
            Self::Socket(socket) => Ok((Either::Right(socket.listener.accept().await?.0), None)),
        }
    }
}

/// Who answers the app's routes.
pub struct Guests {
    pub triggers: Arc<Triggers>,
    /// Where their work runs, when it is not where connections and probes are served.
    pub runtime: Option<Handle>,
}

impl Guests {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, client: SocketAddr) -> Response<WasiBody> {
        let runtime = self.runtime.clone();
        let answering = async move { self.triggers.http.handle(request, client).await };
        run_on(runtime.as_ref(), answering).await.unwrap_or_else(|error| {
            tracing::error!("a request was not answered: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the request was not answered\n")
        })
    }
}

/// Does the work on the runtime, or here where there is none. It ends with the one who waits for it.
async fn run_on<T: Send + 'static>(
    runtime: Option<&Handle>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    match runtime {
        Some(runtime) => AbortOnDropHandle::new(runtime.spawn(work)).await,
        None => Ok(work.await),
    }
}

/// Serves the app's routes and the operator's probes, which go here even where the chosen
/// stages have no route.
pub async fn serve_app(
    listener: TcpListener,
    guests: Guests,
    admin: Arc<Admin>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let guests = Arc::new(guests);
    let probe = move |request: &Request<Incoming>| match request.uri().path() {
        "/.well-known/spin/health" => Some(plain(StatusCode::OK, "OK\n")),
        "/.well-known/exagg/ready" => Some(admin.ready()),
        _ => None,
    };
    let probe = Arc::new(probe);
    let probe_first = Arc::clone(&probe);
    let all = move |request: Request<Incoming>, client: Option<SocketAddr>| {
        let client = client.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let (guests, probed) = (Arc::clone(&guests), probe_first(&request));
        async move {
            match probed {
                Some(answer) => answer,
                None => guests.answer(request, client).await,
            }
        }
    };
    let handlers = Handlers { all, probe: move |request: &Request<Incoming>| probe(request) };
    serve(Listener::Network(listener), handlers, limits, stop).await;
}

/// Serves the admin interface on its address.
pub async fn serve_admin(listener: TcpListener, admin: Arc<Admin>, limits: ConnectionLimits, stop: CancellationToken) {
    serve_admin_on(Listener::Network(listener), Through::Network, admin, limits, stop).await;
}

/// Serves the admin interface on its socket.
pub async fn serve_admin_socket(
    socket: AdminSocket,
    admin: Arc<Admin>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    serve_admin_on(Listener::Socket(socket), Through::Socket, admin, limits, stop).await;
}

async fn serve_admin_on(
    listener: Listener,
    through: Through,
    admin: Arc<Admin>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let probing = Arc::clone(&admin);
    let all = move |request: Request<Incoming>, _: Option<SocketAddr>| {
        let admin = Arc::clone(&admin);
        async move { admin.handle(request, through).await }
    };
    let probe = move |request: &Request<Incoming>| probing.probe(request, through);
    serve(listener, Handlers { all, probe }, limits, stop).await;
}

/// What a listener answers.
struct Handlers<A, P> {
    /// Every request of a regular connection.
    all: A,
    /// The probes among them, at once.
    probe: P,
}

async fn serve<A, P, F>(listener: Listener, handlers: Handlers<A, P>, limits: ConnectionLimits, stop: CancellationToken)
where
    A: Fn(Request<Incoming>, Option<SocketAddr>) -> F + Send + Sync + 'static,
    P: Fn(&Request<Incoming>) -> Option<Response<WasiBody>> + Send + Sync + 'static,
    F: Future<Output = Response<WasiBody>> + Send + 'static,
{
    let (open, graceful, handlers) = (Connections::new(limits), GracefulShutdown::new(), Arc::new(handlers));
    let mut turned_away = TurnedAway::default();
    loop {
        let (stream, client) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: others end and give some back.
                    tracing::warn!("cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let admitted = open.admit(client.map(|client| client.ip()));
        if admitted.as_ref().is_none_or(|admitted| admitted.kind() == Kind::Reserve) {
            turned_away.count(client);
        }
        // One that is not admitted is closed at once.
        let Some(admitted) = admitted else { continue };
        let handlers = Arc::clone(&handlers);
        match admitted.kind() {
            Kind::Reserve => {
                tokio::spawn(answer_probe(stream, admitted, handlers, limits));
            }
            Kind::Regular => {
                let end = ResponseEnd::default();
                let stream = Unstalled::new(stream, limits.stall_max, end.clone());
                let service = service_fn(move |request| {
                    end.clear();
                    let (answer, end) = ((handlers.all)(request, client), end.clone());
                    async move {
                        let answer = answer.await;
                        end.start(limits.response_time_max);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let connection = http1().serve_connection(TokioIo::new(stream), service);
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    let _admitted = admitted;
                    if let Err(error) = connection.await {
                        tracing::debug!("a connection ended: {error}");
                    }
                });
            }
        }
    }
    // Nobody comes any more; who waits for this says how long the others may take.
    drop(listener);
    graceful.shutdown().await;
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(BUFFER_BYTES_MAX);
    builder
}

/// One request of a connection beyond the bounds.
async fn answer_probe<A, P>(
    stream: Stream,
    _admitted: Admitted,
    handlers: Arc<Handlers<A, P>>,
    limits: ConnectionLimits,
) where
    P: Fn(&Request<Incoming>) -> Option<Response<WasiBody>>,
{
    let service = service_fn(|request| {
        let answer = (handlers.probe)(&request).unwrap_or_else(|| busy("too many connections are open\n"));
        std::future::ready(Ok::<_, Infallible>(closing(answer)))
    });
    let connection = http1().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.reserve_time_max, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection of the reserve ended: {error}"),
        Err(_) => tracing::debug!("a connection of the reserve took too long"),
    }
}

fn closing(mut answer: Response<WasiBody>) -> Response<WasiBody> {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Connections beyond the bounds since the log said so.
#[derive(Default)]
struct TurnedAway {
    count: u64,
    logged_at: Option<Instant>,
}

impl TurnedAway {
    fn count(&mut self, client: Option<SocketAddr>) {
        self.count += 1;
        if self.logged_at.is_some_and(|logged_at| logged_at.elapsed() < TURNED_AWAY_LOG) {
            return;
        }
        let client = client.map_or("the socket".to_owned(), |client| client.to_string());
        tracing::warn!("{} connections came beyond the bounds and get probes only, the last from {client}", self.count);
        *self = Self { count: 0, logged_at: Some(Instant::now()) };
    }
}

#[cfg(test)]
mod tests;
