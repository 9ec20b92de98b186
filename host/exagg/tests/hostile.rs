//! Manifests, configurations, addresses and templates that nobody has thought of: an error, never a
//! panic, and no password in it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use exagg::cli::AppArgs;
use exagg::config::AppSettings;
use exagg_clients::kafka::addresses;
use exagg_clients::postgres::Address;
use exagg_common::template::{Secret, Variables};
use exagg_runtime::factors::outbound_networking::{AllowedHosts, Destination};
use proptest::prelude::*;

const MANIFEST: &str = include_str!("../../../spin.toml");
const RUNTIME: &str = r#"
[[variables_provider]]
type = "static"
values = { postgres_url = "postgres://u:geheim@h/d" }
[key_value_store.default]
type = "spin"
[exagg]
listen = "127.0.0.1:3000"
component_ids = ["dashboard"]
call_seconds_max = 30
[exagg.kafka]
"sasl.password" = "geheim"
[exagg.cron]
lease = "postgres://u:geheim@h/d"
"#;

/// A text with a few of its characters changed, left out or doubled.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..4u8, any::<char>());
    prop::collection::vec(change, 1..6).prop_map(move |changes| {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, kind, character) in changes {
            if characters.is_empty() {
                break;
            }
            let at = at.index(characters.len());
            match kind {
                0 => characters[at] = character,
                1 => drop(characters.remove(at)),
                2 => characters.insert(at, characters[at]),
                _ => characters.truncate(at.max(1)),
            }
        }
        characters.into_iter().collect()
    })
}

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spin.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_manifest_is_an_app_or_an_error(text in mutated(MANIFEST)) {
        let (_folder, path) = file(&text);
        if let Ok(app) = exagg_app::manifest::load(&path) {
            for trigger in &app.triggers {
                prop_assert!(app.components.contains_key(&trigger.component), "{trigger:?}");
            }
        }
    }

    #[test]
    fn any_runtime_configuration_is_taken_or_an_error(text in mutated(RUNTIME)) {
        let (folder, path) = file(MANIFEST);
        let runtime = folder.path().join("runtime.toml");
        std::fs::write(&runtime, &text).unwrap();
        let args = AppArgs {
            from: path.to_string_lossy().into_owned(),
            variables: Vec::new(),
            runtime_config_file: Some(runtime),
        };
        let _ = AppSettings::load(&args, &BTreeMap::new());
    }

    #[test]
    fn an_address_that_is_wrong_tells_no_password(
        before in "[a-z:/]{0,12}", behind in "[a-z0-9@:/?&=.%\\[\\]-]{0,40}"
    ) {
        let text = format!("{before}postgres://user:geheim@{behind}");
        if let Err(error) = Address::parse(&text, None) {
            prop_assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }

    #[test]
    fn brokers_and_templates_are_read_or_refused(text in "\\PC{0,60}", template in "[a-z{} ]{0,30}") {
        if let Ok(brokers) = addresses(&text) {
            prop_assert!(brokers.iter().all(|(host, _)| !host.is_empty()));
        }
        let variables = Variables::new([("a".to_owned(), Secret::new("geheim"))]);
        if let Err(error) = variables.expand(&template) {
            prop_assert!(!error.to_string().contains("geheim"));
        }
    }

    #[test]
    fn an_entry_permits_nothing_beside_what_it_says(
        entry in "(https?|kafka|postgres)://[a-z.*]{1,12}(:[0-9]{1,5})?", host in "[a-z.]{1,12}", port in any::<u16>()
    ) {
        let Ok(allowed) = AllowedHosts::parse("a", std::slice::from_ref(&entry), &Variables::default()) else {
            return Ok(());
        };
        if allowed.check(Destination { scheme: "redis", host: &host, port }).is_ok() {
            prop_assert!(false, "{entry} permits another scheme");
        }
        let (scheme, rest) = entry.split_once("://").unwrap();
        let name = rest.split(':').next().unwrap();
        if allowed.check(Destination { scheme, host: &host, port }).is_ok() && !name.contains('*') {
            prop_assert_eq!(name, host.as_str());
        }
    }
}
