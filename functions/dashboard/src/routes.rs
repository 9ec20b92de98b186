//! A request to a route, or why not. Pure.
//!
//! # Layout
//! - here: paths.
//! - [`query`]: what stands behind the question mark.
//! - [`cursor`]: where a page of rows ended.

pub mod cursor;
pub mod query;

use http::Method;

use self::query::{Aggregates, Codes, OneWindow, Query, Rejects, Series, Windows};
use crate::assets::{self, Asset};

#[derive(Debug, PartialEq)]
pub enum Route {
    /// A file of the page.
    Asset(&'static Asset),
    /// The tables of the first screen, for who runs no script.
    Plain,
    OpenApi,
    Overview,
    Health,
    Streams,
    Stages,
    Hosts,
    Aggregates(Aggregates),
    Series(Series),
    Codes(Codes),
    Windows(Windows),
    Window(OneWindow),
    Rejects(Rejects),
    /// Of this stream.
    RejectSummary(String),
}

/// A request that has no route.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub reason: String,
}

impl Route {
    /// `path` is that behind the route's own: empty, or with a stroke at its beginning.
    ///
    /// # Errors
    /// 404 for an unknown path, 405 for a method that would change something, 400 for a query
    /// that cannot be understood.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal { status: 405, reason: format!("{method} is not allowed: this is read-only") });
        }
        if let Some(asset) = assets::find(path) {
            return Ok(Self::Asset(asset));
        }
        let query = Query::parse(query.unwrap_or_default())?;
        let route = match path {
            "/plain" => Self::Plain,
            "/api/openapi.json" => Self::OpenApi,
            "/api/overview" => Self::Overview,
            "/api/health" => Self::Health,
            "/api/streams" => Self::Streams,
            "/api/stages" => Self::Stages,
            "/api/hosts" => Self::Hosts,
            "/api/aggregates" => Self::Aggregates(Aggregates::parse(query)?),
            "/api/series" => Self::Series(Series::parse(query)?),
            "/api/codes" => Self::Codes(Codes::parse(query)?),
            "/api/windows" => Self::Windows(Windows::parse(query)?),
            "/api/window" => Self::Window(OneWindow::parse(query)?),
            "/api/rejects" => Self::Rejects(Rejects::parse(query)?),
            "/api/rejects/summary" => Self::RejectSummary(query.only_stream()?),
            _ => {
                let reason = "there is nothing here: api/openapi.json has all that there is".to_owned();
                return Err(Refusal { status: 404, reason });
            }
        };
        Ok(route)
    }
}

fn bad(reason: String) -> Refusal {
    Refusal { status: 400, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Result<Route, Refusal> {
        Route::parse(&Method::GET, path, Some(query))
    }

    fn aggregates(query: &str) -> Aggregates {
        match get("/api/aggregates", query) {
            Ok(Route::Aggregates(query)) => query,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_names_stream_code_and_time() {
        let query = aggregates(
            "stream=a%20b&code=%C3%A9+x&from=2023-11-19T20:00:00Z&to=2023-11-19%2021:00:00&limit=5&format=csv",
        );
        assert_eq!(query.stream.as_deref(), Some("a b"));
        assert_eq!(query.code.as_deref(), Some("é x"));
        assert_eq!(query.from.unwrap().to_string(), "2023-11-19T20:00:00");
        assert_eq!(query.to.unwrap().to_string(), "2023-11-19T21:00:00");
        assert_eq!((query.limit, query.format), (5, Some(query::Format::Csv)));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for query in [
            "from=yesterday",
            "limit=0",
            "limit=10001",
            "limit=x",
            "cod=A",
            "code=%zz",
            "code=%ff",
            "code=%00",
            "code=%4",
            "format=xml",
            "cursor=1",
            "search=a",
        ] {
            assert_eq!(get("/api/aggregates", query).unwrap_err().status, 400, "{query}");
        }
        let needed = get("/api/series", "stream=s").unwrap_err();
        assert_eq!((needed.status, needed.reason.as_str()), (400, "code is needed"));
        assert_eq!(get("/api", "").unwrap_err().status, 404);
        assert_eq!(Route::parse(&Method::POST, "/", None).unwrap_err().status, 405);
        let close = get("/api/aggregates", "sream=a").unwrap_err().reason;
        assert_eq!(
            close,
            "sream is not known: did you mean stream? There are stream, code, from, to, limit, cursor, format"
        );
    }

    #[test]
    fn empty_fields_are_no_conditions() {
        let query = aggregates("stream=&code=&from=");
        assert_eq!((query.stream, query.code, query.from, query.limit), (None, None, None, 1_000));
    }
}
