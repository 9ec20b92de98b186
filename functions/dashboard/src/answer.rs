//! Answers: their headers, and the forms beside JSON.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use exagg_sdk::postgres::Failure;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use spin_sdk::http::FullBody;

pub type Answer = Response<FullBody<Bytes>>;

/// What the page uses: its own scripts, styles and JSON. No inline script and no other origin, so that a code
/// that looks like HTML stays text; no other page may hold it in a frame, and no form of it goes anywhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A browser asks again each time, with the `ETag`; a cache in front of many browsers may answer them for a second.
const CACHE_CONTROL: &str = "public, max-age=0, s-maxage=1";

pub const JSON: &str = "application/json";

/// A good answer, or 304 where the client has it.
pub fn ok(asked: &HeaderMap, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let is_known = asked.get_all(header::IF_NONE_MATCH).iter().any(|known| {
        let known = known.to_str().unwrap_or_default();
        known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
    });
    let (status, body) = if is_known { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, body) };
    let mut answer = plain(status, content_type, body);
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    // The form of rows goes by Accept.
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    answer
}

/// The same of a value.
pub fn json(asked: &HeaderMap, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => ok(asked, JSON, body),
        Err(error) => problem(500, &format!("the answer cannot be written: {error}")),
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// Why there is no answer (RFC 9457).
pub fn problem(status: u16, detail: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = Problem { r#type: "about:blank", title, status: status.as_u16(), detail };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut answer = plain(status, "application/problem+json", body.into());
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A database that cannot be read: what everybody may know of it. One try a second is enough for all who ask.
pub fn unreadable(failure: &Failure) -> Answer {
    let detail = match failure.sqlstate.as_deref() {
        Some("42P01" | "42703" | "42883" | "3F000") => {
            "The database does not have the tables that this dashboard reads: run exagg migrate."
        }
        Some("42501") => {
            "The dashboard's role may not read what it shows: run migrations/roles.sql again, as its owner, after exagg migrate."
        }
        Some("57014") => "PostgreSQL did not answer in time.",
        Some(_) => "PostgreSQL refused what the dashboard asked: the host's log has the reason.",
        None => "PostgreSQL cannot be reached: the host's log has the reason.",
    };
    let mut answer = problem(503, detail);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    answer
}

/// The client is sent on, to an address relative to the one that it asked for.
pub fn redirect(to: &str) -> Answer {
    let mut answer = plain(StatusCode::PERMANENT_REDIRECT, "text/plain; charset=utf-8", Bytes::new());
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

/// With a header more; one that cannot be written is left out.
pub fn with(mut answer: Answer, name: header::HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn plain(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(FullBody::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    answer
}

/// Rows as a table, by RFC 4180. A text that a spreadsheet would take for a formula stays text.
pub fn csv(rows: &[u8]) -> Result<Vec<u8>, csv::Error> {
    const COLUMNS: [&str; 14] = [
        "stream",
        "code",
        "window_start",
        "window_end",
        "avg_vol",
        "records",
        "sum_vol",
        "min_vol",
        "max_vol",
        "first_vol",
        "last_vol",
        "revision",
        "closed_at",
        "is_final",
    ];
    let rows: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(rows).unwrap_or_default();
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for row in rows {
        writer.write_record(COLUMNS.map(|name| match row.get(name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
                format!("'{text}")
            }
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }))?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_says_what_a_browser_may_do_with_it() {
        let none = HeaderMap::new();
        let away = Failure { sqlstate: None, reason: "postgres://u:geheim@db".to_owned() };
        for answer in [ok(&none, JSON, "[]"), problem(404, "x"), unreadable(&away), redirect("a/"), json(&none, &1)] {
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

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let first = ok(&HeaderMap::new(), JSON, "[]");
        let tag = first.headers()[header::ETAG].clone();
        let mut asked = HeaderMap::new();
        for (known, status) in [(format!("W/{}", tag.to_str().unwrap()), 304), ("\"other\"".to_owned(), 200)] {
            asked.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&known).unwrap());
            assert_eq!(ok(&asked, JSON, "[]").status(), status);
        }
    }

    #[test]
    fn a_code_that_looks_like_a_formula_is_text_in_a_spreadsheet() {
        let rows =
            br#"[{"stream":"s","code":"=1+1","avg_vol":-1.5,"revision":null,"is_final":true},{"code":"a,\"b\"\n"}]"#;
        let text = String::from_utf8(csv(rows).unwrap()).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        assert!(lines[0].starts_with("stream,code,window_start"));
        assert_eq!(lines[1], "s,'=1+1,,,-1.5,,,,,,,,,true");
        assert!(lines[2].starts_with(",\"a,\"\"b\"\"\n\",,"), "{text}");
    }
}
