//! Windows: any fields and formats, hopping, lateness, idleness.

use std::time::Duration;

use e2e::feed::Feed;
use e2e::oracle::{Counted, Oracle};
use e2e::wait_for;

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records, wait_until_closed};

/// A window of 1 h with a slide of 15 min, in three formats with other field names.
pub fn any_field_names_formats_and_hopping_windows(world: &World) {
    for (format, write) in [
        ("unix_millis", (|time: i64| (time * 1000).to_string()) as fn(i64) -> String),
        ("rfc3339", |time| format!("\"{}+00:00\"", super::utc(time).replace(' ', "T"))),
        ("%d.%m.%Y %H:%M:%S", |time| {
            let text = super::utc(time);
            format!("\"{}.{}.{} {}\"", &text[8..10], &text[5..7], &text[..4], &text[11..])
        }),
    ] {
        let database = world.postgres.database();
        let name = format!("fields-{}", format.chars().filter(char::is_ascii_alphanumeric).collect::<String>());
        let topic = topic(&name);
        world.kafka().create_topic(&topic, 2, &[]);
        let sender = world.kafka().producer();
        let mut oracle = Oracle::default();
        let first = now() - 6 * 3600;
        for number in 0..600i64 {
            let (device, time) = (format!("d{}", number % 3), first + number * 30);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let value = number as f64 / 7.0;
            let partition = i32::try_from(number % 2).unwrap();
            let json =
                format!(r#"{{"device":"{device}","reading":{value:?},"at":{},"code":1,"volume":"x"}}"#, write(time));
            sender.send(&topic, partition, None, Some(json.as_bytes()));
            let counted = Counted { code: device, value, time_us: time * 1_000_000, partition, offset: number / 2 };
            oracle.count(&counted, 3600, 900);
        }
        sender.flush();
        let _host = world
            .setup(&database, &name)
            .replace("key_field = \"code\"", "key_field = \"device\"")
            .replace("value_field = \"volume\"", "value_field = \"reading\"")
            .replace(
                "time_field = \"time\"\ntime_format = \"%Y-%m-%d %H:%M:%S\"",
                &format!("time_field = \"at\"\ntime_format = \"{format}\""),
            )
            .replace("slide_seconds = \"\"", "slide_seconds = \"900\"")
            .variable("window_seconds", "3600")
            .components(&EXCHANGES)
            .start();
        wait_for_records(&database, "exchanges", 4 * 600);
        wait_until_closed(&database, "exchanges");
        oracle.assert_equal(&database, "exchanges");
    }
}

/// A record for a closed window is merged into its row, or rejected for that window alone.
pub fn late_records_revise_or_are_rejected(world: &World) {
    for late in ["revise", "reject"] {
        let database = world.postgres.database();
        let name = format!("late-{late}");
        let topic = topic(&name);
        world.kafka().create_topic(&topic, 1, &[]);
        let sender = world.kafka().producer();
        let time = now() / 60 * 60 - 600;
        sender.send(&topic, 0, None, Some(exchange("A", 1.0, time).as_bytes()));
        sender.send(&topic, 0, None, Some(exchange("A", 3.0, time + 1).as_bytes()));
        sender.flush();
        let _host = world.setup(&database, &name).variable("late", late).components(&EXCHANGES).start();
        wait_for("the first close", Duration::from_secs(60), || {
            (database.number("SELECT count(*) FROM public.aggregates") == 1).then_some(())
        });
        // The window is closed; an earlier and a later value come.
        sender.send(&topic, 0, None, Some(exchange("A", 11.0, time).as_bytes()));
        sender.send(&topic, 0, None, Some(exchange("A", 5.0, time + 30).as_bytes()));
        sender.flush();
        let row = "SELECT records::int8 * 1000 + revision FROM public.aggregates";
        if late == "revise" {
            wait_for("the revision", Duration::from_secs(60), || (database.number(row) / 1000 == 4).then_some(()));
            let values = database.texts(
                "SELECT concat_ws(' ', avg_vol, min_vol, max_vol, first_vol, last_vol, revision > 0) FROM public.aggregates",
            );
            assert_eq!(values, ["5 1 11 1 5 t"]);
            assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0);
        } else {
            wait_for("the rejects", Duration::from_secs(60), || {
                (database.number("SELECT count(*) FROM public.rejected_records") == 2).then_some(())
            });
            assert_eq!(database.number(row), 2000);
            let reasons = database.texts(
                "SELECT DISTINCT concat_ws(' ', reason, window_start = (SELECT window_start FROM public.aggregates))
                 FROM public.rejected_records",
            );
            assert_eq!(reasons, ["late t"]);
        }
    }
}

/// The watermark is the least of the partitions; an idle one does not hold it, and one that
/// nobody reads does.
pub fn an_idle_partition_does_not_hold_and_a_lagging_one_does(world: &World) {
    let database = world.postgres.database();
    let topic = topic("idle");
    world.kafka().create_topic(&topic, 2, &[]);
    let sender = world.kafka().producer();
    let time = now() / 60 * 60 - 3600;
    // Partition 1 never has a record; partition 0 goes on in time.
    sender.send(&topic, 0, None, Some(exchange("A", 1.0, time).as_bytes()));
    sender.send(&topic, 0, None, Some(exchange("A", 1.0, time + 120).as_bytes()));
    sender.flush();
    // An hour: what is open is not closed by the clock, as long as one partition is not idle.
    let mut host = world.setup(&database, "idle").variable("idle_timeout_seconds", "6").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 2);
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates"), 0, "partition 1 is not idle yet");
    for step in 0.. {
        // Partition 0 stays busy while partition 1 becomes idle.
        sender.send(&topic, 0, None, Some(exchange("B", 1.0, time + 121 + step).as_bytes()));
        sender.flush();
        if database.number("SELECT count(*) FROM public.aggregates WHERE code = 'A'") == 1 {
            break;
        }
        assert!(step < 600, "partition 1 holds the watermark for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    let held = "SELECT watermark_held_by FROM public.streams";
    assert!(database.texts(held)[0].contains("partition 0"), "{:?}", database.texts(held));
    host.stop();
    // Nobody reads now, and new records wait: the closer alone must not close what is open.
    let mut closer = world.setup(&database, "idle").components(&["window-closer"]).start();
    wait_for("word of the missing consumer", Duration::from_secs(60), || {
        database.texts(held)[0].contains("no live consumer").then_some(())
    });
    assert!(database.number("SELECT count(*) FROM public.window_state") > 0);
    closer.stop();
}

/// The last windows of a source that falls silent are closed by the clock.
/// Take out: the `None` arm of `window::watermark::compute`.
pub fn a_silent_source_is_closed_by_the_clock(world: &World) {
    let (database, name) = (world.postgres.database(), "silent");
    world.kafka().create_topic(&topic(name), 3, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 3);
    // The latest event alone closes nothing: its own window is the last one.
    feed.send(1, "A", 1.0, now() / 60 * 60 - 90);
    feed.flush();
    let _host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 1);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    let held = database.texts("SELECT watermark_held_by FROM public.streams");
    assert!(held[0].contains("idle"), "{held:?}");
}

/// A source that was silent, and then a day of history, and once more: silence closes what it holds, and makes nothing
/// late that comes after it. Take out: `closes_all`, or the candidate, in `watermark::compute`.
pub fn a_day_of_history_after_silence_is_not_late(world: &World) {
    const DAY: i64 = 24 * 3600;
    for late in ["revise", "reject"] {
        let (database, name) = (world.postgres.database(), format!("history-{late}"));
        world.kafka().create_topic(&topic(&name), 3, &[]);
        let mut feed = Feed::new(world.kafka(), &topic(&name), 3);
        let host = world.setup(&database, &name).variable("late", late).components(&EXCHANGES).start();
        host.wait_until_ready();
        for days_ago in [3, 2] {
            wait_for("silence", Duration::from_secs(60), || {
                let held = database.texts("SELECT watermark_held_by FROM public.streams");
                held.first()?.contains("idle, and nothing is pending").then_some(())
            });
            let first = now() / DAY * DAY - days_ago * DAY;
            feed.spread(DAY / 10, first, DAY / 10);
            // Where it goes on at once, it goes on in time.
            feed.spread(DAY / 10, first + DAY / 2, DAY / 10);
            wait_for_records(&database, "exchanges", feed.sent);
            wait_until_closed(&database, "exchanges");
        }
        assert_eq!(database.texts("SELECT reason::text FROM public.rejected_records"), [""; 0], "{late}");
        feed.oracle.assert_equal(&database, "exchanges");
        assert_eq!(database.number("SELECT max(revision)::int8 FROM public.aggregates"), 0, "{late}: closed too early");
    }
}

/// One clock that is ahead, by a day or by less than is allowed, makes no honest record late.
/// Take out: `max_future_seconds` in `Schema::read`, or the clock's bound in `watermark::compute`.
pub fn a_fast_clock_makes_no_honest_record_late(world: &World) {
    let (database, name) = (world.postgres.database(), "fast-clock");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    let _host = world.setup(&database, name).variable("late", "reject").components(&EXCHANGES).start();
    feed.put(0, Some(exchange("A", 1.0, now() + 86_400).as_bytes()));
    feed.send(0, "FAST", 1.0, now() + 50);
    feed.flush();
    wait_for_records(&database, "exchanges", 1);
    wait_for("the closer's look", Duration::from_secs(60), || {
        (database.number("SELECT count(*) FROM public.streams WHERE watermark IS NOT NULL") == 1).then_some(())
    });
    for _ in 0..10 {
        feed.send(0, "A", 2.0, now());
    }
    feed.flush();
    wait_for_records(&database, "exchanges", 11);
    let ahead = "SELECT count(*) FROM public.streams WHERE watermark > clock_timestamp() AT TIME ZONE 'UTC'";
    assert_eq!(database.number(ahead), 0);
    assert_eq!(database.texts("SELECT reason::text FROM public.rejected_records"), ["future"]);
}

/// 24 hours of a feed: read at full speed after the fact, and read as it comes (compressed time).
/// Take out: the least over the partitions in `watermark::compute` (let the fastest decide).
pub fn a_day_read_at_full_speed_equals_the_day_read_as_it_came(world: &World) {
    const PARTITIONS: i32 = 4;
    const STEPS: i64 = 24 * 12;
    let first = now() / 60 * 60 - 26 * 3600;
    // Punctual but for a few seconds, so late ones would show in either reading.
    let step = |feed: &mut Feed, step: i64| {
        for second in (0..300).step_by(5) {
            for partition in 0..PARTITIONS {
                let code = ["A", "B", "C"][usize::try_from((second / 5 + i64::from(partition)) % 3).unwrap()];
                let disorder = (second * 7 + i64::from(partition)) % 4;
                let value = f64::from(i32::try_from(step * 300 + second).unwrap()) / 7.0;
                feed.send(partition, code, value, first + step * 300 + second - disorder);
            }
        }
        feed.flush();
    };
    let run = |name: &str, as_it_came: bool| {
        let database = world.postgres.database();
        world.kafka().create_topic(&topic(name), PARTITIONS, &[]);
        let mut feed = Feed::new(world.kafka(), &topic(name), PARTITIONS);
        // Many small batches: partitions are minutes of event time apart whenever the closer looks.
        let small = "start = \"earliest\"\nbatch_records_max = 200\nbatch_interval_ms_min = 100";
        let setup = || {
            let setup = world.setup(&database, name).variable("late", "reject").components(&EXCHANGES);
            if as_it_came { setup } else { setup.replace("start = \"earliest\"", small) }
        };
        let host = as_it_came.then(|| setup().start());
        for number in 0..STEPS {
            step(&mut feed, number);
            if as_it_came && number % 4 == 3 {
                wait_for_records(&database, "exchanges", feed.sent);
            }
        }
        let _host = host.unwrap_or_else(|| setup().start());
        wait_for_records(&database, "exchanges", feed.sent);
        wait_until_closed(&database, "exchanges");
        assert_eq!(database.number("SELECT count(*) FROM public.rejected_records"), 0, "{name}: late");
        feed.oracle.assert_equal(&database, "exchanges");
        database.texts(
            "SELECT concat_ws(' ', window_start, window_end, code, records, min_vol, max_vol, first_vol, last_vol)
             FROM public.aggregates ORDER BY 1",
        )
    };
    let (came, replayed) = (run("day-live", true), run("day-replayed", false));
    // The disorder reaches into the minute before.
    assert_eq!(came.len(), (24 * 60 + 1) * 3);
    assert!(came == replayed, "the two readings differ");
}

/// Neither the host's zone nor the database's is anybody's business, also when clocks change.
pub fn time_zones_and_daylight_saving_change_nothing(world: &World) {
    let (database, name) = (world.postgres.database(), "zones");
    let server = database.url.rsplit_once('/').unwrap().1.to_owned();
    database.execute(&format!("ALTER DATABASE {server} SET timezone = 'America/New_York'"));
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    // Around 2025-10-26 01:00 UTC, when Europe sets its clocks back, and 2025-03-30 01:00 UTC;
    // the strings are UTC.
    for hour in [1_743_296_400i64, 1_761_440_400] {
        for minute in -90..90 {
            feed.send(0, "A", f64::from(i32::try_from(minute).unwrap()), hour + minute * 60);
        }
    }
    feed.flush();
    let setup = world.setup(&database, name).env("TZ", "Asia/Tehran").env("PGTZ", "Asia/Tokyo");
    let _host = setup.components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", feed.sent);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
}
