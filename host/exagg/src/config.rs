//! What a run is to be: flags first, then `[exagg]` of the runtime configuration, then defaults.
//!
//! # Layout
//! - here: the validated settings of a run.
//! - [`app`]: what every command needs of an app.
//! - [`runtime`]: the runtime configuration file.
//! - [`errors`]: its errors, which show no secret.
//! - [`limits`]: its numbers, each in its range.
//! - [`values`]: where values of variables come from.

mod app;
mod errors;
mod limits;
pub mod runtime;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use exagg_app::oci::{Insecure, Trust};
use exagg_app::source::Source;
use exagg_common::template::Secret;
use exagg_runtime::budget::plan::ComponentLimits;
use exagg_runtime::engine::compiler::{Bounds, Place};
use exagg_runtime::engine::{Cache, Settings};
use exagg_runtime::factors::wasi::Output;

pub use self::app::AppSettings;
use self::limits::{limits, within};
use self::runtime::{RuntimeConfig, Shared};
pub use self::values::did_you_mean;
use crate::cli::{ADMIN_DEFAULT, Plugin, RunFlags, Up};
use crate::server::ConnectionLimits;
use crate::shutdown::Drain;

const LISTEN_DEFAULT: &str = "127.0.0.1:3000";
const DRAIN_SECONDS_MAX: u64 = 30;
const POSTGRES_CONNECTIONS_MAX: usize = 16;
/// Below this nothing works well: code and buffers alone take as much.
const BUDGET_BYTES_MIN: u64 = 128 << 20;
/// What compiling the functions of the pipeline takes, and something more.
const COMPILE_BYTES_MIN: u64 = 96 << 20;
/// The variable of the environment with the token that may change things at the admin address.
pub const ADMIN_TOKEN: &str = "EXAGG_ADMIN_TOKEN";
/// Spin's variables for a certificate and its key.
const TLS: [&str; 2] = ["SPIN_TLS_CERT", "SPIN_TLS_KEY"];
/// Where a plugin's admin interface listens, and whether it migrates: spin up hands it no flags that Spin does not know.
const ADMIN_ADDRESS: &str = "EXAGG_ADMIN_ADDR";
const MIGRATE: &str = "EXAGG_MIGRATE";
/// What the SpinKube operator says by the environment.
const COMPONENTS_TO_RETAIN: &str = "SPIN_COMPONENTS_TO_RETAIN";
/// What `spin up` says by the environment.
const LOCKED_URL: &str = "SPIN_LOCKED_URL";
const LOCAL_APP_DIR: &str = "SPIN_LOCAL_APP_DIR";
/// A file with `[exagg]` beside the one that Spin's own triggers read: they refuse that section.
const OWN_CONFIG_FILE: &str = "EXAGG_CONFIG_FILE";

/// The validated settings of a run.
#[expect(clippy::struct_excessive_bools, reason = "settings, each of its own")]
pub struct HostConfig {
    pub app: AppSettings,
    /// Where http triggers and the operator's probes listen; nowhere under `spin up`.
    pub listen: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    /// Whether it stops when the process that started it ends, as spin up's wrapper of a trigger does.
    pub ends_with_parent: bool,
    /// Name of the admin socket in the state directory: hosts may share that.
    pub admin_socket: &'static str,
    /// Name of the key-value store's file there, likewise.
    pub key_value_file: &'static str,
    /// Who has it may change things at the admin address; a template.
    pub admin_token: Option<Secret>,
    pub component_ids: Vec<String>,
    pub output: Output,
    pub build: bool,
    pub embedded: bool,
    pub watch: bool,
    /// Nothing runs: it is only seen whether it could.
    pub check: bool,
    pub migrate: bool,
    pub engine: Settings,
    /// How many clients may be connected.
    pub connection_limits: ConnectionLimits,
    /// Names under which the admin address may be asked, beside IP addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Address of the database that cron ticks are leased in; a template.
    pub cron_lease: Option<String>,
    /// Labels of the key-value stores that are this host's.
    pub key_value_stores: Vec<String>,
    /// Set in the default store at the start.
    pub key_values: Vec<(String, String)>,
    pub drain: Drain,
    pub postgres_connections_max: usize,
    /// What one component may make the host hold.
    pub component_limits: ComponentLimits,
}

/// The environment as it was at the start.
pub type Environment = BTreeMap<OsString, OsString>;

impl HostConfig {
    /// `exagg up`.
    pub fn new(flags: Up, environment: &Environment) -> Result<Self> {
        let runtime = runtime::load(flags.run.runtime_config_file.as_deref(), Shared::No)?;
        runtime::refuse_other_stores(&runtime.key_value_store)?;
        for name in TLS {
            let is_set = text(environment, name).is_some_and(|value| !value.is_empty());
            ensure!(!is_set, "{name} is set, and this host serves HTTP without TLS: let a proxy end TLS, and unset it");
        }
        let insecure = if flags.insecure {
            Insecure::Flag(true)
        } else {
            Insecure::Registries(runtime.exagg.insecure_registries.clone())
        };
        let source = Source::find(&flags.from, Trust::new(insecure, &runtime.exagg.registry_realms)?)?;
        let default = |text: &str| text.parse().context("a default that cannot be read");
        let listen = flags.listen.or(runtime.exagg.listen).map_or_else(|| default(LISTEN_DEFAULT), Ok)?;
        let admin = flags.admin.or(runtime.exagg.admin).map_or_else(|| default(ADMIN_DEFAULT), Ok)?;
        let own = &runtime.exagg;
        let (build, embedded, watch) =
            (flags.build || own.build, flags.embedded || own.embedded, flags.watch || own.watch);
        let migrate = !flags.no_migrate && !own.no_migrate;
        let ids = [flags.component_ids, own.component_ids.clone(), components_to_retain(environment)];
        Ok(Self {
            listen: Some(listen),
            admin: Some(admin),
            admin_socket: "socket",
            component_ids: ids.into_iter().find(|ids| !ids.is_empty()).unwrap_or_default(),
            build,
            embedded,
            watch,
            check: flags.check,
            migrate,
            ..Self::shared(source, flags.run, runtime, environment)?
        })
    }

    /// A trigger of one type under `spin up`.
    pub fn plugin(kind: &'static str, flags: Plugin, environment: &Environment) -> Result<Self> {
        let url = text(environment, LOCKED_URL).with_context(|| {
            format!("{LOCKED_URL} is not set: spin up starts this program; to run an app without spin: exagg up")
        })?;
        // In the app's own folder it is set, and empty; for an app from a registry it is not set.
        let folder = text(environment, LOCAL_APP_DIR);
        let (folder, is_local) = (folder.unwrap_or_default().into(), folder.is_some());
        let source = Source::Locked { url: url.to_owned(), kind, folder };
        let mut runtime = runtime::load(flags.run.runtime_config_file.as_deref(), Shared::WithSpin)?;
        if let Some(path) = text(environment, OWN_CONFIG_FILE).filter(|path| !path.is_empty()) {
            runtime.exagg = runtime::load_own(Path::new(path)).with_context(|| format!("{OWN_CONFIG_FILE}={path}"))?;
        }
        runtime::refuse_spins(&runtime.exagg)?;
        let admin = match (&flags.admin, text(environment, ADMIN_ADDRESS).filter(|text| !text.is_empty())) {
            (Some(flag), _) => address(flag).context("--admin")?,
            (None, Some(value)) => address(value).context(ADMIN_ADDRESS)?,
            (None, None) => runtime.exagg.admin,
        };
        let admin = admin.map(|first| of_plugin(first, kind)).transpose()?;
        let migrate = flags.migrate || switch(environment, MIGRATE)?;
        let watch = runtime.exagg.watch;
        let shared = Self::shared(source, flags.run, runtime, environment)?;
        // Where Spin's own triggers log as well.
        let log_dir = shared.output.log_dir.clone().or_else(|| is_local.then(|| shared.app.state_dir.join("logs")));
        Ok(Self {
            output: Output { log_dir, ..shared.output.clone() },
            ends_with_parent: true,
            admin,
            admin_socket: kind,
            key_value_file: if kind == "kafka" { "key_value_kafka" } else { "key_value_cron" },
            watch,
            migrate,
            ..shared
        })
    }

    /// What both have; the rest is off.
    fn shared(source: Source, flags: RunFlags, runtime: RuntimeConfig, environment: &Environment) -> Result<Self> {
        let app = AppSettings::new(source, &flags.variables, flags.state_dir.clone(), &runtime, environment)?;
        let exagg = runtime.exagg;
        let engine = engine(&flags, &exagg, &app.state_dir)?;
        let (connection_limits, drain) = (connection_limits(&exagg)?, drain(&exagg)?);
        let log_dir = flags.log_dir.or(exagg.log_dir).filter(|folder| !folder.as_os_str().is_empty());
        let connections = exagg.postgres_connections_max;
        let connections = within("postgres_connections_max", connections, 1..=10_000, POSTGRES_CONNECTIONS_MAX)?;
        let default = ComponentLimits::default();
        Ok(Self {
            app,
            listen: None,
            admin: None,
            ends_with_parent: false,
            admin_socket: "",
            key_value_file: "key_value",
            admin_token: text(environment, ADMIN_TOKEN).or(exagg.admin_token.as_deref()).map(Secret::new),
            component_ids: Vec::new(),
            output: Output { log_dir, truncate: flags.truncate_logs, follow: flags.follow },
            build: false,
            embedded: false,
            watch: false,
            check: false,
            migrate: false,
            engine,
            connection_limits,
            admin_hosts: exagg.admin_hosts,
            cron_lease: exagg.cron.lease,
            key_value_stores: runtime::served_stores(&runtime.key_value_store),
            key_values: flags.key_values.iter().map(|pair| key_value(pair)).collect::<Result<_>>()?,
            drain,
            postgres_connections_max: connections,
            component_limits: ComponentLimits {
                connections_max: connections as u64,
                stored_bytes_max: exagg.key_value_bytes_max.unwrap_or(default.stored_bytes_max),
                ..default
            },
        })
    }
}

fn engine(flags: &RunFlags, exagg: &runtime::Exagg, state_dir: &Path) -> Result<Settings> {
    let limits = limits(flags.max_instance_memory, exagg)?;
    let cache = match &flags.cache {
        _ if flags.disable_cache || exagg.disable_cache => Cache::Off,
        Some(file) => Cache::ConfiguredBy(file.clone()),
        None => Cache::Folder(state_dir.join("compiled")),
    };
    let budget_bytes =
        exagg.memory_bytes_max.unwrap_or_else(|| exagg_common::memory::default_budget().max(BUDGET_BYTES_MIN));
    ensure!(
        budget_bytes >= BUDGET_BYTES_MIN,
        "[exagg] memory_bytes_max is {budget_bytes}: at least {BUDGET_BYTES_MIN} are needed"
    );
    let bounds = Bounds::default();
    let bounds = Bounds {
        seconds_max: within("compile_seconds_max", exagg.compile_seconds_max, 1..=3_600, bounds.seconds_max)?,
        memory_bytes_max: within(
            "compile_memory_bytes_max",
            exagg.compile_memory_bytes_max,
            1 << 20..=1 << 40,
            // In a small container the compiler gets what the budget leaves of it.
            bounds.memory_bytes_max.min((budget_bytes / 3).max(COMPILE_BYTES_MIN)),
        )?,
    };
    Ok(Settings {
        limits,
        cache,
        compile: Place::Apart(bounds),
        pooling: !flags.disable_pooling,
        debug_info: flags.debug_info,
        budget_bytes,
        ..Settings::default()
    })
}

fn drain(exagg: &runtime::Exagg) -> Result<Drain> {
    let seconds_max = within("drain_seconds_max", exagg.drain_seconds_max, 1..=3_600, DRAIN_SECONDS_MAX)?;
    let delay = exagg.drain_delay_seconds.unwrap_or_default();
    ensure!(
        delay < seconds_max,
        "[exagg] drain_delay_seconds is {delay}: it is a part of drain_seconds_max, which is {seconds_max}"
    );
    Ok(Drain { time_max: Duration::from_secs(seconds_max), delay: Duration::from_secs(delay) })
}

fn connection_limits(exagg: &runtime::Exagg) -> Result<ConnectionLimits> {
    let default = ConnectionLimits::default();
    let all = within("http_connections_max", exagg.http_connections_max, 1..=100_000, default.connections_max)?;
    let of_one = exagg.http_connections_per_address_max;
    let of_one = within("http_connections_per_address_max", of_one, 1..=100_000, default.per_address_max)?;
    Ok(ConnectionLimits { connections_max: all, per_address_max: of_one, ..default })
}

/// An address to listen on, by number or name; none for `off`.
fn address(text: &str) -> Result<Option<SocketAddr>> {
    if text == "off" {
        return Ok(None);
    }
    let mut found = text
        .to_socket_addrs()
        .with_context(|| format!("{text:?} is no address: host:port, such as 127.0.0.1:9464, or off is wanted"))?;
    found.next().map(Some).with_context(|| format!("{text:?} has no address"))
}

/// Both triggers of one `spin up` are given the same address: the second listens one port above it.
fn of_plugin(first: SocketAddr, kind: &str) -> Result<SocketAddr> {
    let mut address = first;
    if kind == "cron" && first.port() != 0 {
        let next =
            first.port().checked_add(1).with_context(|| format!("{first}: trigger-cron needs a port above it"))?;
        address.set_port(next);
    }
    Ok(address)
}

/// A switch of the environment.
fn switch(environment: &Environment, name: &str) -> Result<bool> {
    match text(environment, name).unwrap_or_default().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        other => bail!("{name} is {other:?}: true or false is wanted"),
    }
}

fn key_value(pair: &str) -> Result<(String, String)> {
    let (key, value) = pair.split_once('=').with_context(|| format!("--key-value {pair:?} is not of the form K=V"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn text<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| *key == name).and_then(|(_, value)| value.to_str())
}

fn components_to_retain(environment: &Environment) -> Vec<String> {
    let ids = text(environment, COMPONENTS_TO_RETAIN).unwrap_or_default();
    ids.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn up(arguments: &[&str], environment: &[(&str, &str)]) -> HostConfig {
        try_up(arguments, environment).unwrap()
    }

    fn try_up(arguments: &[&str], environment: &[(&str, &str)]) -> Result<HostConfig> {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spin.toml");
        let cli = Cli::parse_from([&["exagg", "up", "-f", manifest], arguments].concat());
        let Command::Up(flags) = cli.command else { panic!("not up") };
        let pairs = environment.iter().map(|(name, value)| (name.into(), value.into()));
        HostConfig::new(flags, &pairs.collect())
    }

    #[test]
    fn the_operator_names_components_by_the_environment_and_flags_win() {
        let environment = [("SPIN_COMPONENTS_TO_RETAIN", "a, b")];
        assert_eq!(up(&[], &environment).component_ids, ["a", "b"]);
        assert_eq!(up(&["--component-id", "c"], &environment).component_ids, ["c"]);
        assert_eq!(up(&[], &[]).component_ids, [""; 0]);
    }

    /// What a configuration asks for and this host does not do must not be done in another way in silence.
    #[test]
    fn what_is_configured_and_not_served_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runtime.toml");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            try_up(&["--runtime-config-file", file.to_str().unwrap()], &[]).err().map(|error| format!("{error:#}"))
        };
        for (store, wanted) in [
            ("type = \"redis\"\nurl = \"redis://x\"", "redis"),
            ("type = \"azure_cosmos\"\nkey = \"x\"", "azure_cosmos"),
            ("type = \"spin\"\npath = \"mine.db\"", "path"),
        ] {
            let error = refused(&format!("[key_value_store.default]\n{store}")).unwrap();
            assert!(error.contains("key_value_store.default") && error.contains(wanted), "{error}");
        }
        assert_eq!(refused("[key_value_store.default]\ntype = \"spin\""), None);
        for name in ["SPIN_TLS_CERT", "SPIN_TLS_KEY"] {
            let error = try_up(&[], &[(name, "cert.pem")]).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runtime.toml");
        for setting in [
            "instance_memory_bytes_max = 1000",
            "call_seconds_max = 0",
            "call_seconds_max = 18446744073709551615",
            "instances_max = 0",
            "memory_bytes_max = 1",
            "compile_seconds_max = 0",
            "compile_memory_bytes_max = 1",
            "postgres_connections_max = 0",
            "http_connections_max = 0",
            "http_connections_per_address_max = 0",
            "drain_seconds_max = 0",
            "drain_delay_seconds = 30",
        ] {
            std::fs::write(&file, format!("[exagg]\n{setting}\n")).unwrap();
            let refused = try_up(&["--runtime-config-file", file.to_str().unwrap()], &[]).err();
            let error = format!("{:#}", refused.unwrap_or_else(|| panic!("{setting} is taken")));
            let (name, _) = setting.split_once(' ').unwrap();
            let is_toml = setting.ends_with("615");
            assert!(error.contains(name) || is_toml, "{error}");
        }
    }

    #[test]
    fn flags_and_the_environment_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runtime.toml");
        std::fs::write(&file, "[exagg]\ninstance_memory_bytes_max = 2097152\nadmin_token = \"file\"").unwrap();
        let file = file.to_str().unwrap();
        let flag = ["--runtime-config-file", file, "--max-instance-memory", "1048576"];
        let config = up(&flag, &[("EXAGG_ADMIN_TOKEN", "environment")]);
        assert_eq!(config.engine.limits.memory_bytes_max, 1_048_576);
        assert_eq!(config.admin_token.unwrap().expose(), "environment");
        let config = up(&flag[..2], &[]);
        assert_eq!(config.engine.limits.memory_bytes_max, 2_097_152);
        assert_eq!(config.admin_token.unwrap().expose(), "file");
    }

    #[test]
    fn a_runtime_configuration_that_is_not_there_is_ignored() {
        let config = up(&["--runtime-config-file", "/does/not/exist.toml", "--max-instance-memory", "1048576"], &[]);
        assert_eq!(config.engine.limits.memory_bytes_max, 1_048_576);
        assert_eq!(config.listen.unwrap().port(), 3000);
    }

    fn plugin(kind: &'static str, more: &[(&str, &str)]) -> Result<HostConfig> {
        let environment = [("SPIN_LOCKED_URL", "file:///x/spin.lock"), ("SPIN_LOCAL_APP_DIR", "/app")];
        let environment = environment.iter().chain(more).map(|(name, value)| (name.into(), value.into())).collect();
        HostConfig::plugin(kind, Plugin::parse_from(["trigger"]), &environment)
    }

    /// Both get the same address.
    #[test]
    fn plugins_listen_side_by_side_and_say_what_is_wrong_with_their_environment() {
        let admin = |kind, value| plugin(kind, &[("EXAGG_ADMIN_ADDR", value)]).unwrap().admin.map(|found| found.port());
        assert_eq!((admin("kafka", "localhost:9464"), admin("cron", "localhost:9464")), (Some(9464), Some(9465)));
        assert_eq!(admin("kafka", "off"), None);
        for (name, value) in [("EXAGG_ADMIN_ADDR", "nowhere"), ("EXAGG_MIGRATE", "perhaps")] {
            let error = format!("{:#}", plugin("kafka", &[(name, value)]).err().unwrap());
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        assert!(plugin("kafka", &[("EXAGG_MIGRATE", "1")]).unwrap().migrate);
        assert!(!plugin("kafka", &[("EXAGG_MIGRATE", "false")]).unwrap().migrate);
    }

    /// What Spin decides, and what is not there, is not ignored in silence.
    #[test]
    fn a_plugins_own_file_is_read_or_refused() {
        let refused = |path: &str| format!("{:#}", plugin("cron", &[("EXAGG_CONFIG_FILE", path)]).err().unwrap());
        let error = refused("/does/not/exist.toml");
        assert!(error.contains("EXAGG_CONFIG_FILE") && error.contains("/does/not/exist.toml"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("exagg.toml");
        for (text, name) in [
            ("[exagg]\ncomponent_ids = [\"a\"]", "component_ids"),
            ("[exagg]\nlisten = \"127.0.0.1:1\"", "listen"),
            ("[exagg]\nbuild = true", "build"),
            ("[exagg]\nembedded = true", "embedded"),
            ("[[variables_provider]]\ntype = \"env\"", "variables_provider"),
            ("state_dir = \"x\"", "state_dir"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = refused(file.to_str().unwrap());
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn under_spin_there_is_no_listener_and_the_state_is_the_apps() {
        let environment = [("SPIN_LOCKED_URL", "file:///x/spin.lock"), ("SPIN_LOCAL_APP_DIR", "/app")];
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let config = HostConfig::plugin("cron", Plugin::parse_from(["trigger-cron"]), &environment).unwrap();
        assert!(config.listen.is_none() && config.admin.is_none() && !config.migrate);
        assert_eq!(config.app.state_dir, Path::new("/app/.spin"));
        assert_eq!(config.output.log_dir.as_deref(), Some(Path::new("/app/.spin/logs")), "where Spin logs");
        let missing = HostConfig::plugin("cron", Plugin::parse_from(["trigger-cron"]), &Environment::new());
        assert!(missing.err().unwrap().to_string().contains("SPIN_LOCKED_URL"));
    }
}
