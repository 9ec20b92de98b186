//! Records all the time: most of them now, some late, some bad, some of the future.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::feed::Feed;
use e2e::kafka::Kafka;
use e2e::oracle::Counted;
use e2e::{exchange, now};

use crate::verdict::ByPlace;
use crate::{PARTITIONS, Shape};

/// About 2,000 records a second.
const CHUNK: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

pub struct Producer {
    stop: Arc<AtomicBool>,
    partitions: Arc<AtomicI32>,
    thread: JoinHandle<Sent>,
}

/// What was sent, by partition and offset.
pub struct Sent {
    pub counted: ByPlace<Counted>,
    pub rejects: ByPlace<String>,
    /// Records in the log.
    pub total: i64,
}

impl Producer {
    pub fn start(kafka: &Kafka, topic: &str, shape: Shape) -> Self {
        let feed = Feed::new(kafka, topic, PARTITIONS);
        let (stop, partitions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(PARTITIONS)));
        let random = fastrand::Rng::with_seed(shape.seed);
        let mut sending = Sending { feed, random, codes: shape.codes, partitions: PARTITIONS, counted: ByPlace::new() };
        let (stopped, wanted, brokers) = (Arc::clone(&stop), Arc::clone(&partitions), kafka.brokers.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let partitions = wanted.load(Ordering::Relaxed);
                if partitions > sending.partitions {
                    sending.feed.grow_by(Kafka::producer_at(&brokers), partitions);
                    sending.partitions = partitions;
                }
                (0..CHUNK).for_each(|_| sending.send());
                std::thread::sleep(PAUSE);
            }
            sending.feed.flush();
            Sent { total: sending.feed.total(), rejects: sending.feed.rejects, counted: sending.counted }
        });
        Self { stop, partitions, thread }
    }

    /// The topic has more partitions from now on.
    pub fn grow(&self, partitions: i32) {
        self.partitions.store(partitions, Ordering::Relaxed);
    }

    /// Sends what is queued and tells what was sent.
    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Sending {
    feed: Feed,
    random: fastrand::Rng,
    codes: usize,
    partitions: i32,
    counted: ByPlace<Counted>,
}

impl Sending {
    fn send(&mut self) {
        // One partition is quiet for most of the time.
        let quiet = PARTITIONS - 1;
        let partition = match self.random.i32(0..self.partitions) {
            partition if partition == quiet && self.random.u32(..100) > 0 => 0,
            partition => partition,
        };
        let code = format!("C{}", self.random.usize(..self.codes));
        let value = f64::from(self.random.i32(-1_000_000..1_000_000)) / 64.0;
        let time = match self.random.u32(..200) {
            0 => return self.feed.send_bad(partition, "not_json", b"{"),
            1 => {
                let future = exchange(&code, value, now() + 86_400);
                return self.feed.send_bad(partition, "future", future.as_bytes());
            }
            2 => {
                let missing = format!(r#"{{"code":"{code}"}}"#);
                return self.feed.send_bad(partition, "value_missing", missing.as_bytes());
            }
            // Late by up to ten windows: their rows are revised, or they are rejected.
            3..10 => now() - self.random.i64(10..100),
            _ => now() - self.random.i64(0..3),
        };
        let offset = self.feed.next_offset(partition);
        self.feed.put(partition, Some(exchange(&code, value, time).as_bytes()));
        let record = Counted { code, value, time_us: time * 1_000_000, partition, offset };
        self.counted.insert((partition, offset), record);
    }
}
