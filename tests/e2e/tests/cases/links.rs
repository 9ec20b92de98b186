//! Encrypted and authenticated links: Kafka over TLS with SCRAM, PostgreSQL over TLS. What is wrong
//! is said, tried again with pauses, and tells no secret.

use std::fmt::Write;
use std::time::Duration;

use e2e::certificates::Authority;
use e2e::database::{Database, Server};
use e2e::feed::Feed;
use e2e::host::{Host, Setup};
use e2e::http;
use e2e::kafka::Kafka;

use super::{EXCHANGES, World, now, topic, wait_for_records};

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "geheim-92";
/// Tries that a host may make in the time that its log is looked at.
const TRIES_MAX: usize = 12;

fn file(setup: &Setup, name: &str, text: &str) -> String {
    let path = setup.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// It says what is wrong, is not ready, and does not hammer.
fn assert_refused(host: &mut Host, text: &str) {
    host.wait_for_log(text, MINUTE);
    assert_eq!(http::get(host.admin, "/readyz").status, 503);
    std::thread::sleep(Duration::from_secs(5));
    let log = host.log();
    let tries = log.lines().filter(|line| line.contains(text)).count();
    assert!(tries <= TRIES_MAX, "{tries} tries in a few seconds:\n{log}");
    assert!(!log.contains(PASSWORD), "{log}");
    assert!(!host.admin("/status").body.contains(PASSWORD));
}

/// The app with PostgreSQL reached by this name and mode.
fn by(world: &World, database: &Database, name: &str, host: &str, mode: &str, authority: Option<&str>) -> Setup {
    let (_, port) = database.host.split_once(':').unwrap();
    let place = format!("{host}:{port}");
    let url = format!("{}?sslmode={mode}", database.url.replace(&database.host, &place));
    let setup = world.setup(database, name).variable("postgres_url", &url).variable("postgres_host", &place);
    match authority {
        Some(pem) => {
            let path = file(&setup, "ca.pem", pem);
            setup.configured(&format!("[exagg]\npostgres_ca_file = \"{path}\"\n"))
        }
        None => setup,
    }
    .components(&EXCHANGES)
}

/// Take out: the verifier's `by_name`, or the authority, or `tls` in the pool's `connect`.
pub fn postgresql_over_tls(world: &World) {
    let server = Server::start();
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    server.encrypt(&authority.certify(&["localhost"]));
    let own = authority.pem();
    let name = "pg-tls";
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    feed.spread(100, now() / 60 * 60 - 600, 60);
    for (host, mode, trusted) in [
        ("127.0.0.1", "require", None),
        ("127.0.0.1", "verify-ca", Some(own.as_str())),
        ("localhost", "verify-full", Some(own.as_str())),
    ] {
        let database = server.database();
        // Each reads the topic as a group of its own.
        let setup = by(world, &database, name, host, mode, trusted)
            .replace("pg-tls-exchanges", &format!("pg-tls-{mode}-exchanges"));
        let _host = setup.start();
        wait_for_records(&database, "exchanges", 100);
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE application_name LIKE 'exagg%' AND NOT ssl";
        assert_eq!(database.number(plain), 0, "{mode}");
    }
    let elsewhere = other.pem();
    for (host, mode, trusted, wrong) in [
        ("localhost", "verify-full", None, "UnknownIssuer"),
        ("localhost", "verify-full", Some(elsewhere.as_str()), "UnknownIssuer"),
        ("localhost", "require", Some(elsewhere.as_str()), "UnknownIssuer"),
        ("127.0.0.1", "verify-full", Some(own.as_str()), "not valid for name"),
    ] {
        let database = server.database();
        assert_refused(&mut by(world, &database, name, host, mode, trusted).start(), wrong);
    }
    server.encrypt(&authority.certify_expired(&["localhost"]));
    let database = server.database();
    assert_refused(&mut by(world, &database, name, "localhost", "verify-full", Some(&own)).start(), "expired");
    let (before, behind) = database.url.split_once('@').unwrap();
    let (user, _) = before.rsplit_once(':').unwrap();
    let url = format!("{user}:{PASSWORD}@{behind}?sslmode=require");
    let mut host = world.setup(&database, name).variable("postgres_url", &url).components(&EXCHANGES).start();
    assert_refused(&mut host, "password authentication failed");
}

/// `[exagg.kafka]` for the secured door.
fn secured(setup: Setup, authority: &str, password: &str) -> Setup {
    let path = file(&setup, "kafka-ca.pem", authority);
    let mut lines = "[exagg.kafka]\n".to_owned();
    for (name, value) in [
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", path.as_str()),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "alice"),
        ("sasl.password", password),
    ] {
        writeln!(lines, "\"{name}\" = \"{value}\"").unwrap();
    }
    setup.configured(&lines)
}

/// Take out: `apply` of the shared properties in `client_config`.
pub fn kafka_over_tls_with_scram(world: &World) {
    let authority = Authority::new("ours");
    let good = "richtig-71";
    let (kafka, door) = Kafka::start_secured(&authority.certify(&["localhost"]), "alice", good);
    let name = "kafka-tls";
    kafka.create_topic(&topic(name), 2, &[]);
    kafka.create_topic("kafka-tls.weather", 1, &[]);
    let mut feed = Feed::new(&kafka, &topic(name), 2);
    feed.spread(100, now() / 60 * 60 - 600, 60);
    let setup = |database: &Database| {
        let setup = world.setup(database, name).variable("weather_topic", "kafka-tls.weather");
        setup.variable("kafka_brokers", &door).variable("kafka_host", &door)
    };
    let database = world.postgres.database();
    // The producer's side as well: weather is made up, sent and read again.
    let all = ["fetcher-weather", "aggregator-weather", "aggregator-exchanges", "window-closer"];
    let mut host = secured(setup(&database), &authority.pem(), good).components(&all).start();
    wait_for_records(&database, "exchanges", 100);
    e2e::wait_for("weather", MINUTE, || {
        (database.number("SELECT count(*) FROM public.live_aggregates WHERE stream = 'weather'") > 0).then_some(())
    });
    host.wait_until_ready();
    assert!(!host.log().contains(good));
    host.stop();
    let database = world.postgres.database();
    for (trusted, password, wrong) in [
        (authority.pem(), PASSWORD, "authentication"),
        (Authority::new("theirs").pem(), good, "certificate verify failed"),
    ] {
        let setup = secured(setup(&database), &trusted, password).components(&EXCHANGES);
        assert_refused(&mut setup.start(), wrong);
    }
}
