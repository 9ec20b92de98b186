//! An app of a user's own, outside of the checkout: a Kafka function that asks a service and keeps rows, a cron
//! function, a page. Each fails in its ways, says what mends it, is mended by a swap alone, and goes on.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::database::Database;
use e2e::host::{Host, Setup, variant};
use e2e::kafka::Sender;
use e2e::{http, root, topic, wait_for};

use super::World;
use super::templates::fill_in;

const MINUTE: Duration = Duration::from_secs(60);
const NAME: &str = "newcomer";

/// A bad order, and what is said of it: in the log, or in the status.
const ORDERS: [(&str, &[&str]); 11] = [
    (
        "index",
        &["panicked at src/lib.rs:", "index out of bounds", "called by exagg_sdk::kafka", "partition 0", "offset"],
    ),
    ("loop", &["ran longer than 2s ([exagg] call_seconds_max)"]),
    ("memory", &["it asked for more than the", "--max-instance-memory"]),
    ("elsewhere", &["http://example.com:80 is not allowed: add it to allowed_outbound_hosts of component orders"]),
    ("refused", &["component orders: the request to http://127.0.0.1:9 failed", "ConnectionRefused"]),
    ("slow", &["waited longer than 2s ([exagg] call_seconds_max) for an answer of http://127.0.0.1:"]),
    ("table", &["odrers", "does not exist", "partition=0"]),
    ("sleep", &["waited longer than 2s ([exagg] call_seconds_max) for an answer of PostgreSQL at 127.0.0.1:"]),
    ("port", &["127.0.0.1:9 (component orders)", "refused"]),
    ("variable", &["variable discount"]),
    ("poison", &["an order without articles"]),
];

/// The first version of a function, and the mended one.
struct Versions {
    first: PathBuf,
    mended: PathBuf,
    _folder: tempfile::TempDir,
}

/// A project from the template, with this code in it.
fn build(project: &str) -> Versions {
    let folder = fill_in("kafka-rust", project, &[("kafka-brokers", "localhost:9092"), ("kafka-topic", "orders")]);
    let code = root().join("tests/e2e/newcomer").join(project).with_extension("rs");
    std::fs::copy(code, folder.path().join("src/lib.rs")).unwrap();
    let manifest = folder.path().join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("[\"variables\"]", "[\"http\", \"pg\", \"variables\"]")).unwrap();
    let [first, mended] = [None, Some("yes")].map(|mended| {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--target", "wasm32-wasip2", "--release"]).current_dir(folder.path());
        let built = mended.iter().fold(&mut cargo, |cargo, value| cargo.env("MENDED", value)).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let name = format!("{project}-{}.wasm", mended.unwrap_or("no"));
        let made = folder.path().join("target/wasm32-wasip2/release").join(project).with_extension("wasm");
        std::fs::copy(made, folder.path().join(&name)).unwrap();
        folder.path().join(name)
    });
    Versions { first, mended, _folder: folder }
}

/// A service that answers, but for one path; gives its address.
fn serve_prices() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let read = client.read(&mut request).unwrap_or_default();
            if request[..read].starts_with(b"GET /slow") {
                silent.push(client);
            } else {
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n7");
            }
        }
    });
    address
}

fn manifest(world: &World, database: &Database, prices: &str, versions: [&Versions; 3]) -> String {
    let [orders, report, page] = versions.map(|versions| versions.first.display());
    let (brokers, topic, Database { url, host }) = (&world.kafka().brokers, topic(NAME), database);
    format!(
        "spin_manifest_version = 2\n[application]\nname = \"shop\"\n\
         [[trigger.kafka]]\ncomponent = \"orders\"\ntopics = [\"{topic}\"]\ngroup = \"{NAME}\"\nbrokers = \"{brokers}\"\n\
         start = \"earliest\"\nretry_attempts_max = 1\nretry_backoff_ms_max = 500\n\
         [[trigger.cron]]\ncomponent = \"report\"\ncron_expression = \"* * * * * *\"\n\
         [[trigger.http]]\ncomponent = \"page\"\nroute = \"/\"\n\
         [component.orders]\nsource = \"{orders}\"\n\
         allowed_outbound_hosts = [\"http://{prices}\", \"http://127.0.0.1:9\", \"postgres://{host}\", \
         \"postgres://127.0.0.1:9\"]\n\
         [component.orders.variables]\nprices = \"http://{prices}\"\ndatabase = \"{url}\"\n\
         [component.report]\nsource = \"{report}\"\nallowed_outbound_hosts = [\"postgres://{host}\"]\n\
         [component.report.variables]\ndatabase = \"{url}\"\n\
         [component.page]\nsource = \"{page}\"\n"
    )
}

fn swap(host: &Host, component: &str, code: &Path) {
    let swapped = host.command("swap", &[component, code.to_str().unwrap()]);
    assert!(swapped.status.success(), "{component}: {}", String::from_utf8_lossy(&swapped.stderr));
}

/// Waits until all of it stands in what was logged since, or in the status.
fn wait_until_said(host: &Host, since: usize, what: &str, said: &[&str]) {
    let mut last = String::new();
    let missing = |last: &str| said.iter().filter(|part| !last.contains(**part)).copied().collect::<Vec<_>>();
    let until = std::time::Instant::now() + MINUTE;
    while !missing(&last).is_empty() {
        assert!(std::time::Instant::now() < until, "{what}: nobody says {:?} in:\n{last}", missing(&last));
        std::thread::sleep(Duration::from_millis(100));
        last = format!("{}{}", &host.log()[since..], host.admin("/status").body);
    }
}

fn order(sender: &Sender, order: &str) {
    sender.send(&topic(NAME), 0, Some(b"customer"), Some(order.as_bytes()));
    sender.flush();
}

fn wait_for_orders(database: &Database, orders: usize) {
    let orders = i64::try_from(orders).unwrap();
    wait_for("the orders", MINUTE, || (database.number("SELECT count(*) FROM orders") == orders).then_some(()));
}

pub fn an_app_of_ones_own_fails_says_why_is_swapped_and_goes_on(world: &World) {
    let [orders, report, page] = ["orders", "report", "page"].map(build);
    let database = world.postgres.database();
    database.execute(
        "CREATE TABLE orders (record_offset int8 PRIMARY KEY, what text, answered int4);
         CREATE TABLE reports (at timestamptz, orders int8)",
    );
    world.kafka().create_topic(&topic(NAME), 1, &[]);
    let manifest = manifest(world, &database, &serve_prices(), [&orders, &report, &page]);
    let host = Setup::new().manifest(&manifest).argument("--debug-info").configured("[exagg]\ncall_seconds_max = 2\n");
    let mut host = host.start();
    wait_for("the admin interface", MINUTE, || http::try_get(host.admin, "/status"));
    wait_until_said(&host, 0, "the report", &["report", "oders", "does not exist"]);
    assert_eq!(database.number("SELECT count(*) FROM reports"), 0);
    swap(&host, "report", &report.mended);
    wait_for("a report", MINUTE, || (database.number("SELECT count(*) FROM reports") > 1).then_some(()));

    let sender = world.kafka().producer();
    for good in ["book", "pen", "lamp"] {
        order(&sender, good);
    }
    wait_for_orders(&database, 3);

    for (number, (bad, said)) in ORDERS.iter().enumerate() {
        if number > 0 {
            swap(&host, "orders", &variant(&orders.first, number, host.setup.folder()));
        }
        let since = host.log().len();
        order(&sender, bad);
        wait_until_said(&host, since, bad, said);
        swap(&host, "orders", &variant(&orders.mended, number, host.setup.folder()));
        order(&sender, "book");
        wait_for_orders(&database, 3 + 2 * (number + 1));
    }

    let since = host.log().len();
    assert_eq!(host.get("/").status, 500);
    wait_until_said(&host, since, "the page", &["page", "panicked at src/lib.rs:", "a visitor without a name"]);
    swap(&host, "page", &page.mended);
    assert_eq!((host.get("/").status, host.get("/?you").body.as_str()), (200, "open for you\n"));

    // All that was ordered is there, once, and the group has committed it.
    let all = 3 + 2 * i64::try_from(ORDERS.len()).unwrap();
    assert_eq!(database.number("SELECT count(*) FROM orders WHERE answered = 200"), all);
    std::thread::sleep(Duration::from_secs(3));
    wait_for("the commit", MINUTE, || (world.kafka().group_offset(NAME, &topic(NAME), 0) == Some(all)).then_some(()));
    let (status, _) = host.stop();
    assert!(status.success(), "{}", host.log());
}
