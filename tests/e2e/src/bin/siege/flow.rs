//! A steady feed of known records, and when they are applied: from produced to the end of the transaction.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::feed::Feed;
use e2e::kafka::Kafka;
use e2e::now;

use crate::{FEED_PARTITIONS, PARTITIONS, RECORDS_PER_SECOND, WINDOW_SECONDS};

/// Beside the time in which the producer is asked what is stored.
const CHUNK: Duration = Duration::from_millis(3);
const LOOK: Duration = Duration::from_millis(3);
const CODES: [&str; 5] = ["A", "B", "C", "D", "E"];
/// One record in so many is bad.
const BAD: u32 = 500;
/// Longer ones count as this.
const LATENCY_MS_MAX: usize = 60_000;

/// Where the feed was in each of its partitions, and when.
struct Mark {
    at: Instant,
    ends: [i64; FEED_PARTITIONS],
}

/// How many records took how many milliseconds.
pub struct Latencies(Vec<u64>);

impl Latencies {
    fn new() -> Self {
        Self(vec![0; LATENCY_MS_MAX + 1])
    }

    fn count(&mut self, time: Duration) {
        let millis = usize::try_from(time.as_millis()).unwrap_or(LATENCY_MS_MAX).min(LATENCY_MS_MAX);
        self.0[millis] += 1;
    }

    /// Milliseconds that so many of a hundred stay below.
    pub fn percentile(&self, percent: u64) -> usize {
        let wanted = self.0.iter().sum::<u64>() * percent / 100;
        let mut passed = 0;
        self.0
            .iter()
            .take_while(|count| {
                passed += **count;
                passed <= wanted
            })
            .count()
    }
}

struct Shared {
    stop: AtomicBool,
    sent: AtomicI64,
    applied: AtomicI64,
    latencies: Mutex<Latencies>,
}

/// The feed and its watch, each on a thread of its own.
pub struct Flow {
    shared: Arc<Shared>,
    feeder: JoinHandle<Feed>,
    watcher: JoinHandle<()>,
}

/// What came to pass in a time.
pub struct Span {
    pub sent_per_second: f64,
    pub applied_per_second: f64,
    pub latencies: Latencies,
}

/// The beginning of a span.
pub struct Begin {
    at: Instant,
    sent: i64,
    applied: i64,
}

impl Flow {
    /// The tables must be there.
    pub fn start(kafka: &Kafka, database: &Database, topic: &str) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sent: AtomicI64::new(0),
            applied: AtomicI64::new(0),
            latencies: Mutex::new(Latencies::new()),
        });
        let (marks, marked) = channel();
        let feed = Feed::new(kafka, topic, PARTITIONS).window_seconds(WINDOW_SECONDS);
        let (of_feeder, of_watcher, database) = (Arc::clone(&shared), Arc::clone(&shared), database.clone());
        let feeder = std::thread::spawn(move || send_all(feed, &of_feeder, &marks));
        let watcher = std::thread::spawn(move || watch(&database, &of_watcher, &marked));
        Self { shared, feeder, watcher }
    }

    /// Records of the feed, good or bad.
    pub fn sent(&self) -> i64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Records of the topic that are applied or rejected.
    pub fn applied(&self) -> i64 {
        self.shared.applied.load(Ordering::Relaxed)
    }

    pub fn begin(&self) -> Begin {
        *self.shared.latencies.lock().unwrap() = Latencies::new();
        Begin { at: Instant::now(), sent: self.sent(), applied: self.applied() }
    }

    pub fn end(&self, begin: &Begin) -> Span {
        let seconds = begin.at.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let rate = |from: i64, to: i64| (to - from) as f64 / seconds;
        Span {
            sent_per_second: rate(begin.sent, self.sent()),
            applied_per_second: rate(begin.applied, self.applied()),
            latencies: std::mem::replace(&mut *self.shared.latencies.lock().unwrap(), Latencies::new()),
        }
    }

    /// Sends what is queued and tells what was sent.
    pub fn stop(self) -> Feed {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap();
        self.feeder.join().unwrap()
    }
}

fn send_all(mut feed: Feed, shared: &Shared, marks: &Sender<Mark>) -> Feed {
    let (began, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    while !shared.stop.load(Ordering::Relaxed) {
        let due = i64::try_from(began.elapsed().as_millis()).unwrap() * RECORDS_PER_SECOND / 1000;
        let at = Instant::now();
        while feed.total() < due {
            send(&mut feed, &mut random);
        }
        let ends = std::array::from_fn(|partition| feed.next_offset(i32::try_from(partition).unwrap()));
        // Nobody listens any more once it is to stop.
        let _ = marks.send(Mark { at, ends });
        shared.sent.store(feed.total(), Ordering::Relaxed);
        feed.poll();
        std::thread::sleep(CHUNK);
    }
    feed.flush();
    feed
}

fn send(feed: &mut Feed, random: &mut fastrand::Rng) {
    let partition = i32::try_from(random.usize(0..FEED_PARTITIONS)).unwrap();
    if random.u32(..BAD) == 0 {
        return feed.send_bad(partition, "not_json", b"{");
    }
    let code = random.choice(CODES).unwrap();
    let value = f64::from(random.i32(-1_000_000..1_000_000)) / 64.0;
    feed.send(partition, code, value, now() - random.i64(0..3));
}

fn watch(database: &Database, shared: &Shared, marked: &Receiver<Mark>) {
    let mut client = database.client();
    let statement = "SELECT partition, next_offset FROM public.progress WHERE stream = 'exchanges'";
    let statement = client.prepare(statement).unwrap();
    let mut waiting: [VecDeque<(i64, Instant)>; FEED_PARTITIONS] = Default::default();
    while !shared.stop.load(Ordering::Relaxed) {
        for mark in marked.try_iter() {
            for (waiting, end) in waiting.iter_mut().zip(mark.ends) {
                if waiting.back().is_none_or(|(last, _)| *last < end) {
                    waiting.push_back((end, mark.at));
                }
            }
        }
        let rows = client.query(&statement, &[]).unwrap();
        let (seen, mut latencies) = (Instant::now(), shared.latencies.lock().unwrap());
        let mut applied = 0;
        for row in &rows {
            let (partition, next): (i32, i64) = (row.get(0), row.get(1));
            applied += next;
            let Some(waiting) = waiting.get_mut(usize::try_from(partition).unwrap()) else { continue };
            while waiting.front().is_some_and(|(end, _)| *end <= next) {
                let Some((_, at)) = waiting.pop_front() else { break };
                latencies.count(seen - at);
            }
        }
        drop(latencies);
        shared.applied.store(applied, Ordering::Relaxed);
        std::thread::sleep(LOOK);
    }
}
