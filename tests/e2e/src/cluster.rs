//! A cluster of processes: what kustomize makes of `deploy/cluster`, each pod's command line as a process with its
//! environment. What names the cluster is exchanged for this machine's, all else is as the operator and the kubelet
//! make it: a container that ends is started again, with the folder that its pod keeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;

use crate::database::Database;
use crate::host::{Setup, exagg};
use crate::kubernetes::{Manifests, SpinApp, rendered};
use crate::registry::Registry;
use crate::{bound_command, free_port, http, root, topic, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// Before a container that has ended is started again.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The one stage whose records would not be the test's own.
pub const FETCHER: &str = "fetcher-exchanges";

/// The topic that the fetcher of exchanges writes.
pub fn fetched(name: &str) -> String {
    format!("{name}.fetched")
}

pub struct Cluster {
    brokers: String,
    pub database: Database,
    name: &'static str,
    registry: Option<Registry>,
    /// host:port of the registry, whether it runs or not.
    registry_address: String,
    /// What `kubectl apply -k` has applied.
    pub manifests: Manifests,
    overlay: tempfile::TempDir,
    folder: tempfile::TempDir,
    pods: BTreeMap<String, Vec<Pod>>,
    started: usize,
}

pub struct Pod {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    child: Child,
    ended: Option<Instant>,
    pub listen: u16,
    /// How often its container was started again.
    pub restarts: usize,
}

impl Pod {
    fn spawn(folder: &Path, arguments: &[String], environment: &[(String, String)]) -> Child {
        let output = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        bound_command(exagg().to_str().unwrap())
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap()
    }

    /// All that its containers have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// As the kubelet does: a container that has ended is started again.
    fn tend(&mut self) {
        match self.ended {
            None if self.child.try_wait().unwrap().is_some() => self.ended = Some(Instant::now()),
            Some(ended) if ended.elapsed() > BACK_OFF => {
                self.child = Self::spawn(&self.folder, &self.arguments, &self.environment);
                self.ended = None;
                self.restarts += 1;
            }
            _ => {}
        }
    }

    fn answers(&self, path: &str) -> bool {
        self.ended.is_none() && http::try_get(self.listen, path).is_some_and(|answer| answer.status == 200)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("--- {}:\n{}", self.folder.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

impl Cluster {
    /// A registry that has nothing yet, and the manifests as they are in the repository; none where kustomize is not
    /// there (`make deploycheck` needs Go).
    pub fn new(brokers: &str, database: &Database, name: &'static str) -> Option<Self> {
        let overlay = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join("deploy")).arg(overlay.path()).status().unwrap();
        assert!(copied.success());
        let registry = Registry::start();
        let mut cluster = Self {
            brokers: brokers.to_owned(),
            database: database.clone(),
            name,
            registry_address: registry.address.clone(),
            registry: Some(registry),
            manifests: Manifests::default(),
            overlay,
            folder: tempfile::tempdir().unwrap(),
            pods: BTreeMap::new(),
            started: 0,
        };
        rendered(&cluster.overlay.path().join("deploy/cluster"))?.unwrap();
        cluster.set(&[("registry.example/", &format!("{}/", cluster.registry_address))]);
        Some(cluster)
    }

    /// Changes `settings.env`, as a user does, and applies what kustomize makes of it.
    pub fn set(&mut self, changes: &[(&str, &str)]) {
        let folder = self.overlay.path().join("deploy/cluster");
        let file = folder.join("settings.env");
        let mut text = std::fs::read_to_string(&file).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "settings.env has no {from}");
            text = text.replace(from, to);
        }
        std::fs::write(file, text).unwrap();
        self.manifests = Manifests::default();
        for document in rendered(&folder).expect("kustomize is there").unwrap() {
            self.manifests.add(document).unwrap();
        }
    }

    /// The app with groups of this test's own and a short session, changed as `change` says, pushed under the name that
    /// the manifests have.
    pub fn push(&self, change: impl FnOnce(Setup) -> Setup) {
        let setup = change(Setup::against(&self.brokers, &self.database, self.name));
        setup.write();
        let image = &self.manifests.apps["dashboard"].image;
        let pushed = Command::new(exagg())
            .args(["registry", "push", image, "--insecure", "--from"])
            .arg(setup.folder())
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{pushed:?}");
    }

    /// Ends the registry for good.
    pub fn lose_registry(&mut self) {
        self.registry = None;
    }

    /// The settings of the Secret that this name means, with this machine in the place of the pod.
    fn runtime_config(&self, secret: &str, pod: &Path) -> PathBuf {
        let secret = &self.manifests.others[&("Secret".to_owned(), secret.to_owned())];
        let encoded = secret["data"]["runtime-config.toml"].as_str().unwrap();
        let text = base64::engine::general_purpose::STANDARD.decode(encoded.replace('\n', "")).unwrap();
        let text = String::from_utf8(text).unwrap();
        for expected in ["\"/state\"", "\"0.0.0.0:9464\""] {
            assert!(text.contains(expected), "{text}");
        }
        let text = text
            .replace("\"/state\"", &format!("\"{}\"", pod.join("state").display()))
            .replace("\"0.0.0.0:9464\"", &format!("\"127.0.0.1:{}\"", free_port()))
            .replace("[exagg]\n", &format!("[exagg]\ninsecure_registries = [\"{}\"]\n", self.registry_address));
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
            "SPIN_VARIABLE_KAFKA_BROKERS" | "SPIN_VARIABLE_KAFKA_HOST" => self.brokers.clone(),
            "SPIN_VARIABLE_POSTGRES_HOST" => self.database.host.clone(),
            _ => value,
        }
    }

    fn new_folder(&mut self) -> PathBuf {
        let folder = self.folder.path().join(self.started.to_string());
        self.started += 1;
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Makes a pod of the stage, as the manifests have it now.
    pub fn start(&mut self, stage: &str) {
        let folder = self.new_folder();
        let app: &SpinApp = &self.manifests.apps[stage];
        let listen = free_port();
        let config = self.runtime_config(&app.runtime_config.load_from_secret, &folder);
        let argument = |argument: String| match argument.as_str() {
            "0.0.0.0:80" => format!("127.0.0.1:{listen}"),
            "/runtime-config.toml" => config.to_str().unwrap().to_owned(),
            _ => argument,
        };
        let arguments: Vec<String> = app.arguments().into_iter().map(argument).collect();
        let mut environment: Vec<(String, String)> = app
            .environment(|name, key| self.secret(name, key))
            .into_iter()
            .map(|(name, value)| (name.clone(), self.here(&name, value)))
            .collect();
        // Beside what the manifests set: topics of this test's own, data without the API.
        let exchanges = if stage == FETCHER { fetched(self.name) } else { topic(self.name) };
        for (name, value) in [
            ("EXCHANGES_SOURCE", "random"),
            ("EXCHANGES_TOPIC", &exchanges),
            ("WEATHER_TOPIC", &format!("{}.weather", self.name)),
            ("IDLE_TIMEOUT_SECONDS", "3"),
            ("WINDOW_SECONDS", "10"),
        ] {
            environment.push((format!("SPIN_VARIABLE_{name}"), value.to_owned()));
        }
        let child = Pod::spawn(&folder, &arguments, &environment);
        let pod = Pod { arguments, environment, folder, child, ended: None, listen, restarts: 0 };
        self.pods.entry(stage.to_owned()).or_default().push(pod);
    }

    /// The pods of a stage.
    pub fn of(&mut self, stage: &str) -> &mut Vec<Pod> {
        self.pods.entry(stage.to_owned()).or_default()
    }

    /// All pods.
    pub fn pods(&mut self) -> impl Iterator<Item = &mut Pod> {
        self.pods.values_mut().flatten()
    }

    /// Starts again what has ended, for so long.
    pub fn tend_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.pods().for_each(Pod::tend);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// How many pods of a stage are alive and ready, by the probes of the manifests.
    pub fn ready(&self, stage: &str) -> usize {
        let checks = &self.manifests.apps[stage].checks;
        let is_ready =
            |pod: &&Pod| [&checks.liveness, &checks.readiness].iter().all(|probe| pod.answers(&probe.http_get.path));
        self.pods.get(stage).into_iter().flatten().filter(is_ready).count()
    }

    /// Waits until all pods of a stage are ready; what ends meanwhile is started again.
    pub fn wait_until_ready(&mut self, stage: &str) {
        wait_for(&format!("all pods of {stage}"), 2 * MINUTE, || {
            self.of(stage).iter_mut().for_each(Pod::tend);
            (self.ready(stage) == self.pods[stage].len()).then_some(())
        });
    }

    /// Ends a pod as Kubernetes does.
    pub fn stop(&mut self, stage: &str, index: usize) {
        let mut pod = self.of(stage).remove(index);
        let stopped = Command::new("kill").args(["-TERM", &pod.child.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        let status = wait_for("a pod's end", MINUTE, || pod.child.try_wait().unwrap());
        assert!(status.success(), "{stage}: {status}");
    }

    /// Starts or stops pods of a stage, as a scaler does; those that start become ready.
    pub fn scale(&mut self, stage: &str, replicas: usize) {
        while self.of(stage).len() < replicas {
            self.start(stage);
        }
        while self.of(stage).len() > replicas {
            self.stop(stage, replicas);
        }
        self.wait_until_ready(stage);
    }

    /// How many pods of a stage the manifests want.
    pub fn wanted(&self, stage: &str) -> usize {
        usize::try_from(self.manifests.apps[stage].replicas.unwrap_or(1)).unwrap()
    }

    /// Runs the one Job of the manifests once.
    pub fn run_job(&mut self) -> Output {
        let folder = self.new_folder();
        let of_jobs = |((kind, _), job): (&(String, String), &Value)| (kind == "Job").then(|| job.clone());
        let job = self.manifests.others.iter().find_map(of_jobs).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        let mounted = |name: &str| pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name);
        let settings = mounted("runtime-config").unwrap()["secret"]["secretName"].as_str().unwrap();
        let config = self.runtime_config(settings, &folder);
        let container = &pod["containers"][0];
        let argument = |argument: &Value| match argument.as_str().unwrap() {
            "/runtime-config.toml" => config.to_str().unwrap().to_owned(),
            argument => argument.to_owned(),
        };
        let mut command = bound_command(exagg().to_str().unwrap());
        command.args(container["args"].as_array().unwrap().iter().map(argument)).current_dir(&folder);
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let value = match variable["valueFrom"]["secretKeyRef"].as_object() {
                Some(secret) => self.secret(secret["name"].as_str().unwrap(), secret["key"].as_str().unwrap()).unwrap(),
                None => variable["value"].as_str().unwrap().to_owned(),
            };
            command.env(name, self.here(name, value));
        }
        command.output().unwrap()
    }
}
