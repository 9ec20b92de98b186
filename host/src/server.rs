//! The two listeners: the app's own address with the probes of the operator, and the admin one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::WasiBody;

use crate::admin::Admin;
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

/// Serves the app's routes and the operator's probes, which go here even where the chosen
/// stages have no route.
pub async fn serve_app(
    listener: TcpListener,
    routes: Arc<HttpTrigger>,
    context: Context,
    admin: Arc<Admin>,
    stop: CancellationToken,
) {
    let answer = move |request: Request<Incoming>, client: SocketAddr| {
        let (routes, context, admin) = (Arc::clone(&routes), context.clone(), Arc::clone(&admin));
        async move {
            match request.uri().path() {
                "/.well-known/spin/health" => plain(StatusCode::OK, "OK\n"),
                "/.well-known/exagg/ready" => admin.ready(),
                _ => routes.handle(request, client, &context).await,
            }
        }
    };
    serve(listener, Arc::new(answer), stop).await;
}

/// Serves the admin interface.
pub async fn serve_admin(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let answer = move |request: Request<Incoming>, _: SocketAddr| {
        let admin = Arc::clone(&admin);
        async move { admin.handle(&request).await }
    };
    serve(listener, Arc::new(answer), stop).await;
}

async fn serve<A, F>(listener: TcpListener, answer: Arc<A>, stop: CancellationToken)
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
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
