//! Apps in a real registry.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use e2e::host::{Setup, exagg, function, variant};
use e2e::registry::{PASSWORD, Registry, digest};
use e2e::{base64, http, root, wait_for};
use serde_json::{Value, json};

use super::{World, topic};

const MINUTE: Duration = Duration::from_secs(60);
const APP: &str = "application/vnd.fermyon.spin.application.v1+config";
const WASM: &str = "application/vnd.wasm.content.layer.v1+wasm";
const STAGES: [&str; 6] = [
    "fetcher-exchanges",
    "fetcher-weather",
    "aggregator-exchanges",
    "aggregator-weather",
    "window-closer",
    "dashboard",
];

fn push(from: &Path, reference: &str, docker_config: &Path) -> Output {
    let mut command = Command::new(exagg());
    command.args(["registry", "push", reference, "--insecure", "--from"]).arg(from).env("DOCKER_CONFIG", docker_config);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The app, pushed: its reference by digest.
fn push_app(registry: &Registry, name: &str) -> String {
    let setup = Setup::new();
    setup.write();
    let output = push(setup.folder(), &format!("{}/{name}:1", registry.address), &registry.docker_config());
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let digest = said.split(['(', ')']).find(|part| part.starts_with("sha256:")).unwrap();
    format!("{}/{name}@{digest}", registry.address)
}

/// A host of an app in a registry.
fn host(world: &World, setup: Setup, reference: &str) -> Setup {
    let database = world.postgres.database();
    setup
        .from(reference)
        .argument("--insecure")
        .variable("postgres_url", &database.url)
        .variable("postgres_host", &database.host)
        .variable("kafka_brokers", &world.kafka().brokers)
        .variable("kafka_host", &world.kafka().brokers)
        .variable("exchanges_source", "random")
}

fn status(host: &e2e::host::Host) -> Value {
    serde_json::from_str(&host.admin("/status").body).unwrap()
}

/// Take out: the digest in `Registry::pull`, or a layer in `push_app`.
pub fn what_is_pushed_is_pulled_and_each_stage_runs_alone(world: &World) {
    let registry = Registry::start_private();
    let reference = push_app(&registry, "round/trip");
    // A stage is not ready without its topic.
    let topics = ["exchanges", "weather"].map(|stream| format!("round-trip-{stream}"));
    for topic in &topics {
        world.kafka().create_topic(topic, 1, &[]);
    }
    for stage in STAGES {
        let setup = host(world, Setup::new(), &reference)
            .env("DOCKER_CONFIG", registry.docker_config().to_str().unwrap())
            .variable("exchanges_topic", &topics[0])
            .variable("weather_topic", &topics[1]);
        let host = setup.components(&[stage]).start();
        host.wait_until_ready();
        let stages = status(&host)["stages"].clone();
        let stages = stages.as_array().unwrap();
        assert_eq!(stages.len(), 1, "{stages:?}");
        assert_eq!(stages[0]["component"], stage);
        let name = stage.trim_end_matches("-exchanges").trim_end_matches("-weather");
        let code = std::fs::read(function(name)).unwrap();
        assert_eq!(format!("sha256:{}", stages[0]["digest"].as_str().unwrap()), digest(&code));
    }
}

pub fn a_registry_that_refuses_or_changes_content_is_an_error(world: &World) {
    let registry = Registry::start_private();
    let reference = push_app(&registry, "refused");
    let nobody = tempfile::tempdir().unwrap();
    let refused = |setup: Setup, wanted: &str| {
        let error = setup.refused();
        assert!(error.contains(wanted) && error.matches("Error:").count() == 1, "no {wanted:?} in {error}");
        assert!(!error.contains(PASSWORD), "{error}");
    };
    let known = registry.docker_config();
    let setup = |reference: &str, config: &Path| {
        host(world, Setup::new(), reference).env("DOCKER_CONFIG", config.to_str().unwrap())
    };
    refused(setup(&reference, nobody.path()), "Not authorized");
    refused(setup(&format!("{}/refused:2", registry.address), &known), "manifest");
    refused(setup("127.0.0.1:1/app:1", &known), "127.0.0.1:1");
    let output = push(&root(), &format!("{}/refused:3", registry.address), nobody.path());
    assert!(!output.status.success() && text(&output).contains("UNAUTHORIZED"), "{}", text(&output));
    // A layer is not what its digest says.
    let code = digest(&std::fs::read(function("dashboard")).unwrap());
    let blob = registry.blob_file(&code);
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    refused(setup(&reference, &known), &code);
}

/// The locked app that Spin would write for the guest, with these files.
fn guest_app(world: &World, database: &e2e::database::Database, name: &str, files: &[Value]) -> Vec<u8> {
    let code = std::fs::read(function("guest")).unwrap();
    json!({
        "spin_lock_version": 0,
        "metadata": {"name": "files", "version": "1", "triggers": {"kafka": {"brokers": world.kafka().brokers}}},
        "triggers": [{
            "id": "guest", "trigger_type": "kafka",
            "trigger_config": {"component": "guest", "topics": [topic(name)], "group": name, "start": "earliest"},
        }],
        "components": [{
            "id": "guest",
            "source": {"content_type": "application/wasm", "digest": digest(&code)},
            "metadata": {"allowed_outbound_hosts": [format!("postgres://{}", database.host)]},
            "config": {"postgres_url": database.url},
            "files": files,
        }],
    })
    .to_string()
    .into_bytes()
}

/// A gzipped archive of one file, by the system's own tools.
fn archive(name: &str, content: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    let output = Command::new("tar").args(["-cz", "-C"]).arg(folder.path()).arg(".").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Layers a file, archives, content in the locked app, and the locked app in the older place.
pub fn every_form_of_content_is_read_and_mounted_read_only(world: &World) {
    let registry = Registry::start();
    for (form, name) in [("layer", "oci-layer"), ("old", "oci-old")] {
        let database = world.postgres.database();
        database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
        world.kafka().create_topic(&topic(name), 1, &[]);
        let (data, packed) = ("d".repeat(200), "packed".repeat(50));
        let files = [
            json!({"path": "small.txt", "inline": base64(b"small"), "digest": digest(b"small")}),
            json!({"path": "sub/data.txt", "digest": digest(data.as_bytes())}),
            json!({"path": "packed.txt", "digest": digest(packed.as_bytes())}),
        ];
        let app = guest_app(world, &database, name, &files);
        let code = std::fs::read(function("guest")).unwrap();
        let mut layers = vec![
            registry.put_blob(name, WASM, &code),
            registry.put_blob(name, "application/vnd.wasm.content.layer.v1+data", data.as_bytes()),
            registry.put_blob(
                name,
                "application/vnd.wasm.content.bundle.v1.tar+gzip",
                &archive("any/where.txt", &packed),
            ),
        ];
        let app = registry.put_blob(name, APP, &app);
        let config = if form == "old" {
            app
        } else {
            layers.push(app);
            registry.put_blob(name, "application/vnd.oci.image.config.v1+json", b"{}")
        };
        registry.put_manifest(name, "1", &config, &layers);
        let sender = world.kafka().producer();
        for url in
            ["read:///small.txt", "read:///sub/data.txt", "read:///packed.txt", "read:///etc/passwd", "write:///x"]
        {
            sender.send(&topic(name), 0, None, Some(format!("reach {url}").as_bytes()));
        }
        sender.flush();
        let reference = format!("{}/{name}:1", registry.address);
        let _host = Setup::new().from(&reference).argument("--insecure").start();
        wait_for("the guest's words", MINUTE, || (database.number("SELECT count(*) FROM seen") == 5).then_some(()));
        let came = database.texts("SELECT value FROM seen ORDER BY record_offset");
        assert_eq!(came[0], "read:///small.txt done: small");
        assert_eq!(came[1], format!("read:///sub/data.txt done: {data}"));
        assert_eq!(came[2], format!("read:///packed.txt done: {packed}"));
        assert!(
            came[3].starts_with("read:///etc/passwd refused") && came[4].starts_with("write:///x refused"),
            "{came:?}"
        );
    }
}

/// Files of a manifest: a folder, a file and a pattern; pushed and pulled they are the same.
pub fn files_of_a_manifest_are_mounted_and_pushed(world: &World) {
    let name = "files-of-manifest";
    let (database, registry) = (world.postgres.database(), Registry::start());
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let setup = Setup::new().manifest(&format!(
        "spin_manifest_version = 2\n[application]\nname = \"files\"\n\
         [[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"{}\"]\ngroup = \"{name}\"\nbrokers = \"{}\"\nstart = \"earliest\"\n\
         [component.guest]\nsource = \"{}\"\nallowed_outbound_hosts = [\"postgres://{}\"]\n\
         files = [{{ source = \"static\", destination = \"/s\" }}, \"*.txt\"]\n\
         [component.guest.variables]\npostgres_url = \"{}\"\n",
        topic(name),
        world.kafka().brokers,
        function("guest").display(),
        database.host,
        database.url,
    ));
    std::fs::create_dir_all(setup.folder().join("static/deep")).unwrap();
    std::fs::write(setup.folder().join("static/deep/a.txt"), "deep").unwrap();
    std::fs::write(setup.folder().join("top.txt"), "top ".repeat(100)).unwrap();
    setup.write();
    let sender = world.kafka().producer();
    let ask = || {
        for url in ["read:///s/deep/a.txt", "read:///top.txt"] {
            sender.send(&topic(name), 0, None, Some(format!("reach {url}").as_bytes()));
        }
        sender.flush();
    };
    let reference = format!("{}/files:1", registry.address);
    let output = push(setup.folder(), &reference, setup.folder());
    assert!(output.status.success(), "{}", text(&output));
    assert_form(&registry);
    ask();
    let host = setup.start();
    let wait = |rows: i64| {
        wait_for("the guest's words", MINUTE, || (database.number("SELECT count(*) FROM seen") == rows).then_some(()));
    };
    wait(2);
    drop(host);
    ask();
    let _host = Setup::new().from(&reference).argument("--insecure").start();
    wait(4);
    let came = database.texts("SELECT value FROM seen ORDER BY record_offset");
    assert_eq!(came[0], "read:///s/deep/a.txt done: deep");
    assert_eq!(came[1], format!("read:///top.txt done: {}", "top ".repeat(100)));
    assert_eq!(came[2..], came[..2]);
}

/// What was pushed is what `spin registry push` writes: one side must not drift with the other.
fn assert_form(registry: &Registry) {
    let manifest = registry.manifest("files", "1");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let layers = manifest["layers"].as_array().unwrap();
    let of = |kind: &str| layers.iter().filter(|layer| layer["mediaType"] == kind).collect::<Vec<_>>();
    let read = |layer: &Value| std::fs::read(registry.blob_file(layer["digest"].as_str().unwrap())).unwrap();
    let data = of("application/vnd.wasm.content.layer.v1+data");
    assert_eq!((of(WASM).len(), data.len(), of(APP).len()), (1, 1, 1), "small content is not a layer");
    let app: Value = serde_json::from_slice(&read(of(APP)[0])).unwrap();
    assert_eq!(app["spin_lock_version"], 0);
    let component = &app["components"][0];
    assert_eq!(component["source"]["content_type"], "application/wasm");
    assert_eq!(component["source"]["digest"], of(WASM)[0]["digest"]);
    let files = component["files"].as_array().unwrap();
    let file = |path: &str| files.iter().find(|file| file["path"] == path).unwrap();
    assert_eq!(file("s/deep/a.txt")["inline"], base64(b"deep"));
    assert_eq!(file("top.txt")["digest"], data[0]["digest"]);
    let config: Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
    assert_eq!(config["config"]["Labels"]["com.fermyon.spin.lockedAppDigest"], of(APP)[0]["digest"]);
}

/// `exagg swap COMPONENT REFERENCE`.
pub fn a_component_is_swapped_by_reference(world: &World) {
    let (database, registry) = (world.postgres.database(), Registry::start());
    let host = world.setup(&database, "swap-reference").components(&["dashboard"]).start();
    host.wait_until_ready();
    let code = variant(&function("dashboard"), 3, host.setup.folder());
    let other = Setup::new().replace(function("dashboard").to_str().unwrap(), code.to_str().unwrap());
    other.write();
    let reference = format!("{}/other:1", registry.address);
    assert!(push(other.folder(), &reference, other.folder()).status.success());
    let output = host.command("swap", &["dashboard", &reference, "--insecure"]);
    assert!(output.status.success(), "{}", text(&output));
    let digest = digest(&std::fs::read(code).unwrap());
    assert_eq!(status(&host)["stages"][0]["digest"].as_str().unwrap(), digest.strip_prefix("sha256:").unwrap());
    assert_eq!(http::get(host.listen, "/api/streams").status, 200);
}
