//! What an operator configures, and what a guest or a manifest names: the first byte chooses which, a line
//! break stands between its parts.
#![allow(clippy::unwrap_used, reason = "a target says by panicking what does not hold")]

use exagg::config::runtime;
use exagg_clients::kafka::addresses;
use exagg_clients::postgres::Address;
use exagg_common::template::{Secret, TemplateError, Variables};
use exagg_runtime::factors::outbound_networking::{AllowedHosts, Destination};
use fuzz_harness::input::Input;

use crate::permits;

const PASSWORD: &str = "geheim-7f3a";

pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let text = String::from_utf8_lossy(input.rest());
    match choice % 5 {
        0 => check_runtime(&text),
        1 => check_template(&text),
        2 => check_hosts(&text),
        3 => check_postgres(&text),
        _ => check_brokers(&text),
    }
}

/// What this host takes for itself it also takes from a file that Spin's triggers share.
fn check_runtime(text: &str) {
    let (alone, shared) = (runtime::check(text, false), runtime::check(text, true));
    assert!(alone.is_err() || shared.is_ok(), "{shared:?}");
}

/// Each name has its value in its place, and a value is not read for names again.
fn check_template(text: &str) {
    let values = [("a", "1"), ("b", "{{ a }}"), ("empty", "")];
    let variables = Variables::new(values.map(|(name, value)| (name.to_owned(), Secret::new(value))));
    let expanded = variables.expand(text);
    assert_eq!(expanded, expand(text, &values), "{text:?}");
    let mut json = serde_json::json!({ "x": [text], "{{ a }}": 1 });
    let expanded_json = variables.expand_json(&mut json);
    match expanded {
        Ok(expanded) => assert_eq!(json, serde_json::json!({ "x": [expanded], "{{ a }}": 1 })),
        Err(error) => assert_eq!(expanded_json, Err(error)),
    }
}

fn expand(text: &str, values: &[(&str, &str)]) -> Result<String, TemplateError> {
    let Some(open) = text.find("{{") else { return Ok(text.to_owned()) };
    let close = open + 2 + text[open + 2..].find("}}").ok_or(TemplateError::Unclosed)?;
    let name = text[open + 2..close].trim();
    let value = values.iter().find(|(other, _)| *other == name);
    let value = value.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?.1;
    Ok(text[..open].to_owned() + value + &expand(&text[close + 2..], values)?)
}

/// Entry, scheme, host and port: an entry permits no destination that it does not name.
fn check_hosts(text: &str) {
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let (entry, scheme, host, port) = (line(), line(), line(), line());
    // A template's braces would not be what is named.
    let Ok(port) = port.parse() else { return };
    let Ok(allowed) = AllowedHosts::parse("a", &[entry.to_owned()], &Variables::default()) else { return };
    if allowed.check(Destination { scheme, host, port }).is_ok() {
        assert!(permits::names(entry, scheme, host, port), "{entry:?} permits {scheme}://{host}:{port}");
    }
    let nothing = AllowedHosts::parse("a", &[], &Variables::default()).unwrap();
    assert!(nothing.check(Destination { scheme, host, port }).is_err());
}

/// An address that cannot be used does not say its password, wherever the fault is.
fn check_postgres(text: &str) {
    let (before, after) = text.split_once('\n').unwrap_or(("", text));
    for address in [
        format!("postgres://user:{PASSWORD}@{after}"),
        format!("{before}://user:{PASSWORD}@{after}"),
        format!("{before} password={PASSWORD} {after}"),
        format!("{before} password='{PASSWORD}' {after}"),
    ] {
        if let Err(error) = Address::parse(&address, None) {
            for shown in [error.to_string(), format!("{error:?}"), format!("{:#}", anyhow::Error::from(error))] {
                assert!(!shown.contains(PASSWORD), "{address:?}: {shown}");
            }
        }
    }
}

/// A list of brokers comes to as many as it names, each of which reads as itself.
fn check_brokers(text: &str) {
    let Ok(brokers) = addresses(text) else { return };
    assert_eq!(brokers.len(), text.split(',').count());
    for (host, port) in brokers {
        assert!(!host.is_empty() && !host.contains(['/', ',']), "{host:?}");
        assert_eq!(addresses(&format!("[{host}]:{port}")), Ok(vec![(host, port)]), "{text:?}");
    }
}
