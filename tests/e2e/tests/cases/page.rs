//! The dashboard's page in a real Chromium, over pipelines that run.

use std::time::Duration;

use e2e::browser::{Browser, served};
use e2e::database::Database;
use e2e::feed::Feed;
use e2e::gate::Gate;
use e2e::host::{Host, Setup, function, variant};
use e2e::kafka::Kafka;
use e2e::{exchange, wait_for};
use serde_json::{Value, json};

use super::{EXCHANGES, World, now, topic};

const MINUTE: Duration = Duration::from_secs(60);
/// A number of the page changes within it: it asks every second.
const SOON: Duration = Duration::from_secs(10);
/// A second stream's topic.
const WEATHER: &str = "page-faults.weather";
/// A code that would run as a script, and one that would end an SQL literal.
const HOSTILE: &str = "<script>alert(1)</script>'; DROP TABLE aggregates; --";

/// Sends a record of each code to each of two partitions.
fn feed(feed: &mut Feed, codes: &[&str]) {
    for (number, code) in codes.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        feed.send(i32::try_from(number % 2).unwrap(), code, 1.0 + number as f64, now());
    }
    feed.flush();
}

/// Take out: `loop` in `app.js`, the band in `plot.js`, or the escaping of a view.
pub fn the_page_shows_what_runs_by_itself(world: &World) {
    let Some(mut browser) = Browser::start() else { return };
    let (database, name) = (world.postgres.database(), "page");
    let kafka = world.kafka();
    kafka.create_topic(&topic(name), 2, &[]);
    let stages = [EXCHANGES[0], EXCHANGES[1], "dashboard"];
    let host = world.setup(&database, name).variable("window_seconds", "2").components(&stages).start();
    host.wait_until_ready();
    let mut records = Feed::new(kafka, &topic(name), 2).window_seconds(2);
    feed(&mut records, &["A", HOSTILE]);
    records.put(0, Some(b"{\"code\": \"<script>alert(2)</script>\""));
    records.flush();
    let url = format!("http://127.0.0.1:{}/", host.listen);
    browser.open(&url);
    let bytes = browser.run("bytes", &json!({})).as_f64().unwrap();
    assert!(bytes < 300_000.0, "{bytes} bytes for the first view");
    println!("the first view: {bytes} bytes, painted after {} ms", browser.run("paint", &json!({})));

    // A number changes without a reload.
    browser.wait("#streams tr[data-stream='exchanges']", None);
    let before = browser.text("#streams tr[data-stream='exchanges']");
    for _ in 0..3 {
        feed(&mut records, &["A", HOSTILE]);
        std::thread::sleep(Duration::from_secs(1));
    }
    browser.until("#streams tr[data-stream='exchanges']", SOON, |now| now != before);
    browser.until("#health-sentence", SOON, |sentence| sentence.contains("rejected"));
    assert_eq!(browser.text("#health-command"), "exagg rejects --stream exchanges");
    assert!(browser.count("#picture svg text") > 0, "the pipeline is drawn");
    browser.is_well("overview");

    // The chart draws, and its code is found.
    browser.run("goto", &json!({ "url": format!("{url}#/chart?stream=exchanges&code=A") }));
    browser.wait("#plot canvas", None);
    let drawn = "(() => { const canvas = document.querySelector('#plot canvas'); \
                 const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); \
                 return data.some((value) => value !== 0); })()";
    wait_for("a drawing", SOON, || (browser.run("evaluate", &json!({ "script": drawn })) == true).then_some(()));
    browser.run("fill", &json!({ "selector": "#code", "value": "SCRIPT" }));
    browser.wait("#codes [role=option]", Some("<script>alert(1)</script>"));
    browser.is_well("chart");

    other_views(&mut browser, &url);
    other_screens(&mut browser, &url);
    browser.open(&url);
    hostile_names(&mut browser, &database, &url);
}

/// Rows, rejects, windows and functions; what is hostile in them is text.
fn other_views(browser: &mut Browser, url: &str) {
    browser.run("goto", &json!({ "url": format!("{url}#/rows?stream=exchanges") }));
    browser.wait("#rows th", Some("<script>alert(1)</script>"));
    let csv = browser.run("download", &json!({ "selector": "#csv" }));
    let csv = csv.as_str().unwrap();
    assert!(csv.starts_with("stream,code,window_start") && csv.contains("DROP TABLE"), "{csv}");
    browser.is_well("rows");
    browser.run("goto", &json!({ "url": format!("{url}#/rejects?stream=exchanges") }));
    browser.wait("#rejects .value", Some("<script>alert(2)</script>"));
    browser.is_well("rejects");
    browser.screenshot("rejects-light");
    browser.run("goto", &json!({ "url": format!("{url}#/windows?stream=exchanges") }));
    browser.wait("#timeline a[data-state='final'], #timeline a[data-state='revised']", None);
    browser.is_well("windows");
    browser.run("goto", &json!({ "url": format!("{url}#/functions") }));
    browser.wait("#functions tr", Some("aggregator-exchanges"));
    browser.is_well("functions");
    browser.screenshot("functions-light");
}

/// On a phone, in the dark, and without a script.
fn other_screens(browser: &mut Browser, url: &str) {
    for (device, width, height) in [("phone", 390, 844), ("desktop", 1280, 900)] {
        for scheme in ["light", "dark"] {
            for view in ["", "#/chart?stream=exchanges&code=A", "#/rows?stream=exchanges"] {
                let window =
                    json!({ "url": format!("{url}{view}"), "width": width, "height": height, "scheme": scheme });
                browser.run("open", &window);
                browser.wait("main :is(#streams tr[data-stream], #plot canvas, #rows th)", None);
                let name = format!("{}-{device}-{scheme}", view.split(['/', '?']).nth(1).unwrap_or("overview"));
                let wider = json!({ "script": "document.documentElement.scrollWidth > innerWidth" });
                assert_eq!(browser.run("evaluate", &wider), false, "{name}: the page is wider than its window");
                browser.is_well(&name);
                browser.screenshot(&name);
            }
        }
    }
    browser.run("open", &json!({ "url": url, "scripts": false }));
    browser.click("noscript a");
    browser.wait("td", Some("exchanges"));
}

/// Streams and topics of any name are text.
fn hostile_names(browser: &mut Browser, database: &Database, url: &str) {
    database.execute(
        "INSERT INTO public.streams (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds,
             max_future_seconds, late) VALUES ('<script>alert(3)</script>', 60, 60, 5, 20, 60, 'revise');
         INSERT INTO public.progress (stream, topic_id, partition, topic, next_offset, end_offset, partition_count,
             consumer_group) VALUES ('<script>alert(3)</script>', 'id', 0, '<script>alert(5)</script>', 0, 0, 1, 'g')",
    );
    browser.run("goto", &json!({ "url": format!("{url}#/") }));
    browser.wait("#streams tr", Some("<script>alert(3)</script>"));
    // The window-closer says what holds its watermark.
    browser.wait("#streams tr", Some("topic <script>alert(5)</script> partition 0"));
    browser.wait("#partitions td", Some("<script>alert(5)</script>"));
    browser.wait("#picture", Some("<script>alert(5)</script>"));
    browser.is_well("names that are scripts");
}

/// The page finds its files and its answers below a prefix. Take out: the redirect, or an address that is relative.
pub fn the_page_works_behind_a_prefix(world: &World) {
    let Some(mut browser) = Browser::start() else { return };
    let database = world.postgres.database();
    let setup = world.setup(&database, "prefix").replace("route = \"/...\"", "route = \"/pipeline/...\"");
    let host = setup.components(&["dashboard"]).start();
    host.wait_until_ready();
    browser.open(&format!("http://127.0.0.1:{}/pipeline", host.listen));
    browser.until("#health-sentence", SOON, |sentence| sentence.contains("ready") || sentence.contains("closer"));
    browser.is_well("behind a prefix");
    assert_eq!(host.get("/").status, 404);
}

/// Each route answers as the API's document says, to a client that is generated from it.
pub fn the_api_answers_as_its_document_says(world: &World) {
    if Browser::start().is_none() {
        return;
    }
    let (database, name) = (world.postgres.database(), "api-document");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let stages = [EXCHANGES[0], EXCHANGES[1], "dashboard"];
    let host = world.setup(&database, name).variable("window_seconds", "2").components(&stages).start();
    let mut records = Feed::new(world.kafka(), &topic(name), 2).window_seconds(2);
    records.put(0, Some(b"no JSON"));
    feed(&mut records, &["A", HOSTILE, "B"]);
    wait_until_closed_but_for(&database, &mut records);
    let mut client = std::process::Command::new("node");
    client.arg(e2e::root().join("tests/web/client.mjs"));
    let output = client.args([&format!("http://127.0.0.1:{}", host.listen), "exchanges"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends on until some windows are final and others are open.
fn wait_until_closed_but_for(database: &Database, records: &mut Feed) {
    wait_for("final rows", MINUTE, || {
        feed(records, &["A", "B"]);
        (database.number("SELECT count(*) FROM public.aggregates") > 3).then_some(())
    });
}

/// A pipeline whose parts run apart, behind doors.
struct Apart {
    database: Database,
    kafka: Kafka,
    door: Gate,
    name: &'static str,
}

impl Apart {
    fn setup(&self) -> Setup {
        let component = "[component.aggregator-exchanges]\n";
        Setup::against(&self.door.address(), &self.database, self.name)
            .replace(
                "reuse = true\n\n[component.aggregator-exchanges]",
                "on_gap = \"continue\"\n\n[component.aggregator-exchanges]",
            )
            // For a version that is swapped in.
            .replace(component, &format!("{component}environment = {{ TRAP_ON_RECORDS = \"1\" }}\n"))
    }

    fn start(&self, components: &[&str]) -> Host {
        self.setup().components(components).start()
    }

    /// A function that does what its records say, on a topic of its own.
    fn guest(&self, topic: &str, record: &str) -> Host {
        self.kafka.create_topic(topic, 1, &[]);
        let sender = self.kafka.producer();
        sender.send(topic, 0, None, Some(record.as_bytes()));
        sender.flush();
        let guest = format!(
            "[[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\nbrokers = \"{{{{ kafka_brokers }}}}\"\n\
             start = \"earliest\"\n[component.guest]\nsource = \"{}\"\n\
             allowed_outbound_hosts = [\"postgres://{{{{ postgres_host }}}}\"]\n\
             [component.guest.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
            function("guest").display()
        );
        self.setup().append(&guest).components(&["guest"]).start()
    }
}

/// Waits until the page tells of a fault, and says how long that took.
fn told(browser: &mut Browser, fault: &str, cause: &str, sentence: &str, command: &str) {
    let took = browser.until("#health-sentence", MINUTE, |text| text.contains(sentence));
    println!("{fault}: told after {:.1} s", took.as_secs_f64());
    let said = browser.text("#health-command");
    assert!(said.contains(command), "{fault}: {said:?} instead of {command:?}");
    let shown = browser.run("attribute", &json!({ "selector": "#health", "name": "data-cause" }));
    assert_eq!(shown, cause, "{fault}");
    browser.screenshot(&format!("fault-{fault}"));
}

fn well(browser: &mut Browser) {
    let is_well = |browser: &mut Browser| {
        browser.run("attribute", &json!({ "selector": "#health", "name": "data-state" })) == "healthy"
    };
    let began = std::time::Instant::now();
    while !is_well(browser) {
        let (sentence, waited) = (browser.text("#health"), began.elapsed());
        assert!(waited < MINUTE, "not well again after {waited:?}: {sentence}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Each fault changes the first sentence to its cause and to the command that mends it. Take out: a line of
/// `health::reading::look` or `health::results::look`.
pub fn each_fault_is_told_with_its_cause_and_command(world: &World) {
    let Some(mut browser) = Browser::start() else { return };
    let (kafka, mut doors) = Kafka::start_behind(1);
    let apart = Apart { database: world.postgres.database(), kafka, door: doors.remove(0), name: "page-faults" };
    apart.door.open();
    apart.database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    for topic in [topic(apart.name), WEATHER.to_owned()] {
        apart.kafka.create_topic(&topic, 2, &[]);
    }
    let gate = Gate::opened(&apart.database.host);
    let url = apart.database.url.replace(&apart.database.host, &gate.address());
    let mut dashboard = Setup::against("127.0.0.1:1", &apart.database, apart.name)
        .variable("postgres_url", &url)
        .variable("postgres_host", &gate.address())
        .components(&["dashboard"])
        .start();
    served("the page", dashboard.listen, "/");
    let aggregator = apart.start(&[EXCHANGES[0]]);
    let closer = apart.start(&["window-closer"]);
    let mut records = Feed::new(&apart.kafka, &topic(apart.name), 2);
    feed(&mut records, &["A", "B"]);
    browser.open(&format!("http://127.0.0.1:{}/", dashboard.listen));
    well(&mut browser);
    browser.screenshot("healthy");
    // A page outlives its host.
    dashboard.kill();
    told(&mut browser, "dashboard away", "host_away", "The dashboard's host does not answer", "exagg up");
    dashboard.restart();
    browser.run("forget", &json!({}));
    well(&mut browser);

    let (closer, aggregator) = apart.is_away(&mut browser, &gate, closer, aggregator);
    apart.misbehaves(&mut browser, &aggregator, &mut records);
    apart.is_not_counted(&mut browser, aggregator, &mut records);
    drop(closer);
}

impl Apart {
    /// What the pipeline needs goes away, and comes again.
    fn is_away(&self, browser: &mut Browser, gate: &Gate, mut closer: Host, aggregator: Host) -> (Host, Host) {
        closer.stop();
        let up = "exagg up --component-id window-closer";
        told(browser, "closer away", "closer_away", "No window-closer runs", up);
        let closer = self.start(&["window-closer"]);
        well(browser);

        aggregator.signal("KILL");
        let up = "exagg up --component-id aggregator-exchanges";
        told(browser, "unattended partition", "partition_unattended", "read by no host", up);
        let aggregator = self.start(&[EXCHANGES[0]]);
        well(browser);

        self.door.close();
        told(browser, "Kafka away", "kafka_unreachable", "Kafka cannot be used", "kafka-broker-api-versions.sh");
        self.door.open();
        well(browser);

        gate.hold();
        told(browser, "PostgreSQL held", "database_away", "does not answer", "exagg status");
        gate.open();
        browser.run("forget", &json!({}));
        well(browser);
        (closer, aggregator)
    }

    /// Functions and hosts do what they should not.
    fn misbehaves(&self, browser: &mut Browser, aggregator: &Host, records: &mut Feed) {
        let guest = function("guest");
        let swapped = aggregator.command("swap", &[EXCHANGES[0], guest.to_str().unwrap()]);
        assert!(swapped.status.success(), "{}", String::from_utf8_lossy(&swapped.stderr));
        for _ in 0..4 {
            feed(records, &["A", "B"]);
            std::thread::sleep(Duration::from_millis(300));
        }
        let swap = "exagg swap aggregator-exchanges fixed.wasm";
        told(browser, "version taken back", "version_taken_back", "was taken back", swap);
        let good = variant(&function("aggregator"), 1, aggregator.setup.folder());
        assert!(aggregator.command("swap", &[EXCHANGES[0], good.to_str().unwrap()]).status.success());
        well(browser);

        let swap = "exagg swap guest fixed.wasm";
        for (fault, record, cause, sentence, command) in [
            ("partition stopped", "stop", "partition_stopped", "is stopped: told to stop", swap),
            ("poison record", "poison", "poison_record", "cannot be applied", swap),
            ("memory budget", "pools", "budget_used_up", "end of its budget", "exagg_component_"),
        ] {
            let mut guest = self.guest(&format!("page-{record}"), record);
            told(browser, fault, cause, sentence, command);
            guest.stop();
            well(browser);
        }
        let mut fast = self.setup().clock_ahead(100).components(&["window-closer"]).start();
        told(browser, "clock of a host", "clock_differs", "seconds ahead of PostgreSQL's", "timedatectl");
        fast.stop();
        well(browser);
    }

    /// Records do not come into rows.
    fn is_not_counted(&self, browser: &mut Browser, mut aggregator: Host, records: &mut Feed) {
        // One partition has history, the other one what is now.
        for (partition, time) in [(0, now()), (1, now() - 3_600)] {
            let record = format!("{{\"city\":\"x\",\"temperature\":1.0,\"timestamp\":\"{}\"}}", super::utc(time));
            let sender = self.kafka.producer();
            sender.send(WEATHER, partition, None, Some(record.as_bytes()));
            sender.flush();
        }
        let weather = self.setup().variable("weather_topic", WEATHER).variable("idle_timeout_seconds", "600");
        let mut slow = weather.components(&["aggregator-weather"]).start();
        told(browser, "watermark held", "watermark_held", &format!("Partition 1 of topic {WEATHER} holds"), "exagg up");
        slow.stop();
        self.database.execute("DELETE FROM public.progress WHERE stream = 'weather'");
        well(browser);

        records.put(0, Some(b"no JSON"));
        records.flush();
        let rejects = "exagg rejects --stream exchanges";
        let one = "1 record of stream exchanges has been rejected";
        told(browser, "rejects", "records_rejected", one, rejects);
        for _ in 0..3 {
            records.put(0, Some(exchange("A", 1.0, now() + 7_200).as_bytes()));
        }
        records.flush();
        let ahead = "3 records of stream exchanges are ahead of the clock";
        told(browser, "future clock", "future_clock", ahead, rejects);

        aggregator.stop();
        feed(records, &["A", "B", "A", "B"]);
        for partition in 0..2 {
            self.kafka.delete_records(&topic(self.name), partition, records.next_offset(partition));
        }
        let _aggregator = self.start(&[EXCHANGES[0]]);
        told(browser, "gap", "gap", "were lost before they were read", "retention.ms");
    }
}

/// Pages go on where the last one ended, whatever is between, and neither skip nor repeat a row. Take out: `behind` in
/// `exagg_live_page` or `exagg_pending_page`.
pub fn pages_of_rows_give_each_row_once(world: &World) {
    let database = world.postgres.database();
    let host = world.setup(&database, "cursor").components(&["dashboard"]).start();
    host.wait_until_ready();
    database.execute(
        "INSERT INTO public.streams (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds,
             max_future_seconds, late)
         SELECT s, 60, 60, 5, 20, 60, 'revise' FROM unnest(ARRAY['a', 'b', 'c']) AS s;
         INSERT INTO public.aggregates (window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol, first_edge,
             last_edge, avg_vol, first_vol, last_vol)
         SELECT w, w + interval '1 minute', 'code ' || c, s, 1, c, c, c, exagg_edge(0, 't', 0, 0, c), exagg_edge(0, 't', 0, 0, c),
             c, c, c
         FROM generate_series(timestamp '2026-01-01', '2026-01-01 00:06', '1 minute') AS w, unnest(ARRAY['a', 'c']) AS s,
             generate_series(1, 7) AS c
         WHERE s = 'a' OR extract(minute FROM w) > 2;
         INSERT INTO public.window_state (stream, window_end, window_start, code, topic, partition, records, sum_vol, min_vol,
             max_vol, first_edge, last_edge)
         SELECT 'b', w + interval '1 minute', w, 'code ' || c, 't', p, 1, c, c, c, exagg_edge(0, 't', p, 0, c),
             exagg_edge(0, 't', p, 0, c)
         FROM generate_series(timestamp '2026-01-01 00:05', '2026-01-01 00:08', '1 minute') AS w, generate_series(3, 9) AS c,
             generate_series(0, 1) AS p;
         INSERT INTO public.window_batches (stream, window_end, window_start, codes, records, sum_vols, min_vols, max_vols,
             first_edges, last_edges, first_code, last_code)
         SELECT 'a', timestamp '2026-01-01 00:07', timestamp '2026-01-01 00:06', array_agg(c ORDER BY c), array_agg(1),
             array_agg(1), array_agg(1), array_agg(1), array_agg(exagg_edge(0, 't', 0, 0, 1)),
             array_agg(exagg_edge(0, 't', 0, 0, 1)), min(c), max(c)
         FROM (SELECT 'packed ' || to_char(n, 'FM000') COLLATE \"C\" AS c, n FROM generate_series(0, 599) AS n) AS n
         GROUP BY n / 256",
    );
    let key = |row: &Value| ["window_start", "stream", "code"].map(|name| row[name].as_str().unwrap().to_owned());
    for filter in ["", "stream=a&", "stream=b&", "code=code%203&", "stream=c&code=code%207&"] {
        let whole = host.get(&format!("/api/aggregates?{filter}from=2026-01-01T00:00:00Z&limit=10000")).json();
        let whole: Vec<_> = whole.as_array().unwrap().iter().map(key).collect();
        assert!(whole.len() > 3, "{filter}: {whole:?}");
        for limit in [1, 3, 100, 300] {
            // One row a page would take long over all of them.
            if limit == 1 && whole.len() > 60 {
                continue;
            }
            let mut rows = Vec::new();
            let mut next = Some(format!("aggregates?{filter}from=2026-01-01T00:00:00Z&limit={limit}"));
            while let Some(path) = next {
                let answer = host.get(&format!("/api/{path}"));
                let page = answer.json();
                assert!(page.as_array().unwrap().len() <= limit);
                rows.extend(page.as_array().unwrap().iter().map(key));
                next = answer.headers.lines().find_map(|line| {
                    let (name, link) = line.split_once(": ")?;
                    let link = name.eq_ignore_ascii_case("link").then_some(link)?;
                    Some(link.split(['<', '>']).nth(1)?.to_owned())
                });
            }
            assert_eq!(rows, whole, "{filter} by {limit}");
        }
    }
}
