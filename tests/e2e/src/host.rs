//! `exagg` as a process, and the manifests that it runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::database::Database;
use crate::{bound_command, free_port, http, root, topic, wait_for};

/// Path of the program under test.
pub fn exagg() -> PathBuf {
    root().join("target/release/exagg")
}

/// The app's own manifest, with sources that can be found from anywhere.
pub fn manifest() -> String {
    let text = std::fs::read_to_string(root().join("spin.toml")).unwrap();
    let target = format!("source = \"{}/target/", root().display());
    text.replace("source = \"target/", &target)
}

/// A built function of the repository's.
pub fn function(name: &str) -> PathBuf {
    root().join(format!("target/wasm32-wasip2/function/{}.wasm", name.replace('-', "_")))
}

/// The same component with another digest: a custom section at its end.
pub fn variant(code: &Path, number: usize, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(code).unwrap();
    let text = format!("\u{7}version{number}");
    bytes.extend([0, u8::try_from(text.len()).unwrap()]);
    bytes.extend(text.as_bytes());
    let path = folder.join(format!("variant-{number}.wasm"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A host that is to be started.
pub struct Setup {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    manifest: String,
    from: Option<String>,
    listen: Option<String>,
    own_cache: bool,
    group: Option<PathBuf>,
}

/// A host that runs.
pub struct Host {
    child: Child,
    log: PathBuf,
    pub listen: u16,
    pub admin: u16,
    /// The folder with its manifest and state; kept until the test ends.
    pub setup: Setup,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
            environment: Vec::new(),
            manifest: manifest(),
            from: None,
            listen: None,
            own_cache: false,
            group: None,
        }
    }

    /// The app against a Kafka and a database, with topics and groups of its own and short
    /// time-outs.
    #[must_use]
    pub fn against(brokers: &str, database: &Database, name: &str) -> Self {
        Self::new()
            .replace("exchange-agg-exchanges", &format!("{name}-exchanges"))
            .replace("exchange-agg-weather", &format!("{name}-weather"))
            .replace("start = \"latest\"", "start = \"earliest\"\nrdkafka = { \"session.timeout.ms\" = \"6000\" }")
            .variable("kafka_brokers", brokers)
            .variable("kafka_host", brokers)
            .variable("postgres_url", &database.url)
            .variable("postgres_host", &database.host)
            .variable("exchanges_topic", &topic(name))
            .variable("idle_timeout_seconds", "3")
    }

    /// Changes the manifest; what is to be replaced must be there.
    #[must_use]
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(self.manifest.contains(from), "the manifest has no {from:?}");
        self.manifest = self.manifest.replace(from, to);
        self
    }

    /// Another manifest altogether.
    #[must_use]
    pub fn manifest(mut self, text: &str) -> Self {
        text.clone_into(&mut self.manifest);
        self
    }

    /// Appends to the manifest.
    #[must_use]
    pub fn append(mut self, text: &str) -> Self {
        self.manifest += text;
        self
    }

    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    #[must_use]
    pub fn components(self, ids: &[&str]) -> Self {
        ids.iter().fold(self, |setup, id| setup.argument("--component-id").argument(id))
    }

    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Self {
        self.argument("--variable").argument(&format!("{name}={value}"))
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs with a time of day that is wrong by so much; time-outs are as long as they are.
    #[must_use]
    pub fn clock_ahead(self, seconds: i64) -> Self {
        if seconds == 0 {
            return self;
        }
        let library = self.folder.path().join("clock.so");
        let mut cc = Command::new("cc");
        let source = root().join("tests/e2e/clock/clock.c");
        let built = cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
        assert!(built.success(), "clock.c cannot be built");
        let library = library.to_str().unwrap().to_owned();
        self.env("LD_PRELOAD", &library).env("CLOCK_AHEAD_SECONDS", &seconds.to_string())
    }

    /// Names something else than its own folder as the app.
    #[must_use]
    pub fn from(mut self, from: &str) -> Self {
        self.from = Some(from.to_owned());
        self
    }

    /// Keeps compiled code in its own state directory.
    #[must_use]
    pub fn own_cache(mut self) -> Self {
        self.own_cache = true;
        self
    }

    /// Listens on this very address.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Runs in a control group from its first instruction on: `procs` is the group's list of processes.
    #[must_use]
    pub fn within(mut self, procs: &Path) -> Self {
        self.group = Some(procs.to_owned());
        self
    }

    /// Starts with this runtime configuration.
    #[must_use]
    pub fn configured(self, text: &str) -> Self {
        let file = self.folder.path().join("runtime.toml");
        std::fs::write(&file, text).unwrap();
        self.argument("--runtime-config-file").argument(file.to_str().unwrap())
    }

    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs to its end, which has to come: for starts that are refused. Gives standard error.
    pub fn refused(&self) -> String {
        let log = self.folder.path().join("refused.log");
        let mut command = self.command(free_port(), free_port());
        let mut child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        // A host that runs instead ends with this thread.
        let status = wait_for("the start to be refused", Duration::from_secs(60), || child.try_wait().unwrap());
        let error = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        assert!(!status.success(), "it started");
        error
    }

    /// Writes the manifest to its folder.
    pub fn write(&self) {
        std::fs::write(self.folder.path().join("spin.toml"), &self.manifest).unwrap();
    }

    fn command(&self, listen: u16, admin: u16) -> Command {
        self.write();
        let program = exagg();
        let mut command = if let Some(procs) = &self.group {
            let mut shell = bound_command("/bin/sh");
            shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs).arg(program);
            shell
        } else {
            bound_command(program.to_str().unwrap())
        };
        command
            .arg("up")
            .arg("--from")
            .arg(self.from.as_deref().map_or_else(|| self.folder.path(), Path::new))
            .args(["--listen", self.listen.as_ref().unwrap_or(&format!("127.0.0.1:{listen}"))])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        // Compiled code is the same for all tests; state is not.
        if !self.own_cache {
            let cache = self.folder.path().join("cache.toml");
            let shared = root().join("target/e2e-compiled");
            std::fs::write(&cache, format!("[cache]\ndirectory = \"{}\"\n", shared.display())).unwrap();
            command.env("WASMTIME_CACHE_FILE", cache);
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    pub fn start(self) -> Host {
        let (listen, admin) = (free_port(), free_port());
        let log = self.folder.path().join("host.log");
        let child = self.spawn(listen, admin, &log);
        Host { child, log, listen, admin, setup: self }
    }

    fn spawn(&self, listen: u16, admin: u16, log: &Path) -> Child {
        let output = File::options().create(true).append(true).open(log).unwrap();
        self.command(listen, admin).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap()
    }
}

impl Host {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for a line of its log.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no {text:?} ({ended:?}) in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::get(self.listen, path)
    }

    pub fn admin(&self, path: &str) -> http::Answer {
        http::get(self.admin, path)
    }

    /// Runs another command of `exagg` beside it, through its admin socket.
    pub fn command(&self, command: &str, arguments: &[&str]) -> std::process::Output {
        let state = self.setup.folder().join(".spin");
        Command::new(exagg()).arg(command).args(arguments).arg("--state-dir").arg(state).output().unwrap()
    }

    /// The same with a variable of the environment, or without it.
    pub fn command_with(
        &self,
        command: &str,
        arguments: &[&str],
        name: &str,
        value: Option<&str>,
    ) -> std::process::Output {
        let mut process = Command::new(exagg());
        process.arg(command).args(arguments);
        match value {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
        process.output().unwrap()
    }

    /// Waits until a batch is given to a function and not answered yet.
    pub fn wait_until_busy(&self) {
        wait_for("a batch in flight", Duration::from_secs(60), || {
            let metrics = http::try_get(self.admin, "/metrics")?.body;
            let busy = |line: &&str| line.starts_with("exagg_kafka_batches_in_flight") && !line.ends_with(" 0");
            metrics.lines().find(busy).map(|_| ())
        });
    }

    pub fn wait_until_ready(&self) {
        wait_for("readiness", Duration::from_secs(60), || {
            http::try_get(self.admin, "/readyz").filter(|answer| answer.status == 200)
        });
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Asks it to stop and waits.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal("TERM");
        let status = self.wait(Duration::from_secs(60));
        (status, began.elapsed())
    }

    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        wait_for("the host's end", timeout, || self.child.try_wait().unwrap())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts it again, with the same folder and ports.
    pub fn restart(&mut self) {
        self.child = self.setup.spawn(self.listen, self.admin, &self.log);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the host's log ends:\n{}\n---", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
