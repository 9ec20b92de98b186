//! Processes that die, stop and come back; lines that are cut; servers that go away. Whatever
//! happens, the rows are those of an undisturbed run.

use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::gate::Gate;
use e2e::host::{Host, Setup};
use e2e::kafka::Kafka;
use e2e::{http, wait_for};

use super::{EXCHANGES, World, now, topic, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A time whose windows have all ended.
fn past() -> i64 {
    now() / 60 * 60 - 1200
}

/// Where PostgreSQL is reached through a gate.
fn through(setup: Setup, database: &Database, gate: &Gate) -> Setup {
    let url = database.url.replace(&database.host, &gate.address());
    setup.variable("postgres_url", &url).variable("postgres_host", &gate.address())
}

fn progress(database: &Database) -> i64 {
    database.number("SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
}

fn wait_for_progress(database: &Database, records: i64) {
    wait_for(&format!("progress {records}"), MINUTE * 3, || (progress(database) >= records).then_some(()));
}

/// All is read, closed, and equal to what was sent.
fn assert_exact(database: &Database, feed: &Feed) {
    wait_for_progress(database, feed.sent);
    wait_until_closed(database, "exchanges");
    feed.oracle.assert_equal(database, "exchanges");
    assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0);
    assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0);
}

fn wait_for_commit(world: &World, name: &str, partition: i32, offset: i64) {
    let group = format!("{name}-exchanges");
    wait_for("the commit", MINUTE, || {
        (world.kafka().group_offset(&group, &topic(name), partition) == Some(offset)).then_some(())
    });
}

fn partitions_of(host: &Host) -> Option<usize> {
    let status = http::try_get(host.admin, "/status").filter(|answer| answer.status == 200)?.json();
    Some(status["stages"].as_array()?.iter().filter_map(|stage| stage["partitions"].as_array()).map(Vec::len).sum())
}

/// A batch is written and its answer is held back: the host does not know.
fn written_and_not_answered(world: &World, name: &str) -> (Database, Gate, Feed, Host) {
    let database = world.postgres.database();
    world.kafka().create_topic(&topic(name), 1, &[]);
    let gate = Gate::opened(&database.host);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    feed.spread(300, past(), 300);
    let setup = through(world.setup(&database, name), &database, &gate).components(&["aggregator-exchanges"]);
    let host = setup.start();
    wait_for_commit(world, name, 0, 300);
    gate.hold_answers();
    feed.spread(200, past(), 300);
    wait_for_progress(&database, 301);
    (database, gate, feed, host)
}

fn closer(world: &World, database: &Database, name: &str) -> Host {
    world.setup(database, name).components(&["window-closer"]).start()
}

/// Take out: `AND next_offset = $4` in the aggregator's `APPLY_EMPTY`, by which a reader begins.
pub fn kill_9_between_the_write_and_the_commit(world: &World) {
    let name = "killed-between";
    let (database, gate, feed, mut host) = written_and_not_answered(world, name);
    host.kill();
    assert_eq!(world.kafka().group_offset("killed-between-exchanges", &topic(name), 0), Some(300));
    gate.open();
    host.restart();
    wait_for_commit(world, name, 0, 500);
    let _closer = closer(world, &database, name);
    assert_exact(&database, &feed);
}

/// Take out: `AND p.next_offset = from_offset` in `exagg_apply`.
pub fn a_lost_answer_is_not_applied_again(world: &World) {
    let name = "lost-answer";
    let (database, gate, feed, mut host) = written_and_not_answered(world, name);
    gate.close();
    gate.open();
    host.wait_for_log("batch not applied", MINUTE);
    wait_for_commit(world, name, 0, 500);
    let _closer = closer(world, &database, name);
    assert_exact(&database, &feed);
}

/// Take out: `running` in `Stages::drain` (leave without waiting for the batch).
pub fn sigterm_in_the_middle_of_a_batch_ends_it_first(world: &World) {
    let name = "sigterm";
    let (database, gate, feed, mut host) = written_and_not_answered(world, name);
    host.signal("TERM");
    host.wait_for_log("stopping", MINUTE);
    gate.open();
    assert!(host.wait(MINUTE).success());
    let committed = world.kafka().group_offset("sigterm-exchanges", &topic(name), 0);
    assert_eq!(committed, Some(progress(&database)), "what is applied is committed before the host leaves");
    host.restart();
    let _closer = closer(world, &database, name);
    assert_exact(&database, &feed);
}

/// Take out: the wait in `pre_rebalance` (let the partition go at once) and the fence.
pub fn a_partition_is_revoked_with_a_batch_in_flight(world: &World) {
    let (database, name) = (world.postgres.database(), "revoked");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let gate = Gate::opened(&database.host);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    feed.spread(1000, past(), 300);
    // With connections that are kept one may do for both partitions.
    let setup = world.setup(&database, name).replace("\nreuse = true", "");
    let first = through(setup, &database, &gate).components(&EXCHANGES).start();
    wait_for_progress(&database, 1000);
    // A batch that is to get through needs a connection that is put back and does not have to greet.
    wait_for("idle connections", MINUTE, || {
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                    AND application_name = 'exagg' AND query LIKE 'DISCARD%'";
        // Two of the aggregator, and the window-closer's.
        (database.number(idle) >= 3).then_some(())
    });
    gate.hold_answers();
    feed.spread(1000, past(), 300);
    // Both partitions have a batch in flight when the second host comes.
    wait_for_progress(&database, 1002);
    let second = world.setup(&database, name).components(&EXCHANGES).start();
    second.wait_until_ready();
    gate.open();
    wait_for("a partition each", MINUTE, || {
        (partitions_of(&first) == Some(1) && partitions_of(&second) == Some(1)).then_some(())
    });
    feed.spread(1000, past(), 300);
    assert_exact(&database, &feed);
}

/// A host that stands still in the middle of a statement, is replaced, and wakes up.
/// Take out: `AND p.next_offset = from_offset` in `exagg_apply`.
pub fn a_zombie_applies_nothing_twice(world: &World) {
    let (database, name) = (world.postgres.database(), "zombie");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let gate = Gate::opened(&database.host);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    feed.spread(1000, past(), 300);
    let mut zombie = through(world.setup(&database, name), &database, &gate).components(&EXCHANGES).start();
    wait_for_progress(&database, 1000);
    // Its statements are on their way when it stops.
    gate.hold();
    feed.spread(1000, past(), 300);
    zombie.wait_until_busy();
    zombie.signal("STOP");
    let heir = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for_progress(&database, 2000);
    gate.open();
    zombie.signal("CONT");
    feed.spread(1000, past(), 300);
    wait_for("a partition each", MINUTE, || {
        (partitions_of(&zombie) == Some(1) && partitions_of(&heir) == Some(1)).then_some(())
    });
    assert_exact(&database, &feed);
    zombie.kill();
}

/// A batch takes longer than `max.poll.interval.ms`: the consumer polls meanwhile, and keeps the
/// partition. Take out: the poll thread's own loop (poll between batches).
pub fn a_slow_batch_outlives_max_poll(world: &World) {
    let (database, name) = (world.postgres.database(), "slow");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let gate = Gate::opened(&database.host);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    feed.spread(300, past(), 300);
    let limits = "\"max.poll.interval.ms\" = \"6000\", \"session.timeout.ms\" = \"6000\"";
    let setup = world.setup(&database, name).replace("\"session.timeout.ms\" = \"6000\"", limits);
    let host = through(setup, &database, &gate).components(&EXCHANGES).start();
    wait_for_commit(world, name, 0, 300);
    gate.hold();
    feed.spread(300, past(), 300);
    host.wait_until_busy();
    // The length of the fault, not a wait for something.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(partitions_of(&host), Some(1), "the partition was lost");
    gate.open();
    assert_exact(&database, &feed);
    assert!(!host.log().contains("max.poll.interval.ms"), "{}", host.log());
}

/// How long a server is away: `OUTAGE_SECONDS`, which `make soak` sets to minutes.
fn outage_or(seconds: u64) -> Duration {
    let given = std::env::var("OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(seconds))
}

/// Take out: the bound of the fetch queue, or dead-letter what PostgreSQL's absence fails.
pub fn postgresql_is_away_under_load(world: &World) {
    let outage = outage_or(20);
    let (database, name) = (world.postgres.database(), "pg-away");
    world.kafka().create_topic(&topic(name), 4, &[]);
    let gate = Gate::opened(&database.host);
    let mut feed = Feed::new(world.kafka(), &topic(name), 4);
    feed.spread(10_000, past(), 300);
    let host = through(world.setup(&database, name), &database, &gate).components(&EXCHANGES).start();
    wait_for_progress(&database, 10_000);
    let before = host.peak_memory();
    gate.close();
    let ends = std::time::Instant::now() + outage;
    while std::time::Instant::now() < ends {
        feed.spread(20_000, past(), 300);
        // What piles up is Kafka's; minutes of it must still be read again in time.
        std::thread::sleep(outage / 100);
    }
    assert_eq!(http::get(host.admin, "/readyz").status, 503);
    gate.open();
    assert_exact(&database, &feed);
    host.wait_until_ready();
    let peak = host.peak_memory();
    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!("{name}: {} records; the host's peak memory was {} MiB, {} before", feed.sent, mib(peak), mib(before));
    assert!(peak < MEMORY_BYTES_MAX, "the host took {peak} bytes");
}

pub fn kafka_is_away_under_load(world: &World) {
    let (database, name) = (world.postgres.database(), "kafka-away");
    let mut kafka = Kafka::start();
    kafka.create_topic(&topic(name), 4, &[]);
    let mut feed = Feed::new(&kafka, &topic(name), 4);
    let host = on(&kafka, world.setup(&database, name)).components(&EXCHANGES).start();
    for round in 1..=3 {
        feed.spread(20_000, past(), 300);
        // In the middle of reading, not after it.
        wait_for_progress(&database, (round - 1) * 20_000 + 1);
        kafka.kill();
        wait_for("not ready", MINUTE, || (http::get(host.admin, "/readyz").status == 503).then_some(()));
        std::thread::sleep(outage_or(2) / 3);
        kafka.resume();
        host.wait_until_ready();
    }
    assert_exact(&database, &feed);
    let peak = host.peak_memory();
    println!("{name}: {} records; the host's peak memory was {} MiB", feed.sent, peak / (1024 * 1024));
    assert!(peak < MEMORY_BYTES_MAX, "the host took {peak} bytes");
}

fn on(kafka: &Kafka, setup: Setup) -> Setup {
    setup.variable("kafka_brokers", &kafka.brokers).variable("kafka_host", &kafka.brokers)
}

/// Half of the partitions, and the group's coordinator at times, move to another broker.
pub fn a_broker_dies_and_another_leads(world: &World) {
    let (database, name) = (world.postgres.database(), "leader");
    let settings = "offsets.topic.replication.factor=2\noffsets.topic.num.partitions=2\n\
                    replica.lag.time.max.ms=2000\nmin.insync.replicas=1";
    let first = Kafka::start_with(settings);
    let mut second = first.join(settings);
    wait_for("two brokers", MINUTE, || (first.broker_count() == 2).then_some(()));
    first.create_replicated_topic(&topic(name), 4, 2, &[]);
    let mut feed = Feed::new(&first, &topic(name), 4);
    feed.spread(20_000, past(), 300);
    let host = on(&first, world.setup(&database, name)).components(&EXCHANGES).start();
    for round in 1..=2 {
        wait_for_progress(&database, round * 20_000);
        second.kill();
        feed.spread(10_000, past(), 300);
        wait_for_progress(&database, round * 20_000 + 10_000);
        second.resume();
        feed.spread(10_000, past(), 300);
    }
    assert_exact(&database, &feed);
    host.wait_until_ready();
}

/// Take out: the function's own progress (`Decision::ResumeAt`), or let `start` apply again.
pub fn scaled_to_nothing_and_back_without_committed_offsets(world: &World) {
    let (database, name) = (world.postgres.database(), "expired");
    world.kafka().create_topic(&topic(name), 3, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 3);
    let setup = || world.setup(&database, name).replace("start = \"earliest\"", "start = \"latest\"");
    let mut host = setup().components(&EXCHANGES).start();
    wait_for("the start", MINUTE, || (database.number("SELECT count(*) FROM public.progress") == 3).then_some(()));
    feed.spread(3000, past(), 300);
    wait_for_progress(&database, 3000);
    host.stop();
    // Nobody reads; what comes now must be read by whoever comes next.
    feed.spread(3000, past(), 300);
    world.kafka().delete_group("expired-exchanges");
    assert_eq!(world.kafka().group_offset("expired-exchanges", &topic(name), 0), None);
    let _hosts: Vec<_> = (0..3).map(|_| setup().components(&EXCHANGES).start()).collect();
    feed.spread(3000, past(), 300);
    assert_exact(&database, &feed);
}

/// Every host has a closer: two and three close at once while others add.
/// Take out: `gone` in `CLOSE_WINDOWS` (fold a second read of the table), or the merge.
pub fn one_host_three_and_one_again_give_the_same_rows(world: &World) {
    let (database, name) = (world.postgres.database(), "scaled");
    world.kafka().create_topic(&topic(name), 6, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 6);
    let start = || world.setup(&database, name).components(&EXCHANGES).start();
    // Each round is of the same windows: what was closed is revised, again and again.
    let mut round = |records: i64| {
        feed.spread(30_000, past(), 600);
        wait_for_progress(&database, records);
    };
    let first = start();
    round(30_000);
    let mut others = [start(), start()];
    wait_for("two partitions each", MINUTE, || {
        let spread = |host: &Host| partitions_of(host) == Some(2);
        (spread(&first) && others.iter().all(spread)).then_some(())
    });
    round(60_000);
    others[0].kill();
    round(90_000);
    others[1].stop();
    round(120_000);
    assert_exact(&database, &feed);
    assert!(database.number("SELECT max(revision)::int8 FROM public.aggregates") > 0);
}
