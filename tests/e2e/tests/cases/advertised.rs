//! Brokers that a cluster names: what is not allowed gets no connection, whenever it is named.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::database::Database;
use e2e::host::Setup;
use e2e::{root, wait_for};

use super::{World, topic};

const MINUTE: Duration = Duration::from_secs(60);

/// Where the guest function sends to (tests/guest/src/reach.rs).
const SENT_TO: &str = "forbidden";

/// A way to a Kafka on which its brokers' ports are changed to another one.
struct Way {
    port: u16,
    state: Arc<State>,
}

struct State {
    kafka: u16,
    /// What clients are told instead.
    advertised: AtomicU16,
    connections: Mutex<Vec<TcpStream>>,
}

impl Way {
    /// At first it names itself.
    fn to(brokers: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let kafka = brokers.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
        let connections = Mutex::default();
        let state = Arc::new(State { kafka, advertised: AtomicU16::new(port), connections });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", shared.kafka)).unwrap();
                shared.connections.lock().unwrap().push(client.try_clone().unwrap());
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    // It ends in whichever way the connection does.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = state.answer(server, &client);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, state }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on the cluster names this port; connections of before end.
    fn advertise(&self, port: u16) {
        self.state.advertised.store(port, Ordering::SeqCst);
        for connection in self.state.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    /// Passes answers on, with the other port where an address stands. Its length stays.
    fn answer(&self, mut server: TcpStream, mut client: &TcpStream) -> std::io::Result<()> {
        let address = |port: u16| [&b"127.0.0.1"[..], &u32::from(port).to_be_bytes()[..]].concat();
        loop {
            let mut size = [0; 4];
            server.read_exact(&mut size)?;
            let mut answer = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
            server.read_exact(&mut answer)?;
            let (real, told) = (address(self.kafka), address(self.advertised.load(Ordering::SeqCst)));
            for at in 0..answer.len().saturating_sub(real.len() - 1) {
                if answer[at..].starts_with(&real) {
                    answer[at..at + told.len()].copy_from_slice(&told);
                }
            }
            client.write_all(&[&size[..], &answer].concat())?;
        }
    }
}

/// A listener that nobody serves: who connects to it is noticed.
fn spy() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A host with the guest function, which may go to this address.
fn setup(world: &World, database: &Database, name: &str, allowed: &str) -> Setup {
    let (topic, brokers) = (topic(name), &world.kafka().brokers);
    world.kafka().create_topic(&topic, 1, &[]);
    database.execute("CREATE TABLE seen (record_offset int8 PRIMARY KEY, value text)");
    Setup::new()
        .manifest(&format!(
            "spin_manifest_version = 2\n[application]\nname = \"advertised\"\n\
             [variables]\npostgres_url = {{ required = true, secret = true }}\n\
             [[trigger.kafka]]\ncomponent = \"guest\"\ntopics = [\"{topic}\"]\ngroup = \"{name}\"\nbrokers = \"{brokers}\"\n\
             start = \"earliest\"\n\
             [component.guest]\nsource = \"{}/target/wasm32-wasip2/function/guest.wasm\"\n\
             allowed_outbound_hosts = [\"kafka://{allowed}\", \"postgres://{}\"]\n\
             [component.guest.variables]\npostgres_url = \"{{{{ postgres_url }}}}\"\n",
            root().display(),
            database.host,
        ))
        // A record may take 20 s until it is given up.
        .configured("[exagg]\ncall_seconds_max = 60\n")
        .variable("postgres_url", &database.url)
}

/// Has the function send a record there, and says what came of it.
fn reach(world: &World, database: &Database, name: &str, address: &str) -> String {
    let before = database.number("SELECT count(*) FROM seen");
    let sender = world.kafka().producer();
    sender.send(&topic(name), 0, None, Some(format!("reach kafka://{address}").as_bytes()));
    sender.flush();
    wait_for("what came of it", 2 * MINUTE, || (database.number("SELECT count(*) FROM seen") > before).then_some(()));
    database.texts("SELECT value FROM seen ORDER BY record_offset DESC LIMIT 1").remove(0)
}

/// The cluster names a place that is not allowed, at once and later: it gets no connection, so no
/// password and no record.
///
/// Take out: `rd_kafka_conf_set_resolve_cb` in `outbound_kafka/sys.rs`.
pub fn a_broker_that_is_not_allowed_gets_no_connection(world: &World) {
    world.kafka().create_topic(SENT_TO, 1, &[]);
    for (name, is_named_later) in [("advertised-first", false), ("advertised-later", true)] {
        let database = world.postgres.database();
        let way = Way::to(&world.kafka().brokers);
        let (spy, forbidden) = spy();
        let address = way.address();
        if !is_named_later {
            way.advertise(forbidden);
        }
        let host = setup(world, &database, name, &address).start();
        if is_named_later {
            let came = reach(world, &database, name, &address);
            assert!(came.ends_with(" done: sent"), "{came}");
            way.advertise(forbidden);
        }
        // Until the client has heard of it, its records may still go the way that is allowed.
        let refused = wait_for("a refusal", 2 * MINUTE, || {
            let came = reach(world, &database, name, &address);
            came.contains(" refused: ").then_some(came)
        });
        assert!(refused.contains(&format!("kafka://127.0.0.1:{forbidden} is not allowed")), "{refused}");
        let stored = sent(world);
        assert!(reach(world, &database, name, &address).contains(" refused: "));
        assert_eq!(sent(world), stored, "a refused record is not stored");
        drop(host);
        assert!(spy.accept().is_err(), "a connection was made to a place that is not allowed");
    }
}

/// Records that came through.
fn sent(world: &World) -> usize {
    world.kafka().read_all(SENT_TO, 1).len()
}
