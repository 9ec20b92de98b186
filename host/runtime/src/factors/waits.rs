//! What a call waits for outside of its own code, for the message when its time is over.

use std::sync::{Arc, Mutex, PoisonError};

/// The requests of one call that have no answer yet.
#[derive(Clone, Default)]
pub struct Waits(Arc<Mutex<Begun>>);

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

impl Waits {
    fn with<R>(&self, work: impl FnOnce(&mut Begun) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
