//! What keeps the host as a whole from being ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The latest reason of each thing that all stages need, by its name; `/readyz` fails while there is any.
#[derive(Default)]
pub struct Health(Mutex<BTreeMap<String, String>>);

impl Health {
    /// Notes what is wrong with a thing; `None` when nothing is.
    pub fn note(&self, name: &str, reason: Option<String>) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => {
                reasons.insert(name.to_owned(), reason);
            }
            None => {
                reasons.remove(name);
            }
        }
    }

    /// What is in the way, all of it.
    pub fn reasons(&self) -> Vec<String> {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(name, reason)| format!("{name}: {reason}")).collect()
    }
}
