//! Locked apps: the JSON that `spin up` hands to a trigger, and that registries hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::spec::{App, ComponentSpec, Files, OWN_SETTINGS, TriggerSpec, VariableSpec, migrations};

/// What an app may list under `must_understand`, and this host does understand.
const UNDERSTOOD: [&str; 2] = ["host_requirements", "component_host_requirements"];

/// The largest locked app that is read.
pub const LOCKED_APP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Spin's lock format, version 0 or 1, as far as this host reads it; other fields are ignored.
#[derive(Debug, Deserialize, Serialize)]
pub struct LockedApp {
    spin_lock_version: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    must_understand: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    host_requirements: Map<String, Value>,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    triggers: Vec<Trigger>,
    /// All of the app, also those that no trigger calls.
    pub components: Vec<Component>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Variable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the format")]
struct Trigger {
    id: String,
    trigger_type: String,
    trigger_config: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    trigger_dependencies: Map<String, Value>,
}

/// One entry of `components`; the hosts and stores that it may use stand in its metadata.
#[derive(Debug, Deserialize, Serialize)]
pub struct Component {
    /// What a trigger names under `component` in its settings.
    pub id: String,
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Its WebAssembly; of a registry at most [`crate::CODE_BYTES_MAX`] bytes are taken.
    pub source: Source,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// What it sees, read-only: folders in an app of `spin up`, single files in one of a registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ContentPath>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    dependencies: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    host_requirements: Map<String, Value>,
}

/// Content that is WebAssembly.
#[derive(Debug, Deserialize, Serialize)]
pub struct Source {
    content_type: String,
    /// Its `source` is a `file://` URL after `spin up`; in a registry its `digest` names a layer.
    #[serde(flatten)]
    pub content: ContentRef,
}

/// Content and the path where a component sees it.
#[derive(Debug, Deserialize, Serialize)]
pub struct ContentPath {
    /// A file, or a folder where `spin up` prepared it.
    #[serde(flatten)]
    pub content: ContentRef,
    /// Where the component sees it, from its root on; of an app in a registry a path with `..` is refused.
    pub path: PathBuf,
}

/// Content: by address, in place (base64), or by digest (`sha256:…`).
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ContentRef {
    /// A `file://` URL: the only form of content that [`Local`] takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The bytes in base64, which registries use for small files; it goes before `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// The SHA-256 of the bytes as `sha256:` and hexadecimal digits: the name of a layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Finds the file behind a component's source, and the folders or files that it mounts.
pub trait Contents {
    /// Where the component's code stands on this machine; an error where it does not, or is too large.
    fn code(&self, component: &str, content: &ContentRef) -> Result<PathBuf>;
    /// Mounts that show these files; an error where one of them is not on this machine.
    fn files(&self, component: &str, files: &[ContentPath]) -> Result<Vec<Files>>;
}

/// Content that stands on this machine, as `spin up` prepares it.
pub struct Local;

impl Contents for Local {
    fn code(&self, _: &str, content: &ContentRef) -> Result<PathBuf> {
        path(content)
    }

    fn files(&self, _: &str, files: &[ContentPath]) -> Result<Vec<Files>> {
        let mount = |file: &ContentPath| {
            Ok(Files::Mount { folder: path(&file.content)?, path: file.path.to_string_lossy().into_owned() })
        };
        files.iter().map(mount).collect()
    }
}

/// The path of a `file://` URL.
pub fn file_path(url: &str) -> Result<PathBuf> {
    let parsed = url::Url::parse(url).with_context(|| format!("{url:?} is not a URL"))?;
    parsed.to_file_path().map_err(|()| anyhow::anyhow!("{url:?} is not the URL of a file"))
}

fn path(content: &ContentRef) -> Result<PathBuf> {
    let source = content.source.as_deref().context("the locked app names content that is not on this machine")?;
    file_path(source)
}

impl LockedApp {
    /// Refuses more than [`LOCKED_APP_BYTES_MAX`] bytes, a lock version above 1, and an unknown `must_understand`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let bytes = json.len();
        ensure!(bytes <= LOCKED_APP_BYTES_MAX, "it has {bytes} bytes: at most {LOCKED_APP_BYTES_MAX} are read");
        let app: Self = serde_json::from_slice(json).context("it is not a locked app")?;
        ensure!(app.spin_lock_version <= 1, "it is of lock version {}: 0 or 1 is wanted", app.spin_lock_version);
        if let Some(field) = app.must_understand.iter().find(|field| !UNDERSTOOD.contains(&field.as_str())) {
            bail!("it must be understood by {field:?}, which this host does not know");
        }
        Ok(app)
    }

    /// The triggers of one type (all where it is None) and the components that they call.
    pub fn into_app(self, kind: Option<&str>, contents: &impl Contents) -> Result<App> {
        refuse_required("the app", &self.host_requirements)?;
        let shared = self.metadata.get("triggers").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut triggers = Vec::new();
        for trigger in self.triggers.into_iter().filter(|t| kind.is_none_or(|kind| t.trigger_type == kind)) {
            triggers.push(trigger.into_spec(&shared)?);
        }
        let used = |id: &String| kind.is_none() || triggers.iter().any(|trigger| trigger.component == *id);
        let mut components = BTreeMap::new();
        for component in self.components.into_iter().filter(|component| used(&component.id)) {
            let id = component.id.clone();
            let spec = component.into_spec(contents).with_context(|| format!("component {id}"))?;
            components.insert(id, spec);
        }
        if let Some(trigger) = triggers.iter().find(|trigger| !components.contains_key(&trigger.component)) {
            bail!("the trigger {} names the component {}, which the app does not have", trigger.id, trigger.component);
        }
        let authors = self.metadata.get("authors").and_then(Value::as_array).into_iter().flatten();
        let authors = authors.filter_map(Value::as_str).map(str::to_owned).collect();
        let text = |key: &str| self.metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let variables = self.variables.into_iter().map(|(name, Variable { default, secret, description })| {
            (name, VariableSpec { default, secret, description })
        });
        Ok(App {
            name: text("name"),
            version: text("version"),
            description: text("description"),
            authors,
            variables: variables.collect(),
            triggers,
            components,
            migrations: migrations(shared.get(OWN_SETTINGS).and_then(Value::as_object))?,
        })
    }

    /// The app as registries hold it; content is put in by the caller.
    pub fn new(app: &App) -> Self {
        let trigger = |trigger: &TriggerSpec| Trigger {
            id: trigger.id.clone(),
            trigger_type: trigger.kind.clone(),
            trigger_config: trigger
                .config
                .clone()
                .into_iter()
                .chain([("component".to_owned(), Value::from(trigger.component.as_str()))])
                .collect(),
            trigger_dependencies: Map::new(),
        };
        let variable = |(name, spec): (&String, &VariableSpec)| {
            let VariableSpec { default, secret, description } = spec.clone();
            (name.clone(), Variable { description, default, secret })
        };
        // Spin's reader indexes what triggers of a type share, also where they share nothing.
        let mut metadata = json!({
            "name": app.name,
            "version": app.version,
            "description": app.description,
            "authors": app.authors,
            "triggers": {},
        });
        if app.migrations {
            metadata["triggers"] = json!({ OWN_SETTINGS: { "migrations": true } });
        }
        let types: BTreeSet<&str> = app.triggers.iter().map(|trigger| trigger.kind.as_str()).collect();
        // For an app with triggers of one type Spin also writes what its earlier readers look for.
        if let [only] = types.into_iter().collect::<Vec<_>>().as_slice() {
            metadata["trigger"] = json!({ "type": only });
        }
        Self {
            spin_lock_version: 0,
            must_understand: Vec::new(),
            metadata: metadata.as_object().cloned().unwrap_or_default(),
            host_requirements: Map::new(),
            variables: app.variables.iter().map(variable).collect(),
            triggers: app.triggers.iter().map(trigger).collect(),
            components: app.components.iter().map(|(id, spec)| Component::new(id, spec)).collect(),
        }
    }

    /// The bytes that a registry gets, without blanks; their digest is the layer's name.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

impl Trigger {
    /// The settings that all triggers of a type share come first, its own win.
    fn into_spec(mut self, shared: &Map<String, Value>) -> Result<TriggerSpec> {
        ensure!(
            self.trigger_dependencies.is_empty(),
            "the trigger {} has dependencies (middleware), which this host does not compose",
            self.id
        );
        let component = self.trigger_config.remove("component");
        let component = component.as_ref().and_then(Value::as_str);
        let component = component.with_context(|| format!("the trigger {} names no component", self.id))?.to_owned();
        let mut config = shared.get(&self.trigger_type).and_then(Value::as_object).cloned().unwrap_or_default();
        config.extend(self.trigger_config);
        Ok(TriggerSpec { id: self.id, kind: self.trigger_type, component, config })
    }
}

impl Component {
    fn new(id: &str, spec: &ComponentSpec) -> Self {
        let metadata = json!({
            "description": spec.description,
            "allowed_outbound_hosts": spec.allowed_outbound_hosts,
            "key_value_stores": spec.key_value_stores,
            // What Spin has and this host does not serve: a manifest with any of it is refused.
            "databases": [],
            "ai_models": [],
        });
        Self {
            id: id.to_owned(),
            metadata: metadata.as_object().cloned().unwrap_or_default(),
            source: Source { content_type: "application/wasm".to_owned(), content: ContentRef::default() },
            env: spec.environment.clone(),
            files: Vec::new(),
            config: spec.variables.clone(),
            dependencies: Map::new(),
            host_requirements: Map::new(),
        }
    }

    fn into_spec(self, contents: &impl Contents) -> Result<ComponentSpec> {
        refuse_required("it", &self.host_requirements)?;
        ensure!(
            self.dependencies.is_empty(),
            "it has dependencies that are not composed in: compose them first (spin registry push does)"
        );
        let list = |key: &str| -> Result<Vec<String>> {
            let value = self.metadata.get(key).cloned().unwrap_or_else(|| json!([]));
            serde_json::from_value(value).with_context(|| format!("metadata {key}"))
        };
        let description = self.metadata.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(ComponentSpec {
            description,
            source: contents.code(&self.id, &self.source.content)?,
            allowed_outbound_hosts: list("allowed_outbound_hosts")?,
            key_value_stores: list("key_value_stores")?,
            environment: self.env,
            files: contents.files(&self.id, &self.files)?,
            variables: self.config,
            build: None,
        })
    }
}

fn refuse_required(what: &str, requirements: &Map<String, Value>) -> Result<()> {
    let required: Vec<_> =
        requirements.iter().filter(|(_, value)| *value != "optional").map(|(name, _)| name.as_str()).collect();
    ensure!(required.is_empty(), "{what} requires {}, which this host does not have", required.join(", "));
    Ok(())
}

/// Reads the locked app that `spin up` left at a `file://` URL.
pub fn load(url: &str, kind: &str) -> Result<App> {
    let read = |path: &Path| -> Result<App> {
        let json = std::fs::read(path).context("it cannot be read")?;
        LockedApp::parse(&json)?.into_app(Some(kind), &Local)
    };
    let path = file_path(url)?;
    read(&path).with_context(|| format!("the locked app {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(components: Value, more: Value) -> Value {
        let mut app = json!({
            "spin_lock_version": 1,
            "metadata": {"name": "x", "version": "1", "triggers": {"kafka": {"brokers": "b:1", "group": "shared"}}},
            "variables": {"v": {"default": "1"}, "w": {"secret": true}},
            "triggers": [
                {"id": "k", "trigger_type": "kafka", "trigger_config": {"component": "c", "group": "own"}},
                {"id": "h", "trigger_type": "http", "trigger_config": {"component": "d", "route": "/"}},
            ],
            "components": components,
        });
        app.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app
    }

    fn component(more: Value) -> Value {
        let mut component = json!({
            "id": "c", "source": {"content_type": "application/wasm", "source": "file:///a/c.wasm"},
            "metadata": {"allowed_outbound_hosts": ["kafka://b:1"]}, "config": {"p": "{{ v }}"},
        });
        component.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        component
    }

    fn read(app: &Value, kind: Option<&str>) -> Result<App> {
        LockedApp::parse(app.to_string().as_bytes())?.into_app(kind, &Local)
    }

    fn refused(app: &Value) -> String {
        format!("{:#}", read(app, Some("kafka")).unwrap_err())
    }

    #[test]
    fn the_triggers_of_one_type_and_their_components_are_taken() {
        let files = json!({"files": [{"source": "file:///assets/c", "path": "/"}]});
        let app = read(&app(json!([component(files)]), json!({})), Some("kafka")).unwrap();
        assert_eq!(app.triggers.len(), 1);
        assert_eq!(
            (&app.triggers[0].config["brokers"], &app.triggers[0].config["group"]),
            (&json!("b:1"), &json!("own"))
        );
        let spec = &app.components["c"];
        assert_eq!(spec.source, Path::new("/a/c.wasm"));
        assert_eq!(spec.variables["p"], "{{ v }}");
        assert_eq!(spec.files, [Files::Mount { folder: "/assets/c".into(), path: "/".into() }]);
        assert!(app.variables["w"].secret && app.variables["w"].default.is_none());
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let required = component(json!({"host_requirements": {"local_service_chaining": "required", "x": "optional"}}));
        let error = refused(&app(json!([required]), json!({})));
        assert!(error.contains("local_service_chaining") && !error.contains("x,"), "{error}");
        let fine = component(json!({}));
        assert!(refused(&app(json!([fine]), json!({"must_understand": ["quantum"]}))).contains("quantum"));
        assert!(refused(&app(json!([fine]), json!({"spin_lock_version": 2}))).contains("lock version 2"));
        assert!(refused(&app(json!([fine]), json!({"host_requirements": {"y": "required"}}))).contains('y'));
        let composed = component(json!({"dependencies": {"a:b/c": {"source": {}}}}));
        assert!(refused(&app(json!([composed]), json!({}))).contains("dependencies"));
        assert!(refused(&app(json!([]), json!({}))).contains("component c"));
        let large = app(json!([fine]), json!({"metadata": {"name": "x".repeat(LOCKED_APP_BYTES_MAX)}}));
        assert!(refused(&large).contains("at most 4194304"));
    }

    /// `App::get_trigger_metadata` of Spin panics where `triggers` is not there. Take out: it, in [`LockedApp::new`].
    #[test]
    fn what_spins_reader_indexes_is_there() {
        let app = read(&app(json!([component(json!({}))]), json!({})), Some("kafka")).unwrap();
        let written = |app: &App| -> Value { serde_json::from_slice(&LockedApp::new(app).to_json().unwrap()).unwrap() };
        let own = written(&App { migrations: true, ..app.clone() });
        assert_eq!(own["metadata"]["triggers"], json!({"exagg": {"migrations": true}}));
        let written = written(&app);
        assert_eq!(written["metadata"]["triggers"], json!({}));
        assert_eq!(written["metadata"]["trigger"]["type"], "kafka");
    }

    /// The names are those of `locked_metadata`, `load_component`, `locked_variable` and `locked_trigger` in Spin's
    /// `crates/loader/src/local.rs`; beside them Spin writes `build`, which names commands of the machine that pushed.
    /// Take out: a field.
    #[test]
    fn what_is_pushed_has_the_fields_that_spin_writes() {
        let text = "spin_manifest_version = 2\n[application]\nname = \"n\"\nversion = \"1\"\ndescription = \"d\"\n\
                    authors = [\"a\"]\n[variables]\nv = { required = true, description = \"for people\" }\n\
                    [[trigger.cron]]\ncomponent = \"c\"\ncron_expression = \"* * * * * *\"\n\
                    [component.c]\nsource = \"c.wasm\"\ndescription = \"of c\"\n";
        let app = crate::manifest::parse(text, Path::new("")).unwrap();
        let written: Value = serde_json::from_slice(&LockedApp::new(&app).to_json().unwrap()).unwrap();
        let names = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(names(&written["metadata"]), "authors description name trigger triggers version");
        assert_eq!(written["metadata"]["authors"], json!(["a"]));
        let component = &written["components"][0];
        let metadata = "ai_models allowed_outbound_hosts databases description key_value_stores";
        assert_eq!(names(&component["metadata"]), metadata);
        assert_eq!((&component["id"], &component["metadata"]["description"]), (&json!("c"), &json!("of c")));
        assert_eq!(written["variables"]["v"], json!({"description": "for people"}));
        assert_eq!(names(&written["triggers"][0]), "id trigger_config trigger_type");
        assert_eq!(written["triggers"][0]["trigger_config"]["component"], "c");
        assert_eq!(names(&written), "components metadata spin_lock_version triggers variables");
    }

    #[test]
    fn an_app_survives_the_way_there_and_back() {
        let there = read(&app(json!([component(json!({"env": {"A": "b"}}))]), json!({})), Some("kafka")).unwrap();
        let mut locked = LockedApp::new(&there);
        locked.components[0].source.content.source = Some("file:///a/c.wasm".to_owned());
        let back = LockedApp::parse(&locked.to_json().unwrap()).unwrap().into_app(None, &Local).unwrap();
        assert_eq!(back, there);
    }
}
