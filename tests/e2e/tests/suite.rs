//! All end-to-end tests. One Kafka and one PostgreSQL serve them; each test has topics, groups
//! and a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod cases;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use e2e::database::Server;
use e2e::kafka::{Kafka, jars};
use libtest_mimic::{Arguments, Trial};

use cases::World;

/// A test that hangs must not take CI's whole time with it.
const TIME_MAX: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let has_kafka = jars().is_dir();
    let in_ci = std::env::var_os("CI").is_some();
    assert!(has_kafka || !in_ci, "in CI nothing is skipped: make kafka first");
    if !has_kafka {
        println!("Apache Kafka is not there (make kafka needs Java and Maven): its tests are skipped");
    }
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
            let skipped = case.needs_kafka && !has_kafka;
            Trial::test(case.name, move || {
                (case.run)(&world);
                Ok(())
            })
            .with_ignored_flag(skipped)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
