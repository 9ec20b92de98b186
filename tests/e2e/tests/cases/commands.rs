//! Commands that mend: what they refuse, what they say, and what they write down.

use std::process::Command;
use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::{Host, exagg};
use e2e::{exchange, now, wait_for};
use serde_json::Value;

use super::replay::replay;
use super::{EXCHANGES, World, topic, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);

/// Runs a command with the host's manifest; gives whether it succeeded, and what it said.
fn run(world: &World, host: &Host, database: &Database, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(exagg())
        .args(arguments)
        .arg("--from")
        .arg(host.setup.folder())
        .args(["--variable", &format!("postgres_url={}", database.url)])
        .args(["--variable", &format!("kafka_brokers={}", world.kafka().brokers)])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (output.status.success(), said)
}

fn operations(database: &Database) -> Vec<String> {
    database.texts("SELECT operation || ' ' || stream || ': ' || what FROM public.operations ORDER BY done_at")
}

/// Take out: `known` in `topics::reset`, or the look for readers in `topics::forget` or `drop::drop`.
pub fn what_would_harm_a_stream_is_refused_and_what_is_done_is_written_down(world: &World) {
    let (database, name) = (world.postgres.database(), "commands");
    let topic = topic(name);
    world.kafka().create_topic(&topic, 1, &[]);
    world.kafka().create_topic("commands-other", 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic, 1);
    feed.spread(60, now() / 60 * 60 - 600, 60);
    feed.send_bad(0, "not_json", b"nonsense");
    feed.flush();
    let mut host = world.setup(&database, name).components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 60);
    wait_until_closed(&database, "exchanges");
    let refused = |host: &Host, arguments: &[&str], words: &[&str]| {
        let (is_done, said) = run(world, host, &database, arguments);
        assert!(!is_done && words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    };
    let progress = || database.texts("SELECT p::text FROM public.progress p WHERE stream <> 'exchanges'");
    refused(&host, &["reset", "--stream", "exchanges", "--topic", &topic], &[&topic, "was not recreated"]);
    refused(&host, &["reset", "--stream", "exchanges", "--topic", "commands-other"], &["does not read", &topic]);
    refused(&host, &["reset", "--stream", "nobody", "--topic", &topic], &["there is no stream nobody"]);
    assert_eq!(progress(), [""; 0]);
    let forget = ["forget", "--stream", "exchanges", "--topic", &topic];
    refused(&host, &forget, &["commands-exchanges", "reads topic", "--yes"]);
    let dropping = ["drop", "--stream", "exchanges"];
    refused(&host, &dropping, &["3 rows of aggregates", "1 rows of rejected_records", "--yes"]);
    refused(
        &host,
        &[&dropping[..], &["--yes"]].concat(),
        &["commands-exchanges", "reads for the stream", "stop its stage"],
    );
    assert_eq!(database.number("SELECT count(*) FROM public.aggregates"), 3);
    assert_eq!(operations(&database), [""; 0]);
    host.stop();
    wait_for("nobody to read any more", MINUTE, || {
        let (is_done, said) = run(world, &host, &database, &[&dropping[..], &["--yes"]].concat());
        assert!(is_done || said.contains("reads for the stream"), "{said}");
        is_done.then_some(())
    });
    let left = "SELECT (SELECT count(*) FROM public.aggregates) + (SELECT count(*) FROM public.rejected_records)
                     + (SELECT count(*) FROM public.progress) + (SELECT count(*) FROM public.streams)";
    assert_eq!(database.number(left), 0);
    let noted = operations(&database);
    assert!(noted.len() == 1 && noted[0].starts_with("drop exchanges: 3 rows of aggregates"), "{noted:?}");
    refused(&host, &[&dropping[..], &["--yes"]].concat(), &["there is no stream exchanges"]);
    // Read again, it is as if it were new.
    host.restart();
    wait_for_records(&database, "exchanges", 60);
    let (is_done, said) = run(world, &host, &database, &[&forget[..], &["--yes"]].concat());
    assert!(is_done && said.contains("1 partitions"), "{said}");
    assert!(operations(&database)[1].starts_with("forget exchanges: 1 partitions"), "{:?}", operations(&database));
}

/// A topic of nonsense: every record is written down, a few values of each minute are. Take out: `keep_values`.
pub fn a_reason_keeps_so_many_values_in_a_minute_and_all_its_records(world: &World) {
    let (database, name) = (world.postgres.database(), "keptvalues");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let _host = world.setup(&database, name).components(&EXCHANGES).start();
    let sender = world.kafka().producer();
    let records = || database.number("SELECT count(*) FROM public.rejected_records WHERE reason = 'not_json'");
    // Batches of their own, each of fewer than are kept.
    for sent in (90..=360).step_by(90) {
        for _ in 0..90 {
            sender.send(&topic(name), 0, None, Some(b"nonsense"));
        }
        sender.flush();
        wait_for("the rejects", MINUTE, || (records() == sent).then_some(()));
    }
    let most = "SELECT max(kept)::int8 FROM (SELECT count(value) AS kept FROM public.rejected_records
                GROUP BY date_trunc('minute', rejected_at)) AS minutes";
    assert_eq!(database.number(most), 100);
}

/// Hopping windows reject a late record each: it is one record. Take out: the inner `GROUP BY` in `rejects::counts`, or
/// `counted` in `exagg_replay_apply`.
pub fn rejects_are_counted_once_filtered_and_known_when_a_replay_counts_them(world: &World) {
    let (database, name) = (world.postgres.database(), "rejects");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1);
    let first = now() / 60 * 60 - 3600;
    feed.spread(600, first, 600);
    let setup = world.setup(&database, name).replace("slide_seconds = \"\"", "slide_seconds = \"15\"");
    let host = setup.variable("late", "reject").components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 4 * 600);
    wait_until_closed(&database, "exchanges");
    // Two late ones, in four windows each, and one that is none.
    for value in [1.0, 2.0] {
        feed.put(0, Some(exchange("A", value, first + 60).as_bytes()));
    }
    feed.put(0, Some(b"nonsense"));
    feed.flush();
    wait_for("the rejects", MINUTE, || {
        (database.number("SELECT count(*) FROM public.rejected_records") == 9).then_some(())
    });
    let rejects = |more: &[&str]| -> Value {
        let arguments = [&["rejects", "--stream", "exchanges", "--json"], more].concat();
        let (is_done, said) = run(world, &host, &database, &arguments);
        assert!(is_done, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let all = rejects(&[]);
    assert_eq!((&all["counts"][0]["reason"], &all["counts"][0]["records"]), (&"late".into(), &2.into()), "{all}");
    assert_eq!(all["records"].as_array().unwrap().len(), 3);
    let late = rejects(&["--reason", "late", "--offset", "601", "--partition", "0"]);
    assert_eq!(late["records"].as_array().unwrap().len(), 1);
    assert_eq!(late["records"][0]["windows"].as_array().unwrap().len(), 4, "{late}");
    assert!(late["records"][0]["value"].as_str().unwrap().contains("\"volume\":2"), "{late}");
    // Page by page.
    let page = rejects(&["--limit", "2"]);
    let before = page["records"][1]["rejected_at"].as_str().unwrap();
    let next = rejects(&["--limit", "2", "--before", before]);
    let offsets = |page: &Value| -> Vec<i64> {
        page["records"].as_array().unwrap().iter().map(|record| record["offset"].as_i64().unwrap()).collect()
    };
    let mut seen = [offsets(&page), offsets(&next)].concat();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() >= 2 && seen.len() <= 3, "{seen:?}");
    let none = rejects(&["--since", "2100-01-01T00:00:00Z"]);
    assert_eq!(none["records"], Value::Array(Vec::new()));
    let said = replay(world, &host, &database, name, &["--from", "earliest"]);
    assert!(said.contains("5 changed, 0 deleted") || said.contains("4 changed, 0 deleted"), "{said}");
    let all = rejects(&[]);
    let of = |reason: &str| all["counts"].as_array().unwrap().iter().find(|count| count["reason"] == reason).cloned();
    assert_eq!(of("late").unwrap()["counted_since"], 2, "{all}");
    assert_eq!(of("not_json").unwrap()["counted_since"], 0, "{all}");
    let (_, words) = run(world, &host, &database, &["rejects", "--stream", "exchanges", "--limit", "1"]);
    assert!(words.contains("2 of them counted since by a replay") && words.contains("older ones: --before"), "{words}");
}

/// A window of a day that runs is among the default answers. Take out: `window_seconds` in the dashboard's `AGGREGATES`.
pub fn the_default_answers_hold_windows_that_run_whatever_their_length(world: &World) {
    let (database, name) = (world.postgres.database(), "day-windows");
    world.kafka().create_topic(&topic(name), 1, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 1).window_seconds(86_400);
    feed.send(0, "A", 1.0, now() - 1);
    feed.flush();
    let host = world
        .setup(&database, name)
        .variable("window_seconds", "86400")
        .components(&[EXCHANGES[0], EXCHANGES[1], "dashboard"])
        .start();
    wait_for_records(&database, "exchanges", 1);
    let rows = host.get("/api/aggregates").json();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    assert_eq!(host.get("/api/aggregates?from=2100-01-01T00:00:00Z").json(), Value::Array(Vec::new()));
    assert_eq!(host.get("/api/aggregates?to=2020-01-01T00:00:00Z").json(), Value::Array(Vec::new()));
}
