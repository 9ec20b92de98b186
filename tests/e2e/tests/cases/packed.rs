//! What is pending in layout 2: windows of many codes are packed, a row a batch.

use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::registry::digest;
use e2e::wait_for;

use super::{EXCHANGES, World, now, topic, wait_for_records, wait_until_closed};

const CODES: i64 = 3_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Codes that an array's literal must quote are among them.
fn code(number: i64) -> String {
    let odd = ["plain", "quo\"te", "back\\slash", "com,ma", "{brace}", "NULL", "sp ace", "ütf-8", "'"];
    format!("{}{number}", odd[usize::try_from(number).unwrap() % odd.len()])
}

fn send(feed: &mut Feed, records: i64, codes: i64, first: i64) {
    let mut random = fastrand::Rng::with_seed(11);
    for number in 0..records {
        let value = if number % 7 == 0 { -1e-190 } else { (random.f64() - 0.5) * 1e15 };
        let time = first + number * 200 / records + random.i64(0..5);
        feed.send(i32::try_from(number % 2).unwrap(), &code(random.i64(0..codes)), value, time);
    }
    feed.flush();
}

/// What is looked up by code, or page by page, is what the view gives. Take out: the `chunks` or `sorted` of the packed
/// rows, `first_code` of `exagg_apply`, or the `CONTINUE` of `exagg_live`.
fn assert_looked_up(database: &Database) {
    let columns =
        "window_start, window_end, stream, code, records, min_vol, max_vol, first_vol, last_vol, revision, is_final";
    let of_one = (0..9)
        .map(code)
        .map(|code| {
            format!(
                "SELECT {columns} FROM public.exagg_live(NULL, '{}', '-infinity',
        '-infinity', 'infinity', 1000000)",
                code.replace('\'', "''")
            )
        })
        .collect::<Vec<_>>()
        .join(" UNION ALL ");
    let named = (0..9).map(|number| format!("'{}'", code(number).replace('\'', "''"))).collect::<Vec<_>>().join(", ");
    let view = |more: &str| format!("SELECT {columns} FROM public.live_aggregates {more}");
    let first = |count: i64| format!("ORDER BY window_start DESC, code COLLATE \"C\" LIMIT {count}");
    let live = |count: i64| {
        format!(
            "SELECT {columns} FROM public.exagg_live('exchanges', NULL, '-infinity', '-infinity', 'infinity', {count})"
        )
    };
    for (looked_up, wanted) in [
        (of_one, view(&format!("WHERE code IN ({named})"))),
        (live(50), view(&first(50))),
        (live(2_500), view(&first(2_500))),
        (live(1_000_000), view("")),
    ] {
        assert!(database.number(&format!("SELECT count(*) FROM ({wanted}) AS w")) >= 9, "{wanted}");
        let differing = format!(
            "SELECT count(*) FROM ((({looked_up}) EXCEPT ({wanted})) UNION ALL (({wanted}) EXCEPT ({looked_up}))) AS d"
        );
        assert_eq!(database.number(&differing), 0, "{differing}");
    }
}

/// Take out: the `batches` of the closer's statement, or its `least` and `greatest`.
pub fn windows_of_many_codes_are_packed_folded_once_and_revised(world: &World) {
    let (database, name) = (world.postgres.database(), "packed");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let first = (now() / 60 - 30) * 60;
    send(&mut feed, 40_000, CODES, first);
    let mut host = world.setup(&database, name).components(&["aggregator-exchanges"]).start();
    wait_for_records(&database, "exchanges", feed.sent);
    assert!(database.number("SELECT count(*) FROM public.window_batches") > 0, "nothing is packed");
    let live = "SELECT count(*) FROM public.live_aggregates WHERE NOT is_final AND stream = 'exchanges'";
    assert_eq!(database.number(live), i64::try_from(feed.oracle.rows()).unwrap());
    assert_looked_up(&database);
    // Two closers at once.
    let mut closers = [(); 2].map(|()| world.setup(&database, name).components(&["window-closer"]).start());
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    // Late ones, few and many: rows that are there are merged with.
    send(&mut feed, 100, 10, first);
    send(&mut feed, 20_000, CODES, first);
    wait_for_records(&database, "exchanges", feed.sent);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    assert!(database.number("SELECT max(revision)::int8 FROM public.aggregates") > 0);
    assert_looked_up(&database);
    host.stop();
    for closer in &mut closers {
        closer.stop();
    }
}

/// A closer that met no row adds one, and another closer has added it meanwhile: it tries again and
/// merges. Take out: `23505` in the closer's store.
pub fn a_row_that_another_closer_adds_first_is_merged_with(world: &World) {
    let (database, name) = (world.postgres.database(), "packed-race");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    let start = (now() / 60 - 30) * 60;
    let mut aggregator = world.setup(&database, name).components(&["aggregator-exchanges"]).start();
    feed.send(0, "A", 2.0, start + 1);
    feed.flush();
    wait_for_records(&database, "exchanges", 1);
    let mut other = database.client();
    let mut other = other.transaction().unwrap();
    other
        .batch_execute(&format!(
            "INSERT INTO public.aggregates (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol,
                 max_vol, first_vol, last_vol, first_edge, last_edge)
             SELECT w, w + interval '1 minute', 'A', 5, 'exchanges', 1, 5, 5, 5, 5, 5, e, e
             FROM (SELECT timestamp 'epoch' + {start} * interval '1 second' AS w,
                          exagg_edge({start} * 1000000::int8, 't', 0, 0, 5) AS e) AS one"
        ))
        .unwrap();
    let mut closer = world.setup(&database, name).components(&["window-closer"]).start();
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%window_batches%'";
    wait_for("the closer to wait for the row", MINUTE, || (database.number(waiting) > 0).then_some(()));
    other.commit().unwrap();
    closer.wait_for_log("met a conflict", MINUTE);
    wait_until_closed(&database, "exchanges");
    let row = "SELECT concat_ws(' ', records, sum_vol, first_vol, last_vol, revision) FROM public.aggregates";
    assert_eq!(database.texts(row), ["2 7 5 2 1"]);
    aggregator.stop();
    closer.stop();
}

/// A database of the layout before: what is closed and what is pending there is merged right.
pub fn what_layout_1_holds_is_kept(world: &World) {
    let (database, name) = (world.postgres.database(), "layout-1");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut script = "CREATE TABLE public.exagg_migrations (name text PRIMARY KEY, digest text NOT NULL,
         applied_at timestamptz NOT NULL DEFAULT now());"
        .to_owned();
    for migration in ["0001_pipeline", "0002_replay", "0003_layout"] {
        let sql = std::fs::read_to_string(e2e::root().join(format!("migrations/{migration}.sql"))).unwrap();
        let digest = digest(sql.as_bytes()).replace("sha256:", "");
        script += &format!("{sql}; INSERT INTO public.exagg_migrations VALUES ('{migration}', '{digest}');");
    }
    database.execute(&script);
    database.execute(
        "INSERT INTO public.aggregates (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol,
             max_vol, first_vol, last_vol, first_time_us, first_topic, first_partition, first_offset, last_time_us,
             last_topic, last_partition, last_offset)
         VALUES ('2023-11-19 20:31', '2023-11-19 20:32', 'A', 4, 'exchanges', 2, 8, 3.1, 4.9, 3.1, 4.9,
             1700425880000000, 't', 0, 7, 1700425890000000, 't', 0, 16);
         INSERT INTO public.window_state (stream, window_end, window_start, code, topic, partition, records, sum_vol,
             min_vol, max_vol, first_vol, last_vol, first_time_us, first_offset, last_time_us, last_offset)
         VALUES
             ('exchanges', '2023-11-19 20:32', '2023-11-19 20:31', 'A', 't', 0, 1, 5, 5, 5, 5, 5,
              1700425890000000, 15, 1700425890000000, 15),
             ('exchanges', '2023-11-19 20:32', '2023-11-19 20:31', 'A', 't', 1, 1, -1e-9, -1e-9, -1e-9, -1e-9, -1e-9,
              1700425870000000, 200, 1700425870000000, 200);
         CREATE ROLE layout_reader; GRANT SELECT ON public.aggregates, public.window_state, public.live_aggregates
             TO layout_reader",
    );
    let mut host = world.setup(&database, name).components(&EXCHANGES).start();
    let row = "SELECT concat_ws(' ', records, min_vol, max_vol, first_vol, last_vol, revision, is_final)
               FROM public.live_aggregates";
    let wanted = ["4 -1e-09 5 -1e-09 4.9 1 t"];
    wait_for("the row to be final", MINUTE, || (database.texts(row) == wanted).then_some(()));
    host.stop();
    let allowed = "SELECT count(*) FROM unnest(ARRAY['aggregates', 'window_state', 'live_aggregates', 'window_batches',
                   'pending_parts']) AS name WHERE has_table_privilege('layout_reader', 'public.' || name, 'SELECT')";
    assert_eq!(database.number(allowed), 5, "who might read may read");
    database.execute("DROP OWNED BY layout_reader; DROP ROLE layout_reader");
    // A second look at what both sides write.
    let edge = "SELECT exagg_edge(16, 't', 2, 255, 0.5) FROM (SELECT) AS one";
    assert_eq!(database.texts(edge), ["c10 t b2 cff 0.5"]);
    assert_eq!(database.number("SELECT version::int8 FROM public.window_state_layout"), 2);
}
