//! `exagg replay`: closed windows computed anew, beside the live pipeline.

use std::process::{Command, Output};
use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::{Host, exagg};
use e2e::wait_for;

use super::{EXCHANGES, World, now, topic, wait_for_records, wait_until_closed};

/// Runs the command with the host's own manifest and variables, and gives what it printed.
pub(super) fn replay(world: &World, host: &Host, database: &Database, name: &str, more: &[&str]) -> String {
    let output = command(world, host, database, name, more);
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    let left = "SELECT (SELECT count(*) FROM public.progress WHERE stream LIKE '%@replay')
                     + (SELECT count(*) FROM public.pending_parts WHERE stream LIKE '%@replay')
                     + (SELECT count(*) FROM public.replay_windows) + (SELECT count(*) FROM public.exagg_claims)";
    assert_eq!(database.number(left), 0, "it leaves nothing behind");
    said.into_owned()
}

fn command(world: &World, host: &Host, database: &Database, name: &str, more: &[&str]) -> Output {
    Command::new(exagg())
        .args(["replay", "--stream", "exchanges", "--app"])
        .arg(host.setup.folder())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .args(["--variable", &format!("postgres_host={}", database.host)])
        .args(["--variable", &format!("kafka_brokers={}", world.kafka().brokers)])
        .args(["--variable", &format!("kafka_host={}", world.kafka().brokers)])
        .args(["--variable", &format!("exchanges_topic={}", topic(name))])
        .args(more)
        .output()
        .unwrap()
}

fn rows(database: &Database) -> Vec<String> {
    database.texts("SELECT a::text FROM public.aggregates a ORDER BY 1")
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
    // Mended; the live pipeline goes on with later windows.
    let host = world.setup(&database, name).components(&EXCHANGES).start();
    feed.spread(600, first + 600, 600);
    wait_for_records(&database, "exchanges", 1200);
    wait_until_closed(&database, "exchanges");
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("30 rows rebuilt, 30 unchanged, 0 left"), "{said}");
    feed.oracle.assert_equal(&database, "exchanges");
    // One process at a time; one that was killed is waited for no longer than its claim holds.
    let others = |expires: &str| {
        database.execute(&format!(
            "INSERT INTO public.exagg_claims VALUES ('replay of exchanges', 'somebody', now() + interval '{expires}')"
        ));
    };
    others("1 minute");
    let refused = command(world, &host, &database, name, &["--from", "earliest"]);
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
    assert!(said.contains("0 rows rebuilt, 60 unchanged, 0 left"), "{said}");
    let from = e2e::utc(first + 600).replace(' ', "T") + "Z";
    let to = e2e::utc(first + 900).replace(' ', "T") + "Z";
    let said = replay(world, &host, &database, name, &["--from", &from, "--to", &to]);
    assert!(said.contains("0 rows rebuilt, 15 unchanged, 0 left"), "{said}");
    assert_eq!(rows(&database), before);
}

/// Take out: a condition of `judged` in `migrations/definitions.sql`.
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
    assert!(said.contains("1 rows rebuilt, 27 unchanged, 2 left"), "{said}");
    assert!(said.contains("A: records of it are pending"), "{said}");
    assert!(said.contains("C: the log holds fewer records than were counted"), "{said}");
    // The log loses its beginning: nothing can be told of windows that old any more.
    let before = rows(&database);
    world.kafka().delete_records(&topic(name), 0, 100);
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("0 rows rebuilt, 0 unchanged, 30 left"), "{said}");
    assert!(said.contains("the log may not hold all its records any more"), "{said}");
    assert_eq!(rows(&database), before);
    // With a closer again the pending record is merged: nothing was lost over all this.
    drop(host);
    let _host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_until_closed(&database, "exchanges");
    wait_for("the late record", Duration::from_secs(30), || {
        (database.number("SELECT records FROM public.aggregates WHERE code = 'A' ORDER BY window_start LIMIT 1") == 21)
            .then_some(())
    });
}
