//! The dashboard: a read-only page and JSON over the aggregates.
//!
//! # Layout
//! - [`routes`]: a request to a [`routes::Route`], or why not (pure).
//! - [`view`]: the page (pure).
//! - [`store`]: the only SQL.

pub mod routes;
pub mod store;
pub mod view;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use spin_sdk::http::{FullBody, IntoResponse, Request};
use spin_sdk::variables;

use crate::routes::{Refusal, Route};
use crate::store::Store;

type Page = Response<FullBody<Bytes>>;

/// Answers one request. The export's symbols only link in a component.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> impl IntoResponse {
    let route = Route::parse(request.method(), request.uri().path(), request.uri().query());
    match route {
        Ok(Route::Page) => page(200, "text/html; charset=utf-8", view::PAGE.into()),
        Ok(Route::Script) => page(200, "text/javascript; charset=utf-8", view::SCRIPT.into()),
        Ok(Route::Style) => page(200, "text/css; charset=utf-8", view::STYLE.into()),
        Ok(Route::Aggregates(query)) => json(read(async |store| store.aggregates(&query).await).await),
        Ok(Route::Streams) => json(read(async |store| store.streams().await).await),
        Err(Refusal { status, reason }) => error(status, &reason),
    }
}

async fn read(query: impl AsyncFnOnce(Store) -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    let url = variables::get("postgres_url").await.map_err(|error| error.to_string())?;
    query(Store::open(&url).await?).await
}

fn json(result: Result<Vec<u8>, String>) -> Page {
    match result {
        Ok(body) => page(200, "application/json", body.into()),
        Err(reason) => {
            eprintln!("{reason}");
            error(503, "the database cannot be read now")
        }
    }
}

fn error(status: u16, reason: &str) -> Page {
    page(status, "application/json", serde_json::json!({ "error": reason }).to_string().into())
}

fn page(status: u16, content_type: &'static str, body: Bytes) -> Page {
    let mut response = Response::new(FullBody::new(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // No inline script and no other origin: a code that looks like HTML stays text.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'"));
    response
}
