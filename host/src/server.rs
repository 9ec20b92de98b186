//! The two listeners: the app's own address with the probes of the operator, and the admin one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::WasiBody;

use crate::admin::{Admin, Through};
use crate::triggers::Context;
use crate::triggers::http::{HttpTrigger, plain};

/// A client may take so long over its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open connections may take to end when the host stops.
const CLOSE_MAX: Duration = Duration::from_secs(2);

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
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(in_path)?;
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).with_context(in_path)?;
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

/// What is listened on.
enum Listener {
    Network(TcpListener),
    Socket(AdminSocket),
}

impl Listener {
    /// A connection, and the client's address where it has one.
    async fn accept(&self) -> std::io::Result<(Either<TcpStream, UnixStream>, Option<SocketAddr>)> {
        match self {
            Self::Network(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Either::Left(stream), Some(client)))
            }
            Self::Socket(socket) => Ok((Either::Right(socket.listener.accept().await?.0), None)),
        }
    }
}

/// Serves the app's routes and the operator's probes, which go here even where the chosen
/// stages have no route.
pub async fn serve_app(
    listener: TcpListener,
    routes: Arc<HttpTrigger>,
    context: Context,
    admin: Arc<Admin>,
    stop: CancellationToken,
) {
    let answer = move |request: Request<Incoming>, client: Option<SocketAddr>| {
        let client = client.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let (routes, context, admin) = (Arc::clone(&routes), context.clone(), Arc::clone(&admin));
        async move {
            match request.uri().path() {
                "/.well-known/spin/health" => plain(StatusCode::OK, "OK\n"),
                "/.well-known/exagg/ready" => admin.ready(),
                _ => routes.handle(request, client, &context).await,
            }
        }
    };
    serve(Listener::Network(listener), Arc::new(answer), stop).await;
}

/// Serves the admin interface on its address.
pub async fn serve_admin(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    serve_admin_on(Listener::Network(listener), Through::Network, admin, stop).await;
}

/// Serves the admin interface on its socket.
pub async fn serve_admin_socket(socket: AdminSocket, admin: Arc<Admin>, stop: CancellationToken) {
    serve_admin_on(Listener::Socket(socket), Through::Socket, admin, stop).await;
}

async fn serve_admin_on(listener: Listener, through: Through, admin: Arc<Admin>, stop: CancellationToken) {
    let answer = move |request: Request<Incoming>, _: Option<SocketAddr>| {
        let admin = Arc::clone(&admin);
        async move { admin.handle(request, through).await }
    };
    serve(listener, Arc::new(answer), stop).await;
}

async fn serve<A, F>(listener: Listener, answer: Arc<A>, stop: CancellationToken)
where
    A: Fn(Request<Incoming>, Option<SocketAddr>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<WasiBody>> + Send + 'static,
{
    let connections = GracefulShutdown::new();
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
        let answer = Arc::clone(&answer);
        let service = service_fn(move |request| {
            let answer = answer(request, client);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    let _ = tokio::time::timeout(CLOSE_MAX, connections.shutdown()).await;
}
