//! What the calls of a component have used, over all its versions, since the host started.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Counted by whoever runs the calls; read for status and metrics.
#[derive(Debug, Default)]
pub struct Meter {
    cpu_ns: AtomicU64,
    postgres_ns: AtomicU64,
    instances: AtomicU64,
    timeouts: AtomicU64,
}

impl Meter {
    /// Runs this and counts the processor time that it takes, its instance's own and the host's on its behalf. What other
    /// tasks do for it, such as a connection's, is not in it.
    pub async fn cpu<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            let began = thread_time();
            let polled = work.as_mut().poll(context);
            add(&self.cpu_ns, thread_time().saturating_sub(began));
            polled
        })
        .await
    }

    /// A call waited so long for PostgreSQL: for a connection, or an answer.
    pub fn postgres(&self, time: Duration) {
        add(&self.postgres_ns, time);
    }

    /// An instance was made.
    pub fn instance(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
    }

    /// A call's time was over before it had an answer.
    pub fn timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// What was used so far.
    pub fn read(&self) -> Used {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        Used {
            cpu: time(&self.cpu_ns),
            postgres: time(&self.postgres_ns),
            instances: self.instances.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
        }
    }
}

/// What the calls of a component have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Processor time of calls; those of the http trigger are not measured.
    pub cpu: Duration,
    /// Time that calls waited for PostgreSQL.
    pub postgres: Duration,
    /// Instances that were made.
    pub instances: u64,
    /// Calls whose time was over.
    pub timeouts: u64,
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_computes_is_counted_and_what_waits_is_not() {
        let meter = Meter::default();
        meter.cpu(tokio::time::sleep(Duration::from_millis(30))).await;
        let waited = meter.read().cpu;
        assert!(waited < Duration::from_millis(20), "{waited:?}");
        meter
            .cpu(async {
                let began = thread_time();
                while thread_time().saturating_sub(began) < Duration::from_millis(30) {}
            })
            .await;
        assert!(meter.read().cpu.saturating_sub(waited) >= Duration::from_millis(30));
    }
}
