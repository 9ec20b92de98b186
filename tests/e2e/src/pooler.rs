//! PgBouncer before a PostgreSQL.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::{Config, NoTls};

use crate::database::Database;
use crate::{bound_command, free_port, wait_for};

const PROGRAM: &str = "pgbouncer";
/// Debian's package makes it, with PostgreSQL's.
const USER: &str = "postgres";

/// Whether it is installed.
pub fn is_installed() -> bool {
    crate::is_in_path(PROGRAM) || std::path::Path::new("/usr/sbin/pgbouncer").exists()
}

/// What a server connection is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Session,
    Transaction,
    Statement,
}

/// A pooler that runs.
pub struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// Pools so many connections to the server, for each database.
    pub fn start(database: &Database, mode: Mode, connections: u32) -> Self {
        let config: Config = database.url.parse().unwrap();
        let (user, password) = (config.get_user().unwrap(), config.get_password().unwrap());
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let port = free_port();
        let (host, server_port) = database.host.split_once(':').unwrap();
        let users = folder.path().join("users.txt");
        std::fs::write(&users, format!("\"{user}\" \"{}\"\n", String::from_utf8_lossy(password))).unwrap();
        let mode = format!("{mode:?}").to_lowercase();
        let mut settings = format!("[databases]\n* = host={host} port={server_port}\n[pgbouncer]\n");
        for (name, value) in [
            ("listen_addr", "127.0.0.1"),
            ("listen_port", &port.to_string()),
            ("unix_socket_dir", ""),
            ("auth_type", "scram-sha-256"),
            ("auth_file", users.to_str().unwrap()),
            ("pool_mode", &mode),
            ("default_pool_size", &connections.to_string()),
            ("max_client_conn", "1000"),
        ] {
            writeln!(settings, "{name} = {value}").unwrap();
        }
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&users, 0o644), (&file, 0o644)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let child = command().arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pooler = Self { child, port, _folder: folder };
        wait_for("the pooler", Duration::from_secs(10), || {
            let mut config: Config = pooler.database(database).url.parse().unwrap();
            config.connect_timeout(Duration::from_secs(2)).connect(NoTls).ok()
        });
        pooler
    }

    /// The database by way of the pooler.
    pub fn database(&self, database: &Database) -> Database {
        let host = format!("127.0.0.1:{}", self.port);
        Database { url: database.url.replace(&database.host, &host), host }
    }
}

/// It refuses to run as root.
fn command() -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|owner| std::os::unix::fs::MetadataExt::uid(&owner) == 0);
    let mut command = bound_command(if is_root { "setpriv" } else { PROGRAM });
    if is_root {
        // The signal for the end of the parent is set anew: it goes with a change of user.
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--pdeathsig", "KILL", PROGRAM]);
    }
    command
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
