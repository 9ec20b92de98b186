//! The host as Spin's plugins: this test does what `spin up` does, and leaves http to Spin.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use e2e::feed::Feed;
use e2e::host::{function, variant};
use e2e::registry::digest;
use e2e::{bound_command, now, root, wait_for};
use serde_json::{Value, json};

use super::{World, topic, wait_for_records, wait_until_closed};

/// The plugins, unpacked as `spin plugins install` does it.
struct Plugins(tempfile::TempDir);

impl Plugins {
    fn install() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("sh").arg(root().join("scripts/plugin.sh")).arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for name in ["trigger-kafka", "trigger-cron"] {
            let manifest = std::fs::read(folder.path().join(format!("{name}.json"))).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!((&manifest["name"], &manifest["spinCompatibility"]), (&json!(name), &json!(">=3.0")));
            assert_eq!(manifest["license"], "Apache-2.0");
            let package = &manifest["packages"][0];
            assert_eq!((&package["os"], &package["arch"]), (&json!("linux"), &json!(architecture())));
            let archive = PathBuf::from(package["url"].as_str().unwrap().strip_prefix("file://").unwrap());
            let bytes = std::fs::read(&archive).unwrap();
            assert_eq!(format!("sha256:{}", package["sha256"].as_str().unwrap()), digest(&bytes));
            let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder.path()).status().unwrap();
            assert!(unpacked.success());
        }
        Self(folder)
    }

    fn program(&self, kind: &str) -> PathBuf {
        self.0.path().join(format!("trigger-{kind}"))
    }

    fn ask(&self, kind: &str, arguments: &[&str], locked: Option<&Path>) -> Output {
        let mut command = Command::new(self.program(kind));
        command.args(arguments);
        if let Some(locked) = locked {
            command.env("SPIN_LOCKED_URL", format!("file://{}", locked.display()));
        }
        command.output().unwrap()
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH }
}

/// A three-trigger app, locked as Spin locks it.
fn locked_app(world: &World, database: &e2e::database::Database, name: &str) -> Value {
    let source = |function: &str| json!({ "content_type": "application/wasm", "source": format!("file://{}", self::function(function).display()) });
    let reach = json!({ "allowed_outbound_hosts": ["postgres://{{ postgres_host }}"], "build": {"command": "true"} });
    let trigger = |kind: &str, component: &str, config: Value| {
        let mut trigger_config = config;
        trigger_config["component"] = json!(component);
        json!({ "id": format!("{component}-{kind}-trigger"), "trigger_type": kind, "trigger_config": trigger_config })
    };
    let aggregator = json!({
        "stream": "exchanges", "key_field": "code", "value_field": "volume", "time_field": "time",
        "time_format": "%Y-%m-%d %H:%M:%S", "time_zone": "UTC", "window_seconds": "60", "slide_seconds": "",
        "allowed_lateness_seconds": "5", "idle_timeout_seconds": "3", "max_future_seconds": "60", "late": "revise",
        "postgres_url": "{{ postgres_url }}",
    });
    let closer = json!({ "postgres_url": "{{ postgres_url }}", "retention_days": "", "rejects_retention_days": "30" });
    json!({
        "spin_lock_version": 1,
        "must_understand": ["component_host_requirements"],
        "metadata": {
            "name": "plugins", "version": "0.1.0", "origin": "file:///nowhere/spin.toml",
            "triggers": { "kafka": { "brokers": world.kafka().brokers } },
        },
        "variables": { "postgres_url": {"secret": true}, "postgres_host": {"default": database.host} },
        "triggers": [
            trigger("kafka", "aggregator", json!({"topics": [topic(name)], "group": name, "start": "earliest"})),
            trigger("cron", "closer", json!({"cron_expression": "* * * * * *"})),
            trigger("http", "dashboard", json!({"route": "/..."})),
        ],
        "components": [
            {"id": "aggregator", "source": source("aggregator"), "metadata": reach, "config": aggregator},
            {"id": "closer", "source": source("window-closer"), "metadata": reach, "config": closer},
            {"id": "dashboard", "source": source("dashboard"), "metadata": reach,
             "config": {"postgres_url": "{{ postgres_url }}"},
             // Spin's own trigger has this; ours must not mind.
             "host_requirements": {"local_service_chaining": "required"}},
        ],
    })
}

/// A plugin that runs.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap());
        }
    }
}

/// Starts a trigger as `spin up` does: the locked app, the folders, and the flags that it declared.
fn start(plugins: &Plugins, kind: &str, folder: &Path, url: &str) -> Running {
    let log = folder.join(format!("{kind}.log"));
    let output = std::fs::File::create(&log).unwrap();
    let child = bound_command(plugins.program(kind).to_str().unwrap())
        .args(["--variable", &format!("postgres_url={url}"), "--runtime-config-file", "runtime.toml"])
        .args(["--log-dir", "logs"])
        .env("SPIN_LOCKED_URL", format!("file://{}", folder.join("spin.lock").display()))
        .env("SPIN_WORKING_DIR", folder)
        .env("SPIN_LOCAL_APP_DIR", "")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    Running { child, log }
}

/// Take out: `retain` by type in `LockedApp::into_app` (the http component is refused then).
pub fn a_three_trigger_app_runs_as_spin_starts_it(world: &World) {
    let (database, name) = (world.postgres.database(), "plugins");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let plugins = Plugins::install();
    let folder = tempfile::tempdir().unwrap();
    let locked = folder.path().join("spin.lock");
    std::fs::write(&locked, locked_app(world, &database, name).to_string()).unwrap();
    // A section of Spin's own, which our triggers do not know and must not mind.
    std::fs::write(folder.path().join("runtime.toml"), "[sqlite_database.default]\ntype = \"spin\"\n").unwrap();
    protocol(&plugins, &locked);
    let migrated = Command::new(e2e::host::exagg())
        .args(["migrate", "--from"])
        .arg(root())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .output()
        .unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let mut running: Vec<_> =
        ["kafka", "cron"].iter().map(|kind| start(&plugins, kind, folder.path(), &database.url)).collect();
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    feed.spread(1_000, now() - 600, 300);
    wait_for_records(&database, "exchanges", feed.sent);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    // Each plugin has a door of its own in the shared state directory.
    for (component, name) in [("aggregator", "aggregator"), ("closer", "window-closer")] {
        let code = variant(&function(name), 1, folder.path());
        let mut swap = Command::new(e2e::host::exagg());
        let swapped = swap.args(["swap", component]).arg(code).current_dir(folder.path()).output().unwrap();
        assert!(swapped.status.success(), "{swapped:?}");
    }
    for plugin in &mut running {
        assert!(Command::new("kill").args(["-TERM", &plugin.child.id().to_string()]).status().unwrap().success());
        let status = wait_for("the plugin's end", Duration::from_secs(30), || plugin.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        let log = std::fs::read_to_string(&plugin.log).unwrap();
        assert!(!log.contains(&database.url), "the address with its password is in the log");
    }
    assert!(folder.path().join("logs/aggregator_stderr.txt").exists());
}

/// What Spin asks beside running an app.
fn protocol(plugins: &Plugins, locked: &Path) {
    for kind in ["kafka", "cron"] {
        let metadata = plugins.ask(kind, &["--launch-metadata-only"], None);
        assert!(metadata.status.success() && metadata.stdout.is_empty());
        // All of it must be the answer.
        let metadata: Value = serde_json::from_slice(&metadata.stderr).unwrap();
        let flags = metadata["all_flags"].as_array().unwrap();
        for flag in ["--variable", "--runtime-config-file", "--log-dir", "--state-dir", "--quiet", "--key-value"] {
            assert!(flags.iter().any(|known| known["long"] == flag), "{flag}: {metadata}");
        }
        let help = plugins.ask(kind, &["--help-args-only"], None);
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && text.contains("--state-dir") && !text.contains("precompose"), "{text}");
        let alone = plugins.ask(kind, &[], None);
        assert!(!alone.status.success());
        assert!(String::from_utf8_lossy(&alone.stderr).contains("SPIN_LOCKED_URL"));
    }
    let composed =
        plugins.ask("kafka", &["--precompose-only", "--precompose-component-id", "aggregator"], Some(locked));
    assert!(composed.status.success());
    assert_eq!(composed.stdout, std::fs::read(function("aggregator")).unwrap());
    let unknown = plugins.ask("cron", &["--precompose-only", "--precompose-component-id", "aggregator"], Some(locked));
    assert!(!unknown.status.success());
}

pub fn what_a_locked_app_requires_and_is_not_there_is_one_clear_error(world: &World) {
    let (database, name) = (world.postgres.database(), "plugin-refused");
    let plugins = Plugins::install();
    let folder = tempfile::tempdir().unwrap();
    let locked = folder.path().join("spin.lock");
    let refused = |change: &dyn Fn(&mut Value), wanted: &str| {
        let mut app = locked_app(world, &database, name);
        change(&mut app);
        std::fs::write(&locked, app.to_string()).unwrap();
        let url = format!("postgres_url={}", database.url);
        let state = folder.path().join("state");
        let output = plugins.ask("kafka", &["--variable", &url, "--state-dir", state.to_str().unwrap()], Some(&locked));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(wanted), "no {wanted:?} in {error}");
        assert_eq!(error.matches("Error:").count(), 1, "{error}");
    };
    refused(&|app| app["must_understand"] = json!(["time_travel"]), "time_travel");
    refused(
        &|app| app["components"][0]["host_requirements"] = json!({"local_service_chaining": "required"}),
        "component aggregator: it requires local_service_chaining",
    );
    refused(&|app| app["triggers"][0]["trigger_config"]["topic"] = json!("x"), "topic");
    refused(&|app| app["components"][0]["source"]["source"] = json!("file:///nothing.wasm"), "/nothing.wasm");
}

/// What stands between spin and both triggers: it passes a Ctrl-C on as SIGTERM, which the terminal has sent to all.
const WRAPPER: &str = r#"
my @plugins;
for my $kind ("kafka", "cron") {
    my $pid = fork();
    if (!$pid) {
        open(STDOUT, ">>", "$kind.log"); open(STDERR, ">&", STDOUT); open(STDIN, "<", "/dev/null");
        exec("$ENV{PLUGINS}/trigger-$kind", "--variable", "postgres_url=$ENV{POSTGRES_URL}");
    }
    push @plugins, $pid;
}
$SIG{INT} = sub { kill("TERM", @plugins); };
open(my $pids, ">", "pids"); print $pids join(" ", $$, @plugins); close($pids);
for my $pid (@plugins) { 1 while waitpid($pid, 0) < 0; push @codes, $?; }
open(my $codes, ">", "codes"); print $codes "@codes"; close($codes);
"#;

/// Shows the logs of a test that fails.
struct Logs(PathBuf);

impl Drop for Logs {
    fn drop(&mut self) {
        for name in ["kafka.log", "cron.log"].into_iter().filter(|_| std::thread::panicking()) {
            eprintln!("--- {name}:\n{}", std::fs::read_to_string(self.0.join(name)).unwrap_or_default());
        }
    }
}

/// A port with a free one above it.
fn free_pair() -> u16 {
    loop {
        let port = e2e::free_port();
        if std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// Take out: `ONE_MOMENT`, `of_plugin`, the plugins' log folder, or `end_with_parent`.
pub fn both_triggers_end_with_the_terminal_and_with_their_wrapper(world: &World) {
    let (database, name) = (world.postgres.database(), "wrapped");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let (plugins, folder, port) = (Plugins::install(), tempfile::tempdir().unwrap(), free_pair());
    let _logs = Logs(folder.path().to_owned());
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("spin.lock"), locked_app(world, &database, name).to_string()).unwrap();
    std::fs::write(path("wrapper.pl"), WRAPPER).unwrap();
    let wrapper = || {
        // In a terminal of its own, whose Ctrl-C goes to all that run in it.
        let mut script = bound_command("script");
        script.args(["-qfec", "perl wrapper.pl", "/dev/null"]).current_dir(folder.path());
        script.env("PLUGINS", plugins.0.path()).env("POSTGRES_URL", &database.url);
        script.env("SPIN_LOCKED_URL", format!("file://{}", path("spin.lock").display())).env("SPIN_LOCAL_APP_DIR", "");
        script.env("EXAGG_ADMIN_ADDR", format!("localhost:{port}")).env("EXAGG_MIGRATE", "1");
        script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let ready = |port: u16| {
        wait_for("readiness", Duration::from_secs(60), || {
            e2e::http::try_get(port, "/readyz").filter(|answer| answer.status == 200)
        });
    };
    let mut terminal = wrapper();
    ready(port);
    ready(port + 1);
    let status = Command::new(e2e::host::exagg()).arg("status").current_dir(folder.path()).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("aggregator-kafka-trigger") && text.contains("closer-cron-trigger"), "{text}");
    assert!(path(".spin/logs/aggregator_stderr.txt").exists(), "where Spin says that components log");
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let codes = wait_for("both ends", Duration::from_secs(30), || {
        std::fs::read_to_string(path("codes")).ok().filter(|codes| !codes.is_empty())
    });
    let logs = ["kafka.log", "cron.log"].map(|name| std::fs::read_to_string(path(name)).unwrap());
    assert_eq!(codes, "0 0", "{logs:?}");
    for log in &logs {
        assert!(log.contains("stopping: batches in flight end first") && !log.contains("second signal"), "{log}");
    }
    terminal.wait().unwrap();

    std::fs::remove_file(path("pids")).unwrap();
    let mut terminal = wrapper();
    ready(port);
    ready(port + 1);
    let pids = std::fs::read_to_string(path("pids")).unwrap();
    let (wrapper, triggers) = pids.split_once(' ').unwrap();
    assert!(Command::new("kill").args(["-9", wrapper]).status().unwrap().success());
    wait_for("the triggers' end", Duration::from_secs(20), || {
        // Whoever inherits them need not have waited for them.
        let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        triggers.split(' ').map(stat).all(|stat| stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    let _ = terminal.wait();
}
