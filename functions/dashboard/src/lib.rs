//! The dashboard: a page and an API over the aggregates and the pipeline that makes them. It only reads.
//!
//! # Layout
//! - [`routes`]: a request to a [`routes::Route`], or why not (pure).
//! - [`overview`]: what is so of the pipeline, and what is wrong with it (pure).
//! - [`rejects`]: records that are not counted, as they are shown (pure).
//! - [`plain`]: the tables of the first screen without a script (pure).
//! - [`answer`]: headers, problems, CSV (pure).
//! - [`assets`]: the files of the page, which stand in `page/`.
//! - [`store`]: the only SQL.

pub mod answer;
pub mod assets;
pub mod overview;
pub mod plain;
pub mod rejects;
pub mod routes;
pub mod store;

use exagg_sdk::postgres::{Address, Failure};
use http::header;
use spin_sdk::http::{IntoResponse, Request};

use crate::answer::{Answer, JSON, json, ok, problem};
use crate::overview::Overview;
use crate::routes::query::{Aggregates, Format};
use crate::routes::{Refusal, Route, cursor};
use crate::store::Store;

/// The API as a document.
const OPENAPI: &str = include_str!("openapi.json");

/// The path behind the route that the trigger has.
const PATH_INFO: &str = "spin-path-info";

/// Answers one request. The export's symbols only link in a component.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> impl IntoResponse {
    let path = request.uri().path();
    let below = request.headers().get(PATH_INFO).and_then(|path| path.to_str().ok()).unwrap_or(path);
    // Addresses of the page are relative to its folder.
    let below = match below {
        "" if path.ends_with('/') => "/",
        "" => return answer::redirect(&format!("{}/", path.rsplit('/').next().unwrap_or_default())),
        below => below,
    };
    match Route::parse(request.method(), below, request.uri().query()) {
        Ok(route) => match answered(&route, &request).await {
            Ok(answer) => answer,
            Err(failure) => {
                eprintln!("{failure}");
                answer::unreadable(&failure)
            }
        },
        Err(Refusal { status, reason }) => problem(status, &reason),
    }
}

async fn answered(route: &Route, request: &Request) -> Result<Answer, Failure> {
    let asked = request.headers();
    let route = match route {
        Route::Asset(asset) => return Ok(ok(asked, asset.content_type, asset.body)),
        Route::OpenApi => return Ok(ok(asked, JSON, OPENAPI)),
        route => route,
    };
    let address = Address::load().await.map_err(|reason| Failure { sqlstate: None, reason })?;
    let store = Store::open(&address).await?;
    let overview = async || Ok::<_, Failure>(Overview::new(&store.overview().await?));
    Ok(match route {
        Route::Asset(_) | Route::OpenApi => problem(500, "a file is answered above"),
        Route::Plain => ok(asked, "text/html; charset=utf-8", plain::page(&overview().await?)),
        Route::Overview => json(asked, &overview().await?),
        Route::Health => json(asked, &overview().await?.health),
        Route::Streams => json(asked, &overview().await?.streams),
        Route::Stages => json(asked, &overview().await?.stages),
        Route::Hosts => json(asked, &overview().await?.hosts),
        Route::Aggregates(query) => aggregates(&store, query, request).await?,
        Route::Series(query) => match store.series(query).await? {
            Some(body) => ok(asked, JSON, body),
            None => problem(404, &format!("there is no stream {:?}: api/streams has all", query.stream)),
        },
        Route::Codes(query) => ok(asked, JSON, store.codes(query).await?),
        Route::Windows(query) => ok(asked, JSON, store.windows(query).await?),
        Route::Window(query) => ok(asked, JSON, store.window(query).await?),
        Route::Rejects(query) => {
            let (rows, shows_values) = store.rejects(query).await?;
            let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= query.limit);
            let next = rows.last().filter(|_| is_full).map(rejects::cursor);
            let shown: Vec<_> = rows.iter().map(|row| rejects::Reject::new(row, shows_values)).collect();
            paged(json(asked, &shown), request, next)
        }
        Route::RejectSummary(stream) => json(asked, &rejects::summary(&store.reject_counts(stream).await?, stream)),
    })
}

async fn aggregates(store: &Store, query: &Aggregates, request: &Request) -> Result<Answer, Failure> {
    let page = store.aggregates(query).await?;
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_csv = query.format.map_or(accept.starts_with("text/csv"), |format| format == Format::Csv);
    let answer = if is_csv {
        match answer::csv(&page.json) {
            Ok(body) => {
                let answer = ok(request.headers(), "text/csv; charset=utf-8", body);
                answer::with(answer, header::CONTENT_DISPOSITION, "attachment; filename=\"aggregates.csv\"")
            }
            Err(error) => problem(500, &format!("the rows cannot be written as CSV: {error}")),
        }
    } else {
        ok(request.headers(), JSON, page.json)
    };
    Ok(paged(answer, request, page.next))
}

/// With where the next page is.
fn paged(answer: Answer, request: &Request, next: Option<String>) -> Answer {
    match next {
        Some(next) => {
            let uri = request.uri();
            answer::with(answer, header::LINK, &cursor::next(uri.path(), uri.query().unwrap_or_default(), &next))
        }
        None => answer,
    }
}
