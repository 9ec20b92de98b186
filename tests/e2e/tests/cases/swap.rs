//! Other code in a component's place while the host runs.

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::host::{Host, Setup, function, variant};
use e2e::{http, now, wait_for};

use super::{EXCHANGES, World, topic, wait_until_closed};

const MINUTE: Duration = Duration::from_secs(60);
const AGGREGATOR: &str = "aggregator-exchanges";

fn swap(host: &Host, arguments: &[&str]) -> Output {
    host.command("swap", arguments)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The stage's entry in the status.
fn stage(host: &Host) -> serde_json::Value {
    let status: serde_json::Value = serde_json::from_str(&host.admin("/status").body).unwrap();
    let stages = status["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["component"] == AGGREGATOR).unwrap().clone()
}

fn digest(host: &Host) -> String {
    stage(host)["digest"].as_str().unwrap().to_owned()
}

/// Batches that the stage has applied so far; while nothing is sent, only empty ones come.
fn empty_batches(host: &Host) -> u64 {
    let metrics = host.admin("/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with("exagg_kafka_batches_total{outcome=\"applied\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

/// A running pipeline that has applied something.
fn pipeline(world: &World, database: &Database, name: &str, change: impl FnOnce(Setup) -> Setup) -> (Host, Feed) {
    world.kafka().create_topic(&topic(name), 2, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let host = change(world.setup(database, name)).components(&EXCHANGES).start();
    feed.spread(100, now() - 300, 120);
    wait_for_feed(database, &feed);
    (host, feed)
}

fn wait_for_feed(database: &Database, feed: &Feed) {
    super::wait_for_records(database, "exchanges", feed.sent);
}

fn assert_rows(database: &Database, feed: &Feed) {
    wait_for_feed(database, feed);
    wait_until_closed(database, "exchanges");
    feed.oracle.assert_equal(database, "exchanges");
}

fn millis(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap()
}

/// The longest time without an applied batch, until told to stop.
fn longest_gap(database: &Database, stop: &AtomicBool) -> Duration {
    let mut client = database.client();
    let statement = client.prepare("SELECT sum(next_offset)::int8 FROM public.progress").unwrap();
    let (mut last, mut since, mut longest) = (0i64, Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let next: i64 = client.query_one(&statement, &[]).unwrap().get(0);
        if next != last {
            longest = longest.max(since.elapsed());
            (last, since) = (next, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    longest
}

/// Take out: that a call asks its slot anew (`Dispatcher::attempt`), or the `swap` in `Swaps::swap`.
pub fn swaps_under_load_lose_and_double_nothing(world: &World) {
    const RECORDS_PER_MS: i64 = 25;
    const SWAPS: usize = 6;
    let (database, name) = (world.postgres.database(), "swap-load");
    let (host, mut feed) = pipeline(world, &database, name, |setup| setup);
    let stop = AtomicBool::new(false);
    let (longest, rate) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| longest_gap(&database, &stop));
        let sender = scope.spawn(|| {
            let (began, first) = (Instant::now(), feed.sent);
            while !stop.load(Ordering::Relaxed) {
                let due = millis(began) * RECORDS_PER_MS - (feed.sent - first);
                feed.spread(due, now() - 300, 120);
                std::thread::sleep(Duration::from_millis(10));
            }
            (feed.sent - first) * 1000 / millis(began)
        });
        for number in 0..SWAPS {
            let before = digest(&host);
            let code = variant(&function("aggregator"), number, host.setup.folder());
            let output = swap(&host, &[AGGREGATOR, code.to_str().unwrap()]);
            assert!(output.status.success(), "{}", text(&output));
            assert_ne!(digest(&host), before);
            // The new one has worked for a while before the next comes.
            wait_for("the new version's first calls", MINUTE, || (stage(&host)["on_trial"] == false).then_some(()));
        }
        stop.store(true, Ordering::Relaxed);
        (watcher.join().unwrap(), sender.join().unwrap())
    });
    println!("{name}: {SWAPS} swaps at {rate} records/s, the longest gap between two applied batches was {longest:?}");
    assert_rows(&database, &feed);
    assert!(
        host.admin("/metrics")
            .body
            .contains(&format!("exagg_component_swaps_total{{component=\"{AGGREGATOR}\",result=\"swapped\"}} {SWAPS}"))
    );
}

/// A cron function whose every instance does this when it is made.
pub fn at_start(instructions: &str) -> Vec<u8> {
    wat::parse_str(format!(
        "(component
             (core module $m
                 (memory (export \"memory\") 1)
                 (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) i32.const 0)
                 (func (export \"f\") (param i64) (result i32) i32.const 0)
                 (func $start {instructions})
                 (start $start))
             (core instance $i (instantiate $m))
             (type $metadata (record (field \"timestamp\" u64)))
             (export $named_metadata \"metadata\" (type $metadata))
             (type $error (variant (case \"other\" string)))
             (export $named_error \"error\" (type $error))
             (func $f async (param \"metadata\" $named_metadata) (result (result (error $named_error)))
                 (canon lift (core func $i \"f\") (memory (core memory $i \"memory\"))
                     (realloc (core func $i \"realloc\"))))
             (export \"handle-cron-event\" (func $f)))"
    ))
    .unwrap()
}

/// Take out: the checks in `Component::successor`, or `try_out`.
pub fn what_cannot_run_is_refused_and_changes_nothing(world: &World) {
    let (database, name) = (world.postgres.database(), "swap-refused");
    let (host, mut feed) = pipeline(world, &database, name, |setup| setup);
    let before = digest(&host);
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = host.setup.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let other = "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m))
                     (func (export \"handle-batch\") (canon lift (core func $i \"f\"))))";
    let import = "(component (import \"acme:teapot/brew@1.0.0\" (instance (export \"pour\" (func)))))";
    let cases = [
        (write("text.wasm", b"not wasm"), "not a component"),
        (write("module.wasm", &wat::parse_str("(module)").unwrap()), "not a component"),
        (write("import.wasm", &wat::parse_str(import).unwrap()), "acme:teapot/brew@1.0.0"),
        (write("empty.wasm", &wat::parse_str("(component)").unwrap()), "handle-batch"),
        (function("dashboard"), "exagg:kafka/kafka-function"),
        (write("other.wasm", &wat::parse_str(other).unwrap()), "type-checking export func `handle-batch`"),
        (host.setup.folder().join("nothing.wasm"), "cannot read"),
    ];
    for (path, wanted) in &cases {
        let output = swap(&host, &[AGGREGATOR, path.to_str().unwrap()]);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(wanted), "{}: no {wanted:?} in {said}", path.display());
    }
    let output = swap(&host, &["window-closer", write("start.wasm", &at_start("unreachable")).to_str().unwrap()]);
    assert!(text(&output).contains("window-closer is not swapped: it does not start"), "{}", text(&output));
    // Of the same world, and without one of the variables that it needs.
    let output = swap(&host, &["window-closer", function("fetcher").to_str().unwrap()]);
    assert!(
        text(&output).contains("its settings are refused: the variable source is not defined"),
        "{}",
        text(&output)
    );
    let output = swap(&host, &["nobody", function("aggregator").to_str().unwrap()]);
    assert!(text(&output).contains("no component nobody") && text(&output).contains(AGGREGATOR), "{}", text(&output));
    assert!(text(&swap(&host, &[AGGREGATOR, "--back"])).contains("was not swapped"));
    assert_eq!(digest(&host), before);
    feed.spread(100, now() - 300, 120);
    assert_rows(&database, &feed);
}

/// Take out: `Versions::previous` put back in `Slot::report`; without `Standing::Doubted` in
/// `Dispatcher::attempt` the partition stops on the bad version's answers.
pub fn a_version_that_fails_its_first_calls_goes_by_itself(world: &World) {
    let cases = [
        ("swap-traps", "TRAP_ALWAYS", "trap"),
        // Empty batches of a quiet partition do not prove it meanwhile.
        ("swap-records", "TRAP_ON_RECORDS", "trap"),
        ("swap-stops", "STOP_ALWAYS", "told to stop always"),
    ];
    for (name, variable, reason) in cases {
        let database = world.postgres.database();
        let component = "[component.aggregator-exchanges]\n";
        let environment = format!("{component}environment = {{ {variable} = \"1\" }}\n");
        let (mut host, mut feed) = pipeline(world, &database, name, |setup| setup.replace(component, &environment));
        let before = digest(&host);
        let output = swap(&host, &[AGGREGATOR, function("guest").to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
        if variable == "TRAP_ON_RECORDS" {
            let wanted = empty_batches(&host) + 22;
            wait_for("more empty batches than a trial has calls", MINUTE, || {
                (empty_batches(&host) > wanted).then_some(())
            });
        }
        feed.spread(100, now() - 300, 120);
        host.wait_for_log("failed 3 of its first calls and is taken back", MINUTE);
        wait_for("the old version", MINUTE, || (digest(&host) == before).then_some(()));
        let said = stage(&host)["rolled_back"].as_str().unwrap().to_owned();
        assert!(said.contains(reason), "{said}");
        let metrics = host.admin("/metrics").body;
        assert!(metrics.contains("exagg_component_rolled_back{component=\"aggregator-exchanges\"} 1"));
        assert_rows(&database, &feed);
    }
}

pub fn swapped_back_the_version_before_runs(world: &World) {
    let (database, name) = (world.postgres.database(), "swap-back");
    let (host, mut feed) = pipeline(world, &database, name, |setup| setup);
    let before = digest(&host);
    let other = variant(&function("aggregator"), 1, host.setup.folder());
    assert!(swap(&host, &[AGGREGATOR, other.to_str().unwrap()]).status.success());
    let after = digest(&host);
    assert_eq!(stage(&host)["previous"], before.as_str());
    assert!(swap(&host, &[AGGREGATOR, "--back"]).status.success());
    assert_eq!(digest(&host), before);
    assert!(swap(&host, &[AGGREGATOR, "--back"]).status.success());
    assert_eq!(digest(&host), after);
    feed.spread(100, now() - 300, 120);
    assert_rows(&database, &feed);
}

/// Take out: the token in `Admin::handle`.
pub fn the_admin_address_changes_nothing_without_its_token(world: &World) {
    let (database, name) = (world.postgres.database(), "swap-token");
    let (host, _) = pipeline(world, &database, name, |setup| setup.env("EXAGG_ADMIN_TOKEN", "secret-word"));
    let before = digest(&host);
    let code = variant(&function("aggregator"), 1, host.setup.folder());
    let address = format!("127.0.0.1:{}", host.admin);
    let arguments = [AGGREGATOR, code.to_str().unwrap(), "--admin", &address];
    for token in [None, Some("wrong"), Some("")] {
        let refused = host.command_with("swap", &arguments, "EXAGG_ADMIN_TOKEN", token);
        assert!(!refused.status.success() && text(&refused).contains("token"), "{}", text(&refused));
    }
    assert_eq!(http::post(host.admin, "/swap-back/aggregator-exchanges").status, 401);
    assert_eq!(digest(&host), before);
    let done = host.command_with("swap", &arguments, "EXAGG_ADMIN_TOKEN", Some("secret-word"));
    assert!(done.status.success(), "{}", text(&done));
    assert_ne!(digest(&host), before);
    assert!(!host.log().contains("secret-word"));
}

pub fn a_file_that_changes_is_swapped_in_where_it_is_watched(world: &World) {
    let (database, name) = (world.postgres.database(), "swap-watch");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("aggregator.wasm");
    std::fs::copy(function("aggregator"), &file).unwrap();
    let from = format!("{}\"", function("aggregator").display());
    let (mut host, mut feed) = pipeline(world, &database, name, |setup| {
        setup.replace(&from, &format!("{}\"", file.display())).argument("--watch")
    });
    let before = digest(&host);
    std::fs::write(&file, "half a file").unwrap();
    host.wait_for_log("has changed, and cannot be used", MINUTE);
    assert_eq!(digest(&host), before);
    std::fs::copy(variant(&function("aggregator"), 1, folder.path()), &file).unwrap();
    wait_for("the new version", MINUTE, || (digest(&host) != before).then_some(()));
    feed.spread(100, now() - 300, 120);
    assert_rows(&database, &feed);
    let manifest = host.setup.folder().join("spin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text + "# a comment\n").unwrap();
    host.wait_for_log("spin.toml has changed: it is read when the host is started again", MINUTE);
}

/// Take out: `window_state_layout` in the statements.
pub fn a_window_state_of_another_layout_is_left_alone(world: &World) {
    let (database, name) = (world.postgres.database(), "layout");
    let (mut host, mut feed) = pipeline(world, &database, name, |setup| setup);
    wait_until_closed(&database, "exchanges");
    database.execute("UPDATE public.window_state_layout SET version = 3");
    feed.spread(100, now() - 300, 120);
    host.wait_for_log("the window state has layout 3 and this aggregator knows 2", MINUTE);
    host.wait_for_log("the window state has layout 3 and this window-closer knows 2", MINUTE);
    assert_eq!(database.number("SELECT count(*) FROM public.window_state"), 0);
    database.execute("UPDATE public.window_state_layout SET version = 2");
    host.stop();
    host.restart();
    assert_rows(&database, &feed);
}
