//! Errors of files that hold secrets: where and what, without the line itself and without the value.

use anyhow::{Error, anyhow};

/// What a TOML parser says of a text, by its line.
pub fn of_toml(text: &str, error: &toml::de::Error) -> Error {
    let message = without_value(error.message());
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            anyhow!("line {line}, column {column}: {message}")
        }
        None => anyhow!("{message}"),
    }
}

/// The same of a JSON parser.
pub fn of_json(error: &serde_json::Error) -> Error {
    anyhow!("{}", without_value(&error.to_string()))
}

/// `invalid type: string "geheim", expected u64` without the value in it.
fn without_value(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    match message.split_once(", expected") {
        Some((found, expected)) if found.starts_with("invalid ") => {
            let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected{expected}")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[expect(dead_code, reason = "only read")]
        token: String,
        #[expect(dead_code, reason = "only read")]
        number: Option<u64>,
        #[expect(dead_code, reason = "only read")]
        kafka: Option<BTreeMap<String, String>>,
    }

    #[test]
    fn an_error_tells_where_and_no_value() {
        for text in [
            "token = \"geheim",
            "token = geheim",
            "token = \"x\"\nnumber = \"geheim\"",
            "token = \"x\"\n[kafka]\n\"sasl.password\" = 4711",
            "token = \"geheim\"\ntoken = \"geheim\"",
            "token = \"geheim\" number = 1",
            "token = \"x\"\n[kafka]\n\"sasl.password\" = [\"geheim\"]",
            "tokn = \"geheim\"",
        ] {
            let error = of_toml(text, &toml::from_str::<File>(text).unwrap_err()).to_string();
            assert!(!error.contains("geheim") && !error.contains("4711"), "{error}");
            assert!(error.contains("line ") || error.contains("missing"), "{error}");
        }
        let error = serde_json::from_str::<BTreeMap<String, String>>("{\"a\": 4711}").unwrap_err();
        let error = of_json(&error).to_string();
        assert!(!error.contains("4711") && error.contains("line 1"), "{error}");
    }
}
