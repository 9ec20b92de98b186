//! Shapes of the log: transactions, compaction, partitions added while it is read.

use std::time::Duration;

use e2e::feed::Feed;
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);

fn past() -> i64 {
    now() / 60 * 60 - 1200
}

fn held_by(database: &e2e::database::Database) -> String {
    database.texts("SELECT watermark_held_by FROM public.streams").pop().unwrap_or_default()
}

/// Markers and aborted records are holes, at the log's end too.
/// Take out: `isolation.level`, or `builder.end_at` (the end of a partition as a position).
pub fn only_committed_transactions_count(world: &World) {
    let (database, name) = (world.postgres.database(), "transactions");
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[]);
    let sender = world.kafka().transactions(name);
    let time = past();
    let send = |count: i64| {
        for number in 0..count {
            sender.send(&topic, 0, None, Some(exchange("A", 1.0, time + number % 60).as_bytes()));
        }
    };
    let host = world.setup(&database, name).components(&EXCHANGES).start();
    for (records, commit) in [(100, true), (70, false), (1, true), (300, false), (50, true), (9, false)] {
        sender.begin();
        send(records);
        if commit { sender.commit() } else { sender.abort() }
    }
    wait_for_records(&database, "exchanges", 151);
    // Six markers and 530 records; the last ten offsets are an aborted transaction and its marker.
    wait_for("the log's end", MINUTE, || {
        (database.number("SELECT next_offset FROM public.progress") == 536).then_some(())
    });
    wait_until_closed(&database, "exchanges");
    assert_eq!(database.number("SELECT sum(records)::int8 FROM public.aggregates"), 151);
    assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0);
    // The log was not skipped: another reader begins at its end.
    wait_for("the commit", MINUTE, || {
        (world.kafka().group_offset("transactions-exchanges", &topic, 0) == Some(536)).then_some(())
    });
    drop(host);
}

/// Records that wait for their commit are there: the partition is not caught up, and its windows
/// stay open however long that takes.
/// Take out: the end that the broker told (`cached_end`) in `PartitionTask::report`.
pub fn an_open_transaction_holds_the_watermark(world: &World) {
    let (database, name) = (world.postgres.database(), "open-transaction");
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[]);
    let time = past();
    let plain = world.kafka().producer();
    plain.send(&topic, 0, None, Some(exchange("A", 1.0, time).as_bytes()));
    plain.flush();
    let sender = world.kafka().transactions(name);
    sender.begin();
    sender.send(&topic, 0, None, Some(exchange("A", 1.0, time + 1).as_bytes()));
    sender.flush();
    let _host = world.setup(&database, name).variable("idle_timeout_seconds", "2").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 1);
    wait_for("word of what is not committed", MINUTE, || held_by(&database).contains("still reading").then_some(()));
    // Longer than it takes to be idle.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates"), 0, "{}", held_by(&database));
    sender.commit();
    wait_until_closed(&database, "exchanges");
    assert_eq!(database.texts("SELECT concat_ws(' ', records, revision) FROM public.aggregates"), ["2 0"]);
}

/// What compaction took is no loss: no gap, no stop, and the rows of what is left.
pub fn a_compacted_topic_is_read_over_its_holes(world: &World) {
    let (database, name) = (world.postgres.database(), "compacted");
    let topic = topic(name);
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "1"),
    ];
    world.kafka().create_topic(&topic, 1, &settings);
    let sender = world.kafka().producer();
    let time = past();
    let padding = "x".repeat(10_000);
    // Each key has one record that stays.
    for number in 0..600 {
        let value = format!(
            r#"{{"code":"A","volume":{number},"time":"{}","padding":"{padding}"}}"#,
            super::utc(time + number % 60)
        );
        sender.send(&topic, 0, Some(format!("key {}", number % 7).as_bytes()), Some(value.as_bytes()));
    }
    sender.flush();
    let left = wait_for("compaction", MINUTE, || {
        let left = world.kafka().read_all(&topic, 1).len();
        (left < 300).then_some(left)
    });
    let mut host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for("the log's end", MINUTE, || {
        (database.number("SELECT next_offset FROM public.progress") == 600).then_some(())
    });
    wait_until_closed(&database, "exchanges");
    let counted = database.number("SELECT sum(records)::int8 FROM public.aggregates");
    assert!(counted > 0 && counted <= i64::try_from(left).unwrap(), "{counted} of {left}");
    // Everything that is still there was counted, whatever was compacted meanwhile.
    let last = "SELECT max_vol::int8 FROM public.aggregates ORDER BY max_vol DESC LIMIT 1";
    assert_eq!(database.number(last), 599);
    assert_eq!(database.number("SELECT count(*) FROM public.gaps"), 0);
    host.stop();
}

/// Take out: "partitions added later start at earliest" in `PartitionTask::first_offset`.
pub fn partitions_added_while_it_runs_are_read_from_their_start(world: &World) {
    let (database, name) = (world.postgres.database(), "grows");
    let topic = topic(name);
    world.kafka().create_topic(&topic, 3, &[]);
    let mut feed = Feed::new(world.kafka(), &topic, 3);
    let often = "\"topic.metadata.refresh.interval.ms\" = \"1000\", \"session.timeout.ms\" = \"6000\"";
    let _host = world
        .setup(&database, name)
        .replace("start = \"earliest\"", "start = \"latest\"")
        .replace("\"session.timeout.ms\" = \"6000\"", often)
        .components(&EXCHANGES)
        .start();
    wait_for("the start", MINUTE, || (database.number("SELECT count(*) FROM public.progress") == 3).then_some(()));
    feed.spread(900, past(), 300);
    wait_for_records(&database, "exchanges", 900);
    world.kafka().add_partitions(&topic, 6);
    feed.grow(world.kafka(), 6);
    // Some of them before anybody has noticed.
    feed.spread(1800, past(), 300);
    wait_for_records(&database, "exchanges", 2700);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    assert_eq!(database.number("SELECT count(*) FROM public.progress"), 6);
}
