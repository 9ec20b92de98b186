//! `spin.toml` (manifest version 2) to an [`App`]. The only reader of manifests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::spec::{App, Build, ComponentSpec, Files, OWN_SETTINGS, TriggerSpec, VariableSpec, migrations};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    spin_manifest_version: u32,
    application: Application,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    #[serde(default)]
    trigger: BTreeMap<String, Vec<Trigger>>,
    #[serde(default)]
    component: BTreeMap<String, Component>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Application {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    authors: Vec<String>,
    /// Settings that all triggers of a type share.
    #[serde(default)]
    trigger: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    #[serde(default, rename = "tool")]
    _tool: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    default: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    secret: bool,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Trigger {
    id: Option<String>,
    component: String,
    #[serde(flatten)]
    config: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Component {
    #[serde(default)]
    description: String,
    source: PathBuf,
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    key_value_stores: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<FilesEntry>,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    build: Option<ComponentBuild>,
    #[serde(default, rename = "tool")]
    _tool: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ComponentBuild {
    command: Commands,
    #[serde(default)]
    workdir: PathBuf,
    #[serde(default, rename = "watch")]
    _watch: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FilesEntry {
    Pattern(String),
    Placed { source: PathBuf, destination: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Commands {
    One(String),
    Several(Vec<String>),
}

/// Finds the manifest that `--from` names: a file, or the `spin.toml` of a folder.
pub fn locate(from: &Path) -> Result<PathBuf> {
    let path = if from.is_dir() { from.join("spin.toml") } else { from.to_owned() };
    ensure!(path.is_file(), "there is no manifest at {}: name a spin.toml or its folder with --from", path.display());
    Ok(path)
}

/// Reads the manifest.
pub fn load(path: &Path) -> Result<App> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder).with_context(|| format!("{} is not a manifest that can be run", path.display()))
}

/// Reads a manifest's text; `folder` is what its paths are relative to.
pub fn parse(text: &str, folder: &Path) -> Result<App> {
    let manifest: Manifest = toml::from_str(text)?;
    ensure!(
        manifest.spin_manifest_version == 2,
        "spin_manifest_version is {}: version 2 is wanted",
        manifest.spin_manifest_version
    );
    let components: BTreeMap<_, _> =
        manifest.component.into_iter().map(|(id, component)| (id, component.into_spec(folder))).collect();
    let mut triggers = Vec::new();
    for (kind, list) in manifest.trigger {
        for trigger in list {
            triggers.push(trigger.into_spec(&kind, manifest.application.trigger.get(&kind), &components)?);
        }
    }
    let variables =
        manifest.variables.into_iter().map(|(name, variable)| variable.into_spec(name)).collect::<Result<_>>()?;
    Ok(App {
        migrations: migrations(manifest.application.trigger.get(OWN_SETTINGS))?,
        name: manifest.application.name,
        version: manifest.application.version,
        description: manifest.application.description,
        authors: manifest.application.authors,
        variables,
        triggers,
        components,
    })
}

impl Variable {
    fn into_spec(self, name: String) -> Result<(String, VariableSpec)> {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(lower),
            "the variable name {name:?} must be lower case letters, digits and _"
        );
        ensure!(
            self.required != self.default.is_some(),
            "the variable {name:?} needs either a default or required = true"
        );
        Ok((name, VariableSpec { default: self.default, secret: self.secret, description: self.description }))
    }
}

impl Trigger {
    fn into_spec(
        self,
        kind: &str,
        shared: Option<&serde_json::Map<String, serde_json::Value>>,
        components: &BTreeMap<String, ComponentSpec>,
    ) -> Result<TriggerSpec> {
        ensure!(
            components.contains_key(&self.component),
            "[[trigger.{kind}]] names the component {:?}, which the manifest does not have",
            self.component
        );
        let mut config = shared.cloned().unwrap_or_default();
        config.extend(self.config);
        Ok(TriggerSpec {
            id: self.id.unwrap_or_else(|| format!("{}-{kind}-trigger", self.component)),
            kind: kind.to_owned(),
            component: self.component,
            config,
        })
    }
}

impl Component {
    fn into_spec(self, folder: &Path) -> ComponentSpec {
        ComponentSpec {
            description: self.description,
            source: folder.join(self.source),
            allowed_outbound_hosts: self.allowed_outbound_hosts,
            key_value_stores: self.key_value_stores,
            environment: self.environment,
            files: self.files.into_iter().map(|files| files.into_files(folder)).collect(),
            variables: self.variables,
            build: self.build.map(|build| Build {
                commands: match build.command {
                    Commands::One(command) => vec![command],
                    Commands::Several(commands) => commands,
                },
                workdir: folder.join(build.workdir),
            }),
        }
    }
}

impl FilesEntry {
    fn into_files(self, folder: &Path) -> Files {
        match self {
            Self::Pattern(pattern) => Files::Pattern { base: folder.to_owned(), pattern },
            Self::Placed { source, destination } => Files::Mount { folder: folder.join(source), path: destination },
        }
    }
}

/// Runs the build commands of all components, each distinct one once (`--build`).
pub fn build(app: &App) -> Result<()> {
    let mut done = std::collections::BTreeSet::new();
    for (id, component) in &app.components {
        let Some(build) = &component.build else { continue };
        for command in &build.commands {
            if !done.insert((command.clone(), build.workdir.clone())) {
                continue;
            }
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(command);
            if !build.workdir.as_os_str().is_empty() {
                shell.current_dir(&build.workdir);
            }
            let status = shell.status().with_context(|| format!("component {id}: cannot run {command:?}"))?;
            if !status.success() {
                bail!("component {id}: the build command {command:?} failed ({status})");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "spin_manifest_version = 2\n[application]\nname = \"x\"\n";

    fn error(body: &str) -> String {
        format!("{:#}", parse(&format!("{HEAD}{body}"), Path::new("app")).unwrap_err())
    }

    #[test]
    fn a_manifest_becomes_an_app() {
        let app = parse(
            &format!(
                "{HEAD}[application.trigger.kafka]\nbrokers = \"b:1\"\n[variables]\nv = {{ default = \"1\" }}\n\
                 [[trigger.kafka]]\ncomponent = \"c\"\ntopics = [\"t\"]\n[component.c]\nsource = \"c.wasm\"\n"
            ),
            Path::new("app"),
        )
        .unwrap();
        assert_eq!(app.triggers[0].id, "c-kafka-trigger");
        assert_eq!(app.triggers[0].config["brokers"], "b:1");
        assert_eq!(app.components["c"].source, Path::new("app/c.wasm"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(error("[component.c]\nsource = \"c\"\nallowed_hosts = []").contains("allowed_hosts"));
        assert!(error("[[trigger.http]]\ncomponent = \"d\"").contains("\"d\""));
        assert!(error("[application.trigger.exagg]\nmigration = true").contains("migration is not known"));
        assert!(error("[application.trigger.exagg]\nmigrations = 1").contains("true or false"));
        assert!(error("[variables]\nv = {}").contains("\"v\""));
        assert!(error("[variables]\nV = { default = \"\" }").contains("\"V\""));
        assert!(error("[nonsense]").contains("nonsense"));
    }
}
