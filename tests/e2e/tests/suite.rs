//! All end-to-end tests. One Kafka and one PostgreSQL serve them; each test has topics, groups
//! and a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod cases;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use e2e::database::Server;
use e2e::kafka::{Kafka, jars};
use libtest_mimic::{Arguments, Trial};

use cases::{Need, World};

/// A test that hangs must not take CI's whole time with it.
const TIME_MAX: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let (has, missing) = what_is_there();
    let in_ci = std::env::var_os("CI").is_some();
    assert!(missing.is_none() || !in_ci, "in CI nothing is skipped: {}", missing.unwrap_or_default());
    if let Some(missing) = missing {
        println!("{missing}: the tests that need it are skipped");
    }
    let has_kafka = has >= Need::Kafka;
    if arguments.list {
        let trials = cases::all().into_iter().map(|case| Trial::test(case.name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    std::thread::spawn(|| {
        std::thread::sleep(TIME_MAX);
        eprintln!("the suite runs longer than {TIME_MAX:?}: something hangs");
        std::process::abort();
    });
    let world = Arc::new(World { postgres: Server::start(), kafka: has_kafka.then(Kafka::start) });
    let trials = cases::all()
        .into_iter()
        .map(|case| {
            let world = Arc::clone(&world);
            let skipped = case.needs > has;
            Trial::test(case.name, move || {
                (case.run)(&world);
                Ok(())
            })
            .with_ignored_flag(skipped)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// How much of what the tests need is on this machine, and what is missing first.
fn what_is_there() -> (Need, Option<&'static str>) {
    let is_there =
        |program: &str| ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program).exists());
    // The owner of our own process is who we are.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|owner| std::os::unix::fs::MetadataExt::uid(&owner) == 0);
    if !jars().is_dir() {
        return (Need::Nothing, Some("Apache Kafka is not there (make kafka needs Java and Maven)"));
    }
    if !e2e::registry::is_installed() {
        return (Need::Kafka, Some("docker-registry is not there (Debian: apt-get install docker-registry)"));
    }
    if !is_root || !["skopeo", "setcap", "getcap", "unshare"].iter().all(|program| is_there(program)) {
        return (Need::Registry, Some("skopeo, setcap or root is not there"));
    }
    if !e2e::is_in_path("promtool") {
        return (Need::Image, Some("promtool is not there (Debian: in the package prometheus)"));
    }
    if !e2e::pooler::is_installed() {
        return (Need::Promtool, Some("PgBouncer is not there (Debian: apt-get install pgbouncer)"));
    }
    (Need::Pooler, None)
}
