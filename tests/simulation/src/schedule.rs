//! Tasks, polled in an order that the seed decides.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Polls after which a run counts as hung.
const POLLS_MAX: usize = 400_000;

/// Everything that runs.
#[derive(Default)]
pub struct Tasks(Vec<Pin<Box<dyn Future<Output = ()>>>>);

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.0.push(Box::pin(task));
    }

    /// Runs until all have ended; false when they do not.
    pub fn run(mut self, random: &RefCell<fastrand::Rng>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..POLLS_MAX {
            if self.0.is_empty() {
                return true;
            }
            let index = random.borrow_mut().usize(..self.0.len());
            if self.0[index].as_mut().poll(&mut context).is_ready() {
                drop(self.0.swap_remove(index));
            }
        }
        false
    }
}

/// Lets others run.
pub async fn turn() {
    let mut yielded = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
