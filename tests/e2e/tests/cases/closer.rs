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
