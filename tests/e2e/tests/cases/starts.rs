//! Starts: refused ones, migrations, and a world that is not there yet.

use std::time::Duration;

use e2e::database::Database;
use e2e::gate::Gate;
use e2e::host::{Host, Setup};
use e2e::http;
use e2e::kafka::Kafka;
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, wait_for_records};

const MINUTE: Duration = Duration::from_secs(60);

/// Variables that name a database where nobody is; the password must show nowhere.
fn dead(setup: Setup) -> Setup {
    setup.variable("postgres_url", "postgres://u:secret-word@127.0.0.1:1/x").variable("postgres_host", "127.0.0.1:1")
}

/// What is wrong, the start, and what its error has to say.
type Refused = (&'static str, Setup, Vec<&'static str>);

fn wrong_manifests() -> Vec<Refused> {
    let idle = format!(
        "spin_manifest_version = 2\n[application]\nname = \"idle\"\n[component.c]\nsource = \"{}\"\n",
        dashboard()
    );
    vec![
        ("missing variable", Setup::new(), vec!["postgres_url", "SPIN_VARIABLE_POSTGRES_URL"]),
        (
            "unknown trigger type",
            dead(Setup::new().append("\n[[trigger.mqtt]]\ncomponent = \"dashboard\"\n")),
            vec!["trigger.mqtt", "kafka, cron, http"],
        ),
        ("unknown key", dead(Setup::new().append("\n[component.dashboard.tools]\nx = 1\n")), vec!["tools"]),
        ("unknown key of a trigger", dead(Setup::new().replace("start = ", "begin = \"x\"\nstart = ")), vec!["begin"]),
        ("unknown component id", dead(Setup::new()).argument("--component-id").argument("nobody"), vec!["nobody"]),
        (
            "bad schedule",
            dead(Setup::new()).variable("exchanges_schedule", "often"),
            vec!["fetcher-exchanges", "often"],
        ),
        (
            "a private route",
            dead(Setup::new().replace("route = \"/...\"", "route = { private = true }")),
            vec!["private route", "http://dashboard.spin.internal"],
        ),
        ("TLS that is not served", dead(Setup::new()).env("SPIN_TLS_CERT", "cert.pem"), vec!["SPIN_TLS_CERT", "proxy"]),
        (
            "a stream with two writers",
            dead(Setup::new()).replace("stream = \"weather\"", "stream = \"exchanges\""),
            vec!["aggregator-exchanges and aggregator-weather", "\"exchanges\""],
        ),
        (
            "a group that reads a topic twice",
            dead(Setup::new().replace("exchange-agg-weather", "exchange-agg-exchanges"))
                .variable("weather_topic", "exchanges"),
            vec!["aggregator-weather", "exchange-agg-exchanges", "topic exchanges"],
        ),
        (
            "a variable that the app has not",
            dead(Setup::new()).variable("window_second", "60"),
            vec!["--variable window_second", "did you mean window_seconds?"],
        ),
        (
            "a component that the app has not",
            dead(Setup::new()).argument("--follow").argument("aggregator-exchange"),
            vec!["--follow aggregator-exchange:", "did you mean aggregator-exchanges?"],
        ),
        ("no triggers", Setup::new().manifest(&idle), vec!["the app idle has no triggers"]),
        ("a reference", Setup::new().from("registry.example/app:1"), vec!["registry.example/app:1"]),
    ]
}

fn wrong_components() -> Vec<Refused> {
    let not_wasm = tempfile_with(b"not a component");
    let imports = "(component (import \"acme:teapot/brew@1.0.0\" (instance (export \"pour\" (func)))))";
    let imports = tempfile_with(&wat::parse_str(imports).unwrap());
    let a_module = tempfile_with(&wat::parse_str("(module)").unwrap());
    let instead = |file: &str| dead(Setup::new().replace(&dashboard(), file));
    let not_a_component = vec!["component dashboard", "not a component"];
    vec![
        (
            "missing file",
            dead(Setup::new().replace("function/dashboard.wasm", "function/nothing.wasm")),
            vec!["dashboard", "nothing.wasm"],
        ),
        ("not a component", instead(&not_wasm), not_a_component.clone()),
        ("a module", instead(&a_module), not_a_component),
        ("unsupported import", instead(&imports), vec!["component dashboard", "acme:teapot/brew@1.0.0"]),
        (
            "wrong world",
            instead(&dashboard().replace("dashboard", "fetcher")),
            vec!["component dashboard", "http trigger", "wasi:http"],
        ),
    ]
}

/// What the components themselves refuse.
fn wrong_settings() -> Vec<Refused> {
    let with = |name: &str, value: &str| dead(Setup::new()).variable(name, value);
    vec![
        ("a number that is none", with("window_seconds", "1h"), vec!["aggregator-exchanges", "window_seconds", "1h"]),
        (
            "a slide that does not fit",
            dead(Setup::new().replace("slide_seconds = \"\"", "slide_seconds = \"7\"")),
            vec!["aggregator-", "slide_seconds"],
        ),
        (
            "a zone that does not exist",
            dead(Setup::new().replace("time_zone = \"UTC\"", "time_zone = \"Mars/Olympus\"")),
            vec!["aggregator-", "Mars/Olympus"],
        ),
        (
            "a variable that is not there",
            dead(Setup::new().replace("stream = \"exchanges\"\n", "")),
            vec!["aggregator-exchanges", "the variable stream is not defined"],
        ),
        ("a source that is none", with("exchanges_source", "guess"), vec!["fetcher-exchanges", "source", "guess"]),
        ("days that are none", with("retention_days", "-1"), vec!["window-closer", "retention_days"]),
    ]
}

fn wrong_destinations() -> Vec<Refused> {
    vec![
        (
            "a list in allowed_outbound_hosts",
            dead(Setup::new()).variable("kafka_host", "a:1,b:2"),
            vec!["allowed_outbound_hosts", "kafka://"],
        ),
        (
            "a database that is not listed",
            Setup::new().variable("postgres_url", "postgres://u:secret-word@127.0.0.1:1/x"),
            vec!["component aggregator-exchanges", "variable postgres_url", "postgres://127.0.0.1:1 is not allowed"],
        ),
        (
            "an address behind the name of a listed database",
            Setup::new().variable("postgres_url", "postgres://u:secret-word@localhost:5432/x?hostaddr=10.0.0.1"),
            vec!["component aggregator-exchanges", "postgres://10.0.0.1:5432 is not allowed"],
        ),
        (
            "a broker that is not listed",
            dead(Setup::new()).variable("kafka_brokers", "localhost:9092,other:9092"),
            vec!["component fetcher-exchanges", "variable kafka_brokers", "kafka://other:9092 is not allowed"],
        ),
    ]
}

pub fn bad_starts_are_one_clear_error(_: &World) {
    let cases = [wrong_manifests(), wrong_components(), wrong_settings(), wrong_destinations()];
    for (what, setup, wanted) in cases.into_iter().flatten() {
        let error = setup.refused();
        for text in wanted {
            assert!(error.contains(text), "{what}: no {text:?} in {error}");
        }
        assert!(!error.contains("secret-word"), "{what}: {error}");
        assert_eq!(error.matches("Error:").count(), 1, "{what}: {error}");
    }
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken_port = taken.local_addr().unwrap();
    let error = dead(Setup::new()).listen(&taken_port.to_string()).refused();
    assert!(error.contains(&taken_port.port().to_string()) && error.contains("in use"), "{error}");
}

/// `--check` says what a start would say, and runs nothing: nobody is at any of the addresses.
pub fn a_check_does_everything_but_run(_: &World) {
    let checked = |setup: Setup| {
        let from = setup.folder().to_owned();
        setup.write();
        let mut exagg = std::process::Command::new(e2e::host::exagg());
        let exagg = exagg.args(["up", "--check", "--from"]).arg(&from).args(setup.arguments());
        let output = exagg.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let (passes, said) = checked(dead(Setup::new()));
    assert!(passes && said.contains("can run"), "{said}");
    let (passes, said) = checked(dead(Setup::new()).variable("window_seconds", "1h"));
    assert!(!passes && said.contains("window_seconds"), "{said}");
}

fn dashboard() -> String {
    format!("{}/target/wasm32-wasip2/function/dashboard.wasm", e2e::root().display())
}

fn tempfile_with(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file.into_temp_path().keep().unwrap().to_string_lossy().into_owned()
}

/// Two replicas of a cron stage that share leases run each tick once between them.
pub fn a_leased_tick_runs_once(world: &World) {
    const TICKS: usize = 6;
    let database = world.postgres.database();
    world.kafka().create_topic("leased", 1, &[]);
    let hosts: Vec<_> = (0..2)
        .map(|_| {
            let setup = world.setup(&database, "leased").variable("weather_topic", "leased");
            let setup = setup.configured("[exagg.cron]\nlease = \"{{ postgres_url }}\"\n");
            setup.components(&["fetcher-weather"]).start()
        })
        .collect();
    let records = wait_for("some ticks", MINUTE, || {
        let records = world.kafka().read_all("leased", 1);
        (records.len() >= TICKS).then_some(records)
    });
    let times: std::collections::BTreeSet<_> = records.iter().map(|record| record.value.clone()).collect();
    assert_eq!(times.len(), records.len(), "a tick ran twice: {records:?}");
    let ran = |host: &e2e::host::Host| host.admin("/metrics").body.contains("exagg_cron_ticks_total{result=\"ok\"");
    assert!(hosts.iter().any(ran));
}

/// A database that holds the reference's own table is migrated without losing a row.
pub fn a_reference_table_is_kept(world: &World) {
    let database = world.postgres.database();
    database.execute(
        "CREATE TABLE public.aggregates (window_start timestamp, window_end timestamp, code varchar, avg_vol float4);
         INSERT INTO public.aggregates VALUES
             ('2023-11-19 20:31:00', '2023-11-19 20:32:00', 'BINANCE', 1e10),
             ('2023-11-19 20:31:00', '2023-11-19 20:32:00', 'BINANCE', 1e10),
             (NULL, NULL, NULL, NULL)",
    );
    let mut host = world.setup(&database, "reference").components(&["dashboard"]).start();
    host.wait_for_log("aggregates_before_exagg", MINUTE);
    host.wait_until_ready();
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates_before_exagg"), 3);
    let columns = database.texts(
        "SELECT concat_ws(' ', column_name, data_type) FROM information_schema.columns
         WHERE table_name = 'aggregates' AND table_schema = 'public' ORDER BY ordinal_position LIMIT 4",
    );
    let wanted = [
        "window_start timestamp without time zone",
        "window_end timestamp without time zone",
        "code character varying",
        "avg_vol double precision",
    ];
    assert_eq!(columns, wanted);
    // A second start finds nothing to do.
    host.stop();
    host.restart();
    host.wait_until_ready();
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates_before_exagg"), 3);
}

pub fn two_hosts_may_migrate_at_once(world: &World) {
    let database = world.postgres.database();
    let hosts: Vec<_> = (0..3).map(|_| world.setup(&database, "at-once").components(&["dashboard"]).start()).collect();
    for host in &hosts {
        host.wait_until_ready();
        assert!(!host.log().contains("Error"), "{}", host.log());
    }
    // Those that have a number, and the definitions; the roles are an operator's to apply.
    let files = std::fs::read_dir(e2e::root().join("migrations")).unwrap().map(|file| file.unwrap().file_name());
    let files = files.filter(|name| name.to_string_lossy().starts_with(|first: char| first.is_ascii_digit())).count();
    assert_eq!(database.number("SELECT count(*) FROM public.exagg_migrations"), i64::try_from(files + 1).unwrap());
}

/// A database that lacks the last migration, and a host that is stopped.
fn without_definitions(world: &World, name: &str) -> (Database, Host) {
    let database = world.postgres.database();
    let mut host = world.setup(&database, name).components(&["dashboard"]).start();
    host.wait_until_ready();
    host.stop();
    database.execute("DELETE FROM public.exagg_migrations WHERE name LIKE '%definitions'");
    (database, host)
}

/// A migration waits for a view that a reader holds, and the reader for one that the migration has. Take out: the tries
/// in `apply` of `migrate.rs`.
pub fn a_migration_that_deadlocks_with_a_reader_is_tried_again(world: &World) {
    let (database, mut host) = without_definitions(world, "deadlock");
    let mut reader = database.client();
    reader.batch_execute("BEGIN; COMMENT ON VIEW public.live_aggregates IS 'read'").unwrap();
    host.restart();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.live_aggregates'::regclass";
    wait_for("the migration to wait", MINUTE, || (database.number(waiting) == 1).then_some(()));
    // It began to wait first: PostgreSQL ends its transaction, not the reader's.
    reader.batch_execute("SELECT count(*) FROM public.pending_parts; COMMIT").unwrap();
    host.wait_until_ready();
    assert!(host.log().contains("it is tried again"), "{}", host.log());
}

/// Take out: `is_transient` in `make_ready`.
pub fn a_connection_that_ends_during_a_migration_ends_no_host(world: &World) {
    let (database, mut host) = without_definitions(world, "ended");
    let mut other = database.client();
    other.batch_execute("BEGIN; LOCK TABLE public.exagg_migrations IN EXCLUSIVE MODE").unwrap();
    host.restart();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_for("the migration to wait", MINUTE, || (database.number(ended) > 0).then_some(()));
    host.wait_for_log("next try in", MINUTE);
    other.batch_execute("COMMIT").unwrap();
    host.wait_until_ready();
}

/// Take out: the selection on `shutdown.drain` around the migrations in `make_ready`.
pub fn a_signal_during_a_migration_ends_the_host(world: &World) {
    let (database, mut host) = without_definitions(world, "signal");
    let mut other = database.client();
    other.batch_execute("BEGIN; LOCK TABLE public.exagg_migrations IN EXCLUSIVE MODE").unwrap();
    host.restart();
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    wait_for("the migration to wait", MINUTE, || (database.number(waits) > 0).then_some(()));
    let (status, took) = host.stop();
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}: {}", host.log());
}

/// A host that is older than the views and functions of a database. Take out: `is_later` in `wanted` of `migrate.rs`.
pub fn newer_definitions_are_left_alone(world: &World) {
    let database = world.postgres.database();
    database.execute(
        "CREATE TABLE public.exagg_migrations (name text PRIMARY KEY, digest text NOT NULL,
             applied_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO public.exagg_migrations VALUES ('9999_definitions', 'of a newer host')",
    );
    let host = world.setup(&database, "newer").components(&["dashboard"]).start();
    host.wait_until_ready();
    let known = "SELECT name FROM public.exagg_migrations WHERE name LIKE '%definitions'";
    assert_eq!(database.texts(known), ["9999_definitions"]);
}

/// Nothing is there: it says so, is not ready, keeps trying, and recovers by itself.
pub fn without_kafka_or_postgresql_it_waits_and_recovers(world: &World) {
    let database = world.postgres.database();
    let mut kafka = Kafka::start();
    kafka.create_topic("recovers", 1, &[]);
    kafka.kill();
    // A port that PostgreSQL is not behind yet.
    let gate = Gate::closed(&database.host);
    let url = database.url.replace(&database.host, &gate.address());
    let mut host = world
        .setup(&database, "recovers")
        .variable("exchanges_topic", "recovers")
        .variable("kafka_brokers", &kafka.brokers)
        .variable("kafka_host", &kafka.brokers)
        .variable("postgres_url", &url)
        .variable("postgres_host", &gate.address())
        .components(&EXCHANGES)
        .start();
    host.wait_for_log("does not answer", MINUTE);
    assert_eq!(http::get(host.admin, "/readyz").status, 503);
    assert_eq!(http::get(host.admin, "/livez").status, 200);
    assert_eq!(http::get(host.listen, "/.well-known/spin/health").status, 200);
    assert_eq!(http::get(host.listen, "/.well-known/exagg/ready").status, 503);
    gate.open();
    host.wait_for_log("kafka:", MINUTE);
    kafka.resume();
    let sender = kafka.producer();
    for _ in 0..10 {
        sender.send("recovers", 0, None, Some(exchange("A", 1.0, now() - 300).as_bytes()));
    }
    sender.flush();
    wait_for_records(&database, "exchanges", 10);
    host.wait_until_ready();
    // The database goes away in the middle, and comes back.
    gate.close();
    for _ in 0..10 {
        sender.send("recovers", 0, None, Some(exchange("A", 1.0, now() - 300).as_bytes()));
    }
    sender.flush();
    wait_for("not ready", MINUTE, || (http::get(host.admin, "/readyz").status == 503).then_some(()));
    gate.open();
    wait_for_records(&database, "exchanges", 20);
    assert!(!host.log().contains(&database.url), "the address with its password is in the log");
}
