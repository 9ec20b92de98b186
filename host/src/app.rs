//! The app: what the manifest says, and what it comes to once variables have values and
//! components are compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::engine::Engine;
use crate::factors::Factors;
use crate::instance::Component;
use crate::slot::Slot;
use crate::template::{Secret, Variables};

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub name: String,
    pub version: String,
    pub variables: BTreeMap<String, VariableSpec>,
    pub triggers: Vec<TriggerSpec>,
    pub components: BTreeMap<String, ComponentSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableSpec {
    /// None: somebody has to give a value.
    pub default: Option<String>,
    pub secret: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerSpec {
    pub id: String,
    /// `kafka`, `cron` or `http`.
    pub kind: String,
    pub component: String,
    /// With templates; [`LoadedApp`] has them expanded.
    pub config: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSpec {
    pub source: PathBuf,
    pub allowed_outbound_hosts: Vec<String>,
    pub key_value_stores: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub files: Vec<Files>,
    pub variables: BTreeMap<String, String>,
    pub build: Option<Build>,
}

/// Files that a component sees, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// A folder (before it is staged also a file), and the path where the component sees it.
    Mount { folder: PathBuf, path: String },
    /// Files below `base` that match, at their paths from there.
    Pattern { base: PathBuf, pattern: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub commands: Vec<String>,
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

    /// Gives each variable the first value that a provider has, else its default.
    pub fn resolve(&self, providers: &[Provider]) -> Result<Variables> {
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

fn list(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    names.map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

/// Where values of variables come from.
#[derive(Clone, Debug)]
pub enum Provider {
    Static(BTreeMap<String, Secret>),
    /// Environment variables by upper-case name behind a prefix, as they were at the start.
    Env {
        prefix: String,
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

/// The app, ready to run: every template expanded, every component compiled and checked.
pub struct LoadedApp {
    pub name: String,
    pub triggers: Vec<TriggerSpec>,
    pub components: BTreeMap<String, Arc<Slot>>,
}

impl LoadedApp {
    /// Resolves and checks everything; nothing runs before that.
    pub fn load(app: &App, variables: &Variables, engine: &Engine, factors: &Arc<Factors>) -> Result<Self> {
        let mut triggers = app.triggers.clone();
        for trigger in &mut triggers {
            for (key, value) in &mut trigger.config {
                variables.expand_json(value).with_context(|| format!("trigger {}: {key}", trigger.id))?;
            }
        }
        let mut components = BTreeMap::new();
        for (id, spec) in &app.components {
            let kinds: Vec<_> = app.triggers.iter().filter(|t| t.component == *id).map(|t| t.kind.as_str()).collect();
            let component = Component::load(id, spec, &kinds, variables, engine, factors)
                .with_context(|| format!("component {id}"))?;
            components.insert(id.clone(), Arc::new(Slot::new(component)));
        }
        Ok(Self { name: app.name.clone(), triggers, components })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(variables: &[(&str, Option<&str>)]) -> App {
        let spec = |default: Option<&str>| VariableSpec { default: default.map(str::to_owned), secret: false };
        App {
            name: "x".into(),
            version: String::new(),
            variables: variables.iter().map(|(name, default)| ((*name).to_owned(), spec(*default))).collect(),
            triggers: Vec::new(),
            components: BTreeMap::new(),
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
        let variables = app.resolve(&providers).unwrap();
        let get = |name| variables.get(name).unwrap().expose().to_owned();
        assert_eq!((get("a"), get("b"), get("c")), ("flag".into(), "env".into(), "default".into()));
    }

    #[test]
    fn every_missing_variable_is_named() {
        let error = app(&[("a", None), ("b", None)]).resolve(&[]).unwrap_err().to_string();
        assert!(error.contains("a, b") && error.contains("SPIN_VARIABLE_A"), "{error}");
    }
}
