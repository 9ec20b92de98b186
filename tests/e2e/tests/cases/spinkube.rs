//! The manifests of `deploy/spinkube`: read by the custom resources' schemas, and run, each pod's
//! command line as a process with its environment, from an app in a registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::exagg;
use e2e::kubernetes::{Manifests, Selector, SpinApp, documents};
use e2e::registry::Registry;
use e2e::{bound_command, free_port, http, now, root, topic, wait_for};
use serde_json::{Value, json};

use super::{World, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);

/// The one stage whose records would not be the test's own.
const FETCHER: &str = "fetcher-exchanges";

fn fetched(name: &str) -> String {
    format!("{name}.fetched")
}

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
        (&json!("config"), &json!("executor.yaml"))
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

/// What kustomize makes of a folder, each document strictly of its operator's own type; or why it refuses.
fn rendered(folder: &Path) -> Result<Vec<Value>, String> {
    let output = Command::new(root().join("target/deploycheck")).arg("kustomize").arg(folder).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), output.stdout).unwrap();
    documents(file.path())
}

/// What people apply: everything that differs is in one file, the settings come first, and a setting that changes has
/// another name, so that the stages are rolled out. By kustomize and the operators' own packages.
pub fn a_cluster_is_one_file_and_a_changed_setting_rolls_out(_: &World) {
    if !root().join("target/deploycheck").exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make deploycheck needs Go");
        println!("deploycheck is not built (make deploycheck): skipped");
        return;
    }
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("deploy")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let file = |name: &str| copy.path().join("deploy").join(name);
    let change = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(file(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        std::fs::write(file(name), text.replace(from, to)).unwrap();
    };
    let stock = rendered(&file("cluster")).unwrap();
    let kinds: Vec<_> = stock.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["Secret", "SpinAppExecutor", "Job"], "{kinds:?}");
    for (name, from, to) in [
        ("cluster/settings.env", "registry.example", "elsewhere.test"),
        ("cluster/settings.env", "kafka:9092", "broker.test:9093"),
        ("cluster/settings.env", "postgres:5432", "db.test:6432"),
        ("cluster/settings.env", "-0-1-0", "-0-2-0"),
        ("spinkube/config/runtime-config.toml", "drain_delay_seconds = 5", "drain_delay_seconds = 6"),
    ] {
        change(name, from, to);
    }
    let changed = rendered(&file("cluster")).unwrap();
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
    let refused = rendered(&file("cluster")).unwrap_err();
    assert!(refused.contains("coolDownPeriod"), "{refused}");
}

/// By Compose's own loader: what PostgreSQL knows of topics lives no longer than the topics.
pub fn what_compose_keeps_it_keeps_of_both_servers(_: &World) {
    let check = root().join("target/deploycheck");
    if !check.exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make deploycheck needs Go");
        return;
    }
    let output = Command::new(check).arg("compose").arg(root().join("deploy/compose.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), output.stdout).unwrap();
    let project = documents(file.path()).unwrap().remove(0);
    for (service, folder) in [("kafka", "/var/lib/kafka/data"), ("postgres", "/var/lib/postgresql/data")] {
        let volume = &project["services"][service]["volumes"][0];
        assert_eq!((&volume["type"], &volume["target"]), (&json!("volume"), &json!(folder)), "{service}: {volume}");
        assert!(project["volumes"][volume["source"].as_str().unwrap()].is_object(), "{service}: {project}");
    }
    assert_eq!(project["services"]["kafka"]["environment"]["KAFKA_LOG_DIRS"], "/var/lib/kafka/data");
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

/// A cluster of processes: what of a pod's command line and environment names the cluster is
/// exchanged for this machine's, all else is as the operator makes it.
struct Cluster<'a> {
    world: &'a World,
    database: Database,
    name: &'static str,
    registry: Registry,
    manifests: Manifests,
    folder: tempfile::TempDir,
    pods: BTreeMap<String, Vec<Pod>>,
    started: usize,
}

struct Pod {
    child: Child,
    listen: u16,
    log: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("--- {}:\n{}", self.log.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

impl<'a> Cluster<'a> {
    fn new(world: &'a World, name: &'static str) -> Self {
        let registry = Registry::start();
        let cluster = Self {
            world,
            database: world.postgres.database(),
            name,
            registry,
            manifests: Manifests::read(&folder()).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            pods: BTreeMap::new(),
            started: 0,
        };
        cluster.push();
        cluster
    }

    fn image(&self) -> String {
        format!("{}/exchange-agg-spin:0.1.0", self.registry.address)
    }

    /// The app with groups of this test's own and a short session, pushed.
    fn push(&self) {
        let setup = self.world.setup(&self.database, self.name);
        setup.write();
        let pushed = Command::new(exagg())
            .args(["registry", "push", &self.image(), "--insecure", "--from"])
            .arg(setup.folder())
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
    }

    /// The runtime configuration of the manifests, with this machine in the place of the pod.
    fn runtime_config(&self, pod: &Path) -> PathBuf {
        let text = std::fs::read_to_string(folder().join("config/runtime-config.toml")).unwrap();
        for expected in ["\"/state\"", "\"0.0.0.0:9464\""] {
            assert!(text.contains(expected), "{text}");
        }
        let text = text
            .replace("\"/state\"", &format!("\"{}\"", pod.join("state").display()))
            .replace("\"0.0.0.0:9464\"", &format!("\"127.0.0.1:{}\"", free_port()))
            .replace("[exagg]\n", &format!("[exagg]\ninsecure_registries = [\"{}\"]\n", self.registry.address));
        let file = pod.join("runtime-config.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The stages share an address here; with roles of their own: `roles`.
    fn secret(&self, name: &str, key: &str) -> Option<String> {
        match (name, key) {
            ("exchange-agg" | "exchange-agg-owner", "postgres_url") => Some(self.database.url.clone()),
            ("exchange-agg", "livecoinwatch_api_key") => Some("no-key".to_owned()),
            ("exchange-agg", "aggregator_postgres_url" | "closer_postgres_url" | "dashboard_postgres_url") => None,
            (name, key) => panic!("no secret {key} in {name}"),
        }
    }

    /// What stands for something else here than in a cluster.
    fn here(&self, name: &str, value: String) -> String {
        match name {
            "SPIN_VARIABLE_KAFKA_BROKERS" | "SPIN_VARIABLE_KAFKA_HOST" => self.world.kafka().brokers.clone(),
            "SPIN_VARIABLE_POSTGRES_HOST" => self.database.host.clone(),
            _ => value,
        }
    }

    fn start(&mut self, stage: &str) {
        let app: &SpinApp = &self.manifests.apps[stage];
        let pod = self.folder.path().join(self.started.to_string());
        std::fs::create_dir_all(&pod).unwrap();
        let listen = free_port();
        let config = self.runtime_config(&pod);
        let arguments: Vec<String> = app
            .arguments()
            .into_iter()
            .map(|argument| match argument.as_str() {
                "0.0.0.0:80" => format!("127.0.0.1:{listen}"),
                "/runtime-config.toml" => config.to_str().unwrap().to_owned(),
                _ if argument == app.image => self.image(),
                _ => argument,
            })
            .collect();
        let environment = app.environment(|name, key| self.secret(name, key));
        let log = pod.join("log");
        let output = File::create(&log).unwrap();
        let child = bound_command(exagg().to_str().unwrap())
            .args(arguments)
            .envs(environment.into_iter().map(|(name, value)| (name.clone(), self.here(&name, value))))
            // Beside what the manifests set: topics of this test's own, data without the API.
            .env("SPIN_VARIABLE_EXCHANGES_SOURCE", "random")
            .env("SPIN_VARIABLE_EXCHANGES_TOPIC", if stage == FETCHER { fetched(self.name) } else { topic(self.name) })
            .env("SPIN_VARIABLE_WEATHER_TOPIC", format!("{}.weather", self.name))
            .env("SPIN_VARIABLE_IDLE_TIMEOUT_SECONDS", "3")
            .env("SPIN_VARIABLE_WINDOW_SECONDS", "10")
            .current_dir(&pod)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.started += 1;
        self.pods.entry(stage.to_owned()).or_default().push(Pod { child, listen, log });
    }

    /// Starts or stops pods of a stage, as a scaler does; those that start become ready.
    fn scale(&mut self, stage: &str, replicas: usize) {
        while self.pods.entry(stage.to_owned()).or_default().len() < replicas {
            self.start(stage);
        }
        let pods = self.pods.get_mut(stage).unwrap();
        for mut pod in pods.drain(replicas..) {
            let stopped = Command::new("kill").args(["-TERM", &pod.child.id().to_string()]).status().unwrap();
            assert!(stopped.success());
            let status = wait_for("a pod's end", MINUTE, || pod.child.try_wait().unwrap());
            assert!(status.success(), "{stage}: {status}");
        }
        let app = &self.manifests.apps[stage];
        for pod in &self.pods[stage] {
            for probe in [&app.checks.liveness, &app.checks.readiness] {
                let path = &probe.http_get.path;
                wait_for(&format!("{stage} {path}"), MINUTE, || {
                    http::try_get(pod.listen, path).filter(|answer| answer.status == 200)
                });
            }
        }
    }

    /// Runs the Job of the manifests.
    fn migrate(&self) {
        let job = &self.manifests.others[&("Job".to_owned(), "exchange-agg-migrate".to_owned())];
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let pod = self.folder.path().join("migrate");
        std::fs::create_dir_all(&pod).unwrap();
        let config = self.runtime_config(&pod);
        let image = self.manifests.apps["dashboard"].image.clone();
        let argument = |argument: &Value| match argument.as_str().unwrap() {
            "/runtime-config.toml" => config.to_str().unwrap().to_owned(),
            argument if argument == image => self.image(),
            argument => argument.to_owned(),
        };
        let mut command = Command::new(exagg());
        command.args(container["args"].as_array().unwrap().iter().map(argument)).current_dir(&pod);
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let value = match variable["valueFrom"]["secretKeyRef"].as_object() {
                Some(secret) => self.secret(secret["name"].as_str().unwrap(), secret["key"].as_str().unwrap()).unwrap(),
                None => variable["value"].as_str().unwrap().to_owned(),
            };
            command.env(name, self.here(name, value));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Every stage a process of its own, started in any order, stopped and replaced alone, the
/// aggregator scaled 1, 3, 1: the rows are right. Take out: the fence, or leases for the fetchers.
pub fn stages_as_processes_scale_alone_and_the_rows_are_right(world: &World) {
    let name = "spinkube";
    world.kafka().create_topic(&topic(name), 6, &[]);
    world.kafka().create_topic(&format!("{name}.weather"), 2, &[]);
    world.kafka().create_topic(&fetched(name), 1, &[]);
    let mut cluster = Cluster::new(world, name);
    // Before its tables are there a stage waits.
    cluster.start("aggregator-exchanges");
    cluster.migrate();
    let stages =
        ["dashboard", "window-closer", "aggregator-weather", "fetcher-weather", "aggregator-exchanges", FETCHER];
    for stage in stages {
        let replicas = cluster.manifests.apps[stage].replicas.unwrap_or(1);
        cluster.scale(stage, usize::try_from(replicas).unwrap());
    }
    let mut feed = Feed::new(world.kafka(), &topic(name), 6).window_seconds(10);
    let first = now() - 600;
    let mut round = 0;
    let mut send = |feed: &mut Feed| {
        feed.spread(20_000, first + round * 20, 20);
        round += 1;
    };
    send(&mut feed);
    wait_for_records(&cluster.database, "exchanges", feed.sent);
    send(&mut feed);
    cluster.scale("aggregator-exchanges", 3);
    send(&mut feed);
    // Others are replaced meanwhile.
    for stage in ["window-closer", "fetcher-weather", "dashboard"] {
        let replicas = cluster.pods[stage].len();
        cluster.scale(stage, 0);
        cluster.scale(stage, replicas);
    }
    send(&mut feed);
    cluster.scale("aggregator-exchanges", 1);
    send(&mut feed);
    wait_for_records(&cluster.database, "exchanges", feed.sent);
    wait_until_closed(&cluster.database, "exchanges");
    feed.oracle.assert_equal(&cluster.database, "exchanges");
    wait_for("final rows of the weather", MINUTE, || {
        let rows = "SELECT count(*) FROM public.aggregates WHERE stream = 'weather'";
        (cluster.database.number(rows) > 1).then_some(())
    });
    let fetched = wait_for("fetched exchanges", MINUTE, || {
        let records = world.kafka().read_all(&fetched(name), 1);
        (!records.is_empty()).then_some(records)
    });
    assert!(fetched[0].key.is_some());
    let page = http::get(cluster.pods["dashboard"][0].listen, "/api/streams");
    assert!(page.status == 200 && page.body.contains("weather"), "{}", page.body);
    for pod in cluster.pods.values().flatten() {
        let log = std::fs::read_to_string(&pod.log).unwrap();
        assert!(!log.contains(&cluster.database.url), "the address with its password is in {}", pod.log.display());
    }
}
