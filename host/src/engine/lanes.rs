//! Calls that run for long give way to the others.
//!
//! Guests share the host's threads, and a function in a loop is as ready to run as any. So a call that has
//! computed for a while goes on on threads of the lowest priority (kafka and cron), or has to take turns
//! with others like it (http, whose requests have threads of their own already, behind those of kafka):
//! where the machine is idle it loses nothing, and where it is not, the system sees to it that the others
//! come first.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Looks of the clock at a call, 10 ms apart, that find it computing before it counts as long.
const LONG: u32 = 5;
/// Priorities of threads ("nice"): of calls that run for long, and of requests.
const NICE_LONG: i32 = 19;
const NICE_HTTP: i32 = 10;

/// Threads for guests beside the host's own.
pub struct Lanes {
    long: Option<Runtime>,
    http: Option<Runtime>,
    /// Which of the long requests computes.
    turn: Arc<Semaphore>,
}

impl Lanes {
    pub fn start() -> Result<Self> {
        let runtime = |name: &str, nice: i32| {
            Builder::new_multi_thread()
                .enable_all()
                .thread_name(name)
                .on_thread_start(move || {
                    // A system that refuses it leaves all alike.
                    let _ = rustix::process::setpriority_process(Some(thread()), nice);
                })
                .build()
                .context("cannot start threads for guests")
        };
        Ok(Self {
            long: Some(runtime("long calls", NICE_LONG)?),
            http: Some(runtime("requests", NICE_HTTP)?),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Where requests are answered.
    pub fn http(&self) -> Option<Handle> {
        self.http.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Runs a call here, and where it turns out to be long, on the threads for that.
    pub async fn run<F>(&self, watch: &Watch, call: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let mut call = Box::pin(call);
        let here = std::future::poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if watch.is_long() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        if let Some(output) = here.await {
            return output;
        }
        match &self.long {
            Some(runtime) => match AbortOnDropHandle::new(runtime.spawn(call)).await {
                Ok(output) => output,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            None => call.await,
        }
    }

    /// A request's place among the long ones.
    pub fn turn(&self) -> Turn {
        Turn { semaphore: Arc::clone(&self.turn), permit: Arc::default() }
    }
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

/// How long a call has computed.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<WatchState>);

#[derive(Debug, Default)]
struct WatchState {
    looks: AtomicU32,
    long: AtomicBool,
}

impl Watch {
    /// The clock has found it computing once more; true when that is for long.
    pub fn look(&self) -> bool {
        let looks = self.0.looks.fetch_add(1, Ordering::Relaxed) + 1;
        if looks >= LONG {
            self.0.long.store(true, Ordering::Relaxed);
        }
        looks >= LONG
    }

    /// Counts it as long from the beginning: the call before it was.
    pub fn expect_long(&self) {
        self.0.looks.store(LONG, Ordering::Relaxed);
        self.0.long.store(true, Ordering::Relaxed);
    }

    pub fn is_long(&self) -> bool {
        self.0.long.load(Ordering::Relaxed)
    }
}

/// One long request's turn to compute: it has it until it is looked at again, or ends.
#[derive(Clone)]
pub struct Turn {
    semaphore: Arc<Semaphore>,
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Turn {
    /// Gives the turn to the next one, and waits for it again.
    pub fn next(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.set(None);
        let turn = self.clone();
        Box::pin(async move {
            // It is never closed.
            let permit = Arc::clone(&turn.semaphore).acquire_owned().await.ok();
            turn.set(permit);
        })
    }

    fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn a_long_call_goes_on_elsewhere_and_a_short_one_stays() {
        let lanes = Lanes::start().unwrap();
        let watch = Watch::default();
        let short = lanes.run(&watch, async {
            tokio::task::yield_now().await;
            name()
        });
        assert_ne!(short.await.as_deref(), Some("long calls"));
        let looked = watch.clone();
        let long = lanes.run(&watch, async move {
            while !looked.look() {
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            name()
        });
        assert_eq!(long.await.as_deref(), Some("long calls"));
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
        let watch = Watch::default();
        watch.expect_long();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let ends = Ends(Some(sender));
        let call = lanes.run(&watch, async move {
            let _ends = ends;
            std::future::pending::<()>().await;
        });
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), call).await;
        assert!(waited.is_err());
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn long_requests_compute_one_at_a_time() {
        let lanes = Lanes::start().unwrap();
        let (one, two) = (lanes.turn(), lanes.turn());
        one.next().await;
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), two.next()).await.is_err();
        assert!(waits);
        drop(one);
        two.next().await;
    }
}
