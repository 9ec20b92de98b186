//! Records all the time: most of them now, some late, some bad, some of the future.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::feed::Feed;
use e2e::kafka::Kafka;
use e2e::{exchange, now};

use crate::{PARTITIONS, WINDOW_SECONDS};

/// About 2,000 records a second.
const CHUNK: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);
const CODES: [&str; 5] = ["A", "B", "C", "D", "E"];

pub struct Producer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Feed>,
}

impl Producer {
    pub fn start(kafka: &Kafka, topic: &str, seed: u64) -> Self {
        let mut feed = Feed::new(kafka, topic, PARTITIONS).window_seconds(WINDOW_SECONDS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..CHUNK {
                    send(&mut feed, &mut random);
                }
                std::thread::sleep(PAUSE);
            }
            feed.flush();
            feed
        });
        Self { stop, thread }
    }

    /// Sends what is queued and tells what was sent.
    pub fn stop(self) -> Feed {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn send(feed: &mut Feed, random: &mut fastrand::Rng) {
    // One partition is quiet for most of the time.
    let partition = if random.u32(..500) == 0 { PARTITIONS - 1 } else { random.i32(0..PARTITIONS - 1) };
    let code = random.choice(CODES).unwrap();
    let value = f64::from(random.i32(-1_000_000..1_000_000)) / 64.0;
    match random.u32(..200) {
        0 => feed.send_bad(partition, "not_json", b"{"),
        1 => feed.send_bad(partition, "future", exchange(code, value, now() + 86_400).as_bytes()),
        2 => feed.send_bad(partition, "value_missing", format!(r#"{{"code":"{code}"}}"#).as_bytes()),
        // Late by up to ten windows: their rows are revised.
        3..10 => feed.send(partition, code, value, now() - random.i64(10..100)),
        _ => feed.send(partition, code, value, now() - random.i64(0..3)),
    }
}
