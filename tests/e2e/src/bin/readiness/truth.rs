//! What is so: records that are sent all the time, and the progress of each partition by the database's own word.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::database::Database;
use e2e::kafka::Kafka;
use e2e::{exchange, now};
use postgres::{Client, NoTls};

use crate::PARTITIONS;

/// One record a partition each time.
const SEND_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A partition whose progress moved within this time works.
const WORKS: Duration = Duration::from_millis(700);

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub at: Instant,
    pub sent: i64,
    pub applied: i64,
    /// When the progress was last seen to move of the partition that did so least recently.
    pub moved_at: Instant,
}

impl Known {
    /// Whether all partitions are applied.
    pub fn works(&self) -> bool {
        self.at - self.moved_at < WORKS
    }
}

struct Shared {
    ends: AtomicBool,
    stops: AtomicBool,
    sent: Mutex<i64>,
    /// By partition: the next offset, and when it moved.
    progress: Mutex<Vec<(i64, Instant)>>,
}

pub struct Truth {
    shared: Arc<Shared>,
    sending: JoinHandle<()>,
}

impl Truth {
    /// Sends to the topic past the host's door, and looks at the database past it.
    pub fn start(kafka: &Kafka, database: &Database, topic: &str) -> Self {
        let partitions = usize::try_from(PARTITIONS).unwrap();
        // Before the first record nothing works.
        let long_ago = Instant::now().checked_sub(WORKS).unwrap();
        let shared = Arc::new(Shared {
            ends: AtomicBool::new(false),
            stops: AtomicBool::new(false),
            sent: Mutex::new(0),
            progress: Mutex::new(vec![(0, long_ago); partitions]),
        });
        // Back at once when the broker is: what comes late is to be the host's.
        let sender = kafka.producer_with(&[("reconnect.backoff.max.ms", "200")]);
        let (topic, state) = (topic.to_owned(), Arc::clone(&shared));
        let sending = std::thread::spawn(move || {
            while !state.ends.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS {
                    sender.send(&topic, partition, None, Some(exchange("A", 1.0, now()).as_bytes()));
                }
                *state.sent.lock().unwrap() += i64::from(PARTITIONS);
                sender.poll();
                std::thread::sleep(SEND_EVERY);
            }
            sender.flush();
        });
        let (database, state) = (database.clone(), Arc::clone(&shared));
        // It may hang on a server that is frozen, as long as that is.
        std::thread::spawn(move || {
            let mut client = None;
            while !state.stops.load(Ordering::Relaxed) {
                client = look(client, &database, &state);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self { shared, sending }
    }

    pub fn works(&self) -> bool {
        self.shared.known().works()
    }

    /// What is known now, whenever it is asked.
    pub fn known(&self) -> impl Fn() -> Known + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.known()
    }

    /// Sends what is queued, and tells how many records were sent.
    pub fn stop(self) -> i64 {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.sending.join().unwrap();
        self.shared.stops.store(true, Ordering::Relaxed);
        *self.shared.sent.lock().unwrap()
    }
}

impl Shared {
    fn known(&self) -> Known {
        let progress = self.progress.lock().unwrap();
        Known {
            at: Instant::now(),
            sent: *self.sent.lock().unwrap(),
            applied: progress.iter().map(|(next_offset, _)| next_offset).sum(),
            moved_at: progress.iter().map(|(_, moved_at)| *moved_at).min().unwrap(),
        }
    }
}

/// One look; gives the connection back while it is good.
fn look(client: Option<Client>, database: &Database, shared: &Shared) -> Option<Client> {
    let connect = || {
        let mut config: postgres::Config = database.url.parse().unwrap();
        config.connect_timeout(Duration::from_secs(2)).connect(NoTls).ok()
    };
    let mut client = client.or_else(connect)?;
    let rows = client.query("SELECT partition, next_offset FROM public.progress", &[]).ok()?;
    let mut progress = shared.progress.lock().unwrap();
    for row in rows {
        let (partition, next_offset): (i32, i64) = (row.get(0), row.get(1));
        let known = &mut progress[usize::try_from(partition).unwrap()];
        if known.0 != next_offset {
            *known = (next_offset, Instant::now());
        }
    }
    drop(progress);
    Some(client)
}
