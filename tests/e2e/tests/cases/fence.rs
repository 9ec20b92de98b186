//! The offset fence: whatever Kafka's offsets say, each record is applied once, and what is gone
//! is said.

use std::time::Duration;

use e2e::database::Database;
use e2e::gate::Gate;
use e2e::host::{Host, Setup};
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records};

const MINUTE: Duration = Duration::from_secs(60);

/// Sends records of code `A`, one a second, from `first` on.
fn send(world: &World, topic: &str, partition: i32, count: i64, first: i64) {
    let sender = world.kafka().producer();
    for number in 0..count {
        sender.send(topic, partition, None, Some(exchange("A", 1.0, first + number % 60).as_bytes()));
    }
    sender.flush();
}

fn progress(database: &Database) -> i64 {
    database.number("SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
}

/// Take out: `AND next_offset = $4` in the aggregator's `APPLY_EMPTY`, by which a reader begins.
pub fn redelivered_records_are_not_counted_again(world: &World) {
    let database = world.postgres.database();
    let topic = topic("redelivered");
    world.kafka().create_topic(&topic, 1, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 500, time);
    let mut host = world.setup(&database, "redelivered").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 500);
    host.stop();
    assert_eq!(world.kafka().group_offset("redelivered-exchanges", &topic, 0), Some(500));
    world.kafka().set_group_offset("redelivered-exchanges", &topic, 0, 100);
    send(world, &topic, 0, 500, time);
    host.restart();
    wait_for("all records", MINUTE, || (progress(&database) == 1000).then_some(()));
    wait_for_records(&database, "exchanges", 1000);
    // The group follows the function's own progress again.
    wait_for("the commit", MINUTE, || {
        (world.kafka().group_offset("redelivered-exchanges", &topic, 0) == Some(1000)).then_some(())
    });
}

/// Take out: `Decision::ResumeAt` for a progress below the batch.
pub fn skipped_records_are_read_after_all(world: &World) {
    let database = world.postgres.database();
    let topic = topic("skipped");
    world.kafka().create_topic(&topic, 1, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let mut host = world.setup(&database, "skipped").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    send(world, &topic, 0, 400, time);
    world.kafka().set_group_offset("skipped-exchanges", &topic, 0, 450);
    host.restart();
    wait_for_records(&database, "exchanges", 500);
    assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0);
}

fn make_a_gap(world: &World, name: &str, setup: Setup, database: &Database) -> Host {
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let mut host = setup.components(&EXCHANGES).start();
    wait_for_records(database, "exchanges", 100);
    host.stop();
    send(world, &topic, 0, 400, time);
    world.kafka().delete_records(&topic, 0, 300);
    host.restart();
    host
}

fn gap(database: &Database) -> Vec<String> {
    database.texts("SELECT concat_ws(' ', stream, partition, from_offset, next_offset) FROM public.gaps")
}

pub fn deleted_records_are_a_gap_and_stop_the_partition(world: &World) {
    let database = world.postgres.database();
    let mut host = make_a_gap(world, "gap-stop", world.setup(&database, "gap-stop"), &database);
    host.wait_for_log("the partition is stopped", MINUTE);
    assert_eq!(gap(&database), ["exchanges 0 100 300"]);
    assert_eq!(progress(&database), 100);
    let status = host.admin("/status").json();
    let partition = status["stages"].as_array().unwrap().iter().find_map(|stage| stage["partitions"].get(0)).unwrap();
    assert_eq!(partition["state"], "stopped", "{status}");
    // Nothing is applied, and all that says how it stands knows: readiness, metrics, the lag that grows.
    let ready = host.admin("/readyz");
    assert!(ready.status == 503 && ready.body.contains("is stopped"), "{} {}", ready.status, ready.body);
    send(world, &topic("gap-stop"), 0, 50, now() / 60 * 60 - 600);
    wait_for("the lag of a partition that is stopped", MINUTE, || {
        let metrics = host.admin("/metrics").body;
        let stopped = metrics.lines().any(|line| line.contains("state=\"stopped\"") && line.ends_with(" 1"));
        let is_behind = |line: &str| line.starts_with("exagg_kafka_lag_records{") && line.ends_with(" 450");
        (stopped && metrics.lines().any(is_behind)).then_some(())
    });
}

pub fn deleted_records_are_skipped_where_told_so(world: &World) {
    let database = world.postgres.database();
    let setup = world
        .setup(&database, "gap-continue")
        .replace("start = \"earliest\"", "start = \"earliest\"\non_gap = \"continue\"");
    let _host = make_a_gap(world, "gap-continue", setup, &database);
    wait_for_records(&database, "exchanges", 300);
    assert_eq!(gap(&database), ["exchanges 0 100 300"]);
    assert_eq!(progress(&database), 500);
}

/// The reader runs, is held back, and finds its position gone: it must be able to go on.
pub fn records_deleted_under_a_running_reader_are_skipped_where_told_so(world: &World) {
    let database = world.postgres.database();
    let topic = topic("gap-live");
    world.kafka().create_topic(&topic, 1, &[]);
    let gate = Gate::opened(&database.host);
    let url = database.url.replace(&database.host, &gate.address());
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let _host = world
        .setup(&database, "gap-live")
        .replace("start = \"earliest\"", "start = \"earliest\"\non_gap = \"continue\"")
        .variable("postgres_url", &url)
        .variable("postgres_host", &gate.address())
        .components(&EXCHANGES)
        .start();
    wait_for_records(&database, "exchanges", 100);
    gate.close();
    // Far more than is fetched ahead.
    send(world, &topic, 0, 200_000, time);
    world.kafka().delete_records(&topic, 0, 200_000);
    gate.open();
    wait_for("the end", MINUTE, || (progress(&database) == 200_100).then_some(()));
    let lost = database.number("SELECT coalesce(sum(next_offset - from_offset), 0)::int8 FROM public.gaps");
    assert!(lost > 10_000, "{:?}", gap(&database));
    wait_for_records(&database, "exchanges", 200_100 - lost);
}

pub fn a_recreated_topic_stops_loudly_until_it_is_reset(world: &World) {
    let database = world.postgres.database();
    let topic = topic("made-again");
    world.kafka().create_topic(&topic, 1, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let mut host = world.setup(&database, "made-again").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    world.kafka().delete_topic(&topic);
    wait_for("the topic's end", MINUTE, || {
        std::panic::catch_unwind(|| world.kafka().create_topic(&topic, 1, &[])).ok()
    });
    // It has grown past the old position.
    send(world, &topic, 0, 150, time);
    host.restart();
    host.wait_for_log("exagg reset --stream exchanges", MINUTE);
    assert_eq!(progress(&database), 100);
    let status = std::process::Command::new(e2e::host::exagg())
        .args(["reset", "--stream", "exchanges", "--topic", &topic, "--from"])
        .arg(host.setup.folder())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .args(["--variable", &format!("kafka_brokers={}", world.kafka().brokers)])
        .status()
        .unwrap();
    assert!(status.success());
    // The host that runs goes on by itself.
    wait_for_records(&database, "exchanges", 250);
    assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0);
}

/// A host of a stream that was just first seen, at the end of a topic of one partition.
fn first_seen(world: &World, database: &Database, name: &str) -> Host {
    world.kafka().create_topic(&topic(name), 1, &[]);
    let setup = world.setup(database, name).replace("start = \"earliest\"", "start = \"latest\"");
    let host = setup.components(&EXCHANGES).start();
    wait_for("the first partition", MINUTE, || {
        (database.number("SELECT count(*) FROM public.progress") == 1).then_some(())
    });
    host
}

pub fn partitions_added_later_are_read_from_their_start(world: &World) {
    let database = world.postgres.database();
    let topic = topic("grown");
    let time = now() / 60 * 60 - 600;
    // A stream first seen starts at its end; partitions added later do not.
    let mut host = first_seen(world, &database, "grown");
    send(world, &topic, 0, 100, time);
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    world.kafka().add_partitions(&topic, 3);
    send(world, &topic, 1, 50, time);
    send(world, &topic, 2, 50, time);
    host.restart();
    wait_for_records(&database, "exchanges", 200);
    assert_eq!(database.number("SELECT count(*) FROM public.progress WHERE partition_count = 3"), 3);
}

/// Take out: `other` in the aggregator's `WRITE_SETTINGS`.
pub fn two_stages_do_not_take_turns_at_the_settings_of_a_stream(world: &World) {
    let database = world.postgres.database();
    for name in ["turns-a", "turns-b"] {
        world.kafka().create_topic(&topic(name), 1, &[]);
    }
    let time = now() / 60 * 60 - 600;
    let mut first = world.setup(&database, "turns-a").components(&EXCHANGES).start();
    wait_for("the first stage", MINUTE, || {
        (database.number("SELECT window_seconds FROM public.streams") == 60).then_some(())
    });
    let mut second = world
        .setup(&database, "turns-b")
        .variable("window_seconds", "30")
        .components(&["aggregator-exchanges"])
        .start();
    send(world, &topic("turns-b"), 0, 10, time);
    second.wait_for_log("by other settings", MINUTE);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(database.number("SELECT window_seconds FROM public.streams"), 60);
    assert_eq!((progress(&database), second.admin("/readyz").status), (0, 503));
    first.stop();
    // The one that is there now may have what it asks for.
    wait_for_records(&database, "exchanges", 10);
    assert_eq!(database.number("SELECT window_seconds FROM public.streams"), 30);
}

/// Only `progress` knows what the stream had when it was first seen. Take out: `first_partition_count` in the
/// aggregator's `BEGIN_PARTITION`.
pub fn partitions_added_while_the_groups_offsets_are_gone_are_read(world: &World) {
    let database = world.postgres.database();
    let topic = topic("orphans");
    let time = now() / 60 * 60 - 600;
    let mut host = first_seen(world, &database, "orphans");
    send(world, &topic, 0, 100, time);
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    world.kafka().add_partitions(&topic, 3);
    send(world, &topic, 1, 50, time);
    send(world, &topic, 2, 50, time);
    world.kafka().delete_group("orphans-exchanges");
    host.restart();
    wait_for_records(&database, "exchanges", 200);
}

/// What `progress` lost and the group shows was there is read again, by the policy, and said.
/// Take out: the question at the policy's start in `PartitionTask::begin`.
pub fn an_emptied_database_is_filled_again_whatever_the_group_committed(world: &World) {
    let database = world.postgres.database();
    let topic = topic("emptied");
    world.kafka().create_topic(&topic, 1, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let mut host = world.setup(&database, "emptied").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    assert_eq!(world.kafka().group_offset("emptied-exchanges", &topic, 0), Some(100));
    database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    send(world, &topic, 0, 20, time);
    host.restart();
    wait_for_records(&database, "exchanges", 120);
    assert!(host.log().contains("had applied everything below offset 100"), "{}", host.log());
    let admin = format!("127.0.0.1:{}", host.admin);
    let status = host.command_with("status", &["--admin", &admin], "EXAGG_ADMIN_TOKEN", None);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("offsets 0 to 99 were applied before"), "{status}");
}

/// The group knows the partition, the database that was restored does not. Take out: the same.
pub fn a_database_from_before_a_partition_was_added_has_it_read_from_its_start(world: &World) {
    let database = world.postgres.database();
    let topic = topic("restored");
    let time = now() / 60 * 60 - 600;
    let mut host = first_seen(world, &database, "restored");
    host.stop();
    world.kafka().add_partitions(&topic, 2);
    send(world, &topic, 1, 50, time);
    host.restart();
    wait_for_records(&database, "exchanges", 50);
    host.stop();
    assert_eq!(world.kafka().group_offset("restored-exchanges", &topic, 1), Some(50));
    // As it was before: neither the partition nor what was counted of it.
    database.execute(
        "DELETE FROM public.progress WHERE partition = 1;
         TRUNCATE public.aggregates, public.window_state, public.window_batches",
    );
    send(world, &topic, 1, 30, time);
    host.restart();
    wait_for_records(&database, "exchanges", 80);
}

/// librdkafka (2.12) joins anew when it sees new partitions, also in the middle of a rebalance, and takes part in none
/// after that: the whole group waited for it, for five minutes. Take out: `is_left_behind` in the consumer's `assign`.
pub fn a_topic_that_grows_while_partitions_go_is_read_to_its_end(world: &World) {
    let (database, name) = (world.postgres.database(), "grows-midway");
    let (topic, time) = (topic(name), now() / 60 * 60 - 600);
    world.kafka().create_topic(&topic, 4, &[]);
    let gate = Gate::opened(&database.host);
    let url = database.url.replace(&database.host, &gate.address());
    let host = || world.setup(&database, name).components(&["aggregator-exchanges"]);
    let mut first = host().variable("postgres_url", &url).variable("postgres_host", &gate.address()).start();
    (0..4).for_each(|partition| send(world, &topic, partition, 10, time));
    wait_for("the first records", MINUTE, || (progress(&database) == 40).then_some(()));
    // Its batches in flight do not end, and the partitions that are to go are waited for.
    gate.hold();
    (0..4).for_each(|partition| send(world, &topic, partition, 10, time));
    let mut second = host().start();
    first.wait_for_log("partitions go", MINUTE);
    world.kafka().add_partitions(&topic, 6);
    // A client looks every ten seconds.
    std::thread::sleep(Duration::from_secs(12));
    gate.open();
    first.wait_for_log("joins the group again: the topic was given partitions", MINUTE);
    second.kill();
    (0..6).for_each(|partition| send(world, &topic, partition, 10, time));
    // Those of the one that died are free when its session has ended.
    wait_for("all records", Duration::from_secs(45), || (progress(&database) == 140).then_some(()));
}

pub fn a_stream_first_seen_starts_at_the_end(world: &World) {
    let database = world.postgres.database();
    let topic = topic("latest");
    world.kafka().create_topic(&topic, 2, &[]);
    let time = now() / 60 * 60 - 600;
    send(world, &topic, 0, 100, time);
    let setup = world.setup(&database, "latest").replace("start = \"earliest\"", "start = \"latest\"");
    let mut host = setup.components(&EXCHANGES).start();
    wait_for("the start", MINUTE, || (database.number("SELECT count(*) FROM public.progress") == 2).then_some(()));
    // The start is written down before anything is consumed: what comes while nobody reads counts.
    host.kill();
    send(world, &topic, 0, 10, time);
    send(world, &topic, 1, 10, time);
    host.restart();
    wait_for_records(&database, "exchanges", 20);
}
