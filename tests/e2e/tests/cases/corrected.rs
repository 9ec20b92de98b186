//! Settings that were wrong are corrected, and the rows are computed anew: with a public series.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::database::Database;
use e2e::flights::{Flight, flights, rows};
use e2e::host::{Host, Setup};
use e2e::oracle::Oracle;
use e2e::wait_for;

use super::replay::{command, replay};
use super::{EXCHANGES, World, topic, wait_for_records, wait_until_closed};

const PARTITIONS: usize = 3;

/// What the aggregator of the flights is told.
#[derive(Clone, Copy)]
struct Told {
    key: &'static str,
    zone: &'static str,
    window_seconds: &'static str,
}

fn setup(world: &World, database: &Database, name: &str, told: Told) -> Setup {
    world
        .setup(database, name)
        .replace("key_field = \"code\"", &format!("key_field = \"{}\"", told.key))
        .replace("value_field = \"volume\"", "value_field = \"dep_delay\"")
        .replace("time_field = \"time\"", "time_field = \"at\"")
        .replace("time_zone = \"UTC\"", &format!("time_zone = \"{}\"", told.zone))
        .variable("window_seconds", told.window_seconds)
        .components(&EXCHANGES)
}

fn arguments(told: Told) -> [String; 3] {
    ["--from", "earliest", "--variable"].map(str::to_owned).map(|argument| match argument.as_str() {
        "--variable" => format!("--variable=window_seconds={}", told.window_seconds),
        _ => argument,
    })
}

/// Reads all rows again and again: each time they have to hold every record, once, and to be of one kind.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Reader {
    fn start(database: &Database, records: std::ops::RangeInclusive<i64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, stopped) = (database.client(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let statement = "SELECT coalesce(sum(records), 0)::int8, count(DISTINCT length(code)),
                                    count(DISTINCT window_end - window_start)
                             FROM public.live_aggregates WHERE stream = 'exchanges'";
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                let row = client.query_one(statement, &[]).unwrap();
                let (found, kinds, lengths): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
                assert!(records.contains(&found), "{found} records are seen, not {records:?}");
                assert_eq!((kinds, lengths), (1, 1), "rows of both settings are seen at once");
                looks += 1;
            }
            looks
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.thread.join().unwrap();
        assert!(looks > 3, "the reader looked {looks} times");
    }
}

fn all(database: &Database) -> Vec<String> {
    database.texts("SELECT a::text FROM public.aggregates a ORDER BY 1")
}

/// Where a replay is killed.
#[derive(Clone, Copy)]
enum Kill {
    /// It has read so many offsets.
    At(i64),
    /// It lets the live stream wait, and is about to replace the rows, or does so.
    Holding,
}

/// A replay that is killed leaves all rows as they were; or, where its last statement had begun, all as they are to be.
/// Says whether they are.
fn is_killed(
    world: &World,
    host: &Host,
    database: &Database,
    name: &str,
    told: Told,
    expected: &Oracle,
    kill: Kill,
) -> bool {
    let before = all(database);
    let more = arguments(told);
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    let mut process: Command = command(world, host, database, name, &more);
    let mut child = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the replay to be so far", Duration::from_secs(60), || {
        let is_there = match kill {
            Kill::At(offsets) => format!(
                "SELECT (coalesce(sum(next_offset), 0) >= {offsets})::int::int8 FROM public.progress
                 WHERE stream = 'exchanges@replay'"
            ),
            Kill::Holding => "SELECT count(held_until) FROM public.replays".to_owned(),
        };
        assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
        (database.number(&is_there) == 1).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // A statement that has begun goes on without it.
    wait_for("the replay's last statement", Duration::from_secs(60), || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'active'
                       AND query LIKE '%exagg\\_replay%'";
        (database.number(running) == 0).then_some(())
    });
    let is_done = all(database) != before;
    if is_done {
        is_as(database, expected);
    }
    // So long nobody else may replay the stream.
    database.execute("UPDATE public.exagg_claims SET expires_at = now()");
    is_done
}

/// Its rows of other settings hold the stage until they are replayed; nothing of it is lost or seen by halves.
fn is_corrected(
    world: &World,
    database: &Database,
    name: &str,
    told: Told,
    expected: &Oracle,
    of_old: &str,
    kills: &[Kill],
) {
    let mut host = setup(world, database, name, told).start();
    host.wait_for_log("nothing is counted until it is said what becomes of them", Duration::from_secs(60));
    let log = host.log();
    assert!(log.contains(of_old) && log.contains("exagg replay --stream exchanges --from earliest"), "{of_old}: {log}");
    let reader = Reader::start(database, expected.records()..=expected.records());
    let more = arguments(told);
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    let before = all(database);
    let preview = command(world, &host, database, name, &[&more[..], &["--dry-run"]].concat()).output().unwrap();
    assert!(preview.status.success(), "{}", String::from_utf8_lossy(&preview.stderr));
    let preview = String::from_utf8_lossy(&preview.stdout).into_owned();
    assert!(preview.contains("dry run") && preview.contains("\ndeleted: "), "{preview}");
    assert!(all(database) == before, "a dry run changed rows");
    if !kills.is_empty() {
        // What the dry run has read is read again.
        database.execute("SELECT public.exagg_replay_forget('exchanges@replay')");
    }
    let was_done = kills.iter().any(|kill| is_killed(world, &host, database, name, told, expected, *kill));
    let said = replay(world, &host, database, name, &more);
    reader.stop();
    let first = said.lines().next().unwrap_or_default();
    let is_as_foreseen = preview.starts_with(first) && first.ends_with(" 0 kept");
    let is_nothing_left = first.contains(" 0 rows added, 0 changed, 0 deleted,");
    assert!(if was_done { is_nothing_left } else { is_as_foreseen }, "{said}{preview}");
    is_as(database, expected);
}

/// Windows that the right times put behind the watermark are pending, and closed soon.
fn is_as(database: &Database, expected: &Oracle) {
    wait_until_closed(database, "exchanges");
    expected.assert_equal(database, "exchanges");
}

/// The zone, the key and the window are corrected in turn.
pub fn a_series_is_as_if_it_had_been_read_with_the_right_settings(world: &World) {
    let Some(mut flights) = flights() else {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: make series first");
        println!("the series of flights was not brought (make series): skipped");
        return;
    };
    let (database, name) = (world.postgres.database(), "corrected");
    world.kafka().create_topic(&topic(name), 3, &[]);
    let sender = world.kafka().producer();
    // One is sent later.
    let last = flights.pop().unwrap();
    let send = |number: usize, flight: &Flight| {
        flight.send(&sender, &topic(name), i32::try_from(number % PARTITIONS).unwrap());
    };
    flights.iter().enumerate().for_each(|(number, flight)| send(number, flight));
    sender.flush();
    let mut told = Told { key: "origin", zone: "UTC", window_seconds: "3600" };
    let by_origin = rows(&flights, PARTITIONS, |flight| &flight.origin, 3600);
    let mut host = setup(world, &database, name, told).start();
    wait_for_records(&database, "exchanges", by_origin.records());
    wait_until_closed(&database, "exchanges");
    assert!(!by_origin.compare(&database, "exchanges").is_none(), "the wrong zone makes no difference");
    host.stop();
    drop(host);

    told.zone = "America/New_York";
    let of_old = "time_zone \"UTC\", here \"America/New_York\"";
    is_corrected(world, &database, name, told, &by_origin, of_old, &[Kill::At(60_000), Kill::At(160_000)]);
    told.key = "carrier";
    let by_carrier = rows(&flights, PARTITIONS, |flight| &flight.carrier, 3600);
    is_corrected(world, &database, name, told, &by_carrier, "key_field \"origin\", here \"carrier\"", &[Kill::Holding]);
    told.window_seconds = "86400";
    let by_day = rows(&flights, PARTITIONS, |flight| &flight.carrier, 86_400);
    is_corrected(world, &database, name, told, &by_day, "window_seconds 3600, here 86400", &[]);

    // And on with the settings of now.
    let number = flights.len();
    flights.push(last);
    send(number, &flights[number]);
    sender.flush();
    let by_day = rows(&flights, PARTITIONS, |flight| &flight.carrier, 86_400);
    let _host = setup(world, &database, name, told).start();
    wait_for("the flight that came later", Duration::from_secs(60), || {
        by_day.compare(&database, "exchanges").is_none().then_some(())
    });
}
