//! A database a test, in one PostgreSQL.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use exagg::embedded::postgres::{Plan, Postgres};
use postgres::{Client, NoTls};

use crate::certificates::Certificate;
use crate::wait_for;

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The server.
pub struct Server {
    plan: Plan,
    _running: Mutex<Postgres>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        // PostgreSQL's user must be able to go there.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let plan = Plan::new(folder.path()).unwrap();
        let running = Postgres::start(&plan).unwrap();
        Self { plan, _running: Mutex::new(running), _folder: folder }
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
