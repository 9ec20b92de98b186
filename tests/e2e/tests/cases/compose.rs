//! `deploy/compose.yaml`, by Compose's own loader, and its services as processes.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::database::{Database, Server};
use e2e::host::exagg;
use e2e::kafka::Kafka;
use e2e::kubernetes::documents;
use e2e::{bound_command, free_port, http, root, wait_for};
use serde_json::Value;

use super::World;

const MINUTE: Duration = Duration::from_secs(60);

/// The file as Compose's loader reads it; none where that is not there.
fn project() -> Option<Value> {
    let check = root().join("target/deploycheck");
    if !check.exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make deploycheck needs Go");
        return None;
    }
    let output = Command::new(check).arg("compose").arg(root().join("deploy/compose.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), output.stdout).unwrap();
    Some(documents(file.path()).unwrap().remove(0))
}

/// Whether a service's folder is on a named volume, which `docker compose down` leaves.
fn is_kept(project: &Value, service: &str, folder: &str) -> bool {
    let volumes = project["services"][service]["volumes"].as_array().cloned().unwrap_or_default();
    let named = |volume: &&Value| volume["type"] == "volume" && volume["target"] == folder;
    let source = volumes.iter().find(named).and_then(|volume| volume["source"].as_str());
    source.is_some_and(|name| project["volumes"][name].is_object())
}

/// What PostgreSQL knows of topics lives no longer than the topics.
pub fn what_it_keeps_it_keeps_of_both_servers(_: &World) {
    let Some(project) = project() else { return };
    assert!(
        is_kept(&project, "kafka", "/var/lib/kafka/data") && is_kept(&project, "postgres", "/var/lib/postgresql/data")
    );
    assert_eq!(project["services"]["kafka"]["environment"]["KAFKA_LOG_DIRS"], "/var/lib/kafka/data");
}

/// The service `exagg`, with this machine's addresses in the place of the network's.
struct Service {
    child: Child,
    listen: u16,
    /// The image's volume `/state`, which has no name: each `up` has a new one.
    state: tempfile::TempDir,
}

impl Service {
    fn up(project: &Value, kafka: &Kafka, database: &Database) -> Self {
        let service = &project["services"]["exagg"];
        let (listen, state) = (free_port(), tempfile::tempdir().unwrap());
        let here = |text: &str| match text {
            "/app" => root().join("spin.toml").to_str().unwrap().to_owned(),
            "/state" => state.path().join("state").to_str().unwrap().to_owned(),
            "0.0.0.0:3000" => format!("127.0.0.1:{listen}"),
            "kafka:9092" => kafka.brokers.clone(),
            "postgres:5432" => database.host.clone(),
            text if text.starts_with("postgres://") => database.url.clone(),
            text => text.to_owned(),
        };
        let arguments = service["command"].as_array().unwrap().iter().map(|argument| here(argument.as_str().unwrap()));
        let environment: BTreeMap<String, Option<String>> =
            serde_json::from_value(service["environment"].clone()).unwrap();
        let log = std::fs::File::create(state.path().join("log")).unwrap();
        let child = bound_command(exagg().to_str().unwrap())
            .args(arguments)
            .args(["--admin", &format!("127.0.0.1:{}", free_port())])
            .envs(environment.iter().map(|(name, value)| (name, here(value.as_deref().unwrap_or_default()))))
            .current_dir(state.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, listen, state }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("log")).unwrap()
    }

    fn down(mut self) {
        let stopped = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        wait_for("the host's end", MINUTE, || self.child.try_wait().unwrap());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// `docker compose down && docker compose up`: what has no named volume is gone, and the pipeline goes on. Take
/// out: the volume of `kafka`, and the stages stop for good, since the topics of the same names are others.
pub fn down_and_up_goes_on(_: &World) {
    let Some(project) = project() else { return };
    let (mut kafka, mut postgres) = (Kafka::start(), Server::start());
    let database = postgres.database();
    let counted = "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates WHERE stream = 'weather'";
    let mut before = 0;
    for round in 0..2 {
        // The service `topics` creates them where they are not there.
        for topic in ["exchanges", "weather"] {
            if !kafka.has_topic(topic) {
                kafka.create_topic(topic, 4, &[]);
            }
        }
        let service = Service::up(&project, &kafka, &database);
        wait_for("the host is ready", MINUTE, || {
            http::try_get(service.listen, "/.well-known/exagg/ready").filter(|answer| answer.status == 200)
        });
        wait_for("more records", MINUTE, || (database.number(counted) > before + 20).then_some(()));
        assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0, "round {round}");
        service.down();
        before = database.number(counted);
        if !is_kept(&project, "kafka", "/var/lib/kafka/data") {
            for topic in ["exchanges", "weather"] {
                kafka.delete_topic(topic);
            }
        }
        assert!(is_kept(&project, "postgres", "/var/lib/postgresql/data"), "the test would have to lose its database");
        kafka.kill();
        postgres.restart();
        kafka.resume();
    }
}
