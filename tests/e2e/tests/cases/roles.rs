//! Least privilege: each stage by a role of PostgreSQL and with ACLs of Kafka that let it do its work, and
//! nothing else.

use std::process::Command;
use std::time::Duration;

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::{Host, Setup, exagg, function};
use e2e::kafka::{Kafka, Operation, Resource};
use e2e::{exchange, now, root, topic, wait_for};
use postgres::error::SqlState;
use postgres::{Client, NoTls};

use super::{EXCHANGES, World, wait_for_records, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "rolle-17";

/// A user who can log in, and the role that it is a member of.
const USERS: [(&str, &str); 4] = [
    ("aggregator", "exagg_writer"),
    ("closer", "exagg_closer"),
    ("dashboard", "exagg_reader"),
    ("host", "exagg_reader, exagg_host, exagg_lease"),
];

/// What each may do with the tables and views of the schema, of SELECT, INSERT, UPDATE and DELETE, on some
/// column at least; what is not listed is refused.
const ALLOWED: [(&str, &[(&str, &str)]); 4] = [
    (
        "aggregator",
        &[
            ("window_state_layout", "S"),
            ("replays", "SU"),
            ("progress", "SIU"),
            ("window_state", "SIU"),
            ("window_batches", "I"),
            ("rejected_records", "SI"),
            ("gaps", "I"),
            ("streams", "SIU"),
        ],
    ),
    (
        "closer",
        &[
            ("window_state_layout", "S"),
            ("retention", "SU"),
            ("progress", "S"),
            ("streams", "SU"),
            ("window_state", "SD"),
            ("window_batches", "SD"),
            ("aggregates", "SIUD"),
            ("rejected_records", "SD"),
            ("gaps", "SD"),
        ],
    ),
    (
        "dashboard",
        &[
            ("aggregates", "S"),
            ("window_state", "S"),
            ("window_batches", "S"),
            ("live_aggregates", "S"),
            ("streams", "S"),
            ("stream_status", "S"),
            ("exagg_metrics", "S"),
            ("exagg_migrations", "S"),
            ("rejected_records", "S"),
            ("gaps", "S"),
            ("operations", "S"),
            ("pending_parts", "S"),
            ("progress", "S"),
            ("exagg_hosts", "S"),
        ],
    ),
    (
        "host",
        &[
            ("aggregates", "S"),
            ("window_state", "S"),
            ("window_batches", "S"),
            ("live_aggregates", "S"),
            ("streams", "S"),
            ("stream_status", "S"),
            ("exagg_metrics", "S"),
            ("exagg_migrations", "S"),
            ("rejected_records", "S"),
            ("gaps", "S"),
            ("operations", "S"),
            ("pending_parts", "S"),
            ("progress", "S"),
            ("exagg_hosts", "SIUD"),
            ("exagg_cron_leases", "SID"),
        ],
    ),
];

/// Columns that are another stage's, and what only operators do.
const REFUSED: [(&str, &[&str]); 4] = [
    (
        "aggregator",
        &[
            "UPDATE public.streams SET watermark = NULL",
            "UPDATE public.streams SET closed_before = NULL",
            "INSERT INTO public.streams (stream, watermark) VALUES ('x', NULL)",
            "UPDATE public.streams SET settings_revision = 1",
            "UPDATE public.replays SET held_until = now()",
            "UPDATE public.progress SET topic_id = 'x'",
            "UPDATE public.progress SET stream = 'x'",
            "UPDATE public.window_state SET code = 'x'",
            "SELECT value FROM public.rejected_records",
        ],
    ),
    (
        "closer",
        &[
            "UPDATE public.streams SET window_seconds = 1",
            "UPDATE public.streams SET late = 'revise'",
            "UPDATE public.aggregates SET code = 'x'",
            "SELECT value FROM public.rejected_records",
            "SELECT reason FROM public.gaps",
        ],
    ),
    ("dashboard", &["SELECT value FROM public.rejected_records", "SELECT 1 FROM public.streams FOR SHARE"]),
    (
        "host",
        &[
            "SELECT value FROM public.rejected_records",
            "UPDATE public.exagg_cron_leases SET stage = 'x'",
            "UPDATE public.exagg_hosts SET host = 'x'",
        ],
    ),
];

/// What nobody of them may do.
const REFUSED_TO_ALL: [&str; 15] = [
    "CREATE TABLE public.mine (a int)",
    "CREATE TEMPORARY TABLE mine (a int)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT public.exagg_retire('s', 't', 'i', 'why')",
    "SELECT * FROM public.exagg_replay_begin('s', 's@replay', 'x', '-infinity', 'infinity')",
    "SELECT public.exagg_replay_hold('s')",
    "SELECT public.exagg_note('drop', 's', 'x')",
    "SELECT * FROM public.exagg_drop('s')",
    "SELECT * FROM public.exagg_replay_diff('s', 's@replay', '-infinity', '-infinity', 'infinity')",
    "SELECT * FROM public.exagg_replay_apply('s', 's@replay', '-infinity', '-infinity', 'infinity')",
    "SELECT public.exagg_replay_forget('s@replay')",
    "ALTER TABLE public.aggregates ADD COLUMN a int",
];

/// The users of one mode, with addresses: they belong to the server, which other tests share.
struct Users<'a> {
    database: &'a Database,
    mode: &'a str,
}

impl Users<'_> {
    fn name(&self, user: &str) -> String {
        format!("roles_{}_{user}", self.mode)
    }

    fn url(&self, user: &str) -> String {
        let (_, place) = self.database.url.split_once('@').unwrap();
        format!("postgres://{}:{PASSWORD}@{place}", self.name(user))
    }

    fn client(&self, user: &str) -> Client {
        Client::connect(&self.url(user), NoTls).unwrap()
    }

    /// Migrates as the owner, then makes the roles and the users.
    fn make(&self) {
        let setup = Setup::new();
        setup.write();
        let migrated = Command::new(exagg())
            .args(["migrate", "--from"])
            .arg(setup.folder())
            .args(["--variable", &format!("postgres_url={}", self.database.url)])
            .args(["--variable", &format!("postgres_host={}", self.database.host)])
            .output()
            .unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
        let roles = std::fs::read_to_string(root().join("migrations/roles.sql")).unwrap();
        // It may be run again.
        self.database.execute(&roles);
        self.database.execute(&roles);
        for (user, groups) in USERS {
            let name = self.name(user);
            self.database.execute(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE {groups}"));
        }
    }
}

/// Whether PostgreSQL refuses the statement for want of a right; what it does is taken back.
fn is_refused(client: &mut Client, statement: &str) -> bool {
    let mut transaction = client.transaction().unwrap();
    let result = transaction.batch_execute(statement);
    result.is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
}

/// The pipeline runs with a role for each stage, in both modes of lateness. Take out: any GRANT of
/// `migrations/roles.sql` (a stage fails) or any REVOKE of it (a statement is not refused), or
/// `own_postgres_url` of a component (it fails by the role of `postgres_url`).
pub fn each_stage_runs_with_its_own_role(world: &World) {
    for mode in ["revise", "reject"] {
        let database = world.postgres.database();
        let users = Users { database: &database, mode };
        users.make();
        runs(world, &users);
        for (user, allowed) in ALLOWED {
            assert_matrix(&users, user, allowed);
        }
        for (user, statements) in REFUSED {
            let mut client = users.client(user);
            for statement in statements.iter().chain(&REFUSED_TO_ALL) {
                assert!(is_refused(&mut client, statement), "{user} may: {statement}");
            }
            for group in ["exagg_writer", "exagg_closer", "exagg_reader", "exagg_values", "exagg_lease", "exagg_host"] {
                let (_, own) = USERS.into_iter().find(|(known, _)| *known == user).unwrap();
                assert_eq!(
                    is_refused(&mut client, &format!("SET ROLE {group}")),
                    !own.contains(group),
                    "{user} {group}"
                );
            }
        }
        assert_grafana_reads(&users);
    }
}

/// What the owner left to be deleted by age.
const OLD_ROWS: &str = "
    INSERT INTO public.rejected_records (rejected_at, stream, topic, topic_id, partition, record_offset, reason)
        VALUES (now() - interval '3 days', 'old', 't', 'i', 0, 0, 'not_json');
    INSERT INTO public.gaps (seen_at, stream, topic, topic_id, partition, from_offset, next_offset, reason)
        VALUES (now() - interval '3 days', 'old', 't', 'i', 0, 0, 1, 'why');
    INSERT INTO public.aggregates (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol,
                                   first_vol, last_vol, first_edge, last_edge)
        SELECT w, w + interval '1 minute', 'A', 1, 'old', 1, 1, 1, 1, 1, 1,
               public.exagg_edge(0, 't', 0, 0, 1), public.exagg_edge(0, 't', 0, 0, 1)
        FROM (SELECT date_trunc('minute', now() AT TIME ZONE 'UTC') - interval '3 days' AS w) AS w";

/// Records in, rows out: final, rejected and late ones, and what is past its retention gone.
fn runs(world: &World, users: &Users<'_>) {
    let (database, mode) = (users.database, users.mode);
    let name = format!("roles-{mode}");
    let topic = topic(&name);
    world.kafka().create_topic(&topic, 2, &[]);
    database.execute(OLD_ROWS);
    let first = now() / 60 * 60 - 600;
    let mut feed = Feed::new(world.kafka(), &topic, 2);
    feed.spread(200, first, 100);
    feed.send_bad(0, "not_json", b"nonsense");
    feed.flush();
    // An aggregator that has the shared address alone is refused, and says so.
    let shared = world.setup(database, &name).argument("--no-migrate").variable("postgres_url", &users.url("host"));
    let mut host = shared.components(&["aggregator-exchanges"]).start();
    host.wait_for_log("permission denied", MINUTE);
    host.stop();
    let host = world
        .setup(database, &name)
        .argument("--no-migrate")
        .variable("postgres_url", &users.url("host"))
        .variable("aggregator_postgres_url", &users.url("aggregator"))
        .variable("closer_postgres_url", &users.url("closer"))
        .variable("dashboard_postgres_url", &users.url("dashboard"))
        .variable("late", mode)
        .variable("retention_days", "1")
        .variable("rejects_retention_days", "1")
        .components(&[EXCHANGES[0], EXCHANGES[1], "dashboard"])
        .start();
    host.wait_until_ready();
    wait_for("the old rows' end", MINUTE * 2, || {
        let old = "SELECT (SELECT count(*) FROM public.aggregates WHERE stream = 'old')
                        + (SELECT count(*) FROM public.gaps) + (SELECT count(*) FROM public.rejected_records
                           WHERE stream = 'old')";
        (database.number(old) == 0).then_some(())
    });
    wait_for_records(database, "exchanges", 200);
    wait_until_closed(database, "exchanges");
    feed.oracle.assert_equal(database, "exchanges");
    let sender = world.kafka().producer();
    sender.send(&topic, 0, None, Some(exchange("A", 1.0, first).as_bytes()));
    sender.flush();
    let late = match mode {
        "revise" => "SELECT count(*) FROM public.aggregates WHERE revision > 0",
        _ => "SELECT count(*) FROM public.rejected_records WHERE reason = 'late'",
    };
    wait_for("what became of the late record", MINUTE, || (database.number(late) > 0).then_some(()));
    assert_eq!(database.number("SELECT count(*) FROM public.rejected_records WHERE reason = 'not_json'"), 1);
    let rows = host.get("/api/aggregates?stream=exchanges&code=A").json();
    assert!(!rows.as_array().unwrap().is_empty(), "{rows}");
    assert_eq!(host.get("/api/streams").json()[0]["stream"], "exchanges");
    let hosts = host.get("/api/hosts").json();
    let is_told = hosts.as_array().unwrap().iter().any(|told| told["state"] == "ready");
    assert!(is_told, "the host's role writes what it says of itself: {hosts}");
    let rejects = || host.get("/api/rejects?stream=exchanges&reason=not_json").json()[0].clone();
    assert!(rejects()["value_hidden"].as_str().unwrap().contains("exagg_values") && rejects()["value"].is_null());
    database.execute(&format!("GRANT exagg_values TO {}", users.name("dashboard")));
    // The same question within a second has the same answer.
    wait_for("the value", MINUTE, || (rejects()["value"] == "nonsense").then_some(()));
    database.execute(&format!("REVOKE exagg_values FROM {}", users.name("dashboard")));
    assert!(host.admin("/metrics").body.contains("exagg_stream_open_windows{stream=\"exchanges\"} 0"));
    assert_eq!(host.admin("/status").json()["streams"][0]["stream"], "exchanges");
    let who = "SELECT DISTINCT usename::text FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'exagg' ORDER BY 1";
    assert_eq!(database.texts(who), ["aggregator", "closer", "dashboard"].map(|user| users.name(user)));
    assert!(!host.log().contains("permission denied") && !host.log().contains(PASSWORD), "{}", host.log());
}

/// Every verb on every table and view: refused unless it is listed.
fn assert_matrix(users: &Users<'_>, user: &str, allowed: &[(&str, &str)]) {
    let relations = "SELECT c.relname::text, a.attname::text, c.relkind = 'r' FROM pg_class c
                     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
                     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')";
    let relations = users.database.client().query(relations, &[]).unwrap();
    assert!(relations.len() >= 15, "all tables and views");
    let mut client = users.client(user);
    for relation in relations {
        let (name, column, is_table): (String, String, bool) = (relation.get(0), relation.get(1), relation.get(2));
        let verbs = allowed.iter().find(|(known, _)| *known == name).map_or("", |(_, verbs)| verbs);
        let select = format!("SELECT count(*) FROM public.{name}");
        assert_eq!(is_refused(&mut client, &select), !verbs.contains('S'), "{user}: {select}");
        if !is_table {
            continue;
        }
        for (verb, statement) in [
            ('I', format!("INSERT INTO public.{name} DEFAULT VALUES")),
            ('D', format!("DELETE FROM public.{name}")),
            ('T', format!("TRUNCATE public.{name}")),
        ] {
            assert_eq!(is_refused(&mut client, &statement), !verbs.contains(verb), "{user}: {statement}");
        }
        // No stage may change the first column of any table: it is a part of the key.
        let update = format!("UPDATE public.{name} SET {column} = NULL");
        assert!(is_refused(&mut client, &update), "{user}: {update}");
        let any = format!("SELECT has_any_column_privilege('public.{name}', 'UPDATE')");
        let any: bool = client.query_one(&any, &[]).unwrap().get(0);
        assert_eq!(any, verbs.contains('U'), "{user}: UPDATE of {name}");
    }
}

/// Grafana's statements, by the reader.
fn assert_grafana_reads(users: &Users<'_>) {
    let text = std::fs::read_to_string(root().join("deploy/grafana/dashboards/exchange-agg.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap()).map(|target| &target["rawSql"]);
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| &variable["query"]);
    let mut client = users.client("dashboard");
    for statement in targets.chain(variables) {
        let statement = statement
            .as_str()
            .unwrap()
            .replace("${stream:sqlstring}", "'exchanges'")
            .replace("${code:sqlstring}", "'A'")
            .replace("$__timeFilter(window_start)", "true")
            .replace("$__timeFilter(rejected_at)", "true");
        client.query(&statement, &[]).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// The setup against the guarded broker, as this user.
fn as_user(setup: Setup, door: &str, user: &str) -> Setup {
    let lines = format!(
        "[exagg.kafka]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         \"sasl.username\" = \"{user}\"\n\"sasl.password\" = \"{PASSWORD}\"\n"
    );
    setup.configured(&lines).variable("kafka_brokers", door).variable("kafka_host", door)
}

/// A broker that refuses what no ACL allows. Take out: any of the ACLs (the stage that needs it waits for
/// ever), or the authorizer (the stages that are refused run).
pub fn each_stage_needs_only_its_acls(world: &World) {
    let users = ["fetcher", "aggregator", "letters", "no-group", "no-topic", "nobody"];
    let (kafka, door) = Kafka::start_guarded(&users, PASSWORD);
    let (read, written, group) = (topic("acls"), "acls.weather".to_owned(), "acls-exchanges");
    // Before the topics: who sees them then has these as well.
    kafka.allow("fetcher", Operation::Write, Resource::Topic(&written));
    for user in ["aggregator", "no-group"] {
        kafka.allow(user, Operation::Read, Resource::Topic(&read));
    }
    for user in ["aggregator", "no-topic"] {
        kafka.allow(user, Operation::Read, Resource::Group(group));
    }
    kafka.allow("letters", Operation::Read, Resource::Topic("acls.traps"));
    kafka.allow("letters", Operation::Read, Resource::Group("acls-letters"));
    kafka.allow("letters", Operation::Write, Resource::Topic("acls.dead"));
    kafka.create_topic(&read, 2, &[]);
    for name in [written.as_str(), "acls.traps", "acls.dead"] {
        kafka.create_topic(name, 1, &[]);
    }
    let mut feed = Feed::new(&kafka, &read, 2);
    feed.spread(100, now() / 60 * 60 - 600, 60);
    let start = |database: &Database, user: &str, stages: &[&str], weather: &str| {
        let setup = as_user(world.setup(database, "acls"), &door, user);
        setup.variable("weather_topic", weather).components(stages).start()
    };
    let refused = |host: &mut Host, why: &str| host.wait_for_log(why, MINUTE);

    let database = world.postgres.database();
    refused(&mut start(&database, "no-group", &EXCHANGES, &written), "Group authorization failed");
    refused(&mut start(&database, "no-topic", &EXCHANGES, &written), "Topic authorization failed");
    refused(&mut start(&database, "fetcher", &EXCHANGES, &written), "authorization failed");
    assert_eq!(database.number("SELECT count(*) FROM public.pending_parts"), 0);
    let fetcher = ["fetcher-weather"];
    // It may write, elsewhere; it may read; it may do nothing.
    refused(&mut start(&database, "fetcher", &fetcher, &read), "authorization failed");
    refused(&mut start(&database, "aggregator", &fetcher, &written), "authorization failed");
    refused(&mut start(&database, "nobody", &fetcher, &written), "authorization failed");
    assert_eq!(kafka.read_all(&written, 1).len(), 0);

    let aggregator = start(&database, "aggregator", &EXCHANGES, &written);
    wait_for_records(&database, "exchanges", 100);
    wait_until_closed(&database, "exchanges");
    feed.oracle.assert_equal(&database, "exchanges");
    wait_for("the commit", MINUTE, || (kafka.group_offset(group, &read, 1) == Some(50)).then_some(()));
    let fetcher = start(&database, "fetcher", &fetcher, &written);
    wait_for("a fetched record", MINUTE, || (!kafka.read_all(&written, 1).is_empty()).then_some(()));
    let letters = dead_letters(world, &kafka, &door);
    for host in [aggregator, fetcher, letters] {
        assert!(!host.log().contains("authorization failed"), "{}", host.log());
    }
}

/// A stage that publishes what it cannot apply: beside its reading it writes to that one topic.
fn dead_letters(world: &World, kafka: &Kafka, door: &str) -> Host {
    let database = world.postgres.database();
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    let manifest = format!(
        "spin_manifest_version = 2\n[application]\nname = \"letters\"\n\
         [variables]\npostgres_url = {{ required = true, secret = true }}\n\
         kafka_brokers = {{ required = true }}\nkafka_host = {{ required = true }}\n\
         [[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"acls.traps\"]\ngroup = \"acls-letters\"\n\
         brokers = \"{{{{ kafka_brokers }}}}\"\nstart = \"earliest\"\nretry_attempts_max = 1\n\
         retry_backoff_ms_min = 10\nretry_backoff_ms_max = 50\n\
         on_poison = \"dead-letter\"\ndead_letter_topic = \"acls.dead\"\n\
         [component.guest]\nsource = \"{}\"\nallowed_outbound_hosts = [\"postgres://{}\"]\n\
         [component.guest.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
        function("guest").display(),
        database.host,
    );
    let sender = kafka.producer();
    for value in ["ok 1", "trap", "ok 2"] {
        sender.send("acls.traps", 0, None, Some(value.as_bytes()));
    }
    sender.flush();
    let setup = Setup::new().manifest(&manifest).argument("--no-migrate").variable("postgres_url", &database.url);
    let host = as_user(setup, door, "letters").start();
    wait_for("the records that can be applied", MINUTE, || {
        (database.number("SELECT count(*) FROM seen WHERE value LIKE 'ok%'") == 2).then_some(())
    });
    assert_eq!(kafka.read_all("acls.dead", 1)[0].value.as_deref(), Some(&b"trap"[..]));
    host
}
