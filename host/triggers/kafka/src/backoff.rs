//! Pauses between tries.

use std::time::Duration;

use crate::config::Subscription;

/// Pauses that double up to a limit, each shortened at random so that stages do not move in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// As the stage's settings say.
    pub fn new(subscription: &Subscription) -> Self {
        Self { next: subscription.retry_backoff_min, max: subscription.retry_backoff_max }
    }

    /// The next pause: between half of it and all of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.max);
        pause
    }
}
