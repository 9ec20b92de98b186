//! Outbound HTTP, WASI 0.2 and 0.3, behind the allow-list. Redirects are the guest's business:
//! each is a request of its own and is checked again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::BodyExt;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::outbound_networking::{AllowedHosts, Destination};
use super::{Configure, Factor};
use crate::app::ComponentSpec;
use crate::budget::Account;
use crate::instance::State;

/// Time-outs where the guest sets none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub struct OutboundHttpFactor;

/// One instance's context.
pub struct InstanceHttp {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

impl Factor for OutboundHttpFactor {
    type Component = Arc<AllowedHosts>;
    type Instance = InstanceHttp;

    fn init(linker: &mut Linker<State>) -> wasmtime::Result<()> {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)
    }

    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<Self::Component> {
        Ok(Arc::clone(&context.allowed_hosts))
    }

    fn prepare(&self, component: &Self::Component, _: &Arc<Account>) -> Self::Instance {
        InstanceHttp { ctx: WasiHttpCtx::new(), hooks: Hooks { allowed: Arc::clone(component) } }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let http = &mut self.factors.http;
        WasiHttpCtxView { ctx: &mut http.ctx, table: &mut self.table, hooks: &mut http.hooks }
    }
}

struct Hooks {
    allowed: Arc<AllowedHosts>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let allowed = Arc::clone(&self.allowed);
        Box::new(async move {
            check(&allowed, request.uri())?;
            let given = options.unwrap_or_default();
            let options = RequestOptions {
                connect_timeout: given.connect_timeout.or(Some(CONNECT_TIMEOUT)),
                first_byte_timeout: given.first_byte_timeout.or(Some(ANSWER_TIMEOUT)),
                between_bytes_timeout: given.between_bytes_timeout.or(Some(ANSWER_TIMEOUT)),
            };
            let (response, io) = wasmtime_wasi_http::default_send_request(request, Some(options)).await?;
            Ok((response.map(BodyExt::boxed_unsync), Box::new(io) as Io))
        })
    }
}

fn check(allowed: &AllowedHosts, uri: &http::Uri) -> Result<(), Error> {
    let scheme = uri.scheme_str().unwrap_or("https");
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
    let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    allowed.check(Destination { scheme, host, port }).map_err(|error| {
        tracing::warn!("{error}");
        Error::HttpRequestDenied
    })
}
