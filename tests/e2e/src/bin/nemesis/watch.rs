//! How far the pipeline is, the longest time in which it did not move, and how many connections it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::database::Database;

const LOOK: Duration = Duration::from_millis(50);

/// None while the database is away.
pub fn number(database: &Database, statement: &str) -> Option<i64> {
    let mut config: postgres::Config = database.url.parse().unwrap();
    let mut client = config.connect_timeout(Duration::from_secs(2)).connect(postgres::NoTls).ok()?;
    client.query_one(statement, &[]).ok().map(|row| row.get(0))
}

pub fn progress(database: &Database) -> Option<i64> {
    number(database, "SELECT coalesce(sum(next_offset), 0)::int8 FROM public.progress")
}

pub fn pending(database: &Database) -> Option<i64> {
    number(database, "SELECT count(*) FROM public.pending_parts")
}

fn connections(database: &Database) -> Option<i64> {
    number(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'exagg%'")
}

/// A time without progress.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub from: Instant,
    pub until: Instant,
}

impl Pause {
    pub fn length(&self) -> Duration {
        self.until - self.from
    }
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Pause, i64)>,
}

impl Watch {
    pub fn start(database: &Database) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, database) = (Arc::clone(&stop), database.clone());
        let thread = std::thread::spawn(move || {
            let mut since = Instant::now();
            let (mut known, mut worst) = (None, Pause { from: since, until: since });
            let mut connections_max = 0;
            while !stopped.load(Ordering::Relaxed) {
                let found = progress(&database);
                if found.is_some() && found != known {
                    let pause = Pause { from: since, until: Instant::now() };
                    // The time before the first record is the start's.
                    if known.is_some_and(|progress| progress > 0) && pause.length() > worst.length() {
                        worst = pause;
                    }
                    (known, since) = (found, Instant::now());
                }
                connections_max = connections_max.max(connections(&database).unwrap_or_default());
                std::thread::sleep(LOOK);
            }
            (worst, connections_max)
        });
        Self { stop, thread }
    }

    /// The longest time between two looks in which the progress moved, and the most connections that the hosts had.
    pub fn stop(self) -> (Pause, i64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
