//! What the commands ask of a running host, through its admin endpoint.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use exagg_common::template::Secret;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use crate::config::{ADMIN_TOKEN, Environment};

/// A swap compiles: that takes seconds on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where a host's admin interface is reached.
pub enum AdminEndpoint {
    /// The socket in its state directory: who may open it may change things.
    Socket(PathBuf),
    /// Its admin address; changing things needs its token.
    Address(SocketAddr, Option<Secret>),
}

pub struct AdminResponse {
    pub status: u16,
    pub body: String,
}

impl AdminEndpoint {
    /// The address where one is given, with the token of the environment, else the socket.
    pub fn choose(admin: Option<SocketAddr>, state_dir: &Path, environment: &Environment) -> Result<Self> {
        let Some(address) = admin else { return Ok(Self::Socket(socket(state_dir, "socket"))) };
        let token = environment.iter().find(|(name, _)| *name == ADMIN_TOKEN);
        let token = token.map(|(_, token)| token.to_str().context("EXAGG_ADMIN_TOKEN is not UTF-8")).transpose()?;
        Ok(Self::Address(address, token.map(Secret::new)))
    }

    fn place(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Address(address, _) => address.to_string(),
        }
    }
}

/// The endpoints of the hosts that share a state directory: one of `exagg up`, or those of the triggers
/// that `spin up` starts.
pub fn endpoints(admin: Option<SocketAddr>, state_dir: &Path, environment: &Environment) -> Result<Vec<AdminEndpoint>> {
    let first = AdminEndpoint::choose(admin, state_dir, environment)?;
    let AdminEndpoint::Socket(path) = &first else { return Ok(vec![first]) };
    let listed = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut sockets: Vec<_> = listed.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    sockets.sort();
    Ok(if sockets.is_empty() { vec![first] } else { sockets.into_iter().map(AdminEndpoint::Socket).collect() })
}

/// An admin socket below a state directory; hosts that share one have names of their own.
pub fn socket(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("admin").join(name)
}

/// Asks the host.
pub async fn request(endpoint: &AdminEndpoint, method: &str, path: &str, body: Bytes) -> Result<AdminResponse> {
    let asked = async {
        let host = match endpoint {
            AdminEndpoint::Socket(_) => "exagg".to_owned(),
            // The host answers to its address: a name could be anybody's.
            AdminEndpoint::Address(address, _) => address.to_string(),
        };
        let mut request = http::Request::builder().method(method).uri(path).header("host", host);
        match endpoint {
            AdminEndpoint::Socket(path) => {
                let stream = UnixStream::connect(path).await?;
                send(stream, request.body(Full::new(body))?).await
            }
            AdminEndpoint::Address(address, token) => {
                if let Some(token) = token {
                    request = request.header("authorization", format!("Bearer {}", token.expose()));
                }
                let stream = TcpStream::connect(address).await?;
                send(stream, request.body(Full::new(body))?).await
            }
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.context("no answer in time").and_then(|answer| answer).with_context(
        || {
            format!(
                "no host answers at {}: name its state directory with --state-dir, or its admin address with --admin",
                endpoint.place()
            )
        },
    )
}

async fn send<S>(stream: S, request: http::Request<Full<Bytes>>) -> Result<AdminResponse>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(AdminResponse { status, body: String::from_utf8_lossy(&body).into_owned() })
}
