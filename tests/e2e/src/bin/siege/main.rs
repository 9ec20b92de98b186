//! `make siege`: one host in a control group of 512 MiB, with a steady feed to the pipeline and everything bad at
//! once beside it: records that unpack to 140 MB, Kafka, cron and HTTP functions that trap, loop, allocate, flood and
//! ask for too much, clients that read nothing or say half of what they want, swaps for code that compiles for ever or
//! does not start, idle connections to the admin address. It shows that the host is never ended for want of memory,
//! that no record is lost, doubled or wrong, that its probes answer and say what is so, and how much of its
//! throughput and latency the pipeline keeps.
//!
//! The calm is the same pipeline in the same group, alone. `MINUTES` (30) is how long the siege takes, `ATTACKS`
//! (all) which attacks there are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a test")]

mod app;
mod attacks;
mod bombs;
mod clients;
mod flow;
mod group;
mod report;
mod swaps;
mod watch;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::database::{Database, Server};
use e2e::feed::Feed;
use e2e::host::Host;
use e2e::kafka::Kafka;
use e2e::oracle::Counted;
use e2e::{number, topic, wait_for};

use attacks::{Chosen, Field, of};
use flow::{Flow, Span};
use group::Cage;
use report::{Findings, is_at_rest};
use watch::{Held, Watch};

pub const NAME: &str = "siege";
pub const MEMORY_BYTES_MAX: u64 = 512 << 20;
pub const WINDOW_SECONDS: i64 = 10;
pub const RECORDS_PER_SECOND: i64 = 5_000;
/// The feed's; the last partition is the bombs'.
pub const FEED_PARTITIONS: usize = 4;
pub const PARTITIONS: i32 = 5;
const WARM_UP: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_secs(1);
const START_MAX: Duration = Duration::from_secs(180);
/// How long the pipeline may take to come to rest when the attacks have ended.
const REST_MAX: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let minutes = number("MINUTES", 30.0f64);
    let chosen = Chosen::by_environment();
    // It goes last: a group with processes cannot be removed.
    let cage = Cage::new(MEMORY_BYTES_MAX);
    let (postgres, kafka) = (Server::start(), Kafka::start());
    let database = postgres.database();
    kafka.create_topic(&topic(NAME), PARTITIONS, &[("max.message.bytes", "20000000")]);
    app::prepare(&kafka, &database);
    let (flow, calm) = measure_calm(&kafka, &database, &cage);
    let before = flow.applied();
    let host = app::besiege(app::pipeline(&kafka, &database, &cage), &kafka, &database, &chosen).start();
    // It is not ready as long as its cron functions fail: it works when it has caught up.
    wait_for("the host to catch up", START_MAX, || {
        let applied = flow.applied();
        let is_near = flow.sent() - applied < RECORDS_PER_SECOND / 2;
        (is_near && applied > before + RECORDS_PER_SECOND).then_some(())
    });
    std::thread::sleep(WARM_UP);
    println!("the siege begins, for {minutes} minutes: {}", chosen.names());
    let length = Duration::from_secs_f64(minutes * 60.0);
    if besiege(&Siege { kafka, database, cage: &cage, host, calm }, flow, &chosen, length) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The pipeline alone in the group; the feed goes on afterwards.
fn measure_calm(kafka: &Kafka, database: &Database, cage: &Cage) -> (Flow, Span) {
    let mut host = app::pipeline(kafka, database, cage).start();
    host.wait_until_ready();
    let flow = Flow::start(kafka, database, &topic(NAME));
    std::thread::sleep(WARM_UP);
    let begin = flow.begin();
    std::thread::sleep(CALM);
    let calm = flow.end(&begin);
    host.stop();
    // What it did last is seen as well.
    std::thread::sleep(LOOK);
    (flow, calm)
}

struct Siege<'a> {
    kafka: Kafka,
    database: Database,
    cage: &'a Cage,
    host: Host,
    calm: Span,
}

/// The siege and what came of it; true when no promise of correctness is broken.
fn besiege(siege: &Siege<'_>, flow: Flow, chosen: &Chosen, length: Duration) -> bool {
    let Siege { kafka, database, cage, host, calm } = siege;
    let (code, topic) = (swaps::digests(host), topic(NAME));
    let field = Field::new(kafka, host, &topic);
    let mut watch = Watch::new(cage, host);
    let (span, beside) = attack(&field, &mut watch, &flow, chosen, length);
    println!("the attacks have ended");
    let mut feed = flow.stop();
    let bombs = i64::try_from(of(&field.counts.bombs)).unwrap();
    // Each is between two good ones.
    let is_settled = settle(database, &mut watch, feed.total() + 3 * bombs);
    for record in &beside {
        feed.oracle.count(record, WINDOW_SECONDS, WINDOW_SECONDS);
    }
    let rest = rest(cage, host, watch.start);
    let difference = feed.oracle.compare(database, "exchanges");
    Findings {
        cage,
        watch: &watch,
        pid: host.pid(),
        calm,
        siege: &span,
        counts: &field.counts,
        rest,
        is_settled,
        records: feed.oracle.records(),
        rows: feed.oracle.rows(),
        difference: &difference,
        rejects_sent: rejects_sent(&feed, bombs),
        rejects: rejects(database),
        same_code: watch.is_alive() && swaps::digests(host) == code,
    }
    .print()
}

/// Everything at once. Gives what came to pass meanwhile, and the good records beside the bombs.
fn attack(
    field: &Field<'_>,
    watch: &mut Watch<'_>,
    flow: &Flow,
    chosen: &Chosen,
    length: Duration,
) -> (Span, Vec<Counted>) {
    std::thread::scope(|scope| {
        let bombs = attacks::begin(scope, field, chosen);
        let (begin, start) = (flow.begin(), Instant::now());
        while start.elapsed() < length && watch.is_alive() {
            watch.look(flow.applied());
            std::thread::sleep(LOOK);
        }
        let span = flow.end(&begin);
        field.stop();
        (span, bombs.map(|bombs| bombs.join().unwrap()).unwrap_or_default())
    })
}

/// Waits until so many records are applied and every window is closed; false when that takes too long.
fn settle(database: &Database, watch: &mut Watch<'_>, records: i64) -> bool {
    let began = Instant::now();
    while began.elapsed() < REST_MAX && watch.is_alive() {
        let applied = database.number("SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress");
        watch.look(applied);
        if applied >= records && database.number("SELECT count(*) FROM public.pending_parts") == 0 {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

/// What the host holds when it has let go of what the attacks made it hold.
fn rest(cage: &Cage, host: &Host, start: Held) -> Held {
    let began = Instant::now();
    loop {
        let held = Held::now(cage, host.pid());
        if is_at_rest(start, held) || began.elapsed() > REST_MAX {
            return held;
        }
        std::thread::sleep(LOOK);
    }
}

fn rejects_sent(feed: &Feed, bombs: i64) -> BTreeMap<String, i64> {
    let mut sent = BTreeMap::new();
    for reason in feed.rejects.values() {
        *sent.entry(reason.clone()).or_insert(0) += 1;
    }
    if bombs > 0 {
        sent.insert("too_large".to_owned(), bombs);
    }
    sent
}

fn rejects(database: &Database) -> BTreeMap<String, i64> {
    let statement = "SELECT reason, count(*) FROM public.rejected_records GROUP BY reason";
    database.client().query(statement, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}
