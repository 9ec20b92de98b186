//! Large batches take turns: more of them in flight than the processors can work on hold memory, and no work is done
//! sooner. A partition that waits for its turn has not taken its batch yet, which grows meanwhile.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A batch of so many records is large: it is worth its call by itself, and takes its turn.
pub const LARGE_RECORDS: usize = 1_000;
/// Beside those that the processors work on, one waits for the database.
const WAITING: usize = 1;

/// The turns of a stage.
pub struct Turns(Semaphore);

/// The right to have a large batch in flight, until it is dropped or given back.
#[derive(Default)]
pub struct Turn<'a>(Mutex<Option<SemaphorePermit<'a>>>);

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl Turns {
    /// As many as keep this machine's processors busy.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Semaphore::new(processors + WAITING))
    }

    /// How many may be taken now.
    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.0.available_permits()
    }

    /// Waits for a turn; who asked first has it first.
    pub async fn next(&self) -> Turn<'_> {
        Turn(Mutex::new(self.0.acquire().await.ok()))
    }
}

impl Turn<'_> {
    /// Gives it back before the batch has ended: whatever holds that one up is not the others' to wait for.
    pub fn give_back(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
