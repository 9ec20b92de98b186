//! One closer for many streams, and the retention beside them.

use std::time::Duration;

use e2e::feed::Feed;
use e2e::{now, wait_for};

use super::{EXCHANGES, World, topic, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);

/// A closer whose schedule never comes: records wake it, when a window can be closed and not before. Take out: `wake_on`,
/// or the trigger of migration 0011.
pub fn a_window_is_closed_as_soon_as_it_can_be(world: &World) {
    let (database, name) = (world.postgres.database(), "closer-woken");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let host = world
        .setup(&database, name)
        .replace("cron_expression = \"* * * * * *\"", "cron_expression = \"0 0 0 29 2 *\"")
        .components(&EXCHANGES)
        .start();
    host.wait_until_ready();
    // As it comes: of a past nobody is told.
    let first = now() / 60 * 60 - 180;
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let rows = || database.number("SELECT count(*) FROM public.aggregates");
    feed.send(0, "A", 1.0, first);
    feed.send(1, "A", 2.0, first + 30);
    feed.flush();
    wait_for_records(&database, "exchanges", 2);
    // One partition is past the window's end and lateness, the other is not.
    feed.send(0, "A", 3.0, first + 66);
    feed.flush();
    wait_for_records(&database, "exchanges", 3);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows(), 0);
    feed.send(1, "A", 4.0, first + 67);
    feed.flush();
    wait_for("the window's row", Duration::from_secs(10), || (rows() == 1).then_some(()));
    assert_eq!(database.number("SELECT records FROM public.aggregates"), 2);
}

/// Take out: the workers beside the first in `close::tick`.
pub fn a_stream_that_cannot_be_closed_holds_no_other(world: &World) {
    let (database, name) = (world.postgres.database(), "closer-beside");
    for (of, partitions) in [(topic(name), 1), (format!("{name}.weather"), 1)] {
        world.kafka().create_topic(&of, partitions, &[]);
    }
    let mut exchanges = Feed::new(world.kafka(), &topic(name), 1);
    let mut weather = Feed::new(world.kafka(), &format!("{name}.weather"), 1);
    // The one that waits is the fresher one, and so the first.
    exchanges.spread(120, now() / 60 * 60 - 600, 120);
    weather.spread(120, now() / 60 * 60 - 3600, 120);
    let mut waiting = database.client();
    let mut waits = waiting.transaction().unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('exagg replay exchanges', 0))";
    let setup = || {
        world
            .setup(&database, name)
            .variable("weather_topic", &format!("{name}.weather"))
            .replace("key_field = \"city\"", "key_field = \"code\"")
            .replace("value_field = \"temperature\"", "value_field = \"volume\"")
            .replace("time_field = \"timestamp\"", "time_field = \"time\"")
    };
    let _aggregators = setup().components(&["aggregator-exchanges", "aggregator-weather"]).start();
    wait_for_records(&database, "exchanges", 120);
    wait_for_records(&database, "weather", 120);
    waits.execute(lock, &[]).unwrap();
    let _closer = setup().components(&["window-closer"]).start();
    wait_for("a closer that waits", MINUTE, || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        (database.number(waiting) > 0).then_some(())
    });
    // Without a second tick, which the one that waits holds up: it lasts 30 seconds.
    wait_for("the other stream's rows", Duration::from_secs(15), || {
        (database.number("SELECT count(*) FROM public.aggregates WHERE stream = 'weather'") >= 3).then_some(())
    });
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates WHERE stream = 'exchanges'"), 0);
    waits.commit().unwrap();
    for (stream, feed) in [("exchanges", exchanges), ("weather", weather)] {
        wait_until_closed(&database, stream);
        feed.oracle.assert_equal(&database, stream);
    }
}

/// Take out: `retention: ` in `close::tick`, with a `?` in its place before the streams' failures.
pub fn a_retention_that_fails_hides_no_stream_and_is_said(world: &World) {
    let (database, name) = (world.postgres.database(), "closer-retention");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    feed.spread(120, now() / 60 * 60 - 3600, 120);
    let mut host = world.setup(&database, name).components(&super::EXCHANGES).start();
    host.wait_until_ready();
    database
        .execute("ALTER TABLE public.gaps RENAME TO gaps_that_are_away; UPDATE public.retention SET next_at = now()");
    host.wait_for_log("retention: PostgreSQL: relation \"public.gaps\" does not exist", MINUTE);
    wait_for_records(&database, "exchanges", 120);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    // Mended, it is done within its minute, on whatever second a tick comes.
    database.execute(
        "ALTER TABLE public.gaps_that_are_away RENAME TO gaps;
         INSERT INTO public.gaps (seen_at, stream, topic, topic_id, partition, from_offset, next_offset, reason)
         VALUES (now() - interval '40 days', 's', 't', 'i', 0, 0, 1, 'old');
         UPDATE public.retention SET next_at = now()",
    );
    wait_for("the old row's end", Duration::from_secs(20), || {
        (database.number("SELECT count(*) FROM public.gaps") == 0).then_some(())
    });
}

/// A server's session keeps the plan of a tick's first statement, which it may have made while nothing was pending: it must not
/// read all that is pending ever after. Take out: `enable_seqscan` of `exagg_closer_look`.
pub fn a_plan_that_is_kept_reads_no_more_when_much_is_pending(world: &World) {
    const ROWS: i64 = 50_000;
    let database = world.postgres.database();
    let mut first = world.setup(&database, "kept-plan").components(&["dashboard"]).start();
    first.wait_until_ready();
    first.stop();
    database.execute(
        "INSERT INTO public.streams (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds,
             max_future_seconds, late) VALUES ('s', 60, 60, 5, 20, 60, 'revise')",
    );
    // As the server does it after a while, by itself.
    database.execute("VACUUM ANALYZE public.window_state");
    let mut session = database.client();
    let mut look = |times: usize| {
        (0..times).for_each(|_| drop(session.query_one("SELECT public.exagg_closer_look()", &[]).unwrap()));
    };
    // After five times a session may settle for one plan.
    look(10);
    database.execute(&format!(
        "INSERT INTO public.window_state (stream, window_end, window_start, code, topic, partition, records, sum_vol, min_vol,
             max_vol, first_edge, last_edge)
         SELECT 's', timestamp '2026-01-01' + number * interval '1 minute', timestamp '2026-01-01' + number * interval '1 minute',
             'A', 't', 0, 1, 1, 1, 1, 'b0', 'b0' FROM generate_series(1, {ROWS}) AS number"
    ));
    look(10);
    drop(session);
    let read = |column: &str| {
        database
            .number(&format!("SELECT coalesce({column}, 0) FROM pg_stat_user_tables WHERE relname = 'window_state'"))
    };
    // What a session has read is told when it ends.
    wait_for("what was read", MINUTE, || (read("idx_scan") + read("seq_scan") >= 20).then_some(()));
    assert!(read("seq_tup_read") < ROWS, "{} rows were read one after the other", read("seq_tup_read"));
}
