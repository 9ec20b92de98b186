//! The host as a trigger plugin of Spin's: `trigger-kafka` and `trigger-cron`, started by `spin up`.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use clap::CommandFactory;
use serde_json::json;

use crate::cli::Plugin;
use crate::config::{Environment, HostConfig};
use crate::run;

/// The trigger types that this host brings to Spin; http is Spin's own.
const TYPES: [&str; 2] = ["kafka", "cron"];

/// The trigger type that a program's name asks for: `trigger-kafka`, wherever it stands.
pub fn type_of_program(program: &str) -> Option<&'static str> {
    let name = program.rsplit('/').next()?;
    trigger_type(name.strip_prefix("trigger-")?)
}

pub fn trigger_type(name: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|kind| *kind == name)
}

/// What spin asks of a trigger's flags, before it hands it any: whatever else stands in the arguments and the
/// environment.
pub fn about_flags(arguments: impl IntoIterator<Item = String>) -> Option<Result<()>> {
    arguments.into_iter().find_map(|argument| match argument.as_str() {
        "--help-args-only" => Some(help_args()),
        "--launch-metadata-only" => {
            eprintln!("{}", launch_metadata());
            Some(Ok(()))
        }
        _ => None,
    })
}

/// What spin asks before, and beside, running an app: answered without logging a line, because
/// spin reads all of it. None: the app is to run.
pub fn answer(kind: &str, flags: &Plugin, environment: &Environment) -> Option<Result<()>> {
    flags.precompose_only.then(|| precompose(kind, flags, environment))
}

/// Runs the app's triggers of this type.
pub async fn run(kind: &'static str, flags: Plugin, environment: &Environment) -> Result<()> {
    run::host(HostConfig::plugin(kind, flags, environment)?).await
}

fn help_args() -> Result<()> {
    let mut command = Plugin::command().disable_help_flag(true).disable_version_flag(true);
    command = command.help_template("{all-args}");
    command.print_long_help().context("cannot print the flags")
}

/// The flags that are ours, so that spin hands each trigger only those it knows.
fn launch_metadata() -> serde_json::Value {
    let mut command = Plugin::command();
    command.build();
    let mut flags = Vec::new();
    for argument in command.get_arguments() {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        flags.push(json!({ "long": long, "short": short }));
        // spin compares words: an alias is a flag of its own.
        for alias in argument.get_all_aliases().unwrap_or_default() {
            flags.push(json!({ "long": format!("--{alias}"), "short": null }));
        }
    }
    json!({ "all_flags": flags })
}

/// The component's code to standard output. One with dependencies is refused when the app is read.
fn precompose(kind: &str, flags: &Plugin, environment: &Environment) -> Result<()> {
    let id = flags.precompose_component_id.as_ref().context("--precompose-only wants --precompose-component-id")?;
    let url = environment.get(std::ffi::OsStr::new("SPIN_LOCKED_URL")).and_then(|url| url.to_str());
    let app = exagg_app::locked::load(url.context("SPIN_LOCKED_URL is not set")?, kind)?;
    let spec = app.components.get(id).with_context(|| format!("no {kind} trigger has a component {id}"))?;
    let code = std::fs::read(&spec.source).with_context(|| format!("cannot read {}", spec.source.display()))?;
    ensure!(!code.is_empty(), "{} is empty", spec.source.display());
    std::io::stdout().write_all(&code).context("cannot write the component")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_trigger_by_its_name() {
        assert_eq!(type_of_program("/x/plugins/trigger-kafka"), Some("kafka"));
        assert_eq!(type_of_program("trigger-cron"), Some("cron"));
        assert_eq!(type_of_program("target/release/exagg"), None);
        assert_eq!(type_of_program("trigger-mqtt"), None);
    }

    #[test]
    fn every_flag_of_spins_triggers_is_declared() {
        let metadata = launch_metadata();
        let flags = metadata["all_flags"].as_array().unwrap();
        let has = |flag: &str| flags.iter().any(|known| known["long"] == flag || known["short"] == flag);
        for flag in [
            "--log-dir",
            "-L",
            "--truncate-logs",
            "--disable-cache",
            "--cache",
            "--disable-pooling",
            "--debug-info",
            "--follow",
            "--quiet",
            "-q",
            "--runtime-config-file",
            "--state-dir",
            "--key-value",
            "--variable",
            "--max-instance-memory",
        ] {
            assert!(has(flag), "{flag}");
        }
        assert!(!has("--listen"), "that is the http trigger's");
    }
}
