//! In a database of somebody else's: beside tables of the same names, with few rights, behind a pooler.

use std::process::Output;
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::feed::Feed;
use e2e::host::{Host, Setup};
use e2e::pair::{self, Pair};
use e2e::pooler::{Mode, Pooler};
use e2e::{exchange, now, number, streams, topic, wait_for};

use super::replay::replay;
use super::{EXCHANGES, World, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);
const HOSTS: usize = 5;
const RECORDS: i64 = 400;

/// What is somebody's own, under names of the pipeline's.
const FOREIGN: &str = "CREATE TABLE public.aggregates (id int PRIMARY KEY, total numeric);
     INSERT INTO public.aggregates VALUES (1, 10), (2, 20);
     CREATE TABLE public.progress (course text, percent int);
     INSERT INTO public.progress VALUES ('rust', 80);";

fn migrate(host: &Host, database: &Database, arguments: &[&str]) -> Output {
    let from = host.setup.folder().to_str().unwrap();
    let arguments = [&["--from", from], arguments].concat();
    host.command_with("migrate", &arguments, "SPIN_VARIABLE_POSTGRES_URL", Some(&database.url))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Records of a minute that is over, so that they are closed soon.
fn send(world: &World, name: &str) {
    let time = now() / 60 * 60 - 300;
    let sender = world.kafka().producer();
    for number in 0..RECORDS {
        let record = exchange(["A", "B"][usize::from(number % 2 == 1)], 1.0, time + number % 60);
        sender.send(&topic(name), i32::try_from(number % 4).unwrap(), None, Some(record.as_bytes()));
    }
    sender.flush();
}

/// Take out: `foreign` in `migrate`, or the schema in `Database::sql` or in the SDK's `Address::statement`.
pub fn tables_of_others_are_left_alone_and_a_schema_keeps_the_pipeline_apart(world: &World) {
    let database = world.postgres.database();
    database.execute(FOREIGN);
    let stranger = database.url.rsplit_once('/').unwrap().1.to_owned() + "_stranger";
    database.execute(&format!("CREATE ROLE {stranger}; GRANT INSERT ON public.aggregates TO {stranger}"));
    let name = "neighbours";
    world.kafka().create_topic(&topic(name), 4, &[]);
    let setup = || world.setup(&database, name).components(&["aggregator-exchanges", "window-closer", "dashboard"]);
    let error = setup().refused();
    assert!(error.contains("aggregates, progress") && error.contains("postgres_schema"), "{error}");
    let tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.texts(tables), ["aggregates progress"]);

    let apart = |setup: Setup| setup.variable("postgres_schema", "exchange_agg");
    let mut host = apart(setup()).start();
    host.wait_until_ready();
    send(world, name);
    let counted = "SELECT coalesce(sum(records), 0)::int8 FROM exchange_agg.aggregates";
    wait_for("final rows", MINUTE * 2, || (database.number(counted) == RECORDS).then_some(()));
    let answer = host.get("/api/aggregates?stream=exchanges&from=2020-01-01T00:00:00Z");
    assert!(answer.status == 200 && answer.body.contains("\"code\": \"A\""), "{} {}", answer.status, answer.body);
    assert!(host.admin("/metrics").body.contains("exagg_stream_watermark_seconds{"));
    let replayed =
        replay(world, &host, &database, name, &["--from", "earliest", "--variable", "postgres_schema=exchange_agg"]);
    assert!(replayed.contains("0 rows added, 0 changed, 0 deleted, 2 unchanged, 0 kept"), "{replayed}");
    // Who may write to the other table of this name may not write to the pipeline's.
    let may = format!("SELECT has_table_privilege('{stranger}', 'exchange_agg.aggregates', 'INSERT')::text");
    assert_eq!(database.texts(&may), ["false"]);
    // Nothing went elsewhere, and a second start finds nothing to do.
    assert_eq!(database.texts(tables), ["aggregates progress"]);
    assert_eq!(database.number("SELECT sum(total)::int8 FROM public.aggregates"), 30);
    let output = migrate(&host, &database, &["--dry-run", "--variable", "postgres_schema=exchange_agg"]);
    assert!(output.status.success() && said(&output).contains("up to date"), "{}", said(&output));
    let output = migrate(&host, &database, &["--dry-run"]);
    assert!(output.status.success() && said(&output).contains("nothing is changed"), "{}", said(&output));
    host.stop();
}

/// Take out: the look at what is pending in `migrate`.
pub fn who_may_only_read_and_write_rows_starts_on_a_migrated_database(world: &World) {
    let database = world.postgres.database();
    let mut host = world.setup(&database, "rows").components(&["dashboard"]).start();
    host.wait_until_ready();
    host.stop();
    let role = database.url.rsplit_once('/').unwrap().1.to_owned() + "_rows";
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'zeile-3';
         REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    ));
    let (_, at) = database.url.rsplit_once('@').unwrap();
    let theirs = Database { url: format!("postgres://{role}:zeile-3@{at}"), host: database.host.clone() };
    let host = world.setup(&theirs, "rows").components(&["dashboard", "window-closer"]).start();
    host.wait_until_ready();
    assert_eq!(host.get("/api/streams").status, 200);
}

/// Take out: an objection in `requirements.rs`.
pub fn a_server_that_cannot_be_used_says_why(world: &World) {
    let database = world.postgres.database();
    let refused = |database: &Database| world.setup(database, "unusable").components(&["dashboard"]).refused();
    database.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let (server, name) = database.url.rsplit_once('/').unwrap();
    let latin = Database { url: format!("{server}/latin"), host: database.host.clone() };
    let error = refused(&latin);
    assert!(error.contains("LATIN1") && error.contains("ENCODING 'UTF8'"), "{error}");
    database.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let error = refused(&database);
    assert!(error.contains("read-only") && error.contains(&database.host), "{error}");
}

/// `ROUNDS` (1) times in each mode. Take out: the transaction of the lock in `migrate` (lock the session), or the claim
/// of `replay`.
pub fn hosts_start_at_once_and_rows_are_right_behind_a_pooler(world: &World) {
    for round in 0..number("ROUNDS", 1) {
        for mode in [Mode::Session, Mode::Transaction, Mode::Statement] {
            let database = world.postgres.database();
            // A session keeps its connection of the server's.
            let pooler = Pooler::start(&database, mode, if mode == Mode::Session { 60 } else { 3 });
            let through = pooler.database(&database);
            let name = format!("pooled-{round}-{mode:?}").to_lowercase();
            world.kafka().create_topic(&topic(&name), 4, &[]);
            let start = || world.setup(&through, &name).components(&EXCHANGES).start();
            let mut hosts: Vec<_> = (0..HOSTS).map(|_| start()).collect();
            for host in &hosts {
                host.wait_until_ready();
            }
            send(world, &name);
            wait_for_records(&database, "exchanges", RECORDS);
            wait_until_closed(&database, "exchanges");
            let said = replay(world, &hosts[0], &through, &name, &["--from", "earliest"]);
            assert!(said.contains("0 kept"), "{mode:?}: {said}");
            wait_for_records(&database, "exchanges", RECORDS);
            for host in &mut hosts {
                let (status, _) = host.stop();
                assert!(status.success(), "{mode:?}: {}", host.log());
            }
        }
    }
}

/// A host wants nine sessions and more, and the pooler has three: it is slow, and nobody waits for long. Take out:
/// `close_one` in `Pools::open`, or the first statement in `Pools::connect`.
pub fn a_pooler_with_fewer_sessions_than_wanted_is_slow_and_starves_nobody(world: &World) {
    const STARVED: Duration = Duration::from_secs(30);
    let (database, name) = (world.postgres.database(), "few-sessions");
    let pooler = Pooler::start(&database, Mode::Session, 3);
    world.kafka().create_topic(&topic(name), 4, &[]);
    let components = ["aggregator-exchanges", "window-closer", "dashboard"];
    let host = world.setup(&pooler.database(&database), name).components(&components).start();
    let mut feed = Feed::new(world.kafka(), &topic(name), 4);
    let (began, time) = (Instant::now(), now() / 60 * 60 - 600);
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(20) {
        feed.spread(RECORDS / 10, time, 120);
        let asked = Instant::now();
        wait_for("an answer of the dashboard", STARVED, || (host.get("/api/streams").status == 200).then_some(()));
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    let counted = "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates";
    wait_for("the last records", STARVED, || (database.number(counted) == feed.sent).then_some(()));
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    println!("three sessions for all components: an answer took {longest:?} at most");
}

/// More streams than PostgreSQL has connections for: what one keeps and does not use is closed for another. Take out:
/// `close_one` where the server has none left.
pub fn streams_beyond_the_servers_connections_share_them(world: &World) {
    const STREAMS: usize = 12;
    let all = i64::try_from(STREAMS).unwrap();
    let (database, of) = (world.postgres.database(), "few-connections");
    let mut first = world.setup(&database, of).components(&["dashboard"]).start();
    first.wait_until_ready();
    first.stop();
    let (_, database_name) = database.url.rsplit_once('/').unwrap();
    let user = format!("few_{database_name}");
    database.execute(&format!(
        "CREATE ROLE {user} LOGIN PASSWORD 'few' CONNECTION LIMIT 4;
         GRANT USAGE ON SCHEMA public TO {user}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"
    ));
    (0..STREAMS).for_each(|number| world.kafka().create_topic(&topic(&streams::name(of, number)), 1, &[]));
    let url = format!("postgres://{user}:few@{}/{database_name}", database.host);
    let host = streams::setup(of, STREAMS, world.kafka(), &database, &url).start();
    host.wait_until_ready();
    let sender = world.kafka().producer();
    for number in 0..STREAMS {
        let record = exchange("A", 1.0, now());
        sender.send(&topic(&streams::name(of, number)), 0, None, Some(record.as_bytes()));
    }
    sender.flush();
    let counted = "SELECT count(DISTINCT stream) FROM public.live_aggregates";
    wait_for("a row of each stream", MINUTE, || (database.number(counted) == all).then_some(()));
}

/// From the oldest that is supported to the newest.
pub fn every_release_that_is_supported_gives_the_same_rows(world: &World) {
    for major in 14..=18 {
        let Some(server) = Server::of_release(major) else {
            assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: PostgreSQL {major}");
            continue;
        };
        let database = server.database();
        assert_eq!(database.number("SELECT current_setting('server_version_num')::int8 / 10000"), i64::from(major));
        let name = format!("release-{major}");
        world.kafka().create_topic(&topic(&name), 4, &[]);
        let mut feed = Feed::new(world.kafka(), &topic(&name), 4);
        let host = world.setup(&database, &name).components(&EXCHANGES).start();
        feed.spread(RECORDS, now() / 60 * 60 - 1_200, 600);
        wait_for_records(&database, "exchanges", RECORDS);
        wait_until_closed(&database, "exchanges");
        feed.oracle.assert_equal(&database, "exchanges");
        let said = replay(world, &host, &database, &name, &["--from", "earliest"]);
        assert!(said.contains("0 rows added, 0 changed, 0 deleted") && said.contains("0 kept"), "{major}: {said}");
        feed.oracle.assert_equal(&database, "exchanges");
    }
}

/// A two-host address, records all the time, and the primary dies: with a synchronous standby nothing is lost, and with
/// another one what was lost with the primary is read again, for the progress went with it.
pub fn a_standby_that_is_promoted_goes_on_where_the_primary_was(world: &World) {
    let Some(bin) = pair::programs() else {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: pg_basebackup");
        return;
    };
    for is_synchronous in [true, false] {
        let mut pair = Pair::start(bin.clone(), is_synchronous);
        let name = format!("pair-{is_synchronous}");
        world.kafka().create_topic(&topic(&name), 4, &[]);
        let mut feed = Feed::new(world.kafka(), &topic(&name), 4);
        let [first, second] = [0, 1].map(|number| pair.one(number));
        let allowed = format!("\"postgres://{}\", \"postgres://{}\"", first.host, second.host);
        let standby = world.setup(&second, &name).components(&["dashboard"]).refused();
        assert!(standby.contains("it is a standby") && standby.contains("target_session_attrs"), "{standby}");
        let setup = world.setup(&first, &name).replace("\"postgres://{{ postgres_host }}\"", &allowed);
        let host = setup.variable("postgres_url", &pair.both()).components(&EXCHANGES).start();
        host.wait_until_ready();
        let time = now() / 60 * 60 - 1_200;
        for part in 0..20 {
            feed.spread(RECORDS, time + part * 30, 60);
            if part == 10 {
                wait_for("some records", MINUTE, || {
                    let counted = "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates";
                    (first.number(counted) > RECORDS).then_some(())
                });
                pair.fail_over();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        wait_for_records(&second, "exchanges", feed.sent);
        wait_until_closed(&second, "exchanges");
        feed.oracle.assert_equal(&second, "exchanges");
        host.wait_until_ready();
    }
}
