//! Who attacks the host: each on threads of its own, until told to stop. They give way to what is measured: the
//! machine's processors are no part of the promise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use e2e::host::Host;
use e2e::http;
use e2e::kafka::Kafka;
use e2e::oracle::Counted;

use crate::app::{TRAPS, WORDS, WORDS_GROUP, WORDS_PARTITIONS};
use crate::bombs::Bombs;
use crate::clients::{self, Crowd};
use crate::swaps;

/// All of them. `ATTACKS=bombs,words` chooses some.
const ALL: [&str; 8] = ["bombs", "words", "traps", "cron", "clients", "requests", "swaps", "admin"];
const NICE: i32 = 10;
/// What the misbehaving Kafka function is told in one round.
const ROUND: [&str; 10] = ["trap", "loop", "allocate", "ok", "flood", "nulls", "builders", "pools", "handles", "keys"];
/// Requests at a time to the function that misbehaves.
const REQUESTS: usize = 8;
/// Later than any answer of a host that keeps its bounds.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Which attacks are made.
pub struct Chosen(Vec<String>);

impl Chosen {
    pub fn by_environment() -> Self {
        let text = std::env::var("ATTACKS").unwrap_or_default();
        let chosen: Vec<String> = text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for name in &chosen {
            assert!(ALL.contains(&name.as_str()), "ATTACKS: there is no {name:?}, only {}", ALL.join(", "));
        }
        Self(if chosen.is_empty() { ALL.map(str::to_owned).to_vec() } else { chosen })
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|chosen| chosen == name)
    }

    pub fn names(&self) -> String {
        self.0.join(", ")
    }
}

/// What the attacks came to.
#[derive(Default)]
pub struct Counts {
    pub bombs: AtomicU64,
    pub words: AtomicU64,
    pub traps: AtomicU64,
    pub clients: AtomicU64,
    pub requests: AtomicU64,
    /// To the dashboard, by who wants nothing bad.
    pub pages: AtomicU64,
    pub pages_failed: AtomicU64,
    pub page_ms_max: AtomicU64,
    pub swaps_refused: AtomicU64,
    pub swaps_given_up: AtomicU64,
    /// Never.
    pub swaps_done: AtomicU64,
}

pub fn more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

pub fn of(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// Where the attacks take place.
pub struct Field<'a> {
    pub kafka: &'a Kafka,
    pub host: &'a Host,
    pub topic: &'a str,
    pub counts: Counts,
    stop: AtomicBool,
}

impl<'a> Field<'a> {
    pub fn new(kafka: &'a Kafka, host: &'a Host, topic: &'a str) -> Self {
        Self { kafka, host, topic, counts: Counts::default(), stop: AtomicBool::new(false) }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits, unless it is over.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.goes_on() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50).min(time));
        }
    }
}

/// Begins what is chosen. The bombs' thread gives the good records that it sent beside them.
pub fn begin<'scope>(
    scope: &'scope Scope<'scope, '_>,
    field: &'scope Field<'scope>,
    chosen: &Chosen,
) -> Option<ScopedJoinHandle<'scope, Vec<Counted>>> {
    let attack = |name: &str, work: fn(&Field<'_>)| {
        if chosen.has(name) {
            scope.spawn(move || {
                give_way();
                work(field);
            });
        }
    };
    attack("words", words);
    attack("traps", traps);
    attack("clients", |field| {
        let large = format!("GET /held/large HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n", field.host.listen);
        Crowd { size: 200, address: 2, port: field.host.listen, says: &large }.stay(field);
    });
    attack("clients", |field| {
        let half = "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-half: ";
        Crowd { size: 100, address: 3, port: field.host.listen, says: half }.stay(field);
    });
    attack("admin", |field| Crowd { size: 400, address: 4, port: field.host.admin, says: "" }.stay(field));
    for _ in 0..REQUESTS {
        attack("requests", requests);
    }
    attack("swaps", swaps::ask);
    // Not an attack: it does not give way.
    scope.spawn(move || clients::read_pages(field));
    chosen.has("bombs").then(|| {
        scope.spawn(move || {
            give_way();
            Bombs::new(field.kafka).send_all(field)
        })
    })
}

/// This thread and those that it starts come after others.
fn give_way() {
    // On Linux a priority is a thread's own; elsewhere nothing depends on it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Rounds of words, the next when the one before is done.
fn words(field: &Field<'_>) {
    let sender = field.kafka.producer();
    let mut sent = 0;
    while field.goes_on() {
        for (word, partition) in ROUND.iter().zip((0..WORDS_PARTITIONS).cycle()) {
            sender.send(WORDS, partition, Some(b"key"), Some(word.as_bytes()));
            more(&field.counts.words);
            sent += 1;
        }
        sender.flush();
        while field.goes_on() && sent > done(field.kafka) + i64::from(WORDS_PARTITIONS) {
            field.pause(Duration::from_secs(2));
        }
    }
}

fn done(kafka: &Kafka) -> i64 {
    (0..WORDS_PARTITIONS).filter_map(|partition| kafka.group_offset(WORDS_GROUP, WORDS, partition)).sum()
}

fn traps(field: &Field<'_>) {
    let sender = field.kafka.producer();
    while field.goes_on() {
        sender.send(TRAPS, 0, Some(b"key"), Some(b"x"));
        sender.flush();
        more(&field.counts.traps);
        field.pause(Duration::from_millis(250));
    }
}

fn requests(field: &Field<'_>) {
    for path in ["/broken/loop", "/broken/allocate", "/broken/trap"].iter().cycle() {
        if !field.goes_on() {
            return;
        }
        // Whatever comes: a 500, a 503, or a connection that ends.
        let _ = http::try_get_within(field.host.listen, path, ANSWER_MAX);
        more(&field.counts.requests);
        field.pause(Duration::from_millis(20));
    }
}
