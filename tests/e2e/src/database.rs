//! A database a test, in one PostgreSQL.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use exagg::embedded::postgres::{Plan, Postgres};
use postgres::{Client, NoTls};

use crate::certificates::Certificate;
use crate::wait_for;

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The server. Fields are dropped in this order.
pub struct Server {
    plan: Plan,
    running: Mutex<Option<Postgres>>,
    disk: Option<Disk>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir_in("/var/tmp").unwrap(), None)
    }

    /// A server of the release that `make postgres-versions` has brought; none where it has not.
    pub fn of_release(major: u32) -> Option<Self> {
        let brought = crate::root().join(format!("target/postgres-{major}"));
        if !brought.join("bin/postgres").exists() {
            return None;
        }
        // Where PostgreSQL's user can go.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let copied = Command::new("cp").arg("-r").arg(brought).arg(folder.path().join("programs")).status().unwrap();
        assert!(copied.success());
        let bin = folder.path().join("programs/bin");
        Some(Self::start_by(folder, None, |state_dir| Plan::by(bin, state_dir).unwrap()))
    }

    /// A server on a disk of its own that can be filled; on the usual one where nothing may be mounted.
    pub fn start_on_a_small_disk() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = Disk::mount(folder.path());
        Self::start_in(folder, disk)
    }

    fn start_in(folder: tempfile::TempDir, disk: Option<Disk>) -> Self {
        Self::start_by(folder, disk, |state_dir| Plan::new(state_dir).unwrap())
    }

    fn start_by(folder: tempfile::TempDir, disk: Option<Disk>, plan: impl FnOnce(&Path) -> Plan) -> Self {
        // PostgreSQL's user must be able to go there.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let plan = plan(folder.path());
        let running = Postgres::start(&plan).unwrap();
        Self { plan, running: Mutex::new(Some(running)), disk, _folder: folder }
    }

    /// Stops the server and starts it again, on the same address, with the same data.
    pub fn restart(&mut self) {
        let running = self.running.get_mut().unwrap();
        drop(running.take());
        *running = Some(Postgres::start(&self.plan).unwrap());
    }

    /// Fills its disk until the ballast goes; none where it has none of its own.
    pub fn fill_disk(&self) -> Option<Ballast> {
        self.disk.as_ref().map(Disk::fill)
    }

    /// Serves TLS by this certificate from now on.
    pub fn encrypt(&self, certificate: &Certificate) {
        let mut client = Client::connect(&self.plan.url(), NoTls).unwrap();
        let folder: String = client.query_one("SHOW data_directory", &[]).unwrap().get(0);
        let owner = std::fs::metadata(&folder).unwrap();
        for (name, text) in [("tls.pem", &certificate.chain), ("tls.key", &certificate.key)] {
            let path = std::path::Path::new(&folder).join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        for setting in ["ssl_cert_file = 'tls.pem'", "ssl_key_file = 'tls.key'", "ssl = on"] {
            client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
        }
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        wait_for("TLS", Duration::from_secs(10), || {
            let mut client = Client::connect(&self.plan.url(), NoTls).unwrap();
            let on: String = client.query_one("SHOW ssl", &[]).unwrap().get(0);
            (on == "on").then_some(())
        });
    }

    /// A new, empty database.
    pub fn database(&self) -> Database {
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = self.plan.url();
        Client::connect(&url, NoTls).unwrap().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let (server, _) = url.rsplit_once('/').unwrap();
        Database { url: format!("{server}/{name}"), host: self.plan.host() }
    }
}

/// A file system in memory.
struct Disk(PathBuf);

impl Disk {
    /// Room for the write-ahead log, which may take 512 MiB, and as much again.
    const SIZE: &str = "size=1g";

    fn mount(folder: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", Self::SIZE, "e2e"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))
    }

    fn fill(&self) -> Ballast {
        let ballast = Ballast(self.0.join("ballast"));
        let mut file = File::create(&ballast.0).unwrap();
        // In pieces down to a page: nothing is left.
        for size in [1 << 20, 4096] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A file that takes all the room that there was.
pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[derive(Clone)]
pub struct Database {
    pub url: String,
    /// host:port
    pub host: String,
}

impl Database {
    pub fn client(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    /// One number; 0 when the statement fails (a table that is not there yet).
    pub fn number(&self, statement: &str) -> i64 {
        let mut client = self.client();
        client.query_one(statement, &[]).map_or(0, |row| row.get(0))
    }

    /// The first column of all rows, as text.
    pub fn texts(&self, statement: &str) -> Vec<String> {
        self.client().query(statement, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub fn execute(&self, statements: &str) {
        self.client().batch_execute(statements).unwrap();
    }
}
