//! The connections of all components of a host: what one keeps and does not use may be what another waits for.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::pool::Pools;

/// Every component's pools, as long as the component is there.
#[derive(Default)]
pub struct AllPools(Mutex<Vec<Weak<Pools>>>);

impl AllPools {
    /// A component has come, or another version of one.
    pub fn add(&self, pools: &Arc<Pools>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|pools| pools.strong_count() > 0);
        all.push(Arc::downgrade(pools));
    }

    /// Closes one connection that nobody uses, where there is one.
    pub fn close_one(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = all.iter().filter_map(Weak::upgrade).any(|pools| pools.close_one());
    }
}
