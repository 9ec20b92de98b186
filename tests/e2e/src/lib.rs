//! What the end-to-end tests stand on: a real Kafka, a real PostgreSQL, the real host.
//!
//! # Layout
//! - [`kafka`]: Apache Kafka (KRaft) in a folder of its own.
//! - [`database`]: a database a test.
//! - [`host`]: `exagg` as a process, and the manifests that it runs.
//! - [`gate`]: a door before a server.
//! - [`http`]: a small client, and a server that answers as it is told.
//! - [`oracle`]: an independent computation of the rows.
//!
//! Support code panics: a test that cannot be set up has failed, with a backtrace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "test support"
)]

pub mod database;
pub mod gate;
pub mod host;
pub mod http;
pub mod kafka;
pub mod oracle;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The repository's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Looks until there is an answer; the deadline is a failure, not a measurement.
pub fn wait_for<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A command that ends with this process, where the system can do that.
pub fn bound_command(program: &str) -> std::process::Command {
    if std::path::Path::new("/usr/bin/setpriv").exists() {
        let mut command = std::process::Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    } else {
        std::process::Command::new(program)
    }
}
