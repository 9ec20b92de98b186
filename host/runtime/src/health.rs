//! What keeps the host from being ready, by stage.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The latest reason of each cron stage, and of the database, by its name; `/readyz` fails while there is any.
#[derive(Default)]
pub struct Health(Mutex<BTreeMap<String, String>>);

impl Health {
    /// Notes what is in a stage's way; `None` when nothing is.
    pub fn note(&self, stage: &str, reason: Option<String>) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => {
                reasons.insert(stage.to_owned(), reason);
            }
            None => {
                reasons.remove(stage);
            }
        }
    }

    /// What is in the way, all of it.
    pub fn reasons(&self) -> Vec<String> {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(stage, reason)| format!("{stage}: {reason}")).collect()
    }
}
