//! A primary and a standby that follows it.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::{Client, NoTls};

use crate::database::Database;
use crate::{bound_command, free_port, wait_for};

/// PostgreSQL refuses to run as root.
const SYSTEM_USER: &str = "postgres";
const USER: &str = "exagg";
const PASSWORD: &str = "paar-5";
const START: Duration = Duration::from_secs(60);

/// Two servers, of which the second may take the first one's place.
pub struct Pair {
    bin: PathBuf,
    folder: tempfile::TempDir,
    servers: Vec<(Child, u16)>,
}

/// The folder with `pg_basebackup` and the server's programs; none where there is no such folder.
pub fn programs() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.into_iter().rev().find(|bin| bin.join("pg_basebackup").exists() && bin.join("postgres").exists())
}

impl Pair {
    /// Starts both. Where the standby is synchronous, the primary answers once it has what is committed.
    pub fn start(bin: PathBuf, is_synchronous: bool) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        std::fs::set_permissions(folder.path().join("password"), PermissionsExt::from_mode(0o644)).unwrap();
        let mut pair = Self { bin, folder, servers: Vec::new() };
        let password = pair.path("password");
        let arguments = ["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--pwfile"];
        run(pair.command("initdb").arg("-D").arg(pair.path("primary")).args(arguments).arg(password));
        pair.serve("primary");
        let port = pair.servers[0].1.to_string();
        let mut copy = pair.command("pg_basebackup");
        copy.env("PGPASSWORD", PASSWORD).arg("-D").arg(pair.path("standby"));
        run(copy.args(["-h", "127.0.0.1", "-p", &port, "-U", USER, "-R", "-X", "stream", "-c", "fast"]));
        pair.serve("standby");
        wait_for("the standby to follow", START, || {
            let row = pair.client(0)?.query_one("SELECT count(*) FROM pg_stat_replication", &[]).ok()?;
            (row.get::<_, i64>(0) == 1).then_some(())
        });
        if is_synchronous {
            let mut client = pair.client(0).unwrap();
            client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
            client.batch_execute("SELECT pg_reload_conf()").unwrap();
        }
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() == 0);
        let mut command = bound_command(if is_root { "setpriv" } else { program.to_str().unwrap() });
        if is_root {
            command.args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--clear-groups", "--pdeathsig", "KILL"]);
            command.arg(program);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn serve(&mut self, name: &str) {
        let port = free_port();
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path(name)).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories=", "-c", "shared_buffers=32MB"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.servers.push((child, port));
        let number = self.servers.len() - 1;
        wait_for("the server", START, || self.client(number));
    }

    fn client(&self, number: usize) -> Option<Client> {
        let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/postgres", self.servers[number].1);
        Client::connect(&url, NoTls).ok()
    }

    /// One of them alone: 0 is the primary.
    pub fn one(&self, number: usize) -> Database {
        let host = format!("127.0.0.1:{}", self.servers[number].1);
        Database { url: format!("postgres://{USER}:{PASSWORD}@{host}/postgres"), host }
    }

    /// Whichever of them takes writes, by one address.
    pub fn both(&self) -> String {
        let [first, second] = [0, 1].map(|number| self.one(number).host);
        format!("postgres://{USER}:{PASSWORD}@{first},{second}/postgres?target_session_attrs=read-write")
    }

    /// The primary dies, with whatever it had not sent yet, and the standby takes its place.
    pub fn fail_over(&mut self) {
        // The postmaster's end takes its processes with it.
        self.servers[0].0.kill().unwrap();
        self.servers[0].0.wait().unwrap();
        wait_for("the primary's end", START, || self.client(0).is_none().then_some(()));
        self.client(1).unwrap().batch_execute("SELECT pg_promote()").unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for Pair {
    fn drop(&mut self) {
        for (child, _) in &mut self.servers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
