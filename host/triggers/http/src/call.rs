//! One request's instance: how long it may take, and what became of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use exagg_runtime::instance::{Component, State};
use exagg_runtime::slot::{CallResult, Slot};
use tokio::time::Sleep;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{HandlerState, Instance, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::proxy;

/// Leave to make an instance, held as long as the instance is there.
pub type Permit = tokio::sync::OwnedSemaphorePermit;

/// How long a response's body may take beyond the call itself.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How much later than its own end a call that has not answered is given up.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// How far a request has come, for its instance and for the body of its response.
#[derive(Default)]
pub struct Progress {
    /// The response has its head.
    answered: AtomicBool,
    /// The instance was ended because its time was over while it waited: for its client, mostly.
    expired: AtomicBool,
    /// The instance did not come to its own end.
    failed: AtomicBool,
}

impl Progress {
    /// The response has its head.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }
}

/// A body that ends with an error when the function did not end it: cut off, it must not look whole.
pub struct Whole {
    body: WasiBody,
    progress: Arc<Progress>,
}

impl Whole {
    /// The body of the response whose progress this is.
    pub fn new(body: WasiBody, progress: Arc<Progress>) -> Self {
        Self { body, progress }
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() && self.progress.failed.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Makes the instance for one request.
pub struct Handler {
    slot: Arc<Slot>,
    permit: Mutex<Option<Permit>>,
    progress: Arc<Progress>,
}

impl Handler {
    /// For one request to the component that is in the slot now.
    pub fn new(slot: Arc<Slot>, permit: Permit, progress: Arc<Progress>) -> Self {
        Self { slot, permit: Mutex::new(Some(permit)), progress }
    }
}

impl HandlerState for Handler {
    type StoreData = State;
    type WorkerExpiration = Deadline;
    type WorkerState = OneRequest;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Deadline, OneRequest>> {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let permit = permit.ok_or_else(|| wasmtime::format_err!("a request has one instance"))?;
        let component = self.slot.current();
        let time_max = component.limits().call_time_max;
        let mut store = component.store();
        let proxy = proxy(component.pre().clone())?.instantiate_async(&mut store).await.inspect_err(|_| {
            self.slot.record(&component, CallResult::Bad("no instance could be made"));
        })?;
        let progress = Arc::clone(&self.progress);
        let expiration = Deadline::new(time_max, Arc::clone(&progress));
        let state = OneRequest { slot: Arc::clone(&self.slot), component, time_max, progress, _permit: permit };
        Ok(Instance { store, proxy, view: <State as WasiHttpView>::http, expiration, state })
    }
}

/// An instance takes one request.
pub struct OneRequest {
    slot: Arc<Slot>,
    component: Arc<Component>,
    time_max: Duration,
    progress: Arc<Progress>,
    _permit: Permit,
}

impl WorkerState for OneRequest {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, _: usize, total: usize) -> ShouldAccept {
        if total == 0 { ShouldAccept::Yes } else { ShouldAccept::Never }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State>,
        (): (),
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(tokio::time::sleep(self.time_max))
    }

    fn drop(&self, store: Store<State>, result: Result<(), wasmtime::Error>) {
        let expired = self.progress.expired.load(Ordering::Acquire);
        let call = match result {
            Ok(()) => CallResult::Good,
            Err(_) if store.data().lacked_room() => {
                tracing::warn!(component = %self.slot.id, "a request failed for want of memory that others hold");
                CallResult::Neutral
            }
            // A client that sends or reads slowly says nothing of the component.
            Err(_) if expired => {
                let at = if self.progress.answered.load(Ordering::Acquire) { "its response" } else { "a request" };
                tracing::warn!(component = %self.slot.id, "the function waited too long over {at}: it is given up");
                CallResult::Neutral
            }
            Err(error) => {
                tracing::error!(component = %self.slot.id, "the function failed: {error:#}");
                CallResult::Bad("a request failed")
            }
        };
        // Before the store goes, and with it the other end of the body.
        self.progress.failed.store(!matches!(call, CallResult::Good), Ordering::Release);
        self.slot.record(&self.component, call);
        drop(store);
    }
}

/// Ends an instance that lives too long, whatever it does: soon where it has not answered by its time, and
/// later where its response is still read.
pub struct Deadline {
    answer: Pin<Box<Sleep>>,
    body: Pin<Box<Sleep>>,
    progress: Arc<Progress>,
}

impl Deadline {
    fn new(time_max: Duration, progress: Arc<Progress>) -> Self {
        let sleep = |time| Box::pin(tokio::time::sleep(time));
        Self { answer: sleep(time_max + ANSWER_GRACE), body: sleep(time_max + BODY_TIME), progress }
    }

    fn poll_over(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let answered = self.progress.answered.load(Ordering::Acquire);
        // Either wakes the worker at its time, which then looks which of them counts.
        ready!(if answered { &mut self.body } else { &mut self.answer }.as_mut().poll(cx));
        self.progress.expired.store(true, Ordering::Release);
        Poll::Ready(())
    }
}

impl WorkerExpiration for Deadline {
    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, _: WorkerStatus, _: Instant) -> Poll<()> {
        self.poll_over(cx)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn a_body_that_was_cut_off_does_not_look_whole() {
        for failed in [false, true] {
            let progress = Arc::new(Progress { failed: failed.into(), ..Progress::default() });
            let body = Full::new(Bytes::from_static(b"half")).map_err(Error::from).boxed_unsync();
            let mut whole = Whole { body, progress };
            assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
            assert_eq!(whole.frame().await.is_some_and(|end| end.is_err()), failed);
        }
    }

    #[tokio::test]
    async fn a_request_has_less_time_than_its_response() {
        let over = async |answered: bool| {
            let progress = Arc::new(Progress { answered: answered.into(), ..Progress::default() });
            let mut deadline = Deadline::new(Duration::ZERO, Arc::clone(&progress));
            let over = std::future::poll_fn(|cx| deadline.poll_over(cx));
            let over = tokio::time::timeout(ANSWER_GRACE * 4, over).await.is_ok();
            assert_eq!(progress.expired.load(Ordering::Acquire), over);
            over
        };
        assert!(over(false).await, "nothing was answered");
        assert!(!over(true).await, "the response is still read");
    }
}
