//! Calls that compute for long give way to the others.
//!
//! Guests share the host's threads, and a function in a loop is as ready to run as any. So a call of a kafka or
//! cron function that has computed for a while goes on on threads of low priority, and requests, which
//! anybody may send, have threads of their own behind those of kafka. Both leave one processor to the others
//! ([`processors`]): a priority does not reach beyond the host, to the database that the others wait for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::processors;

/// A call that has computed for so long is a long one; a large batch takes a few milliseconds.
const LONG: Duration = Duration::from_millis(50);
/// Priorities of threads ("nice"): of calls that run for long, and of requests.
const NICE_LONG: i32 = 10;
const NICE_HTTP: i32 = 12;

/// Threads for guests beside the host's own.
pub struct Lanes {
    long: Option<Runtime>,
    http: Option<Runtime>,
}

impl Lanes {
    /// Starts both sets of threads, each with one fewer than there are processors, and one at least.
    pub fn start() -> Result<Self> {
        let runtime = |name: &str, nice: i32| {
            Builder::new_multi_thread()
                .enable_all()
                .worker_threads(processors::count())
                .thread_name(name)
                .on_thread_start(move || {
                    processors::leave_one();
                    // A system that refuses it leaves all alike.
                    let _ = rustix::process::setpriority_process(Some(thread()), nice);
                })
                .build()
                .context("cannot start threads for guests")
        };
        Ok(Self { long: Some(runtime("long calls", NICE_LONG)?), http: Some(runtime("requests", NICE_HTTP)?) })
    }

    /// Where requests are answered.
    pub fn http(&self) -> Option<Handle> {
        self.http.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Runs a call here, and where it turns out to be long, or is expected to, on the threads for that. Says
    /// whether it was.
    pub async fn run<F>(&self, expect_long: bool, call: F) -> (F::Output, bool)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let mut call = Timed { call: Box::pin(call), computed: Duration::ZERO };
        if !expect_long {
            let here = std::future::poll_fn(|cx| match Pin::new(&mut call).poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                // It is ready to go on, or will be: whoever polls it next finds out.
                Poll::Pending if call.is_long() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(output) = here.await {
                return (output, call.is_long());
            }
        }
        let rest = async move {
            let output = (&mut call).await;
            (output, call.is_long())
        };
        match &self.long {
            Some(runtime) => match AbortOnDropHandle::new(runtime.spawn(rest)).await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            None => rest.await,
        }
    }
}

/// A call, and how much processor time it took: waiting costs nothing.
struct Timed<F> {
    call: Pin<Box<F>>,
    computed: Duration,
}

impl<F> Timed<F> {
    fn is_long(&self) -> bool {
        self.computed >= LONG
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_time();
        let polled = self.call.as_mut().poll(cx);
        self.computed += thread_time().saturating_sub(began);
        polled
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // A runtime that is dropped within another would wait for its threads.
        for runtime in [self.long.take(), self.http.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// On Linux a thread has a priority of its own.
fn thread() -> rustix::process::Pid {
    #[cfg(target_os = "linux")]
    return rustix::thread::gettid();
    #[cfg(not(target_os = "linux"))]
    rustix::process::getpid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    /// Computes for about so long, with pauses as the epochs of a guest make them.
    async fn compute(time: Duration) {
        let began = thread_time();
        while thread_time().saturating_sub(began) < time {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
        tokio::task::yield_now().await;
    }

    #[tokio::test]
    async fn a_long_call_goes_on_elsewhere_and_a_short_one_stays() {
        let lanes = Lanes::start().unwrap();
        let waits = async {
            // To wait, however often, is not to compute.
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            name()
        };
        let (ran_on, long) = lanes.run(false, waits).await;
        assert_ne!(ran_on.as_deref(), Some("long calls"));
        assert!(!long);
        let computes = async {
            for _ in 0..10 {
                compute(Duration::from_millis(10)).await;
            }
            name()
        };
        assert_eq!(lanes.run(false, computes).await, (Some("long calls".to_owned()), true));
        // The call behind it is expected there, and proves otherwise.
        assert_eq!(lanes.run(true, async { name() }).await, (Some("long calls".to_owned()), false));
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_ends_there_as_well() {
        struct Ends(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Ends {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().send(());
            }
        }
        let lanes = Lanes::start().unwrap();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let ends = Ends(Some(sender));
        let call = lanes.run(true, async move {
            let _ends = ends;
            std::future::pending::<()>().await;
        });
        let waited = tokio::time::timeout(Duration::from_millis(50), call).await;
        assert!(waited.is_err());
        ended.await.unwrap();
    }
}
