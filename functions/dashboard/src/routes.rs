//! A request to a route, or why not. Pure.

use http::Method;
use jiff::civil::DateTime;

/// Rows of one answer unless `limit` says otherwise, and at the most.
const LIMIT_DEFAULT: i64 = 1_000;
const LIMIT_MAX: i64 = 10_000;

#[derive(Debug, PartialEq)]
pub enum Route {
    Page,
    Script,
    Style,
    Aggregates(Query),
    Streams,
}

/// Which aggregates are wanted: windows that start in `[from, to)`, UTC. Without `from`, those that start before `to`, or
/// now, and end no earlier than an hour before it: so a window of a day is there while it runs.
#[derive(Debug, Default, PartialEq)]
pub struct Query {
    pub stream: Option<String>,
    pub code: Option<String>,
    pub from: Option<DateTime>,
    pub to: Option<DateTime>,
    pub limit: i64,
}

/// A request that has no route.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub reason: String,
}

impl Route {
    /// # Errors
    /// 404 for an unknown path, 405 for a method that would change something, 400 for a query
    /// that cannot be understood.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal { status: 405, reason: format!("{method} is not allowed: this is read-only") });
        }
        match path {
            "/" => Ok(Self::Page),
            "/dashboard.js" => Ok(Self::Script),
            "/dashboard.css" => Ok(Self::Style),
            "/api/streams" => Ok(Self::Streams),
            "/api/aggregates" => Query::parse(query.unwrap_or_default()).map(Self::Aggregates),
            _ => Err(Refusal { status: 404, reason: "there is nothing here".to_owned() }),
        }
    }
}

impl Query {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut query = Self { limit: LIMIT_DEFAULT, ..Self::default() };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| bad(format!("{name} is not percent-encoded UTF-8")))?;
            match name {
                // An empty field of a form is no condition.
                _ if value.is_empty() => {}
                "stream" => query.stream = Some(value),
                "code" => query.code = Some(value),
                "from" => query.from = Some(time(name, &value)?),
                "to" => query.to = Some(time(name, &value)?),
                "limit" => query.limit = limit(&value)?,
                _ => return Err(bad(format!("{name} is not known: use stream, code, from, to, limit"))),
            }
        }
        Ok(query)
    }
}

fn bad(reason: String) -> Refusal {
    Refusal { status: 400, reason }
}

fn limit(text: &str) -> Result<i64, Refusal> {
    text.parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| bad(format!("limit is a number from 1 to {LIMIT_MAX}")))
}

/// An RFC 3339 time, or one without a zone, which is UTC.
fn time(name: &str, text: &str) -> Result<DateTime, Refusal> {
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(timestamp.to_zoned(jiff::tz::TimeZone::UTC).datetime());
    }
    text.parse().map_err(|_| bad(format!("{name} is a time like 2023-11-19T20:31:00Z")))
}

/// Percent-decoding of a form's value; none for what is not UTF-8 or holds U+0000.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (hex, tail) = rest.split_at_checked(2)?;
                rest = tail;
                u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Result<Route, Refusal> {
        Route::parse(&Method::GET, path, Some(query))
    }

    #[test]
    fn a_query_names_stream_code_and_time() {
        let Ok(Route::Aggregates(query)) = get(
            "/api/aggregates",
            "stream=a%20b&code=%C3%A9+x&from=2023-11-19T20:00:00Z&to=2023-11-19%2021:00:00&limit=5",
        ) else {
            panic!("no query")
        };
        assert_eq!(query.stream.as_deref(), Some("a b"));
        assert_eq!(query.code.as_deref(), Some("é x"));
        assert_eq!(query.from.unwrap().to_string(), "2023-11-19T20:00:00");
        assert_eq!(query.to.unwrap().to_string(), "2023-11-19T21:00:00");
        assert_eq!(query.limit, 5);
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
        ] {
            assert_eq!(get("/api/aggregates", query).unwrap_err().status, 400, "{query}");
        }
        assert_eq!(get("/api", "").unwrap_err().status, 404);
        assert_eq!(Route::parse(&Method::POST, "/", None).unwrap_err().status, 405);
    }

    #[test]
    fn empty_fields_are_no_conditions() {
        let Ok(Route::Aggregates(query)) = get("/api/aggregates", "stream=&code=&from=") else { panic!("no query") };
        assert_eq!(query, Query { limit: LIMIT_DEFAULT, ..Query::default() });
    }
}
