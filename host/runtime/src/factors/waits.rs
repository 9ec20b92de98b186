//! What a call waits for outside of its own code, for the message when its time is over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::meter::Meter;

/// The requests of one call that have no answer yet.
#[derive(Clone, Default)]
pub struct Waits {
    begun: Arc<Mutex<Begun>>,
    /// Of the component.
    meter: Arc<Meter>,
}

#[derive(Default)]
struct Begun {
    next: u64,
    /// By number, in the order in which they began.
    open: Vec<(u64, String)>,
}

/// A request that is open until this is dropped.
pub struct Wait {
    waits: Waits,
    number: u64,
}

/// A wait for PostgreSQL, whose time is counted.
pub struct PostgresWait {
    wait: Wait,
    began: Instant,
}

impl Waits {
    /// Of a call of the component that has this meter.
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { begun: Arc::default(), meter }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Begun) -> R) -> R {
        work(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same as [`Self::begin`], for PostgreSQL.
    pub fn begin_postgres(&self, what: String) -> PostgresWait {
        PostgresWait { wait: self.begin(what), began: Instant::now() }
    }

    /// From now on the call waits for this, in words that go on after "for": where it is, and no secret.
    pub fn begin(&self, what: String) -> Wait {
        let number = self.with(|begun| {
            begun.next += 1;
            begun.open.push((begun.next, what));
            begun.next
        });
        Wait { waits: self.clone(), number }
    }

    /// What the call has waited for since the latest of its open requests began.
    pub fn latest(&self) -> Option<String> {
        self.with(|begun| begun.open.last().map(|(_, what)| what.clone()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.with(|begun| begun.open.retain(|(number, _)| *number != self.number));
    }
}

impl Drop for PostgresWait {
    fn drop(&mut self) {
        self.wait.waits.meter.postgres(self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_for_the_latest_request_that_has_no_answer() {
        let waits = Waits::default();
        assert_eq!(waits.latest(), None);
        let first = waits.begin("a".to_owned());
        let second = waits.begin("b".to_owned());
        assert_eq!(waits.latest().as_deref(), Some("b"));
        drop(second);
        assert_eq!(waits.latest().as_deref(), Some("a"));
        drop(first);
        assert_eq!(waits.latest(), None);
    }
}
