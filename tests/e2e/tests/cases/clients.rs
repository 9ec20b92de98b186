//! Clients of the listeners that misbehave, and those that ask meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use e2e::feed::Feed;
use e2e::host::{Host, function};
use e2e::{http, now, wait_for};

use super::{EXCHANGES, World, topic};

const MINUTE: Duration = Duration::from_secs(60);
/// Below the bound of an address, above that of the instances.
const IDLE_CLIENTS: usize = 200;
/// So soon are records applied while the clients are there.
const APPLIED_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of `/large` that a client which reads gets.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

/// A client that asks for a response and reads none of it.
fn idle_client(host: &Host) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", host.listen)).unwrap();
    write!(stream, "GET /guest/large HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n", host.listen).unwrap();
    stream
}

fn assert_probes_answer(host: &Host) {
    assert_eq!(host.admin("/livez").status, 200);
    assert_eq!(host.admin("/readyz").status, 200);
    assert_eq!(host.get("/.well-known/spin/health").status, 200);
    assert_eq!(host.get("/.well-known/exagg/ready").status, 200);
}

/// Take out: the bound of each stage (one for all of them), to see records that are not applied;
/// `Unstalled` in `server.rs`, to see the instances go with `BODY_TIME` only.
pub fn idle_clients_stop_neither_the_pipeline_nor_the_probes(world: &World) {
    let (database, name) = (world.postgres.database(), "clients-idle");
    world.kafka().create_topic(&topic(name), 2, &[]);
    let mut feed = Feed::new(world.kafka(), &topic(name), 2);
    let stages = [&EXCHANGES[..], &["guest"]].concat();
    let host = world
        .setup(&database, name)
        .append(&format!(
            "\n[[trigger.http]]\ncomponent = \"guest\"\nroute = \"/guest/...\"\n\
             [component.guest]\nsource = \"{}\"\n",
            function("guest-p2").display(),
        ))
        .components(&stages)
        .start();
    host.wait_until_ready();
    feed.spread(100, now() - 300, 120);
    super::wait_for_records(&database, "exchanges", feed.sent);
    let clients: Vec<TcpStream> = (0..IDLE_CLIENTS).map(|_| idle_client(&host)).collect();
    // All instances of the stage are in use: its next request is not answered at once.
    wait_for("instances that wait for their clients", MINUTE, || answers_at_once(&host).is_none().then_some(()));
    feed.spread(1_000, now() - 300, 120);
    let applied = || {
        assert_probes_answer(&host);
        let statement = "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates WHERE stream = 'exchanges'";
        (database.number(statement) == feed.sent).then_some(())
    };
    wait_for("the records that were sent meanwhile", APPLIED_TIME_MAX, applied);
    // The clients are still there, and let go by the host.
    wait_for("a request that is served", MINUTE, || answers_at_once(&host).filter(|status| *status == 200));
    let answer = http::get(host.listen, "/guest/large");
    assert_eq!((answer.status, answer.body.len()), (200, LARGE_BYTES));
    drop(clients);
}

/// The status of the guest's large response where its head comes within a second.
fn answers_at_once(host: &Host) -> Option<u16> {
    let mut stream = idle_client(host);
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    String::from_utf8_lossy(&head).rsplit(' ').next()?.parse().ok()
}

/// Sends a request to the admin address as it stands, and gives the status and the head of the answer.
fn ask_admin(host: &Host, method: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", host.admin)).unwrap();
    stream.set_read_timeout(Some(MINUTE)).unwrap();
    let path = if method == "POST" { "/swap-back/dashboard" } else { "/status" };
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer.to_ascii_lowercase())
}

/// Take out: `refused` in `Admin::handle`, or `protect` there.
pub fn pages_of_other_origins_get_nothing_from_the_admin_address(world: &World) {
    const TOKEN: &str = "the-admin-word";
    let (database, name) = (world.postgres.database(), "clients-origins");
    let host = world.setup(&database, name).env("EXAGG_ADMIN_TOKEN", TOKEN).components(&["dashboard"]).start();
    host.wait_until_ready();
    let local = format!("host: 127.0.0.1:{}\r\n", host.admin);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    for (method, headers, status) in [
        ("GET", local.clone(), 200),
        ("GET", "host: localhost\r\n".to_owned(), 200),
        ("GET", "host: [::1]:9464\r\n".to_owned(), 200),
        ("GET", format!("{local}sec-fetch-site: none\r\n"), 200),
        ("GET", "host: evil.example\r\n".to_owned(), 421),
        ("GET", "host: exagg\r\n".to_owned(), 421),
        ("GET", format!("{local}origin: http://evil.example\r\n"), 403),
        ("GET", format!("{local}sec-fetch-site: cross-site\r\n"), 403),
        ("POST", local.clone(), 401),
        // With the token it comes to the swap, which has nothing to go back to.
        ("POST", format!("{local}{bearer}"), 422),
        ("POST", format!("{local}{bearer}origin: http://127.0.0.1:{}\r\n", host.admin), 403),
        ("POST", format!("host: evil.example\r\n{bearer}"), 421),
    ] {
        let (came, answer) = ask_admin(&host, method, &headers);
        assert_eq!(came, status, "{method} with {headers:?}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{answer}");
        assert!(answer.contains("cross-origin-resource-policy: same-origin\r\n"), "{answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"), "{answer}");
        assert!(!answer.contains("access-control-allow"), "{answer}");
    }
    // The command asks for the address by its number.
    let address = format!("127.0.0.1:{}", host.admin);
    let output = host.command_with("status", &["--admin", &address], "EXAGG_ADMIN_TOKEN", None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
