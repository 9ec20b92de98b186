//! The app as it is written: what a manifest, a registry or Spin says.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use exagg_common::printable::printable;
use exagg_common::template::{Secret, Variables};

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Any text of up to 128 bytes that can be shown: [`App::check_names`] refuses others.
    pub name: String,
    /// The same; it is empty where the manifest has none.
    pub version: String,
    /// What it is, in words, and who made it: for people alone, and carried over to registries.
    pub description: String,
    /// The same.
    pub authors: Vec<String>,
    /// By name, as templates and `--variable` write it; a manifest takes lower case letters, digits and `_`.
    pub variables: BTreeMap<String, VariableSpec>,
    /// Each calls one of `components`: an app where one does not is refused when it is read.
    pub triggers: Vec<TriggerSpec>,
    /// By id, which logs, metrics and `--component-id` use.
    pub components: BTreeMap<String, ComponentSpec>,
    /// Whether its database is to have the pipeline's tables: `[application.trigger.exagg] migrations = true`. The
    /// database of any other app is its own.
    pub migrations: bool,
}

/// Under this name an app's manifest has settings for the host, where those that triggers of a type share stand.
pub const OWN_SETTINGS: &str = "exagg";

/// Reads `migrations` of the settings of that name.
pub(crate) fn migrations(shared: Option<&serde_json::Map<String, serde_json::Value>>) -> Result<bool> {
    let place = "[application.trigger.exagg]";
    let Some(settings) = shared else { return Ok(false) };
    if let Some(name) = settings.keys().find(|name| *name != "migrations") {
        bail!("{place}: {name} is not known: there is migrations");
    }
    let Some(value) = settings.get("migrations") else { return Ok(false) };
    value.as_bool().with_context(|| format!("{place}: migrations is true or false"))
}

/// An entry of the manifest's `[variables]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableSpec {
    /// None: somebody has to give a value.
    pub default: Option<String>,
    /// Carried over to and from locked apps; the host treats every value as a secret.
    pub secret: bool,
    /// What it is for, in words: for people alone.
    pub description: Option<String>,
}

/// An entry of `[[trigger.<type>]]`, with the settings that all triggers of its type share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerSpec {
    /// `<component>-<type>-trigger` where the manifest gives none.
    pub id: String,
    /// `kafka`, `cron` or `http`.
    pub kind: String,
    /// The id of the component that it calls.
    pub component: String,
    /// With templates, until the app is resolved.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// An entry of the manifest's `[component.<id>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSpec {
    /// What it is, in words: for people alone.
    pub description: String,
    /// A file of WebAssembly; a relative path of a manifest is joined to the manifest's folder.
    pub source: PathBuf,
    /// Templates of `scheme://host[:port]`, Spin's form; where there is none, every destination is refused.
    pub allowed_outbound_hosts: Vec<String>,
    /// Labels of the stores that it may open; the runtime configuration has to have each of them.
    pub key_value_stores: Vec<String>,
    /// Its environment variables, taken as they are written: they are no templates.
    pub environment: BTreeMap<String, String>,
    /// Once they are staged ([`crate::files::stage`]) they are mounts only.
    pub files: Vec<Files>,
    /// Its own variables by name: each is a template over the app's variables.
    pub variables: BTreeMap<String, String>,
    /// None where the manifest has no build command, and in an app that is not from a manifest.
    pub build: Option<Build>,
}

/// Files that a component sees, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// A folder (before it is staged also a file), and the path where the component sees it.
    Mount {
        /// The place on this machine.
        folder: PathBuf,
        /// The root of the component's file system (`/`), or a path below it.
        path: String,
    },
    /// Files below `base` that match, at their paths from there.
    Pattern {
        /// The manifest's folder; where the path is empty it is the current one.
        base: PathBuf,
        /// A glob relative to `base`, or the name of a file or a folder; it is an error when nothing matches.
        pattern: String,
    },
}

/// What `--build` runs for a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Each is run by `sh -c`, in this order; the first one that fails ends the build.
    pub commands: Vec<String>,
    /// Where they run: joined to the manifest's folder, and the current one where it is empty.
    pub workdir: PathBuf,
}

impl App {
    /// Keeps the triggers of these components only (`--component-id`), and the components that
    /// are left with one.
    pub fn retain(&mut self, ids: &[String]) -> Result<()> {
        if let Some(unknown) = ids.iter().find(|id| !self.components.contains_key(*id)) {
            bail!("--component-id {unknown}: the app has {}", list(self.components.keys()));
        }
        if !ids.is_empty() {
            self.triggers.retain(|trigger| ids.contains(&trigger.component));
        }
        let used: BTreeSet<_> = self.triggers.iter().map(|trigger| trigger.component.clone()).collect();
        self.components.retain(|id, _| used.contains(id));
        Ok(())
    }

    /// Ids become names of files and labels of metrics, and names stand in logs and answers: an app may come
    /// from anywhere.
    pub fn check_names(&self) -> Result<()> {
        for id in self.components.keys() {
            check_id("component", id)?;
        }
        for trigger in &self.triggers {
            check_id("trigger", &trigger.id)?;
            check_id("component", &trigger.component)?;
        }
        for name in self.variables.keys() {
            check_id("variable", name)?;
        }
        for (what, text) in [("name", &self.name), ("version", &self.version)] {
            ensure!(
                text.len() <= NAME_BYTES_MAX && matches!(printable(text), Cow::Borrowed(_)),
                "the app's {what} \"{}\" is too long, or has characters that cannot be shown",
                printable(&text.chars().take(NAME_BYTES_MAX).collect::<String>())
            );
        }
        Ok(())
    }

    /// Kinds of the triggers that call a component.
    pub fn kinds(&self, component: &str) -> BTreeSet<&str> {
        let calling = self.triggers.iter().filter(|trigger| trigger.component == component);
        calling.map(|trigger| trigger.kind.as_str()).collect()
    }

    /// How many components each kind of trigger calls.
    pub fn components_by_kind(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for kind in self.components.keys().flat_map(|id| self.kinds(id)) {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Gives each variable the first value that a provider has, else its default, and puts the values into the
    /// triggers' settings.
    pub fn resolve(mut self, providers: &[Provider]) -> Result<Resolved> {
        let variables = self.values(providers)?;
        for trigger in &mut self.triggers {
            for (key, value) in &mut trigger.config {
                variables.expand_json(value).with_context(|| format!("trigger {}: {key}", trigger.id))?;
            }
        }
        Ok(Resolved { app: self, variables })
    }

    fn values(&self, providers: &[Provider]) -> Result<Variables> {
        let mut values = Vec::new();
        let mut missing = Vec::new();
        for (name, spec) in &self.variables {
            let given = providers.iter().find_map(|provider| provider.get(name));
            match given.or_else(|| spec.default.clone().map(Secret::new)) {
                Some(value) => values.push((name.clone(), value)),
                None => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            bail!(
                "no value for the variable {}: give one with --variable {}=…, or in the environment as SPIN_VARIABLE_{}",
                list(missing.iter()),
                missing[0],
                missing[0].to_uppercase()
            );
        }
        Ok(Variables::new(values))
    }
}

/// An app whose variables have values; its triggers' settings have them in the places of their names. The
/// components' own templates are expanded when they are compiled.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The app with its triggers' settings expanded, and the rest as it was.
    pub app: App,
    /// The values of all its variables: none is missing.
    pub variables: Variables,
}

/// The longest id or name.
const NAME_BYTES_MAX: usize = 128;

fn check_id(what: &str, id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !id.is_empty() && !id.starts_with('.') && id.len() <= NAME_BYTES_MAX && id.chars().all(fine),
        "the {what} \"{}\" is no id: letters, digits, -, _ and . make one, {NAME_BYTES_MAX} at the most, and it does \
         not begin with .",
        printable(&id.chars().take(NAME_BYTES_MAX).collect::<String>())
    );
    Ok(())
}

fn list(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    names.map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

/// Where values of variables come from.
#[derive(Clone, Debug)]
pub enum Provider {
    /// Values by the variables' own names, such as those of `--variable`.
    Static(BTreeMap<String, Secret>),
    /// Environment variables by upper-case name behind a prefix, as they were at the start.
    Env {
        /// Without the `_` behind it: `SPIN_VARIABLE`, or what the runtime configuration names.
        prefix: String,
        /// By whole name, such as `SPIN_VARIABLE_X` for the variable `x`.
        variables: BTreeMap<String, Secret>,
    },
}

impl Provider {
    fn get(&self, name: &str) -> Option<Secret> {
        match self {
            Self::Static(values) => values.get(name).cloned(),
            Self::Env { prefix, variables } => variables.get(&format!("{prefix}_{}", name.to_uppercase())).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(variables: &[(&str, Option<&str>)]) -> App {
        let spec = |default: Option<&str>| VariableSpec {
            default: default.map(str::to_owned),
            secret: false,
            description: None,
        };
        App {
            name: "x".into(),
            version: String::new(),
            description: String::new(),
            authors: Vec::new(),
            variables: variables.iter().map(|(name, default)| ((*name).to_owned(), spec(*default))).collect(),
            triggers: Vec::new(),
            components: BTreeMap::new(),
            migrations: false,
        }
    }

    #[test]
    fn the_first_provider_wins_and_the_default_comes_last() {
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), Secret::new(value))]);
        let providers = [
            Provider::Static(one("a", "flag")),
            Provider::Env {
                prefix: "SPIN_VARIABLE".into(),
                variables: one("SPIN_VARIABLE_A", "env").into_iter().chain(one("SPIN_VARIABLE_B", "env")).collect(),
            },
        ];
        let app = app(&[("a", None), ("b", None), ("c", Some("default"))]);
        let variables = app.resolve(&providers).unwrap().variables;
        let get = |name| variables.get(name).unwrap().expose().to_owned();
        assert_eq!((get("a"), get("b"), get("c")), ("flag".into(), "env".into(), "default".into()));
    }

    /// `../../x` left `--log-dir`, and quotes forged lines of the metrics.
    #[test]
    fn ids_and_names_that_mean_something_elsewhere_are_refused() {
        let named = |name: &str| App { name: name.to_owned(), ..app(&[]) };
        assert!(named("my app, ünïcode").check_names().is_ok());
        assert!(named("a\nreadyz: OK").check_names().is_err() && named("\u{1b}[2J").check_names().is_err());
        let trigger = |id: &str, component: &str| App {
            triggers: vec![TriggerSpec {
                id: id.to_owned(),
                kind: "http".to_owned(),
                component: component.to_owned(),
                config: serde_json::Map::new(),
            }],
            ..app(&[])
        };
        assert!(trigger("a-http-trigger", "a_b.c-D9").check_names().is_ok());
        for wrong in ["", ".", "../../x", "a/b", "a\"} 1\nup 1", "a b", "a\u{202e}b", &"x".repeat(129)] {
            for app in [trigger(wrong, "c"), trigger("t", wrong)] {
                let error = app.check_names().unwrap_err().to_string();
                assert!(!error.contains('\n') && error.len() < 500, "{error}");
            }
        }
    }

    #[test]
    fn every_missing_variable_is_named() {
        let error = app(&[("a", None), ("b", None)]).resolve(&[]).unwrap_err().to_string();
        assert!(error.contains("a, b") && error.contains("SPIN_VARIABLE_A"), "{error}");
    }
}
