//! The request to livecoinwatch and what its answers mean. Pure.

use serde_json::{Value, json};

use crate::record::{Record, utc};

/// Bytes of an error's body that are shown.
const SHOWN_BYTES_MAX: usize = 200;

/// What to do after an answer.
#[derive(Debug, PartialEq)]
pub enum Response {
    Records(Vec<Record>),
    /// Worth another try, after so many seconds where the server asks for a pause.
    Retry {
        reason: String,
        after_seconds: Option<u64>,
    },
    /// Another try would be answered the same.
    Failed(String),
}

/// The documented body of `POST /exchanges/list`.
pub fn request_body(currency: &str, limit: usize) -> Vec<u8> {
    json!({
        "currency": currency,
        "sort": "visitors",
        "order": "descending",
        "offset": 0,
        "limit": limit,
        "meta": true,
    })
    .to_string()
    .into_bytes()
}

/// Interprets a response; `now` (Unix seconds) is the time that the records get.
pub fn interpret(status: u16, retry_after: Option<&str>, body: &[u8], now: u64) -> Response {
    match status {
        200 => match records(body, now) {
            Ok(records) => Response::Records(records),
            Err(reason) => Response::Failed(format!("the answer cannot be used: {reason}")),
        },
        429 | 503 => Response::Retry {
            reason: format!("the API is busy: status {status}{}", shown(body)),
            after_seconds: retry_after.and_then(|text| pause(text, now)),
        },
        408 | 500..=599 => Response::Retry { reason: format!("status {status}{}", shown(body)), after_seconds: None },
        401 | 403 => Response::Failed(format!(
            "the API refuses the key: status {status}{}; set livecoinwatch_api_key",
            shown(body)
        )),
        _ => Response::Failed(format!("status {status}{}", shown(body))),
    }
}

/// `Retry-After` is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
fn pause(text: &str, now: u64) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let time = jiff::fmt::rfc2822::parse(text).ok()?;
        Some(u64::try_from(time.timestamp().as_second()).ok()?.saturating_sub(now))
    })
}

/// All items become records, or none does: half an answer is not an answer.
fn records(body: &[u8], now: u64) -> Result<Vec<Record>, String> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| format!("it is not JSON ({error}){}", shown(body)))?;
    let Value::Array(items) = value else {
        return Err(format!("it is not an array{}", shown(body)));
    };
    if items.is_empty() {
        return Err("it is an empty array".to_owned());
    }
    let time = utc(now);
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| record(item, &time).ok_or(format!("item {index} has no code")))
        .collect()
}

fn record(item: Value, time: &str) -> Option<Record> {
    let Value::Object(mut value) = item else { return None };
    let key = value.get("code")?.as_str()?.to_owned();
    value.insert("time".to_owned(), Value::String(time.to_owned()));
    Some(Record { key, value })
}

/// The head of a body on one line, for a log.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_425_875;

    fn reason(answer: Response) -> String {
        match answer {
            Response::Failed(reason) | Response::Retry { reason, .. } => reason,
            Response::Records(records) => format!("{records:?}"),
        }
    }

    #[test]
    fn the_body_is_the_documented_one() {
        let body: Value = serde_json::from_slice(&request_body("USD", 10)).unwrap();
        let documented = json!({"currency": "USD", "sort": "visitors", "order": "descending", "offset": 0, "limit": 10, "meta": true});
        assert_eq!(body, documented);
    }

    #[test]
    fn each_item_becomes_a_keyed_record_with_utc_time_and_all_its_fields() {
        let body = br#"[{"code":"BINANCE","volume":17189543.25,"png64":"x"},{"code":"KRAKEN","volume":null}]"#;
        let Response::Records(records) = interpret(200, None, body, NOW) else { panic!("no records") };
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].key, "BINANCE");
        assert_eq!(
            Value::Object(records[0].value.clone()),
            json!({"code": "BINANCE", "volume": 17_189_543.25, "png64": "x", "time": "2023-11-19 20:31:15"})
        );
        assert_eq!(records[1].value["volume"], Value::Null);
    }

    #[test]
    fn a_bad_answer_gives_no_record_and_says_why() {
        for (body, why) in [
            (&b"<html>busy</html>"[..], "not JSON"),
            (b"[]", "empty array"),
            (br#"{"error":1}"#, "not an array"),
            (br#"[{"code":"A"},{"name":"B"}]"#, "item 1 has no code"),
            (br#"[{"code":"A"},3]"#, "item 1 has no code"),
            (b"", "not JSON"),
        ] {
            let answer = interpret(200, None, body, NOW);
            assert!(matches!(answer, Response::Failed(_)), "{answer:?}");
            assert!(reason(answer).contains(why), "{why}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let pause = |text| match interpret(429, Some(text), b"", NOW) {
            Response::Retry { after_seconds, .. } => after_seconds,
            _ => None,
        };
        assert_eq!(pause("17"), Some(17));
        assert_eq!(pause("Sun, 19 Nov 2023 20:31:45 GMT"), Some(30));
        assert_eq!(pause("Sun, 19 Nov 2023 20:31:00 GMT"), Some(0));
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn a_refused_key_is_not_tried_again() {
        assert!(matches!(interpret(401, None, b"{}", NOW), Response::Failed(_)));
        assert!(matches!(interpret(500, None, b"", NOW), Response::Retry { after_seconds: None, .. }));
        assert!(matches!(interpret(404, None, b"", NOW), Response::Failed(_)));
    }
}
