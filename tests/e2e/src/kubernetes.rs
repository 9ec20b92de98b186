//! The manifests of `deploy/spinkube`, read by schemas of their own: the fields of the custom
//! resources that we use, all others refused, so that a misspelt one is noticed without a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    pub namespace: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Resource<Spec> {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

/// `core.spinkube.dev/v1alpha1` `SpinApp`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpinApp {
    pub executor: String,
    pub image: String,
    pub components: Vec<String>,
    #[serde(default)]
    pub replicas: Option<u32>,
    #[serde(default)]
    pub enable_autoscaling: bool,
    pub checks: Checks,
    pub resources: Resources,
    #[serde(default)]
    pub invocation_limits: BTreeMap<String, String>,
    pub runtime_config: RuntimeConfig,
    #[serde(default)]
    pub pod_annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub pod_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub image_pull_secrets: Vec<SecretName>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    pub variables: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretName {
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    pub readiness: Probe,
    pub liveness: Probe,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    pub http_get: HttpGet,
    #[serde(default)]
    pub initial_delay_seconds: Option<u32>,
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
    #[serde(default)]
    pub period_seconds: Option<u32>,
    #[serde(default)]
    pub success_threshold: Option<u32>,
    #[serde(default)]
    pub failure_threshold: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub requests: Amounts,
    pub limits: Amounts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    pub cpu: String,
    pub memory: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuntimeConfig {
    pub load_from_secret: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub empty_dir: Option<BTreeMap<String, Value>>,
    pub secret: Option<SecretVolume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretVolume {
    pub secret_name: String,
    #[serde(default)]
    pub optional: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Variable {
    pub name: String,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub value_from: Option<ValueFrom>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ValueFrom {
    pub secret_key_ref: SecretKeyRef,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretKeyRef {
    pub name: String,
    pub key: String,
    /// The variable is not set where the secret has no such key.
    #[serde(default)]
    pub optional: bool,
}

/// `networking.k8s.io/v1` `NetworkPolicy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkPolicy {
    pub pod_selector: Selector,
    pub policy_types: Vec<String>,
    #[serde(default)]
    pub ingress: Vec<Ingress>,
    #[serde(default)]
    pub egress: Vec<Egress>,
}

/// Who may reach which ports; nobody named is everybody, no port named is all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingress {
    #[serde(default)]
    pub from: Vec<Peer>,
    #[serde(default)]
    pub ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    #[serde(default)]
    pub to: Vec<Peer>,
    #[serde(default)]
    pub ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub port: u16,
    pub protocol: String,
}

/// Pods by their labels: of the policy's own namespace, or of those with these labels.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Peer {
    pub pod_selector: Option<Selector>,
    pub namespace_selector: Option<Selector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<Value>,
}

/// `core.spinkube.dev/v1alpha1` `SpinAppExecutor`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpinAppExecutor {
    pub create_deployment: bool,
    pub deployment_config: DeploymentConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeploymentConfig {
    pub spin_image: String,
    #[serde(default, rename = "installDefaultCACerts")]
    pub install_default_ca_certs: bool,
}

/// `keda.sh/v1alpha1` `ScaledObject` with Kafka's scaler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ScaledObject {
    pub scale_target_ref: SecretName,
    pub min_replica_count: u32,
    pub max_replica_count: u32,
    #[serde(default)]
    pub cooldown_period: Option<u32>,
    pub triggers: Vec<Scaler>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaler {
    pub r#type: String,
    pub metadata: KafkaScaler,
}

/// All values are texts: KEDA refuses others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KafkaScaler {
    pub bootstrap_servers: String,
    pub consumer_group: String,
    pub topic: String,
    pub lag_threshold: String,
    #[serde(default)]
    pub limit_to_partitions_with_lag: Option<String>,
    #[serde(default)]
    pub offset_reset_policy: Option<String>,
}

/// What `kubectl apply -k` would apply.
#[derive(Debug, Default)]
pub struct Manifests {
    pub apps: BTreeMap<String, SpinApp>,
    pub executors: BTreeMap<String, SpinAppExecutor>,
    pub scaled: BTreeMap<String, ScaledObject>,
    pub policies: BTreeMap<String, NetworkPolicy>,
    /// Of Kubernetes' own kinds, by kind and name.
    pub others: BTreeMap<(String, String), Value>,
}

/// The documents of a file.
pub fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize).collect::<Result<_, _>>();
    documents.map_err(|error| format!("{}: {error}", path.display()))
}

/// What kustomize makes of a folder, each document strictly of its operator's own type; or why it refuses. None where
/// kustomize is not there (`make deploycheck` needs Go).
pub fn rendered(folder: &Path) -> Option<Result<Vec<Value>, String>> {
    let check = crate::root().join("target/deploycheck");
    if !check.exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make deploycheck needs Go");
        println!("deploycheck is not built (make deploycheck): skipped");
        return None;
    }
    let output = Command::new(check).arg("kustomize").arg(folder).output().unwrap();
    if !output.status.success() {
        return Some(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), output.stdout).unwrap();
    Some(documents(file.path()))
}

impl Manifests {
    /// Reads a folder by its `kustomization.yaml`.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let kustomization = documents(&folder.join("kustomization.yaml"))?.remove(0);
        let mut manifests = Self::default();
        let files: Vec<PathBuf> = kustomization["resources"]
            .as_array()
            .ok_or("no resources")?
            .iter()
            .filter_map(Value::as_str)
            .map(|file| folder.join(file))
            // What is generated there is the host's settings.
            .filter(|file| !file.is_dir())
            .collect();
        for file in files {
            for document in documents(&file)? {
                manifests.add(document).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        Ok(manifests)
    }

    /// Checks one document by its kind's schema.
    pub fn add(&mut self, document: Value) -> Result<(), String> {
        fn read<Spec: for<'de> Deserialize<'de>>(document: Value, version: &str) -> Result<(String, Spec), String> {
            let resource: Resource<Spec> = serde_json::from_value(document).map_err(|error| error.to_string())?;
            if resource.api_version != version {
                return Err(format!("{}: apiVersion {}", resource.kind, resource.api_version));
            }
            Ok((resource.metadata.name, resource.spec))
        }
        match document["kind"].as_str().unwrap_or_default() {
            "SpinApp" => self.apps.extend([read(document, "core.spinkube.dev/v1alpha1")?]),
            "SpinAppExecutor" => self.executors.extend([read(document, "core.spinkube.dev/v1alpha1")?]),
            "ScaledObject" => self.scaled.extend([read(document, "keda.sh/v1alpha1")?]),
            "NetworkPolicy" => self.policies.extend([read(document, "networking.k8s.io/v1")?]),
            kind @ ("Job" | "Deployment" | "Service" | "PodDisruptionBudget" | "Secret" | "ServiceAccount") => {
                let name = document["metadata"]["name"].as_str().ok_or("no name")?.to_owned();
                self.others.insert((kind.to_owned(), name), document);
            }
            kind => return Err(format!("kind {kind:?} is not expected here")),
        }
        Ok(())
    }

    /// The rules that let somebody reach this port of a pod.
    pub fn ingress_to(&self, port: u16) -> impl Iterator<Item = &Ingress> {
        let rules = self.policies.values().flat_map(|policy| &policy.ingress);
        rules.filter(move |rule| rule.ports.is_empty() || rule.ports.iter().any(|open| open.port == port))
    }
}

impl SpinApp {
    /// The container's arguments, as the operator makes them of an app.
    pub fn arguments(&self) -> Vec<String> {
        let fixed =
            ["up", "--listen", "0.0.0.0:80", "-f", &self.image, "--runtime-config-file", "/runtime-config.toml"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
        for component in &self.components {
            arguments.extend(["--component-id".to_owned(), component.clone()]);
        }
        arguments
    }

    /// The container's environment, as the operator makes it; `secret` gives a secret's value by
    /// name and key, where it has one.
    pub fn environment(&self, secret: impl Fn(&str, &str) -> Option<String>) -> Vec<(String, String)> {
        let mut environment: Vec<_> = self
            .variables
            .iter()
            .filter_map(|variable| {
                let value = match (&variable.value, &variable.value_from) {
                    (Some(value), None) => Some(value.clone()),
                    (None, Some(ValueFrom { secret_key_ref: SecretKeyRef { name, key, optional } })) => {
                        let value = secret(name, key);
                        assert!(value.is_some() || *optional, "variable {}: no {key} in {name}", variable.name);
                        value
                    }
                    _ => panic!("variable {}: either value or valueFrom", variable.name),
                };
                Some((format!("SPIN_VARIABLE_{}", variable.name.to_uppercase()), value?))
            })
            .collect();
        environment.push(("SPIN_HTTP_LISTEN_ADDR".to_owned(), "0.0.0.0:80".to_owned()));
        environment.push(("SPIN_COMPONENTS_TO_RETAIN".to_owned(), self.components.join(",")));
        if let Some(memory) = self.invocation_limits.get("memory") {
            let mebibytes: u64 = memory.strip_suffix("Mi").unwrap().parse().unwrap();
            environment.push(("SPIN_MAX_INSTANCE_MEMORY".to_owned(), (mebibytes * 1024 * 1024).to_string()));
        }
        environment
    }
}
