//! Records that are not counted, as they are shown. Pure.

use serde::Serialize;
use serde_json::{Value, json};

use crate::overview::facts::time;
use crate::store::Rejected;

#[derive(Debug, Serialize)]
pub struct Reject {
    pub rejected_at: String,
    pub stream: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub window_start: Option<String>,
    pub reason: String,
    pub value_bytes: Option<i64>,
    pub value: Option<String>,
    pub value_hex: Option<String>,
    pub value_hidden: Option<&'static str>,
}

impl Reject {
    pub fn new(row: &Rejected, shows_values: bool) -> Self {
        let text = row.value_hex.as_deref().and_then(text);
        let hidden = if !shows_values {
            Some("The dashboard's role may not read values: the role exagg_values may.")
        } else if row.value_hex.is_some() {
            None
        } else if row.value_bytes.is_none() {
            Some("The record has no value.")
        } else {
            Some("It was not kept: the first 100 of a reason in a minute are.")
        };
        Self {
            rejected_at: time(row.rejected_us),
            stream: row.stream.clone(),
            topic: row.topic.clone(),
            partition: row.partition,
            offset: row.record_offset,
            window_start: row.window_us.map(time),
            reason: row.reason.clone(),
            value_bytes: row.value_bytes,
            value_hex: if text.is_some() { None } else { row.value_hex.clone() },
            value: text,
            value_hidden: hidden,
        }
    }
}

/// What can be shown as text: UTF-8 without control characters but line feeds and tabs. What was cut may end within a
/// character.
fn text(hex: &str) -> Option<String> {
    let digits = hex.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let mut bytes = bytes.collect::<Option<Vec<_>>>()?;
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to());
    }
    let is_shown = |character: char| !character.is_control() || matches!(character, '\n' | '\t' | '\r');
    String::from_utf8(bytes).ok().filter(|text| text.chars().all(is_shown))
}

/// Where the page behind this row begins.
pub fn cursor(row: &Rejected) -> String {
    json!([row.rejected_us, row.topic_id, row.partition, row.record_offset, row.window_us]).to_string()
}

/// How many of each reason in each minute, and the command that counts them once their cause is mended.
pub fn summary(counts: &[u8], stream: &str) -> Value {
    let mut summary: Value = serde_json::from_slice(counts).unwrap_or_default();
    let is_any = summary["counts"].as_array().is_some_and(|counts| !counts.is_empty());
    let command = format!("exagg replay --stream {} --from earliest", crate::overview::health::word(stream));
    summary["replay_command"] = json!(is_any.then_some(command));
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_where_it_can_be_shown() {
        assert_eq!(text("7b7d").as_deref(), Some("{}"));
        assert_eq!(text("c3a9").as_deref(), Some("é"));
        assert_eq!(text("61c3").as_deref(), Some("a"), "cut within a character");
        for hex in ["00", "ff61", "1b5b", "6"] {
            assert!(text(hex).is_none_or(|text| text.is_empty()), "{hex}");
        }
    }

    #[test]
    fn why_there_is_no_value_is_said() {
        let row = Rejected {
            rejected_us: 0,
            stream: "s".to_owned(),
            topic: "t".to_owned(),
            topic_id: "id".to_owned(),
            partition: 0,
            record_offset: 1,
            window_us: None,
            reason: "not_json".to_owned(),
            value_bytes: Some(2),
            value_hex: Some("ff00".to_owned()),
        };
        let shown = Reject::new(&row, true);
        assert_eq!((shown.value, shown.value_hex.as_deref(), shown.value_hidden), (None, Some("ff00"), None));
        assert!(Reject::new(&Rejected { value_hex: None, ..row.clone() }, true).value_hidden.unwrap().contains("100"));
        assert!(
            Reject::new(&Rejected { value_hex: None, ..row }, false).value_hidden.unwrap().contains("exagg_values")
        );
    }

    #[test]
    fn a_summary_has_the_command_where_anything_was_rejected() {
        assert_eq!(summary(br#"{"counts":[],"is_partial":false}"#, "s")["replay_command"], Value::Null);
        let some = summary(br#"{"counts":[{"reason":"late"}],"is_partial":false}"#, "a b");
        assert_eq!(some["replay_command"], "exagg replay --stream 'a b' --from earliest");
    }
}
