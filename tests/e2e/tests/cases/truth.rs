//! What the host says of itself, on the bad days too: readiness, and how it stops.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use e2e::gate::Gate;
use e2e::http;
use e2e::kafka::Kafka;
use e2e::wait_for;
use exagg_common::clock::{Clock, SystemClock};
use exagg_pipeline::watch::{Need, Watch};

use super::{EXCHANGES, World, exchange, now, topic, wait_for_records};

const MINUTE: Duration = Duration::from_secs(60);

/// Take out: `pending` in `Watch::ask`.
pub fn a_database_that_is_not_migrated_is_not_ready(world: &World) {
    let database = world.postgres.database();
    let setup = world.setup(&database, "unmigrated").argument("--no-migrate");
    let host = setup.configured("[exagg.cron]\nlease = \"{{ postgres_url }}\"\n").components(&["dashboard"]).start();
    let answer = wait_for("a reason", MINUTE, || {
        let answer = http::try_get(host.admin, "/readyz")?;
        ["0001_pipeline", "exagg_cron_leases", "exagg migrate"]
            .iter()
            .all(|text| answer.body.contains(text))
            .then_some(answer)
    });
    assert_eq!(answer.status, 503, "{}", answer.body);
    let from = host.setup.folder().to_str().unwrap();
    let migrated = host.command_with("migrate", &["--from", from], "SPIN_VARIABLE_POSTGRES_URL", Some(&database.url));
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    host.wait_until_ready();
}

/// Take out: `serve_requests` in `Admin::ready`.
pub fn an_api_that_fails_turns_no_request_away(world: &World) {
    let database = world.postgres.database();
    let setup = || {
        world
            .setup(&database, "api-away")
            .variable("exchanges_source", "livecoinwatch")
            .variable("exchanges_schedule", "* * * * * *")
            .variable("livecoinwatch_url", "http://127.0.0.1:1/")
            .variable("livecoinwatch_api_key", "k")
    };
    let both = setup().components(&["fetcher-exchanges", "dashboard"]).start();
    let alone = setup().components(&["fetcher-exchanges"]).start();
    let failing = |port, status| {
        wait_for("a tick that fails", MINUTE, || {
            let answer = http::try_get(port, "/readyz")?;
            (answer.status == status && answer.body.contains("fetcher-exchanges")).then_some(())
        });
    };
    failing(alone.admin, 503);
    failing(both.admin, 200);
    let stages = both.admin("/status").json()["stages"].clone();
    assert!(stages.as_array().unwrap().iter().any(|stage| stage["failing"].is_string()), "{stages}");
}

/// A look at a database tells by how much the clocks differ.
pub fn clocks_that_differ_are_told(world: &World) {
    struct Shifted(TimeDelta);
    impl Clock for Shifted {
        fn now(&self) -> DateTime<Utc> {
            SystemClock.now() + self.0
        }
    }
    let database = world.postgres.database();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for seconds in [-90, 0, 600] {
        let address = exagg_clients::database::Database::parse(&database.url, None).unwrap();
        let mut watch = Watch::new(address, Need::Migrations, Arc::new(Shifted(TimeDelta::seconds(seconds))));
        let look = runtime.block_on(watch.look()).unwrap();
        let off = (look.clock_ahead_seconds - TimeDelta::seconds(seconds).as_seconds_f64()).abs();
        assert!(off < 1.0, "{seconds}: {look:?}");
    }
}

/// Take out: the selection on `shutdown.drain` in `run::host`.
pub fn a_signal_during_the_start_ends_it(world: &World) {
    let database = world.postgres.database();
    // Compiled anew: that takes some seconds.
    let mut host = world.setup(&database, "early").own_cache().start();
    let compiled = host.setup.folder().join(".spin/compiled");
    wait_for("the start of compiling", MINUTE, || compiled.exists().then_some(()));
    let (status, took) = host.stop();
    assert!(status.success(), "{status}: {}", host.log());
    assert!(took < Duration::from_secs(3), "the stop took {took:?}:\n{}", host.log());
    assert!(host.log().contains("before anything ran"), "{}", host.log());
}

/// Take out: the delay in `Stages::run`, the note that the host stops, or `ONE_MOMENT`.
pub fn requests_are_answered_while_readiness_says_that_the_host_stops(world: &World) {
    const DELAY: Duration = Duration::from_secs(3);
    let database = world.postgres.database();
    let setup = world.setup(&database, "drained").configured("[exagg]\ndrain_delay_seconds = 3\n");
    let mut host = setup.components(&["dashboard"]).start();
    host.wait_until_ready();
    let began = Instant::now();
    host.signal("TERM");
    // As a wrapper and the terminal do, each for itself: that is no second signal.
    std::thread::sleep(Duration::from_millis(300));
    host.signal("INT");
    while began.elapsed() < DELAY.mul_f64(0.8) {
        let ready = host.get("/.well-known/exagg/ready");
        // The signal takes its way.
        if began.elapsed() > Duration::from_millis(500) {
            assert!(ready.status == 503 && ready.body.contains("it stops"), "{} {}", ready.status, ready.body);
        }
        assert_eq!(host.get("/api/streams").status, 200);
    }
    let status = host.wait(Duration::from_secs(10));
    assert!(status.success() && began.elapsed() >= DELAY, "{status} after {:?}", began.elapsed());
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Of the host's own page, of what components hold, and of the database's view. Take out: a `head`.
pub fn metrics_are_as_prometheus_wants_them(world: &World) {
    let database = world.postgres.database();
    let setup = world.setup(&database, "metrics").variable("exchanges_source", "random");
    world.kafka().create_topic(&topic("metrics"), 1, &[]);
    let stages = [EXCHANGES[0], EXCHANGES[1], "fetcher-exchanges"];
    let host = setup.variable("exchanges_schedule", "* * * * * *").components(&stages).start();
    let page = wait_for("metrics of a stream", MINUTE, || {
        let page = http::try_get(host.admin, "/metrics")?.body;
        let has = |name: &str| page.contains(&format!("\n{name}{{"));
        let all =
            ["exagg_stream_lag_records", "exagg_kafka_lag_seconds", "exagg_cron_ticks_total", "exagg_component_info"];
        all.into_iter().all(has).then_some(page)
    });
    let (passes, said) = promtool(&["check", "metrics"], &page);
    assert!(passes && said.is_empty(), "{said}");
    let (passes, said) = promtool(&["check", "metrics"], "exagg_nameless 1\n");
    assert!(!passes || !said.is_empty(), "the check sees nothing");
    // A gauge that every host tells of the one database is one number in the rules.
    let rules = e2e::root().join("deploy/prometheus/rules.yaml");
    let (passes, said) = promtool(&["check", "rules", rules.to_str().unwrap()], "");
    assert!(passes, "{said}");
    let tests = e2e::root().join("deploy/prometheus/tests.yaml");
    let (passes, said) = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    assert!(passes, "{said}");
    let text = std::fs::read_to_string(rules).unwrap();
    for line in page.lines().filter(|line| line.starts_with("exagg_stream_")) {
        let name = line.split('{').next().unwrap();
        assert!(text.contains(&format!("max by (stream) ({name})")), "{name} has no rule");
    }
}

/// Keeps of a partition's only segment the batches in front of this offset, as a disk does that is restored from
/// before.
fn cut_tail(segment: &Path, offset: i64) {
    let log = std::fs::read(segment).unwrap();
    let mut at = 0;
    while at + 12 <= log.len() {
        let base = i64::from_be_bytes(log[at..at + 8].try_into().unwrap());
        let length = i32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap());
        if length <= 0 || base >= offset {
            break;
        }
        at += 12 + usize::try_from(length).unwrap();
    }
    std::fs::write(segment, &log[..at]).unwrap();
}

/// The host was down meanwhile: only the leader epoch that was committed shows it. Take out: `leader_epoch` in
/// `Consumer::committed`, or in `Commits::take`.
pub fn a_log_that_lost_its_tail_and_grew_again_is_not_read_on(world: &World) {
    let database = world.postgres.database();
    let mut kafka = Kafka::start();
    kafka.create_topic("cut", 1, &[]);
    let time = now() / 60 * 60 - 600;
    let send = |kafka: &Kafka, from: i64, count: i64| {
        let sender = kafka.producer();
        for number in from..from + count {
            sender.send("cut", 0, None, Some(exchange("A", 1.0, time + number % 60).as_bytes()));
        }
        sender.flush();
    };
    send(&kafka, 0, 50);
    let setup = world.setup(&database, "cut").variable("exchanges_topic", "cut");
    let setup = setup.variable("kafka_brokers", &kafka.brokers).variable("kafka_host", &kafka.brokers);
    let mut host = setup.components(&EXCHANGES).start();
    wait_for_records(&database, "exchanges", 50);
    send(&kafka, 50, 50);
    wait_for_records(&database, "exchanges", 100);
    host.stop();
    kafka.kill();
    cut_tail(&kafka.segment("cut", 0), 50);
    kafka.resume();
    // Past the position: by the offsets alone nothing looks wrong.
    send(&kafka, 100, 200);
    host.restart();
    host.wait_for_log("the partition is stopped", MINUTE);
    let gaps = "SELECT concat_ws(' ', from_offset, next_offset, reason) FROM public.gaps";
    let gaps = database.texts(gaps);
    assert!(gaps.len() == 1 && gaps[0].starts_with("50 100 the log lost its tail"), "{gaps:?}");
    assert_eq!(database.number("SELECT next_offset FROM public.progress"), 100, "nothing is read on");
    let status = host.admin("/readyz");
    assert!(status.status == 503 && status.body.contains("it has other records there"), "{}", status.body);
}

/// The leader dies, and the one that comes next had not copied what was applied: a reader that ran all the time, and one
/// that was down meanwhile. Take out: the epoch in `PartitionTask::initialise`, or in `Consumer::committed`.
pub fn an_unclean_election_is_a_gap_under_a_reader_and_without_one(world: &World) {
    let settings = "offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
                    replica.lag.time.max.ms=2000\nmin.insync.replicas=1";
    for is_down in [false, true] {
        let database = world.postgres.database();
        let (first, mut second, copies) = Kafka::start_pair(settings);
        // The group's offsets are on the broker that stays.
        first.create_topic_on("__consumer_offsets", &[1], &[("cleanup.policy", "compact")]);
        first.create_topic_on("unclean", &[2, 1], &[("unclean.leader.election.enable", "true")]);
        let time = now() / 60 * 60 - 600;
        let send = |count: i64| {
            let sender = first.producer();
            for number in 0..count {
                sender.send("unclean", 0, None, Some(exchange("A", 1.0, time + number % 60).as_bytes()));
            }
            sender.flush();
        };
        send(50);
        let in_sync = |count| first.first_partition("unclean").filter(|(_, in_sync)| *in_sync == count).map(|_| ());
        wait_for("the copy", MINUTE, || in_sync(2));
        let setup = world.setup(&database, "unclean").variable("exchanges_topic", "unclean");
        let setup = setup.variable("kafka_brokers", &first.brokers).variable("kafka_host", &first.brokers);
        // Longer than an election takes.
        let setup = setup.replace("\"session.timeout.ms\" = \"6000\"", "\"session.timeout.ms\" = \"30000\"");
        let mut host = setup.components(&EXCHANGES).start();
        wait_for_records(&database, "exchanges", 50);
        copies.close();
        // A copy that lacks nothing is in sync, however long it has not asked.
        send(5_000);
        wait_for("the copy to be given up", MINUTE, || in_sync(1));
        wait_for_records(&database, "exchanges", 5_050);
        if is_down {
            host.stop();
        } else {
            // It must not look while the log is shorter than what it has applied: that is another error.
            host.signal("STOP");
        }
        second.kill();
        let leads = || first.first_partition("unclean").filter(|(leader, _)| *leader == 1).map(|_| ());
        wait_for("the other leader", MINUTE, leads);
        // Past the position: by the offsets alone nothing looks wrong.
        send(10_000);
        if is_down {
            host.restart();
        } else {
            host.signal("CONT");
        }
        host.wait_for_log("the partition is stopped", MINUTE);
        let gaps = database.texts("SELECT concat_ws(' ', from_offset, next_offset, reason) FROM public.gaps");
        assert!(gaps.len() == 1 && gaps[0].starts_with("50 5050 the log lost its tail"), "{is_down}: {gaps:?}");
        assert_eq!(database.number("SELECT next_offset FROM public.progress"), 5_050, "nothing is read on");
    }
}

/// Cut, held without a word, and deaf: readiness follows within seconds, both ways, and a host that is told to stop
/// meanwhile ends by its deadline. Take out: `LOOK_MAX`.
pub fn readiness_follows_a_database_that_is_cut_held_or_deaf(world: &World) {
    const NOTICED: Duration = Duration::from_secs(6);
    let database = world.postgres.database();
    world.kafka().create_topic(&topic("held"), 1, &[]);
    let gate = Gate::opened(&database.host);
    let url = database.url.replace(&database.host, &gate.address());
    let setup = world.setup(&database, "held").variable("postgres_url", &url);
    let setup = setup.variable("postgres_host", &gate.address()).configured("[exagg]\ndrain_seconds_max = 8\n");
    let mut host = setup.components(&EXCHANGES).start();
    host.wait_until_ready();
    let becomes = |what: &str, status: u16| {
        wait_for(what, NOTICED, || http::try_get(host.admin, "/readyz").filter(|answer| answer.status == status))
    };
    for (what, fault) in [("cut", Gate::close as fn(&Gate)), ("held", Gate::hold), ("deaf", Gate::hold_answers)] {
        fault(&gate);
        becomes(what, 503);
        gate.open();
        becomes("ready again", 200);
    }
    // While the host's row is written, which its next look waits for. Take out: `RUN_MAX` and the pause of zero.
    let mut other = database.client();
    other.batch_execute("BEGIN; LOCK TABLE public.exagg_hosts").unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.exagg_hosts'::regclass";
    wait_for("the row to wait", NOTICED, || (database.number(waits) == 1).then_some(()));
    gate.hold();
    becomes("held while the row is written", 503);
    other.batch_execute("COMMIT").unwrap();
    gate.open();
    becomes("ready again", 200);
    gate.hold();
    let (status, took) = host.stop();
    assert!(took < Duration::from_secs(12), "{status} after {took:?}");
}
