//! Functions that misbehave harm no other record.

use std::time::Duration;

use e2e::database::Database;
use e2e::host::{Host, Setup, function, variant};
use e2e::http::{self, Behaviour};
use e2e::{root, wait_for};

use super::{World, topic};

const MINUTE: Duration = Duration::from_secs(60);

/// A host with the guest function on a topic of one partition.
fn setup(world: &World, database: &Database, name: &str, settings: &str) -> Setup {
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[]);
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    let brokers = &world.kafka().brokers;
    Setup::new()
        .manifest(&format!(
            "spin_manifest_version = 2\n[application]\nname = \"guests\"\n\
             [variables]\npostgres_url = {{ required = true, secret = true }}\n\
             [[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"{topic}\"]\ngroup = \"{name}\"\nbrokers = \"{brokers}\"\n\
             start = \"earliest\"\nretry_attempts_max = 1\nretry_backoff_ms_min = 10\nretry_backoff_ms_max = 50\n{settings}\n\
             [component.guest]\nsource = \"{}/target/wasm32-wasip2/function/guest.wasm\"\n\
             allowed_outbound_hosts = [\"postgres://{}\"]\n\
             [component.guest.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
            root().display(),
            database.host,
        ))
        .configured("[exagg]\ncall_seconds_max = 2\n")
        .variable("postgres_url", &database.url)
}

fn send(world: &World, name: &str, values: &[&str]) {
    let sender = world.kafka().producer();
    for value in values {
        sender.send(&topic(name), 0, Some(b"key"), Some(value.as_bytes()));
    }
    sender.flush();
}

fn dead_letters(world: &World, name: &str) -> String {
    let topic = format!("{name}.dead");
    world.kafka().create_topic(&topic, 1, &[]);
    format!("on_poison = \"dead-letter\"\ndead_letter_topic = \"{topic}\"")
}

fn wait_for_seen(database: &Database, records: i64) {
    wait_for(&format!("{records} records"), MINUTE, || {
        (database.number("SELECT count(*) FROM seen WHERE value LIKE 'ok%'") == records).then_some(())
    });
}

fn values(database: &Database, records: i64) -> Vec<String> {
    wait_for_seen(database, records);
    database.texts("SELECT value FROM seen ORDER BY record_offset")
}

/// An instance serves again where its trigger asked for that, as often as it said, and never after a failure or a swap. Take
/// out: the bound of calls, `is_good`, or a comparison of versions.
pub fn an_instance_serves_again_where_it_was_asked_for(world: &World) {
    let single = "batch_records_max = 1\nbatch_interval_ms_min = 0";
    let give = |name: &str, settings: &str, records: &[&str]| {
        let database = world.postgres.database();
        let host = setup(world, &database, name, &format!("{single}\n{settings}")).start();
        send(world, name, records);
        let seen =
            values(&database, i64::try_from(records.iter().filter(|record| **record != "trap").count()).unwrap());
        (database, host, seen)
    };
    let fresh = ["ok call 1", "ok call 1", "ok mark \"\"", "ok mark \"\""];
    let (_database, _host, seen) = give("guest-fresh", "", &["calls", "calls", "session", "session"]);
    assert_eq!(seen, fresh);
    // Batches without records are calls as well.
    let (_database, _host, seen) = give("guest-few", "reuse = { calls_max = 3 }", &["calls"; 12]);
    let calls: Vec<u32> = seen.iter().map(|text| text.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(calls.iter().all(|calls| *calls <= 3) && calls.iter().any(|calls| *calls >= 2), "{calls:?}");

    let name = "guest-again";
    let settings = format!("reuse = true\n{}", dead_letters(world, name));
    let records = ["calls", "calls", "session", "session", "trap", "calls", "session"];
    let (database, host, seen) = give(name, &settings, &records);
    assert_eq!(seen[..4], ["ok call 1", "ok call 2", "ok mark \"\"", "ok mark \"left\""]);
    // A connection that is open when the function traps is cleaned.
    assert_eq!(seen[4..], ["ok call 1", "ok mark \"\""]);
    let code = variant(&function("guest"), 1, host.setup.folder());
    let output = host.command("swap", &["guest", code.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    send(world, name, &["calls", "session", "session"]);
    assert_eq!(values(&database, 9)[6..], ["ok call 1", "ok mark \"\"", "ok mark \"left\""]);
}

/// Take out: the split in `Dispatcher::dispatch`.
pub fn traps_are_split_down_to_the_record(world: &World) {
    let (database, name) = (world.postgres.database(), "guest-traps");
    let settings = dead_letters(world, name);
    let setup = setup(world, &database, name, &settings);
    let values: Vec<String> =
        (0..64).map(|n| if n % 20 == 7 { "trap".to_owned() } else { format!("ok {n}") }).collect();
    send(world, name, &values.iter().map(String::as_str).collect::<Vec<_>>());
    let host = setup.start();
    wait_for_seen(&database, 61);
    // The database of an app that does not ask for migrations is its own.
    assert_eq!(database.texts("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"), ["seen"]);
    wait_for("the commit", MINUTE, || (world.kafka().group_offset(name, &topic(name), 0) == Some(64)).then_some(()));
    let dead = world.kafka().read_all(&format!("{name}.dead"), 1);
    let places: Vec<_> = dead
        .iter()
        .map(|letter| {
            let header = |name: &str| letter.headers.iter().find(|(key, _)| key == name).unwrap().1.clone();
            let reason = header("exagg-reason");
            assert!(
                reason.contains("panicked at tests/guest/src/lib.rs:") && reason.contains("told to trap"),
                "{reason}"
            );
            assert_eq!(header("exagg-topic"), topic(name));
            assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(&b"key"[..]), Some(&b"trap"[..])));
            header("exagg-offset")
        })
        .collect();
    assert_eq!(places, ["7", "27", "47"]);
    drop(host);
}

/// Take out: `DISCARD ALL` in the pool (put the client back at once).
pub fn a_trap_in_a_transaction_does_not_leak_it(world: &World) {
    let (database, name) = (world.postgres.database(), "guest-leak");
    let settings = dead_letters(world, name);
    let setup = setup(world, &database, name, &settings);
    let _host = setup.start();
    for round in 0..5 {
        send(world, name, &["leak", &format!("ok {round}")]);
        // Seen by another connection: it is committed, and not in somebody's open transaction.
        wait_for_seen(&database, round + 1);
    }
    assert_eq!(database.number("SELECT count(*) FROM seen WHERE value = 'leaked'"), 0);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    wait_for("the end of open transactions", MINUTE, || (database.number(open) == 0).then_some(()));
}

pub fn loops_and_floods_harm_no_other_record(world: &World) {
    let (database, name) = (world.postgres.database(), "guest-loops");
    let settings = dead_letters(world, name);
    let setup = setup(world, &database, name, &settings);
    send(world, name, &["ok 1", "loop", "ok 2", "allocate", "ok 3", "flood", "ok 4"]);
    let mut host: Host = setup.start();
    wait_for_seen(&database, 4);
    host.wait_for_log("bytes of output in one call: the rest is dropped", MINUTE);
    assert!(host.peak_memory() < 512 * 1024 * 1024);
    let reasons: Vec<String> = world
        .kafka()
        .read_all(&format!("{name}.dead"), 1)
        .into_iter()
        .map(|letter| String::from_utf8(letter.value.unwrap()).unwrap())
        .collect();
    assert_eq!(reasons, ["loop", "allocate"]);
}

/// Take out: `self.contents.headers` in `BatchBuilder::push`.
pub fn headers_are_given_unless_the_trigger_does_without(world: &World) {
    for (name, settings, seen) in
        [("guest-headers", "", "ok 1 headers"), ("guest-bare", "headers = false", "ok 0 headers")]
    {
        let database = world.postgres.database();
        let setup = setup(world, &database, name, settings);
        let sender = world.kafka().producer();
        sender.send_with_header(&topic(name), b"headers", "a");
        sender.flush();
        let _host = setup.start();
        wait_for_seen(&database, 1);
        assert_eq!(database.texts("SELECT value FROM seen"), [seen]);
    }
}

/// Take out: `allowed.check` in the factor of the scheme, or a socket check of WASI's.
pub fn forbidden_destinations_and_files_are_out_of_reach(world: &World) {
    let (database, name) = (world.postgres.database(), "guest-reach");
    let forbidden = http::Server::start(Behaviour::Answer(200, "", String::new()));
    let redirect = format!("location: http://127.0.0.1:{}/\r\n", forbidden.port);
    let allowed = http::Server::start(Behaviour::Answer(302, redirect.leak(), String::new()));
    let by_name = database.url.replace("127.0.0.1", "localhost");
    assert_ne!(by_name, database.url);
    let to_allowed = format!("127.0.0.1:{}", allowed.port);
    let urls = [
        format!("http://127.0.0.1:{}/", forbidden.port),
        // The same place by its name, which is not listed.
        format!("http://localhost:{}/", allowed.port),
        format!("follow://{to_allowed}"),
        by_name,
        database.url.replace(&database.host, &format!("127.0.0.1:{}", forbidden.port)),
        format!("kafka://{}", world.kafka().brokers),
        format!("kafka://127.0.0.1:{}", forbidden.port),
        format!("tcp://{}", database.host),
        "read:///etc/passwd".to_owned(),
        "write:///tmp/exagg-guest".to_owned(),
        "write://exagg-guest".to_owned(),
    ];
    let setup = setup(world, &database, name, "")
        .replace("allowed_outbound_hosts = [", &format!("allowed_outbound_hosts = [\"http://{to_allowed}\", "));
    let mut values: Vec<String> = urls.iter().map(|url| format!("reach {url}")).collect();
    values.push(format!("reach http://{to_allowed}/"));
    values.push("ok".to_owned());
    send(world, name, &values.iter().map(String::as_str).collect::<Vec<_>>());
    let host = setup.start();
    wait_for_seen(&database, 1);
    let came = database.texts("SELECT value FROM seen ORDER BY record_offset");
    for (came, url) in came.iter().zip(&urls) {
        assert!(came.starts_with(&format!("{url} refused: ")), "{came}");
    }
    let first = format!("http://{to_allowed}/ done: 302");
    assert_eq!(came[urls.len()], first, "what is listed can be reached");
    assert!(forbidden.requests.try_recv().is_err(), "a request came through");
    // What the address says beside the place stays out of the message.
    let password = database.url.split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!host.log().contains(&password));
    let said: Vec<_> = came.iter().map(|came| came.split_once(" refused: ").map_or("", |(_, said)| said)).collect();
    assert!(said.iter().all(|said| !said.contains(&password)), "{said:?}");
}

/// Older components: `wasi:http` 0.2 and `spin:postgres` 3.0; and the key-value store's own list.
pub fn components_of_wasi_0_2_and_the_key_value_store_are_served(world: &World) {
    let database = world.postgres.database();
    let host = Setup::new()
        .manifest(&format!(
            "spin_manifest_version = 2\n[application]\nname = \"older\"\n\
             [[trigger.http]]\ncomponent = \"older\"\nroute = \"/...\"\n\
             [component.older]\nsource = \"{}/target/wasm32-wasip2/function/guest_p2.wasm\"\n\
             environment = {{ POSTGRES_URL = \"{}\" }}\n\
             allowed_outbound_hosts = [\"postgres://{}\"]\n",
            root().display(),
            database.url,
            database.host,
        ))
        .start();
    host.wait_until_ready();
    let answer = host.get("/some/where?x=1");
    assert_eq!((answer.status, answer.body.as_str()), (200, "at /some/where?x=1: 42"));
    let name = "guest-keys";
    let setup = setup(world, &database, name, "")
        .replace("allowed_outbound_hosts", "key_value_stores = [\"default\"]\nallowed_outbound_hosts");
    send(world, name, &["reach keys://b", "reach keys://a", "ok"]);
    let _host = setup.start();
    wait_for_seen(&database, 1);
    let came = database.texts("SELECT value FROM seen WHERE value LIKE 'keys%' ORDER BY record_offset");
    assert_eq!(came, ["keys://b done: b", "keys://a done: a,b"]);
}

pub fn poison_stops_the_partition_unless_told_otherwise(world: &World) {
    for (name, value) in [("guest-poison", "poison"), ("guest-stop", "stop")] {
        let database = world.postgres.database();
        let setup = setup(world, &database, name, "");
        send(world, name, &["ok 1"]);
        let mut host = setup.start();
        wait_for_seen(&database, 1);
        send(world, name, &[value, "ok 2"]);
        host.wait_for_log("the partition is stopped", MINUTE);
        assert_eq!(database.number("SELECT count(*) FROM seen"), 1, "nothing is skipped");
        host.stop();
        assert_eq!(world.kafka().group_offset(name, &topic(name), 0), Some(1));
    }
}
