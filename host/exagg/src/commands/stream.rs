//! `exagg stream add`: a stage more in a manifest, which averages a topic.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use exagg_app::manifest;
use toml::{Table, Value};
use window::defaults;
use window::fields::Places;
use window::time::TimeFormat;
use window::windows::Windows;

use crate::cli::{FieldArgs, StreamAdd};

/// Of a manifest that has no aggregator to follow.
const SOURCE: &str = "target/wasm32-wasip2/function/aggregator.wasm";

/// Adds the stage at the end of the manifest: what stands there stays as it is, comments and all.
pub fn add(args: &StreamAdd) -> Result<()> {
    // Where it is a link, what it leads to is written.
    let file = file(&args.from);
    let file = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
    let shown = file.display();
    let before = std::fs::read_to_string(&file).with_context(|| format!("cannot read {shown}"))?;
    let addition = addition(&before, args).with_context(|| shown.to_string())?;
    let after = format!("{}\n\n{addition}", before.trim_end());
    // As a run reads it.
    manifest::parse(&after, file.parent().unwrap_or(&file)).with_context(|| format!("{shown} would not be valid"))?;
    if args.dry_run {
        print!("{addition}");
        return Ok(());
    }
    let aside = file.with_extension(format!("toml.{}", std::process::id()));
    let write = || {
        std::fs::File::create_new(&aside)?.write_all(after.as_bytes())?;
        std::fs::set_permissions(&aside, std::fs::metadata(&file)?.permissions())?;
        std::fs::rename(&aside, &file)
    };
    write().with_context(|| format!("cannot replace {shown} by way of {}", aside.display()))?;
    println!("{shown} has the stage aggregator-{0}; exagg up runs it, exagg up --check checks it", args.name);
    Ok(())
}

/// What the function would refuse at its start is refused here.
fn check(args: &StreamAdd) -> Result<()> {
    let of = |said: &Option<String>, default: &str| said.clone().unwrap_or_else(|| default.to_owned());
    let FieldArgs { key, value, time, time_format, .. } = &args.fields;
    let said = [key, value, time, time_format];
    let is_template = said.iter().filter_map(|said| said.as_ref()).any(|said| said.contains("{{"));
    ensure!(!is_template, "a field or a format has {{{{, which a manifest takes for a variable's value");
    Places::parse(&of(key, defaults::KEY_FIELD), &of(value, defaults::VALUE_FIELD), &of(time, defaults::TIME_FIELD))?;
    TimeFormat::new(&of(time_format, defaults::TIME_FORMAT), defaults::TIME_ZONE)?;
    if let Some(window) = args.window_seconds.map(i64::from) {
        Windows::new(window, window)?;
    }
    Ok(())
}

/// Variables that the text names and the app does not have.
fn missing(text: &str, variables: Option<&Table>) -> Vec<String> {
    let named = text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned()));
    let mut missing: Vec<String> = named.filter(|name| variables.is_none_or(|all| !all.contains_key(name))).collect();
    missing.sort();
    missing.dedup();
    missing
}

fn file(from: &std::path::Path) -> PathBuf {
    if from.is_dir() { from.join("spin.toml") } else { from.to_owned() }
}

/// What is written for the stage, in the way of the aggregators that are there.
fn addition(manifest: &str, args: &StreamAdd) -> Result<String> {
    // As Spin has it.
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word.chars().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit())
    };
    ensure!(
        args.name.split('-').all(is_word),
        "the name {:?} is none for a component: words of small letters and digits that begin with a letter, with - between",
        args.name
    );
    check(args)?;
    let manifest: Table = manifest.parse().context("it is no TOML")?;
    let components = manifest.get("component").and_then(Value::as_table);
    let id = format!("aggregator-{}", args.name);
    ensure!(components.is_none_or(|all| !all.contains_key(&id)), "it has a component {id}");
    let like = aggregator(&manifest);
    if let Some(other) = writer(components, &args.name) {
        bail!("the component {other} writes the stream {:?}: each stream has one", args.name);
    }
    let of = |name: &str| like.and_then(|(_, component)| component.get(name)?.as_str()).map(str::to_owned);
    let brokers = like.and_then(|(trigger, _)| trigger.get("brokers")?.as_str()).unwrap_or("{{ kafka_brokers }}");
    let text = |value: &str| Value::String(value.to_owned()).to_string();
    let topics = Value::Array(args.topics.iter().map(|topic| Value::String(topic.clone())).collect());
    let mut variables = vec![("stream".to_owned(), args.name.clone())];
    let window = args.window_seconds.map(|seconds| seconds.to_string());
    let said = [
        ("key_field", &args.fields.key),
        ("value_field", &args.fields.value),
        ("time_field", &args.fields.time),
        ("time_format", &args.fields.time_format),
        ("window_seconds", &window),
    ];
    variables.extend(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))));
    if args.fields.numbers_in_text {
        variables.push(("numbers_in_text".to_owned(), "true".to_owned()));
    }
    variables.extend(addresses(like.map(|(_, component)| component)));
    let variables: String = variables.iter().map(|(name, value)| format!("{name} = {}\n", text(value))).collect();
    let hosts = like.and_then(|(_, component)| component.get("allowed_outbound_hosts")).map(ToString::to_string);
    let addition = format!(
        "# The stream {name}, added by exagg stream add; docs/streams.md has all variables.\n\n\
         [[trigger.kafka]]\ncomponent = {id}\ntopics = {topics}\ngroup = {group}\nbrokers = {brokers}\n\
         start = {start}\nheaders = false\non_oversized = \"give\"\nreuse = true\n\n\
         [component.{plain}]\nsource = {source}\nallowed_outbound_hosts = {hosts}\n\
         [component.{plain}.variables]\n{variables}",
        name = args.name,
        id = text(&id),
        group = text(&format!("exchange-agg-{}", args.name)),
        brokers = text(brokers),
        start = text(&args.start),
        plain = id,
        source = text(&of("source").unwrap_or_else(|| SOURCE.to_owned())),
        hosts = hosts.unwrap_or_else(|| "[\"postgres://{{ postgres_host }}\"]".to_owned()),
    );
    let missing = missing(&addition, manifest.get("variables").and_then(Value::as_table));
    ensure!(missing.is_empty(), "it has no variable {}: add it under [variables]", missing.join(", "));
    Ok(addition)
}

/// The first trigger of Kafka's whose component writes a stream, with that component.
fn aggregator(manifest: &Table) -> Option<(&Table, &Table)> {
    let triggers = manifest.get("trigger")?.get("kafka")?.as_array()?;
    triggers.iter().filter_map(Value::as_table).find_map(|trigger| {
        let component = manifest.get("component")?.get(trigger.get("component")?.as_str()?)?.as_table()?;
        component.get("variables")?.get("stream")?;
        Some((trigger, component))
    })
}

/// Which component writes a stream of this name.
fn writer<'a>(components: Option<&'a Table>, stream: &str) -> Option<&'a String> {
    let writes = |component: &Value| Some(component.get("variables")?.get("stream")?.as_str()? == stream);
    components?.iter().find(|(_, component)| writes(component) == Some(true)).map(|(id, _)| id)
}

/// Where the database is, as another aggregator has it.
fn addresses(like: Option<&Table>) -> Vec<(String, String)> {
    let known = like.and_then(|component| component.get("variables")?.as_table());
    let names = ["postgres_url", "postgres_schema", "own_postgres_url"];
    let found: Vec<_> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), known?.get(name)?.as_str()?.to_owned()))).collect();
    if found.is_empty() { vec![("postgres_url".to_owned(), "{{ postgres_url }}".to_owned())] } else { found }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Stream};

    fn args(more: &[&str]) -> StreamAdd {
        let words = ["exagg", "stream", "add"].into_iter().chain(more.iter().copied());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Stream(Stream::Add(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn own() -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spin.toml")).unwrap()
    }

    #[test]
    fn what_is_added_is_like_what_is_there_and_only_the_topic_is_needed() {
        let before = own();
        let addition = addition(&before, &args(&["trades", "--topic", "t\"1"])).unwrap();
        let after: Table = format!("{before}\n{addition}").parse().unwrap();
        let component = after["component"]["aggregator-trades"].as_table().unwrap();
        assert_eq!(component["source"], after["component"]["aggregator-exchanges"]["source"]);
        let variables = component["variables"].as_table().unwrap();
        let names: Vec<_> = variables.keys().map(String::as_str).collect();
        assert_eq!(names, ["own_postgres_url", "postgres_schema", "postgres_url", "stream"]);
        let triggers = after["trigger"]["kafka"].as_array().unwrap();
        let trigger = triggers.last().unwrap();
        assert_eq!(trigger["topics"].as_array().unwrap()[0].as_str(), Some("t\"1"));
        assert_eq!(
            (trigger["brokers"].as_str(), trigger["start"].as_str()),
            (Some("{{ kafka_brokers }}"), Some("earliest"))
        );
        // A manifest without an aggregator.
        let bare = "spin_manifest_version = 2\n[application]\nname = \"x\"\n[variables]\n";
        let error = super::addition(bare, &args(&["a", "--topic", "t"])).unwrap_err().to_string();
        assert!(error.contains("no variable kafka_brokers, postgres_host, postgres_url"), "{error}");
        let bare = format!(
            "{bare}kafka_brokers = {{ default = \"b:1\" }}\npostgres_url = {{ required = true }}\n\
                            postgres_host = {{ default = \"d:1\" }}\n"
        );
        let bare = bare.as_str();
        let addition =
            super::addition(bare, &args(&["a", "--topic", "t", "--key", "/k", "--numbers-in-text"])).unwrap();
        assert!(addition.contains("key_field = \"/k\"\nnumbers_in_text = \"true\"\npostgres_url ="), "{addition}");
        manifest::parse(&format!("{bare}{addition}"), std::path::Path::new("")).unwrap();
    }

    #[test]
    fn what_cannot_be_added_is_refused() {
        let refused = |name: &str| addition(&own(), &args(&[name, "--topic", "t"])).unwrap_err().to_string();
        for name in ["Trades", "1a", "a--b", "a-", "a-1", "a_b", "a\"]", "é"] {
            assert!(refused(name).contains("small letters"), "{name}");
        }
        assert!(refused("exchanges").contains("aggregator-exchanges"));
        for (flag, value, told) in [
            ("--key", "kafka:offset", "kafka:partition"),
            ("--value", "$.a[x]", "an index"),
            ("--time-format", "unix_milis", "unix_millis"),
            ("--window-seconds", "0", "window_seconds"),
            ("--key", "{{ postgres_url }}", "variable's value"),
        ] {
            let error = addition(&own(), &args(&["a", "--topic", "t", flag, value])).unwrap_err().to_string();
            assert!(error.contains(told), "{flag} {value}: {error}");
        }
        let other = own().replace("stream = \"weather\"", "stream = \"other\"");
        let error = addition(&other, &args(&["other", "--topic", "t"])).unwrap_err().to_string();
        assert!(error.contains("aggregator-weather writes"), "{error}");
    }

    #[test]
    fn the_manifest_is_kept_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spin.toml");
        std::fs::write(&file, own()).unwrap();
        let from = folder.path().to_str().unwrap();
        add(&args(&["trades", "--topic", "t", "--dry-run", "-f", from])).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), own());
        add(&args(&["trades", "--topic", "t", "-f", from])).unwrap();
        let after = std::fs::read_to_string(&file).unwrap();
        assert!(after.starts_with(own().trim_end()) && after.contains("[component.aggregator-trades]"));
        assert!(add(&args(&["trades", "--topic", "t", "-f", from])).is_err(), "it is there");
    }
}
