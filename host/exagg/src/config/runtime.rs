//! The runtime configuration file: Spin's sections that this host serves, and `[exagg]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use exagg_runtime::factors::key_value::DEFAULT_STORE;
use serde::Deserialize;

use super::errors;

/// Sections that this host reads.
const OURS: [&str; 5] = ["variables_provider", "config_provider", "key_value_store", "state_dir", "exagg"];

/// The runtime configuration: Spin's sections that this host serves, and its own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuntimeConfig {
    #[serde(default, alias = "config_provider")]
    pub(super) variables_provider: Vec<VariablesProvider>,
    #[serde(default)]
    pub(super) key_value_store: BTreeMap<String, KeyValueStore>,
    pub(super) state_dir: Option<PathBuf>,
    #[serde(default)]
    pub(super) exagg: Exagg,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum VariablesProvider {
    Env {
        #[serde(default = "variable_prefix")]
        prefix: String,
        dotenv_path: Option<PathBuf>,
    },
    Static {
        values: BTreeMap<String, String>,
    },
}

pub(super) fn variable_prefix() -> String {
    "SPIN_VARIABLE".to_owned()
}

/// A store. Those of other types have settings of their own, which are not read.
#[derive(Deserialize)]
pub(super) struct KeyValueStore {
    pub(super) r#type: String,
    pub(super) path: Option<PathBuf>,
}

impl KeyValueStore {
    /// Whether it is one of this host's: in a file in its state directory, which no path names.
    fn is_served(&self) -> bool {
        self.r#type == "spin" && self.path.is_none()
    }
}

/// Labels of the stores that are this host's: `default` as well, unless the file has another one of that name.
pub(super) fn served_stores(stores: &BTreeMap<String, KeyValueStore>) -> Vec<String> {
    let served = stores.iter().filter(|(_, store)| store.is_served()).map(|(label, _)| label.clone());
    let default = (!stores.contains_key(DEFAULT_STORE)).then(|| DEFAULT_STORE.to_owned());
    served.chain(default).collect()
}

/// Refuses stores that are not this host's: values would go to another place than the file says.
pub(super) fn refuse_other_stores(stores: &BTreeMap<String, KeyValueStore>) -> Result<()> {
    let Some((label, store)) = stores.iter().find(|(_, store)| !store.is_served()) else { return Ok(()) };
    let what = match &store.path {
        Some(path) if store.r#type == "spin" => format!("path = \"{}\"", path.display()),
        _ => format!("type = {:?}", store.r#type),
    };
    bail!("[key_value_store.{label}] has {what}: this host has stores of type \"spin\" without a path")
}

/// `[exagg]`: everything that a flag sets, because in a pod the arguments are fixed.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "settings, each of its own")]
pub(super) struct Exagg {
    pub(super) listen: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) admin_token: Option<String>,
    /// Names under which the admin address may be asked, beside IP addresses and `localhost`.
    pub(super) admin_hosts: Vec<String>,
    pub(super) http_connections_max: Option<usize>,
    pub(super) http_connections_per_address_max: Option<usize>,
    /// Who gives a registry's tokens where that is another host: `registry=host`.
    pub(super) registry_realms: Vec<String>,
    pub(super) component_ids: Vec<String>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) build: bool,
    pub(super) embedded: bool,
    pub(super) watch: bool,
    pub(super) no_migrate: bool,
    pub(super) disable_cache: bool,
    /// Registries (host:port) that are spoken to without TLS.
    pub(super) insecure_registries: Vec<String>,
    pub(super) instance_memory_bytes_max: Option<usize>,
    pub(super) call_seconds_max: Option<u64>,
    pub(super) instances_max: Option<u32>,
    /// What the host may use of the machine's memory.
    pub(super) memory_bytes_max: Option<u64>,
    pub(super) compile_seconds_max: Option<u64>,
    pub(super) compile_memory_bytes_max: Option<u64>,
    /// Keys and values of one component.
    pub(super) key_value_bytes_max: Option<u64>,
    pub(super) drain_seconds_max: Option<u64>,
    pub(super) drain_delay_seconds: Option<u64>,
    pub(super) postgres_connections_max: Option<usize>,
    /// Certificates of authorities (PEM): whom to believe of PostgreSQL servers.
    pub(super) postgres_ca_file: Option<PathBuf>,
    /// The host's own address of the pipeline's database.
    pub(super) postgres_url: Option<String>,
    pub(super) kafka: BTreeMap<String, String>,
    pub(super) cron: Cron,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cron {
    pub(super) lease: Option<String>,
}

/// Who else reads the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// Nobody: a section that this host does not know is a mistake.
    No,
    /// Spin's own triggers, whose sections these may be.
    WithSpin,
}

/// Reads the file; one that is not there is ignored.
pub(super) fn load(path: Option<&Path>, shared: Shared) -> Result<RuntimeConfig> {
    let Some(path) = path else { return Ok(RuntimeConfig::default()) };
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, shared).with_context(|| format!("{} is not a runtime configuration", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!("the runtime configuration {} is not there: ignored", path.display());
            Ok(RuntimeConfig::default())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Reads a file that is named for `[exagg]` alone, and has to be there. Variables and folders are Spin's, by the other
/// file.
pub(super) fn load_own(path: &Path) -> Result<Exagg> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        #[serde(default)]
        exagg: Exagg,
    }
    let text = std::fs::read_to_string(path).context("the file cannot be read")?;
    toml::from_str::<Own>(&text).map(|own| own.exagg).map_err(|error| errors::of_toml(&text, &error))
}

/// Refuses under `spin up` what Spin decides there.
pub(super) fn refuse_spins(exagg: &Exagg) -> Result<()> {
    let set = [
        ("listen", exagg.listen.is_some(), "Spin serves http: spin up --listen"),
        ("component_ids", !exagg.component_ids.is_empty(), "spin up --component-id"),
        ("build", exagg.build, "spin up --build"),
        ("embedded", exagg.embedded, "that is for exagg up"),
    ];
    match set.into_iter().find(|(_, is_set, _)| *is_set) {
        Some((name, _, instead)) => bail!("[exagg] {name} is not obeyed under spin up: {instead}"),
        None => Ok(()),
    }
}

/// Whether a text is a runtime configuration: of this host alone, or of Spin's own triggers as well.
pub fn check(text: &str, with_spin: bool) -> Result<()> {
    parse(text, if with_spin { Shared::WithSpin } else { Shared::No }).map(|_| ())
}

fn parse(text: &str, shared: Shared) -> Result<RuntimeConfig> {
    if shared == Shared::No {
        return toml::from_str(text).map_err(|error| errors::of_toml(text, &error));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|error| errors::of_toml(text, &error))?;
    table.retain(|section: &str, _| OURS.contains(&section));
    for list in ["variables_provider", "config_provider"] {
        if let Some(providers) = table.get_mut(list).and_then(toml::Value::as_array_mut) {
            providers.retain(is_served);
        }
    }
    table.try_into().map_err(|error| errors::of_toml("", &error))
}

/// Spin has more providers of variables than this host.
fn is_served(provider: &toml::Value) -> bool {
    let kind = provider.get("type").and_then(toml::Value::as_str).unwrap_or_default();
    let served = matches!(kind, "env" | "static");
    if !served {
        tracing::warn!("variables_provider of type {kind:?} is ignored: this host has env and static");
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn sections_of_spin_are_ignored_where_it_reads_the_file_as_well() {
        let text = "[sqlite_database.default]\ntype = \"spin\"\n[exagg]\nno_migrate = true";
        assert!(parse(text, Shared::No).is_err());
        assert!(parse(text, Shared::WithSpin).unwrap().exagg.no_migrate);
        assert!(parse("[exagg]\nx = 1", Shared::WithSpin).is_err());
        let stores = "[key_value_store.a]\ntype = \"redis\"\nurl = \"redis://x\"";
        let stores = parse(stores, Shared::WithSpin).unwrap().key_value_store;
        assert_eq!(served_stores(&stores), ["default"]);
        let default = "[key_value_store.default]\ntype = \"redis\"\n[key_value_store.b]\ntype = \"spin\"";
        let stores = parse(default, Shared::WithSpin).unwrap().key_value_store;
        assert_eq!(served_stores(&stores), ["b"], "what Spin keeps elsewhere is not kept here");
        let vault = "[[variables_provider]]\ntype = \"vault\"\nurl = \"x\"\n[[variables_provider]]\ntype = \"env\"";
        assert_eq!(parse(vault, Shared::WithSpin).unwrap().variables_provider.len(), 1);
    }
}
