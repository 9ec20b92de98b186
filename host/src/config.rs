//! What a run is to be: flags first, then `[exagg]` of the runtime configuration, then defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::app::Provider;
use crate::cli::{ADMIN_DEFAULT, AppArgs, Up};
use crate::engine::Limits;
use crate::postgres::Authorities;
use crate::template::Secret;

const LISTEN_DEFAULT: &str = "127.0.0.1:3000";
const STATE_DIR_DEFAULT: &str = ".spin";
const DRAIN_SECONDS_MAX: u64 = 30;
const POSTGRES_CONNECTIONS_MAX: usize = 16;

/// A run, resolved.
#[expect(clippy::struct_excessive_bools, reason = "settings, each of its own")]
pub struct HostConfig {
    pub app: AppSettings,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub component_ids: Vec<String>,
    pub state_dir: PathBuf,
    pub log_dir: Option<PathBuf>,
    pub build: bool,
    pub embedded: bool,
    pub migrate: bool,
    pub cache: bool,
    pub limits: Limits,
    /// Address of the database that cron ticks are leased in; a template.
    pub cron_lease: Option<String>,
    pub key_value_stores: Vec<String>,
    pub drain_max: Duration,
    pub postgres_connections_max: usize,
}

/// The runtime configuration: Spin's sections that this host serves, and its own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeConfig {
    #[serde(default, alias = "config_provider")]
    variables_provider: Vec<VariablesProvider>,
    #[serde(default)]
    key_value_store: BTreeMap<String, KeyValueStore>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    exagg: Exagg,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum VariablesProvider {
    Env {
        #[serde(default = "variable_prefix")]
        prefix: String,
        dotenv_path: Option<PathBuf>,
    },
    Static {
        values: BTreeMap<String, String>,
    },
}

fn variable_prefix() -> String {
    "SPIN_VARIABLE".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValueStore {
    r#type: String,
}

/// `[exagg]`: everything that a flag sets, because in a pod the arguments are fixed.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "settings, each of its own")]
struct Exagg {
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    component_ids: Vec<String>,
    variables: BTreeMap<String, String>,
    state_dir: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    build: bool,
    embedded: bool,
    no_migrate: bool,
    disable_cache: bool,
    instance_memory_bytes_max: Option<usize>,
    call_seconds_max: Option<u64>,
    instances_max: Option<u32>,
    drain_seconds_max: Option<u64>,
    postgres_connections_max: Option<usize>,
    /// Certificates of authorities (PEM): whom to believe of PostgreSQL servers.
    postgres_ca_file: Option<PathBuf>,
    kafka: BTreeMap<String, String>,
    cron: Cron,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cron {
    lease: Option<String>,
}

/// The environment as it was at the start.
pub type Environment = BTreeMap<OsString, OsString>;

impl HostConfig {
    pub fn new(flags: Up, environment: &Environment) -> Result<Self> {
        let (app, runtime) = app(&flags.app, environment)?;
        let exagg = runtime.exagg;
        let folder = app.manifest.parent().unwrap_or(Path::new("")).to_owned();
        let state_dir = flags.state_dir.or(exagg.state_dir).or(runtime.state_dir);
        let default = |text: &str| text.parse().context("a default that cannot be read");
        let listen = flags.listen.or(exagg.listen).map_or_else(|| default(LISTEN_DEFAULT), Ok)?;
        let admin = flags.admin.or(exagg.admin).map_or_else(|| default(ADMIN_DEFAULT), Ok)?;
        if let Some((label, _)) = runtime.key_value_store.iter().find(|(_, store)| store.r#type != "spin") {
            bail!("[key_value_store.{label}]: this host has stores of type \"spin\" only");
        }
        let default_limits = Limits::default();
        let limits = Limits {
            memory_bytes_max: exagg.instance_memory_bytes_max.unwrap_or(default_limits.memory_bytes_max),
            call_time_max: exagg.call_seconds_max.map_or(default_limits.call_time_max, Duration::from_secs),
            instances_max: exagg.instances_max.unwrap_or(default_limits.instances_max),
        };
        ensure!(limits.instances_max > 0, "[exagg] instances_max is 0");
        ensure!(!limits.call_time_max.is_zero(), "[exagg] call_seconds_max is 0");
        Ok(Self {
            app,
            listen,
            admin,
            component_ids: if flags.component_ids.is_empty() { exagg.component_ids } else { flags.component_ids },
            // Absolute: the cache of compiled code and PostgreSQL both want it so.
            state_dir: std::path::absolute(state_dir.unwrap_or_else(|| folder.join(STATE_DIR_DEFAULT)))?,
            log_dir: flags.log_dir.or(exagg.log_dir),
            build: flags.build || exagg.build,
            embedded: flags.embedded || exagg.embedded,
            migrate: !flags.no_migrate && !exagg.no_migrate,
            cache: !flags.disable_cache && !exagg.disable_cache,
            limits,
            cron_lease: exagg.cron.lease,
            key_value_stores: runtime.key_value_store.into_keys().collect(),
            drain_max: Duration::from_secs(exagg.drain_seconds_max.unwrap_or(DRAIN_SECONDS_MAX)),
            postgres_connections_max: exagg.postgres_connections_max.unwrap_or(POSTGRES_CONNECTIONS_MAX).max(1),
        })
    }
}

/// What every command needs of an app.
pub struct AppSettings {
    pub manifest: PathBuf,
    /// Where its variables' values come from.
    pub providers: Vec<Provider>,
    /// librdkafka's properties of all consumers and producers (`[exagg.kafka]`); templates.
    pub kafka: BTreeMap<String, String>,
    /// Whom to believe of PostgreSQL servers.
    pub authorities: Option<Authorities>,
}

impl AppSettings {
    pub fn load(args: &AppArgs, environment: &Environment) -> Result<Self> {
        Ok(app(args, environment)?.0)
    }
}

fn app(args: &AppArgs, environment: &Environment) -> Result<(AppSettings, RuntimeConfig)> {
    let from = Path::new(&args.from);
    if !from.exists() && looks_like_reference(&args.from) {
        bail!("--from {}: there is no such file, and this version does not pull apps from registries", args.from);
    }
    let manifest = crate::manifest::locate(from)?;
    let runtime = runtime_config(args.runtime_config_file.as_deref())?;
    let folder = manifest.parent().unwrap_or(Path::new("")).to_owned();
    let mut providers = vec![Provider::Static(flags(&args.variables)?), env_provider(&variable_prefix(), environment)];
    providers.push(dotenv(&variable_prefix(), &folder.join(".env"))?);
    providers.push(Provider::Static(secrets(runtime.exagg.variables.clone())));
    for provider in &runtime.variables_provider {
        match provider {
            VariablesProvider::Static { values } => providers.push(Provider::Static(secrets(values.clone()))),
            VariablesProvider::Env { prefix, dotenv_path } => {
                providers.push(env_provider(prefix, environment));
                if let Some(path) = dotenv_path {
                    providers.push(dotenv(prefix, &folder.join(path))?);
                }
            }
        }
    }
    let authorities = runtime.exagg.postgres_ca_file.as_deref().map(authorities).transpose()?;
    let kafka = runtime.exagg.kafka.clone();
    Ok((AppSettings { manifest, providers, kafka, authorities }, runtime))
}

fn authorities(path: &Path) -> Result<Authorities> {
    let pem = std::fs::read_to_string(path)
        .with_context(|| format!("[exagg] postgres_ca_file: cannot read {}", path.display()))?;
    Ok(pem.into())
}

/// `registry/name:tag`, which is no path.
fn looks_like_reference(from: &str) -> bool {
    from.contains('/') && (from.contains(':') || from.contains('@')) && !from.starts_with(['.', '/'])
}

fn runtime_config(path: Option<&Path>) -> Result<RuntimeConfig> {
    let Some(path) = path else { return Ok(RuntimeConfig::default()) };
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("{} is not a runtime configuration", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!("the runtime configuration {} is not there: passed over", path.display());
            Ok(RuntimeConfig::default())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn secrets(values: BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    values.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
}

/// `--variable k=v`, `k=@file`, and `@file.toml` or `@file.json`.
fn flags(flags: &[String]) -> Result<BTreeMap<String, Secret>> {
    let mut values = BTreeMap::new();
    for flag in flags {
        if let Some(path) = flag.strip_prefix('@') {
            values.extend(secrets(variables_file(Path::new(path))?));
            continue;
        }
        let (name, value) = flag
            .split_once('=')
            .with_context(|| format!("--variable {flag:?} is not of the form K=V, K=@FILE or @FILE"))?;
        let value = match value.strip_prefix('@') {
            // Editors end a file with a line break; no key or address does.
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("--variable {name}: cannot read {path}"))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            None => value.to_owned(),
        };
        values.insert(name.to_owned(), Secret::new(value));
    }
    Ok(values)
}

fn variables_file(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--variable: cannot read {}", path.display()))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let values = if is_json {
        serde_json::from_str(&text).map_err(anyhow::Error::from)
    } else {
        toml::from_str(&text).map_err(Into::into)
    };
    values.with_context(|| format!("--variable: {} is not a table of texts", path.display()))
}

fn env_provider(prefix: &str, environment: &Environment) -> Provider {
    let text = |(name, value): (&OsString, &OsString)| Some((name.to_str()?.to_owned(), Secret::new(value.to_str()?)));
    Provider::Env { prefix: prefix.to_owned(), variables: environment.iter().filter_map(text).collect() }
}

/// `NAME=value` lines; quotes around a value and `export` before a name are taken off.
fn dotenv(prefix: &str, path: &Path) -> Result<Provider> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut variables = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once('=').with_context(|| format!("{} line {}: no =", path.display(), number + 1))?;
        let name = name.trim().trim_start_matches("export ").trim();
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        variables.insert(name.to_owned(), Secret::new(value));
    }
    Ok(Provider::Env { prefix: prefix.to_owned(), variables })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_flag_is_a_pair_or_a_file() {
        let values = flags(&["a=1".to_owned(), "b=x=y".to_owned()]).unwrap();
        assert_eq!(values["a"].expose(), "1");
        assert_eq!(values["b"].expose(), "x=y");
        let file = std::env::temp_dir().join(format!("exagg-variable-{}", std::process::id()));
        std::fs::write(&file, "key\n").unwrap();
        assert_eq!(flags(&[format!("a=@{}", file.display())]).unwrap()["a"].expose(), "key");
        std::fs::remove_file(&file).unwrap();
        assert!(flags(&["a".to_owned()]).is_err());
        assert!(flags(&["a=@/does/not/exist".to_owned()]).is_err());
    }

    #[test]
    fn unknown_keys_of_the_runtime_configuration_are_refused() {
        assert!(toml::from_str::<RuntimeConfig>("[exagg]\ninstances = 3").is_err());
        assert!(toml::from_str::<RuntimeConfig>("[[variables_provider]]\ntype = \"vault\"").is_err());
        let config: RuntimeConfig = toml::from_str(
            "[[config_provider]]\ntype = \"static\"\nvalues = { a = \"1\" }\n[exagg.cron]\nlease = \"x\"",
        )
        .unwrap();
        assert_eq!(config.variables_provider.len(), 1);
    }

    #[test]
    fn references_are_told_from_paths() {
        assert!(looks_like_reference("ghcr.io/a/b:1"));
        assert!(looks_like_reference("localhost:5000/a@sha256:00"));
        assert!(!looks_like_reference("./a:b"));
        assert!(!looks_like_reference("app"));
    }
}
