//! The manifests of `deploy/`: read by the custom resources' schemas, by kustomize and by the operators' own types. As
//! processes they run in `cluster`.

use std::path::PathBuf;
use std::process::Command;

use e2e::kubernetes::{Manifests, Selector, documents, rendered};
use e2e::root;
use serde_json::{Value, json};

use super::World;

fn folder() -> PathBuf {
    root().join("deploy/spinkube")
}

pub fn manifests_have_known_fields_and_belong_together(_: &World) {
    let manifests = Manifests::read(&folder()).unwrap();
    let spin = std::fs::read_to_string(root().join("spin.toml")).unwrap();
    assert_eq!(manifests.apps.len(), 6);
    // The operator refuses an app whose executor is not there yet.
    let kustomization = documents(&folder().join("kustomization.yaml")).unwrap().remove(0);
    assert_eq!(kustomization["sortOptions"]["order"], "fifo");
    assert_eq!(
        (&kustomization["resources"][0], &kustomization["resources"][1]),
        (&json!("config"), &json!("account.yaml"))
    );
    for (name, app) in &manifests.apps {
        assert!(manifests.executors.contains_key(&app.executor), "{name}: executor {}", app.executor);
        for component in &app.components {
            assert!(spin.contains(&format!("[component.{component}]")), "{name}: component {component}");
        }
        for variable in &app.variables {
            assert!(spin.contains(&format!("\n{} = {{", variable.name)), "{name}: variable {}", variable.name);
        }
        // A volume is a folder, or a Secret that need not be there.
        assert!(
            app.volumes.iter().all(|of| of.empty_dir.is_some() != of.secret.as_ref().is_some_and(|of| of.optional))
        );
        let mounted = |mount: &str| app.volumes.iter().any(|volume| volume.name == mount);
        assert!(app.volume_mounts.iter().all(|mount| mounted(&mount.name)), "{name}: a mount without its volume");
        assert_ne!(app.enable_autoscaling, app.replicas.is_some(), "{name}: replicas, or autoscaling");
        assert_eq!(app.enable_autoscaling, manifests.scaled.contains_key(name), "{name}");
    }
    for (name, scaled) in &manifests.scaled {
        assert_eq!(scaled.scale_target_ref.name, *name);
        // With 0 nobody proves that a partition is idle.
        assert!(scaled.min_replica_count == 1 && scaled.max_replica_count > 1, "{name}");
        let scaler = &scaled.triggers[0];
        assert_eq!(scaler.r#type, "kafka");
        assert!(spin.contains(&format!("group = \"{}\"", scaler.metadata.consumer_group)), "{name}: its group");
    }
}

/// The label of pods that may read the metrics, and of namespaces that such pods may be in.
const SCRAPER: &str = "exchange-agg-scraper";

/// Take out: `from` of the rule for 9464, or a stage's own address.
pub fn a_stage_is_reached_by_and_holds_no_more_than_it_needs(_: &World) {
    let manifests = Manifests::read(&folder()).unwrap();
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    assert!(readme.contains(&format!("`{SCRAPER}: \"true\"`")), "the label is documented");
    let labelled = |selector: &Selector| selector.match_labels.get(SCRAPER).is_some_and(|value| value == "true");
    let metrics: Vec<_> = manifests.ingress_to(9464).collect();
    assert!(!metrics.is_empty());
    for rule in metrics {
        assert!(!rule.from.is_empty(), "everybody may read the metrics: {rule:?}");
        assert_eq!(rule.ports.len(), 1, "{rule:?}");
        for peer in &rule.from {
            assert!(peer.pod_selector.as_ref().is_some_and(labelled), "{peer:?}");
            assert!(peer.namespace_selector.as_ref().is_none_or(labelled), "{peer:?}");
        }
    }
    // The dashboard's page is the one that everybody reaches.
    let open: Vec<_> =
        manifests.policies.values().filter(|policy| policy.ingress.iter().any(|rule| rule.from.is_empty())).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].pod_selector.match_labels["core.spinkube.dev/app-name"], "dashboard");
    assert_eq!(open[0].ingress[0].ports[0].port, 80);
    // Every stage is meant by a policy that names its ports.
    let meant = manifests.policies["exchange-agg-stages"].pod_selector.match_expressions[0]["values"].to_string();
    for (name, app) in &manifests.apps {
        assert!(meant.contains(&format!("{name:?}")), "{name} has no policy");
        let own = app.variables.iter().filter_map(|variable| variable.name.strip_suffix("_postgres_url"));
        let expected = ["aggregator", "closer", "dashboard"].into_iter().find(|stage| name.contains(stage));
        assert_eq!(own.collect::<Vec<_>>(), Vec::from_iter(expected), "{name}");
        let from = app.variables.iter().filter_map(|variable| variable.value_from.as_ref());
        for secret in from.map(|from| &from.secret_key_ref) {
            assert_eq!(secret.name, "exchange-agg", "{name}: the owner's address is the Job's alone");
            assert_eq!(secret.optional, secret.key.ends_with("_postgres_url"), "{name}: {}", secret.key);
        }
    }
}

/// What people apply: everything that differs is in one file, the settings come first, and a setting that changes has
/// another name, so that the stages are rolled out. By kustomize and the operators' own packages.
pub fn a_cluster_is_one_file_and_a_changed_setting_rolls_out(_: &World) {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("deploy")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let file = |name: &str| copy.path().join("deploy").join(name);
    let change = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(file(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        std::fs::write(file(name), text.replace(from, to)).unwrap();
    };
    let Some(stock) = rendered(&file("cluster")) else { return };
    let stock = stock.unwrap();
    let kinds: Vec<_> = stock.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[..4], ["Secret", "ServiceAccount", "SpinAppExecutor", "Job"], "{kinds:?}");
    // No pod has a token: those of the SpinApps have the namespace's account.
    let account = stock.iter().find(|document| document["kind"] == "ServiceAccount").unwrap();
    assert_eq!(
        (&account["metadata"]["name"], &account["automountServiceAccountToken"]),
        (&json!("default"), &json!(false))
    );
    let job = stock.iter().find(|document| document["kind"] == "Job").unwrap();
    assert_eq!(job["spec"]["template"]["spec"]["automountServiceAccountToken"], false);
    for (name, from, to) in [
        ("cluster/settings.env", "registry.example", "elsewhere.test"),
        ("cluster/settings.env", "kafka:9092", "broker.test:9093"),
        ("cluster/settings.env", "postgres:5432", "db.test:6432"),
        ("cluster/settings.env", "-0-1-0", "-0-2-0"),
        ("spinkube/config/runtime-config.toml", "drain_delay_seconds = 5", "drain_delay_seconds = 6"),
    ] {
        change(name, from, to);
    }
    let changed = rendered(&file("cluster")).unwrap().unwrap();
    let text = changed.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    for left in ["registry.example", "\"kafka:9092\"", "\"postgres:5432\"", "migrate-0-1-0"] {
        assert!(!text.contains(left), "{left} is not in settings.env alone");
    }
    let settings = |documents: &[Value]| -> Vec<String> {
        let names = documents.iter().filter_map(|document| match document["kind"].as_str()? {
            "SpinApp" => document["spec"]["runtimeConfig"]["loadFromSecret"].as_str(),
            "Secret" => document["metadata"]["name"].as_str(),
            "Job" => document["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"].as_str(),
            _ => None,
        });
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        assert_eq!(names.len(), 8);
        names.dedup();
        names
    };
    assert_eq!((settings(&stock).len(), settings(&changed).len()), (1, 1), "one name of the settings everywhere");
    assert_ne!(settings(&stock), settings(&changed));
    change("spinkube/aggregators.yaml", "cooldownPeriod", "coolDownPeriod");
    let refused = rendered(&file("cluster")).unwrap().unwrap_err();
    assert!(refused.contains("coolDownPeriod"), "{refused}");
}

/// A misspelt field must be noticed: the check that fails when nothing else does.
pub fn a_misspelt_field_is_noticed(_: &World) {
    let original = documents(&folder().join("aggregators.yaml")).unwrap();
    let renames = [
        ("/spec", "enableAutoscaling", "enableAutoScaling"),
        ("/spec", "components", "component"),
        ("/spec/checks/readiness", "httpGet", "httpget"),
        ("/spec/checks/readiness/httpGet", "path", "paths"),
        ("/spec/runtimeConfig", "loadFromSecret", "loadFromSecrets"),
        ("/spec/variables/0/valueFrom/secretKeyRef", "key", "keys"),
        ("/spec/volumeMounts/0", "mountPath", "mountpath"),
        ("/spec/invocationLimits", "memory", "memory"),
    ];
    for (at, from, to) in renames {
        let mut document = original[0].clone();
        let object = document.pointer_mut(at).unwrap().as_object_mut().unwrap();
        let value = object.remove(from).unwrap();
        object.insert(to.to_owned(), value);
        assert_eq!(Manifests::default().add(document).is_ok(), from == to, "{at}/{to}");
    }
    let mut scaled = original.iter().find(|document| document["kind"] == "ScaledObject").unwrap().clone();
    Manifests::default().add(scaled.clone()).unwrap();
    scaled["spec"]["triggers"][0]["metadata"]["lagTreshold"] = json!("1");
    assert!(Manifests::default().add(scaled).unwrap_err().contains("lagTreshold"));
    let mut policy = documents(&folder().join("networkpolicy.yaml")).unwrap().remove(0);
    Manifests::default().add(policy.clone()).unwrap();
    policy["spec"]["ingress"][0]["form"] = json!([]);
    assert!(Manifests::default().add(policy).unwrap_err().contains("form"));
    let executor = documents(&folder().join("executor.yaml")).unwrap().remove(0);
    let mut wrong = executor.clone();
    wrong["spec"]["deploymentConfig"]["spinimage"] = json!("x");
    assert!(Manifests::default().add(executor).is_ok() && Manifests::default().add(wrong).is_err());
}

/// The components that a cluster may have beside: monitoring by the Prometheus operator, with the rules that promtool
/// has tested, and KEDA's own login to Kafka.
pub fn what_a_cluster_may_have_beside_is_of_its_operators_types(_: &World) {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("deploy")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let overlay = copy.path().join("deploy/cluster");
    let file = overlay.join("kustomization.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let commented = ["# components:", "#   - ../spinkube/components/"];
    assert!(commented.iter().all(|line| text.contains(line)), "{text}");
    let text = text.replace("# components:", "components:").replace("#   - ../spinkube", "  - ../spinkube");
    std::fs::write(&file, text).unwrap();
    let Some(documents) = rendered(&overlay) else { return };
    let documents = documents.unwrap();
    let of_kind =
        |kind: &str| -> Vec<&Value> { documents.iter().filter(|document| document["kind"] == kind).collect() };
    let rules = e2e::kubernetes::documents(&root().join("deploy/prometheus/rules.yaml")).unwrap().remove(0);
    assert_eq!(of_kind("PrometheusRule")[0]["spec"], rules, "the rules of both are the same");
    // The monitor finds the pods that the policy is about, by the port that the operator declares.
    let policy = of_kind("NetworkPolicy")[0];
    let monitor = of_kind("PodMonitor")[0];
    assert_eq!(monitor["spec"]["selector"], policy["spec"]["podSelector"]);
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], "http-app");
    let login = of_kind("TriggerAuthentication")[0]["metadata"]["name"].clone();
    let scaled = of_kind("ScaledObject");
    assert_eq!(scaled.len(), 2);
    assert!(scaled.iter().all(|of| of["spec"]["triggers"][0]["authenticationRef"]["name"] == login), "{scaled:?}");
}
