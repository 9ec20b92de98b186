//! Where a page of rows ended: JSON in the query, which only this API reads.

use jiff::civil::DateTime;

use super::{Refusal, bad};

/// The last row of a page of aggregates, in whose order pages go on: the newest window first, then by stream and code.
#[derive(Clone, Debug, PartialEq)]
pub struct RowCursor {
    pub window_start: DateTime,
    pub window_end: DateTime,
    pub stream: String,
    /// None: behind all rows of that stream in the window.
    pub code: Option<String>,
}

impl RowCursor {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let parsed: Result<(String, String, String, Option<String>), _> = serde_json::from_str(text);
        let (start, end, stream, code) = parsed.map_err(|_| not_ours())?;
        let time = |text: &str| text.parse::<DateTime>().map_err(|_| not_ours());
        Ok(Self { window_start: time(&start)?, window_end: time(&end)?, stream, code })
    }
}

/// The last row of a page of rejects: the latest first.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectCursor {
    pub rejected_us: i64,
    pub topic_id: String,
    pub partition: i32,
    pub offset: i64,
    /// Microseconds since the epoch; none where the record as a whole is rejected.
    pub window_us: Option<i64>,
}

impl RejectCursor {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let parsed = serde_json::from_str(text).map_err(|_| not_ours())?;
        let (rejected_us, topic_id, partition, offset, window_us) = parsed;
        Ok(Self { rejected_us, topic_id, partition, offset, window_us })
    }
}

fn not_ours() -> Refusal {
    bad("cursor is not one of a Link header of this API's".to_owned())
}

/// The header Link to the next page: the same query with another cursor.
pub fn next(path: &str, query: &str, cursor: &str) -> String {
    let rest = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let rest: String = rest.map(|pair| format!("{pair}&")).collect();
    let name = path.rsplit('/').next().unwrap_or_default();
    // The query came in a request's target, so it has nothing that ends the header's brackets.
    format!("<{name}?{rest}cursor={}>; rel=\"next\"", encode(cursor))
}

/// Percent-encoding of all that is neither letter nor digit.
fn encode(text: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_behind_its_last_row() {
        let text = r#"["2026-01-02T03:04:00","2026-01-02T03:05:00","s","a\"&<>é"]"#;
        let cursor = RowCursor::parse(text).unwrap();
        assert_eq!((cursor.stream.as_str(), cursor.code.as_deref()), ("s", Some("a\"&<>é")));
        let link = next("/api/aggregates", "cursor=old&stream=s&limit=2", text);
        assert!(link.starts_with("<aggregates?stream=s&limit=2&cursor=%5B%222026%2D01"), "{link}");
        assert!(link.ends_with(">; rel=\"next\"") && link.matches('>').count() == 1, "{link}");
        assert!(RowCursor::parse("[]").is_err() && RejectCursor::parse("{}").is_err());
        assert_eq!(RejectCursor::parse(r#"[1,"id",2,3,null]"#).unwrap().window_us, None);
    }
}
