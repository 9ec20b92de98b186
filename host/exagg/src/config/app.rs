//! What every command needs of an app: where it comes from, and its variables' values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use exagg_app::oci::{Insecure, Trust};
use exagg_app::source::{STATE_DIR_DEFAULT, Source};
use exagg_app::{App, Provider};
use exagg_clients::database::Database;
use exagg_clients::postgres::Authorities;
use exagg_common::template::{Secret, Variables};
use exagg_runtime::engine::Limits;

use super::Environment;
use super::limits::limits;
use super::runtime::{self, RuntimeConfig, Shared, VariablesProvider, variable_prefix};
use super::values::{did_you_mean, dotenv, env_provider, flags, secrets};
use crate::cli::AppArgs;
use crate::triggers;

/// What every command needs of an app.
pub struct AppSettings {
    source: Source,
    /// Names of variables that flags give values.
    flagged: Vec<String>,
    /// State of the host: key-value store, embedded database, compiled code, what registries gave.
    pub state_dir: PathBuf,
    /// Where its variables' values come from.
    pub providers: Vec<Provider>,
    /// librdkafka's properties of all consumers and producers (`[exagg.kafka]`); templates.
    pub kafka: BTreeMap<String, String>,
    /// Whom to believe of PostgreSQL servers.
    pub authorities: Option<Authorities>,
    /// What each call may use, by the file: a command that calls functions has no flags for it.
    pub limits: Limits,
    /// The host's own address of the pipeline's database, for migrations and status; a template. Without it the
    /// variable `postgres_url` is used, which components may share.
    pub postgres_url: Option<Secret>,
}

/// The variable with the address of the pipeline's database.
const POSTGRES_URL: &str = "postgres_url";
/// The variable with the schema that has the tables; `public` where there is none.
const POSTGRES_SCHEMA: &str = "postgres_schema";

impl AppSettings {
    pub fn load(args: &AppArgs, environment: &Environment) -> Result<Self> {
        let runtime = runtime::load(args.runtime_config_file.as_deref(), Shared::No)?;
        let insecure = Insecure::Registries(runtime.exagg.insecure_registries.clone());
        let source = Source::find(&args.from, Trust::new(insecure, &runtime.exagg.registry_realms)?)?;
        Self::new(source, &args.variables, None, &runtime, environment)
    }

    /// The file that the app is read from, if it is one that people edit.
    pub fn manifest(&self) -> Option<&Path> {
        match &self.source {
            Source::Manifest(path) => Some(path),
            _ => None,
        }
    }

    /// Reads the app.
    pub async fn app(&self) -> Result<App> {
        let app = self.source.load(&self.state_dir).await?;
        triggers::check_types(&app)?;
        let unknown = self.flagged.iter().find(|name| !app.variables.contains_key(*name));
        if let Some(name) = unknown {
            bail!(
                "--variable {name}: the app has no variable of this name{}",
                did_you_mean(name, app.variables.keys())
            );
        }
        Ok(app)
    }

    pub(super) fn new(
        source: Source,
        variables: &[String],
        state_dir: Option<PathBuf>,
        runtime: &RuntimeConfig,
        environment: &Environment,
    ) -> Result<Self> {
        let folder = source.folder().to_owned();
        let given = state_dir.or_else(|| runtime.exagg.state_dir.clone()).or_else(|| runtime.state_dir.clone());
        let given = given.filter(|folder| !folder.as_os_str().is_empty());
        let given_by_flags = flags(variables)?;
        let flagged = given_by_flags.keys().cloned().collect();
        let mut providers = vec![Provider::Static(given_by_flags), env_provider(&variable_prefix(), environment)];
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
        Ok(Self {
            source,
            flagged,
            // Absolute: the cache of compiled code and PostgreSQL both want it so.
            state_dir: std::path::absolute(given.unwrap_or_else(|| folder.join(STATE_DIR_DEFAULT)))?,
            providers,
            kafka: runtime.exagg.kafka.clone(),
            limits: limits(None, &runtime.exagg)?,
            authorities: runtime.exagg.postgres_ca_file.as_deref().map(authorities).transpose()?,
            postgres_url: runtime.exagg.postgres_url.as_deref().map(Secret::new),
        })
    }

    /// The pipeline's database as the host itself uses it, where one is named.
    pub fn database(&self, variables: &Variables) -> Result<Option<Database>> {
        let url = match &self.postgres_url {
            Some(template) => Some(variables.expand(template.expose()).context("[exagg] postgres_url")?),
            None => variables.get(POSTGRES_URL).map(|url| url.expose().to_owned()),
        };
        url.map(|url| self.database_at(&url, variables)).transpose()
    }

    /// A database that has tables of the pipeline's.
    pub fn database_at(&self, url: &str, variables: &Variables) -> Result<Database> {
        let schema = variables.get(POSTGRES_SCHEMA).map(Secret::expose).unwrap_or_default();
        Database::parse(url, self.authorities.as_ref())?.in_schema(schema)
    }

    /// The same for a run: the variable of an app that does not ask for migrations names a database of its own.
    pub fn pipelines_database(&self, variables: &Variables, asks_for_migrations: bool) -> Result<Option<Database>> {
        if !asks_for_migrations && self.postgres_url.is_none() {
            return Ok(None);
        }
        self.database(variables)
    }

    /// The same for a command that cannot do without.
    pub fn database_needed(&self, variables: &Variables) -> Result<Database> {
        self.database(variables)?.context("the app has no variable postgres_url")
    }
}

fn authorities(path: &Path) -> Result<Authorities> {
    let pem = std::fs::read_to_string(path)
        .with_context(|| format!("[exagg] postgres_ca_file: cannot read {}", path.display()))?;
    Ok(pem.into())
}
