//! `exagg replay`: closed windows computed anew, beside the live pipeline.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::{Host, exagg};
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records, wait_until_closed};

/// Runs the command with the host's own manifest and variables, and gives what it printed.
pub(super) fn replay(world: &World, host: &Host, database: &Database, name: &str, more: &[&str]) -> String {
    let output = command(world, host, database, name, more).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    let left = "SELECT (SELECT count(*) FROM public.progress WHERE stream LIKE '%@replay')
                     + (SELECT count(*) FROM public.pending_parts WHERE stream LIKE '%@replay')
                     + (SELECT count(*) FROM public.replays) + (SELECT count(*) FROM public.exagg_claims)";
    assert_eq!(database.number(left), 0, "it leaves nothing behind");
    said.into_owned()
}

pub(super) fn command(world: &World, host: &Host, database: &Database, name: &str, more: &[&str]) -> Command {
    let mut command = Command::new(exagg());
    command
        .args(["replay", "--stream", "exchanges", "--app"])
        .arg(host.setup.folder())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .args(["--variable", &format!("postgres_host={}", database.host)])
        .args(["--variable", &format!("kafka_brokers={}", world.kafka().brokers)])
        .args(["--variable", &format!("kafka_host={}", world.kafka().brokers)])
        .args(["--variable", &format!("exchanges_topic={}", topic(name))])
        .args(more);
    command
}

fn rows(database: &Database) -> Vec<String> {
    database.texts("SELECT a::text FROM public.aggregates a ORDER BY 1")
}

/// What a compacted log still holds is not all that was counted: rows of other settings are made of it only where
/// somebody says so. Take out: `check_logs`.
pub fn a_compacted_log_makes_no_rows_of_other_settings_unasked(world: &World) {
    let (database, name) = (world.postgres.database(), "replaycompacted");
    world.kafka().create_topic(&topic(name), 2, &[("cleanup.policy", "compact,delete")]);
    let (sender, first) = (world.kafka().producer(), now() / 60 * 60 - 3600);
    for number in 0..200 {
        let (key, value) = (format!("key {number}"), exchange("A", 1.0, first + number * 3 / 5));
        sender.send(&topic(name), i32::try_from(number % 2).unwrap(), Some(key.as_bytes()), Some(value.as_bytes()));
    }
    sender.flush();
    let host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 200);
    wait_until_closed(&database, "exchanges");
    let before = rows(&database);
    let other = ["--from", "earliest", "--variable", "window_seconds=30"];
    let refused = command(world, &host, &database, name, &other).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("is compacted") && said.contains("--accept-compacted"),
        "{said}"
    );
    assert_eq!(rows(&database), before);
    let said = replay(world, &host, &database, name, &[&other[..], &["--accept-compacted"]].concat());
    assert!(rows(&database).len() > before.len(), "{said}");
}

/// A wrong setting is mended, and the windows that it spoilt are computed anew.
pub fn what_a_wrong_setting_spoilt_is_rebuilt(world: &World) {
    let (database, name) = (world.postgres.database(), "replay");
    world.kafka().create_topic(&topic(name), 3, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 3);
    let first = now() / 60 * 60 - 3600;
    feed.spread(600, first, 600);
    let wrong = world.setup(&database, name).replace("value_field = \"volume\"", "value_field = \"depth\"");
    let mut host = wrong.components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 600);
    wait_until_closed(&database, "exchanges");
    assert!(!feed.oracle.compare(&database, "exchanges").is_none());
    host.stop();
    // Mended; the live pipeline goes on with later windows, and the rows of before stay as they are.
    let mended = world.setup(&database, name).variable("on_settings_change", "from-now-on");
    let host = mended.components(&EXCHANGES).start();
    feed.spread(600, first + 600, 600);
    wait_for_records(&database, "exchanges", 1200);
    wait_until_closed(&database, "exchanges");
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("0 rows added, 30 changed, 0 deleted, 30 unchanged, 0 kept"), "{said}");
    feed.oracle.assert_equal(&database, "exchanges");
    // One process at a time; one that was killed is waited for no longer than its claim holds.
    let others = |expires: &str| {
        database.execute(&format!(
            "INSERT INTO public.exagg_claims VALUES ('replay of exchanges', 'somebody', now() + interval '{expires}')"
        ));
    };
    others("1 minute");
    let refused = command(world, &host, &database, name, &["--from", "earliest"]).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("another replay of the stream exchanges is under way"),
        "{error}"
    );
    database.execute("DELETE FROM public.exagg_claims");
    others("-1 second");
    // A second one finds nothing to do, and a part only its part.
    let before = rows(&database);
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("0 rows added, 0 changed, 0 deleted, 60 unchanged, 0 kept"), "{said}");
    let from = e2e::utc(first + 600).replace(' ', "T") + "Z";
    let to = e2e::utc(first + 900).replace(' ', "T") + "Z";
    let said = replay(world, &host, &database, name, &["--from", &from, "--to", &to]);
    assert!(said.contains("0 rows added, 0 changed, 0 deleted, 15 unchanged, 0 kept"), "{said}");
    assert_eq!(rows(&database), before);
}

/// Take out: a condition of `kept_for` in `migrations/definitions.sql`.
pub fn what_cannot_be_rebuilt_whole_is_listed_and_left(world: &World) {
    let (database, name) = (world.postgres.database(), "replay-left");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let first = now() / 60 * 60 - 3600;
    feed.spread(600, first, 600);
    let mut both = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 600);
    wait_until_closed(&database, "exchanges");
    both.stop();
    // Late records of one key are counted and wait for a closer: there is none now.
    let host = world.setup(&database, name).components(&["aggregator-exchanges"]).start();
    feed.send(0, "A", 5.0, first);
    feed.flush();
    wait_for_records(&database, "exchanges", 601);
    // Somebody has had a hand in two rows: one is less than it was, and one is more.
    database.execute(
        "UPDATE public.aggregates SET sum_vol = 0, records = records - 1 WHERE code = 'B' AND window_start =
             (SELECT min(window_start) FROM public.aggregates);
         UPDATE public.aggregates SET records = records + 1 WHERE code = 'C' AND window_start =
             (SELECT min(window_start) FROM public.aggregates)",
    );
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    // What was pending is in its row now.
    assert!(said.contains("0 rows added, 2 changed, 0 deleted, 27 unchanged, 1 kept"), "{said}");
    assert!(
        said.contains("kept, for the log holds fewer records than were counted: 1 rows (") && said.contains(" C)"),
        "{said}"
    );
    assert_eq!(database.number("SELECT count(*) FROM public.pending_parts"), 0);
    assert_eq!(
        database.number("SELECT records FROM public.aggregates WHERE code = 'A' ORDER BY window_start LIMIT 1"),
        21
    );
    feed.send(0, "A", 6.0, first);
    feed.flush();
    wait_for_records(&database, "exchanges", 603);
    // The log loses its beginning: nothing can be told of windows that old any more.
    let before = rows(&database);
    world.kafka().delete_records(&topic(name), 0, 100);
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("0 rows added, 0 changed, 0 deleted, 0 unchanged, 30 kept"), "{said}");
    assert!(said.contains("the log may not hold all its records any more"), "{said}");
    assert_eq!(rows(&database), before);
    // With a closer again the pending record is merged: nothing was lost over all this.
    drop(host);
    let _host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_until_closed(&database, "exchanges");
    wait_for("the late record", Duration::from_secs(30), || {
        (database.number("SELECT records FROM public.aggregates WHERE code = 'A' ORDER BY window_start LIMIT 1") == 22)
            .then_some(())
    });
}

/// Take out: `held_until` in `exagg_apply`, or the look for `behind` in `exagg_replay_apply`.
pub fn a_stream_that_is_written_all_the_while_is_replayed_whole(world: &World) {
    let (database, name) = (world.postgres.database(), "replay-busy");
    world.kafka().create_topic(&topic(name), 3, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 3);
    let first = now() / 60 * 60 - 3600;
    let wrong = world.setup(&database, name).replace("value_field = \"volume\"", "value_field = \"depth\"");
    let mut host = wrong.components(&EXCHANGES).start();
    feed.spread(20_000, first, 1_200);
    wait_for_records(&database, "exchanges", 20_000);
    host.stop();
    let mended = world.setup(&database, name).variable("on_settings_change", "from-now-on");
    let host = mended.components(&EXCHANGES).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            for batch in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                feed.spread(60, first + 1_200 + batch, 60);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        wait_for("records of now", Duration::from_secs(60), || {
            let counted = database.number("SELECT sum(records)::int8 FROM public.live_aggregates");
            (counted > 22_000).then_some(())
        });
        let said = replay(world, &host, &database, name, &["--from", "earliest"]);
        let is_idle = feeding.is_finished();
        stop.store(true, Ordering::Relaxed);
        assert!(
            !is_idle && !said.contains(" 0 changed") && said.contains(" 0 deleted") && said.contains(" 0 kept"),
            "{said}"
        );
    });
    wait_for_records(&database, "exchanges", feed.sent);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    // One that has not read all replaces nothing.
    let before = rows(&database);
    database.execute(
        "INSERT INTO public.replays (replay, made_by, since, until)
         VALUES ('exchanges@replay', 'x', '-infinity', 'infinity');
         INSERT INTO public.progress (stream, topic_id, partition, topic, next_offset, end_offset, partition_count,
                                      consumer_group)
         SELECT 'exchanges@replay', topic_id, partition, topic, next_offset - partition, end_offset, partition_count, 'x'
         FROM public.progress WHERE stream = 'exchanges'",
    );
    let apply = "SELECT outcome FROM public.exagg_replay_apply('exchanges', 'exchanges@replay', NULL, '-infinity',
                                                                'infinity')";
    assert_eq!(database.texts(apply), ["behind"]);
    assert_eq!(rows(&database), before);
}

/// Take out: the lock `exagg replay` in the window-closer's `TAKE_WINDOWS`.
pub fn a_replay_and_a_closer_do_not_fold_the_same_windows(world: &World) {
    let (database, name) = (world.postgres.database(), "replay-closer");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    let mut replaying = database.client();
    let mut replaces = replaying.transaction().unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('exagg replay exchanges', 0))";
    let waits = |what: &str| {
        wait_for(what, Duration::from_secs(60), || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            (database.number(waiting) > 0).then_some(())
        });
    };
    let refresh = "\"session.timeout.ms\" = \"6000\", \"topic.metadata.refresh.interval.ms\" = \"500\"";
    let setup = world.setup(&database, name).replace("\"session.timeout.ms\" = \"6000\"", refresh);
    let host = setup.components(&EXCHANGES).start();
    host.wait_until_ready();
    wait_for("the first partition", Duration::from_secs(60), || {
        (database.number("SELECT count(*) FROM public.progress") == 1).then_some(())
    });
    replaces.execute(lock, &[]).unwrap();
    // A partition that is added begins behind it.
    world.kafka().add_partitions(&topic(name), 2);
    feed.grow(world.kafka(), 2);
    waits("the aggregator to wait");
    assert_eq!(database.number("SELECT count(*) FROM public.progress"), 1);
    replaces.commit().unwrap();
    feed.spread(60, now() / 60 * 60 - 3600, 60);
    wait_for_records(&database, "exchanges", 60);
    let mut replaces = replaying.transaction().unwrap();
    replaces.execute(lock, &[]).unwrap();
    waits("the closer to wait");
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates"), 0);
    replaces.commit().unwrap();
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
}

/// With a wrong zone the times were ahead, and the watermark as well: once they are right, what comes is not late. Take
/// out: the watermark, or the highest event times, in `exagg_replay_apply`.
pub fn times_that_were_ahead_make_nothing_late_when_they_are_right(world: &World) {
    let (database, name) = (world.postgres.database(), "replay-ahead");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let first = now() / 60 * 60 - 24 * 3600;
    feed.spread(600, first, 600);
    let setup = |zone: &str| {
        world
            .setup(&database, name)
            .replace("time_zone = \"UTC\"", &format!("time_zone = \"{zone}\""))
            .variable("late", "reject")
            .variable("idle_timeout_seconds", "3600")
            .components(&EXCHANGES)
    };
    let mut wrong = setup("Etc/GMT+5").start();
    wait_for_records(&database, "exchanges", 600);
    wait_for("closed windows", Duration::from_secs(60), || {
        (database.number("SELECT count(*) FROM public.aggregates") == 27).then_some(())
    });
    wrong.stop();
    let host = setup("UTC").start();
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("30 rows added, 0 changed, 27 deleted, 0 unchanged, 0 kept"), "{said}");
    feed.spread(600, first + 600, 600);
    wait_for_records(&database, "exchanges", 1_200);
    wait_for("closed windows", Duration::from_secs(60), || {
        (database.number("SELECT count(*) FROM public.aggregates") == 57).then_some(())
    });
    assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0);
}
