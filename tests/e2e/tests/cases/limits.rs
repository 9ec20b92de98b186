//! A function that asks the host for too much is refused, and harms no other record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::host::{Host, Setup};
use e2e::{root, wait_for};

use super::{World, topic};

const MINUTE: Duration = Duration::from_secs(60);
const MEGABYTE: u64 = 1024 * 1024;

/// A host with the guest function on a topic.
fn setup(world: &World, database: &Database, name: &str, partitions: i32, settings: &str) -> Setup {
    let topic = topic(name);
    world.kafka().create_topic(&topic, partitions, &[]);
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    database.execute("CREATE SEQUENCE made");
    let settings = format!("[exagg]\ncall_seconds_max = 60\npostgres_connections_max = 16\n{settings}");
    Setup::new()
        .manifest(&format!(
            "spin_manifest_version = 2\n[application]\nname = \"limits\"\n\
             [variables]\npostgres_url = {{ required = true, secret = true }}\n\
             [[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"{topic}\"]\ngroup = \"{name}\"\nbrokers = \"{}\"\n\
             start = \"earliest\"\nretry_attempts_max = 1\nretry_backoff_ms_min = 10\nretry_backoff_ms_max = 50\n\
             [component.guest]\nsource = \"{}/target/wasm32-wasip2/function/guest.wasm\"\n\
             key_value_stores = [\"default\"]\nallowed_outbound_hosts = [\"postgres://{}\"]\n\
             [component.guest.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
            world.kafka().brokers,
            root().display(),
            database.host,
        ))
        .configured(&settings)
        .variable("postgres_url", &database.url)
}

/// Sends the word between two harmless records; gives what came of it, and the host's peak memory and log.
fn ask(world: &World, database: &Database, asked: &str) -> (String, u64, String) {
    let (came, host) = ask_and_stay(world, database, asked);
    (came, host.peak_memory(), host.log())
}

/// The same with the host, which goes on.
fn ask_and_stay(world: &World, database: &Database, asked: &str) -> (String, Host) {
    let name = format!("limits-{asked}");
    let setup = setup(world, database, &name, 1, "");
    let sender = world.kafka().producer();
    for value in ["ok 1", asked, "ok 2"] {
        sender.send(&topic(&name), 0, Some(b"key"), Some(value.as_bytes()));
    }
    sender.flush();
    let host = setup.start();
    wait_for(&format!("three records of {asked}"), 2 * MINUTE, || {
        (database.number("SELECT count(*) FROM seen") == 3).then_some(())
    });
    (database.texts("SELECT value FROM seen WHERE value NOT LIKE 'ok%'").remove(0), host)
}

/// Take out: the places in `weight::row`.
pub fn rows_of_nothing_take_room_all_the_same(world: &World) {
    let (came, peak, _) = ask(world, &world.postgres.database(), "nulls");
    assert!(came.starts_with("nulls: refused: ") && came.contains("bytes of memory"), "{came}");
    assert!(peak < 400 * MEGABYTE, "{peak}");
}

/// A sequence counts what PostgreSQL made, also of a statement that was ended.
/// Take out: `Opened::end` in `query::run`.
pub fn a_statement_is_ended_when_its_result_is_refused(world: &World) {
    let database = world.postgres.database();
    let (came, ..) = ask(world, &database, "numbers");
    assert!(came.contains("bytes of memory") && came.ends_with("; the connection goes on"), "{came}");
    let made = database.number("SELECT last_value FROM made");
    assert!(made < 5_000_000, "{made} rows were made");
}

/// All calls wait for a lock, so that every partition has fetched what it may. Then everything is applied.
/// Take out: the partitions in `Share::room_kib`.
pub fn many_partitions_share_the_hosts_memory(world: &World) {
    const PARTITIONS: i32 = 64;
    const RECORDS: i64 = 3_000;
    let (database, name) = (world.postgres.database(), "limits-many");
    let setup = setup(world, &database, name, PARTITIONS, "memory_bytes_max = 134217728\n");
    // A queue holds a whole batch of the producer's at least.
    let sender = world.kafka().producer_with(&[("batch.size", "65536")]);
    let value = format!("ok {}", "x".repeat(1_000));
    for partition in 0..PARTITIONS {
        (0..RECORDS).for_each(|_| sender.send(&topic(name), partition, None, Some(value.as_bytes())));
    }
    sender.flush();
    let mut lock = database.client();
    lock.batch_execute("BEGIN; LOCK TABLE seen IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut host = setup.start();
    host.wait_for_log("joins the group again, with queues for 64 partitions", MINUTE);
    let (mut most, mut since) = (0, Instant::now());
    wait_for("memory that grows no more", MINUTE, || {
        let peak = host.peak_memory();
        if peak > most {
            (most, since) = (peak, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(8)).then_some(())
    });
    lock.batch_execute("ROLLBACK").unwrap();
    for partition in 0..PARTITIONS {
        wait_for(&format!("partition {partition}"), 2 * MINUTE, || {
            (world.kafka().group_offset(name, &topic(name), partition) == Some(RECORDS)).then_some(())
        });
    }
    println!("64 partitions with 3 MiB each: {} MiB at the peak", host.peak_memory() / MEGABYTE);
    assert!(host.peak_memory() < 150 * MEGABYTE, "{} MiB", host.peak_memory() / MEGABYTE);
}

/// Take out: the length in `InstancePg::content`.
pub fn builders_hold_no_more_than_addresses(world: &World) {
    let (came, peak, _) = ask(world, &world.postgres.database(), "builders");
    assert!(came.contains("the address is longer than 8192 bytes"), "{came}");
    assert!(peak < 400 * MEGABYTE, "{peak}");
}

/// Take out: the comparison of targets in `State::pool` and the account in `Pools::room`.
pub fn a_component_has_so_many_connections_however_it_spells_them(world: &World) {
    const COUNT: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                         AND application_name LIKE ANY (ARRAY['pool%', 'exagg'])";
    let database = world.postgres.database();
    let (most, ended) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let watch = {
        let (database, most, ended) = (database.clone(), Arc::clone(&most), Arc::clone(&ended));
        std::thread::spawn(move || {
            // One connection that looks, and is not counted; nor is the host's own.
            let mut client = database.client();
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(client.query_one(COUNT, &[]).unwrap().get(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let (came, _host) = ask_and_stay(world, &database, "pools");
    ended.store(true, Ordering::Relaxed);
    watch.join().unwrap();
    // One of the call's 16 connections is the one that writes the rows.
    assert_eq!(came, "pools: 15 at once, 40 one by one");
    let most = most.load(Ordering::Relaxed);
    // A server's process is still listed for a moment after its connection was closed, on a busy machine for longer.
    assert!((15..=24).contains(&most), "{most} connections");
    // When these moments are over there are as many as are open; without the limit all 40 would stay for a minute.
    std::thread::sleep(Duration::from_secs(1));
    let open = database.number(COUNT);
    assert!((15..=16).contains(&open), "{open} connections stay open");
}

/// Take out: the shared count (make one in `Log::lines`).
pub fn all_handles_of_a_call_share_what_it_may_log(world: &World) {
    let (came, peak, log) = ask(world, &world.postgres.database(), "handles");
    assert_eq!(came, "handles: written");
    let logged = log.matches('x').count();
    // A record may be given twice, in a batch and alone.
    assert!(logged <= 2 * 64 * 1024, "{logged} bytes were logged");
    assert!(log.contains("bytes of output in one call: the rest is dropped"), "{log}");
    assert!(peak < 400 * MEGABYTE, "{peak}");
}

/// Take out: `check` in `quota::change`.
pub fn a_store_has_a_quota(world: &World) {
    let (came, peak, _) = ask(world, &world.postgres.database(), "keys");
    assert!(came.starts_with("keys: 63 set, then ") && came.contains("full"), "{came}");
    assert!(came.ends_with("long key refused true, long value refused true"), "{came}");
    assert!(peak < 400 * MEGABYTE, "{peak}");
}
