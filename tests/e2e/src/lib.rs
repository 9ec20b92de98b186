//! What the end-to-end tests stand on: a real Kafka, a real PostgreSQL, the real host.
//!
//! # Layout
//! - [`kafka`]: Apache Kafka (KRaft) in a folder of its own.
//! - [`database`]: a database a test.
//! - [`host`]: `exagg` as a process, and the manifests that it runs.
//! - [`gate`]: a door before a server.
//! - [`feed`]: records that are sent and counted at once.
//! - [`http`]: a small client, and a server that answers as it is told.
//! - [`bomb`]: a component that takes long to compile.
//! - [`certificates`]: an authority of the tests' own.
//! - [`cluster`]: the stages of `deploy/cluster` as processes.
//! - [`kubernetes`]: the manifests of `deploy/spinkube`, by schemas of their own.
//! - [`oracle`]: an independent computation of the rows.
//! - [`outages`]: what happens to PostgreSQL as a whole.
//! - [`pair`]: a primary and a standby that follows it.
//! - [`pooler`]: PgBouncer before a PostgreSQL.
//! - [`registry`]: an OCI registry, and artifacts put into it by hand.
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

pub mod bomb;
pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod database;
pub mod feed;
pub mod flights;
pub mod gate;
pub mod host;
pub mod http;
pub mod kafka;
pub mod kubernetes;
pub mod oracle;
pub mod outages;
pub mod pair;
pub mod pooler;
pub mod registry;
pub mod streams;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The repository's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Whether a program of this name can be run.
pub fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// A number from the environment, for programs that `make` gives their sizes.
pub fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{name}={text}: a number is wanted")),
        Err(_) => default,
    }
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

/// A port that nobody has. Below those that the system gives to outgoing connections (from 32768 on, on Linux): one of
/// them could take it before it is listened on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    let count = u32::from(PORTS.end - PORTS.start);
    loop {
        // Processes that test at the same time begin at different ones.
        let number = (std::process::id() * 97 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % count;
        let port = PORTS.start + u16::try_from(number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
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

/// The exchanges' topic of a test.
pub fn topic(name: &str) -> String {
    format!("{name}.exchanges")
}

/// A record of the exchange's shape.
pub fn exchange(code: &str, volume: f64, time_seconds: i64) -> String {
    serde_json::json!({
        "code": code, "markets": 100, "volume": volume, "bidTotal": 1.5, "askTotal": 2.5, "depth": 3.5,
        "visitors": 4, "volumePerVisitor": 5.5, "time": utc(time_seconds),
    })
    .to_string()
}

/// Unix seconds as the reference writes them, by a computation of this test's own (Howard
/// Hinnant's civil-from-days).
pub fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Bytes in base64.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Now, in Unix seconds.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
