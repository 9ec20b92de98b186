//! The dashboard: a read-only page and JSON over the aggregates.
//!
//! # Layout
//! - [`routes`]: a request to a [`routes::Route`], or why not (pure).
//! - [`view`]: the page (pure).
//! - [`store`]: the only SQL.

pub mod assets;
pub mod routes;
pub mod store;

use bytes::Bytes;
use exagg_sdk::postgres::Address;
use http::{HeaderValue, Response, header};
use spin_sdk::http::{FullBody, IntoResponse, Request};

use crate::routes::{Refusal, Route};
use crate::store::Store;

type Page = Response<FullBody<Bytes>>;

/// What the page uses: its own script, style and JSON. No inline script and no other origin, so that a code
/// that looks like HTML stays text; no other page may hold it in a frame, and no form of it goes anywhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers one request. The export's symbols only link in a component.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> impl IntoResponse {
    let route = Route::parse(request.method(), request.uri().path(), request.uri().query());
    match route {
        Ok(Route::Page) => page(200, "text/html; charset=utf-8", assets::PAGE.into()),
        Ok(Route::Script) => page(200, "text/javascript; charset=utf-8", assets::SCRIPT.into()),
        Ok(Route::Style) => page(200, "text/css; charset=utf-8", assets::STYLE.into()),
        Ok(Route::Aggregates(query)) => json(read(async |store| store.aggregates(&query).await).await),
        Ok(Route::Streams) => json(read(async |store| store.streams().await).await),
        Err(Refusal { status, reason }) => error(status, &reason),
    }
}

async fn read(query: impl AsyncFnOnce(Store) -> Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    query(Store::open(&Address::load().await?).await?).await
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
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every answer is made by [`page`], by way of `json` or `error` or at once.
    #[test]
    fn every_answer_says_what_a_browser_may_do_with_it() {
        let answers = [
            page(200, "text/html; charset=utf-8", assets::PAGE.into()),
            page(200, "text/javascript; charset=utf-8", assets::SCRIPT.into()),
            json(Ok(b"[]".to_vec())),
            json(Err("PostgreSQL is away".to_owned())),
            error(404, "there is nothing here"),
        ];
        for answer in answers {
            let header = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap();
            let policy = header(header::CONTENT_SECURITY_POLICY);
            for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
                assert!(policy.split("; ").any(|part| part == rule), "no {rule} in {policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
            assert_eq!(header(header::REFERRER_POLICY), "no-referrer");
        }
    }

    /// What the policy refuses must not be in the page: it would do nothing, and nobody would notice.
    #[test]
    fn the_page_needs_no_more_than_its_policy_allows() {
        let page = assets::PAGE.to_ascii_lowercase();
        assert_eq!(page.matches("<script").count(), page.matches("<script src=\"/").count(), "scripts are files");
        for inline in ["<style", " style=", "<img", "<base", "<iframe", " onclick=", " oninput=", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert!(!assets::STYLE.contains("url(") && !assets::STYLE.contains("@import"));
        for inline in ["innerHTML", "setAttribute(\"style\"", ".style.", "eval("] {
            assert!(!assets::SCRIPT.contains(inline), "{inline}");
        }
    }
}
