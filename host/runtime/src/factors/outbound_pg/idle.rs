//! Connections that nobody uses, oldest first: which is taken, which makes room, which has waited too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a connection stays open without work.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// Things `T` that belong to pools `P`.
pub struct Idle<P, T>(Vec<(Arc<P>, T, Instant)>);

impl<P, T> Default for Idle<P, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P, T> Idle<P, T> {
    pub fn put(&mut self, pool: Arc<P>, item: T, now: Instant) {
        self.0.push((pool, item, now));
    }

    /// The one of this pool that was used last.
    pub fn take(&mut self, pool: &Arc<P>) -> Option<T> {
        let index = self.0.iter().rposition(|(of, ..)| Arc::ptr_eq(of, pool))?;
        Some(self.0.remove(index).1)
    }

    /// The one that has waited longest, of whatever pool: it makes room for another.
    pub fn take_oldest(&mut self) -> Option<T> {
        if self.0.is_empty() { None } else { Some(self.0.remove(0).1) }
    }

    /// Drops what has waited too long, and what is of no use any more.
    pub fn sweep(&mut self, now: Instant, useful: impl Fn(&T) -> bool) {
        self.0.retain(|(_, item, since)| now.saturating_duration_since(*since) < IDLE_MAX && useful(item));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gets_its_own_and_the_oldest_makes_room() {
        let (a, b, now) = (Arc::new("a"), Arc::new("b"), Instant::now());
        let mut idle = Idle::default();
        for (pool, item) in [(&a, 1), (&b, 2), (&a, 3), (&b, 4)] {
            idle.put(Arc::clone(pool), item, now);
        }
        assert_eq!(idle.take(&a), Some(3));
        assert_eq!(idle.take_oldest(), Some(1));
        assert_eq!(idle.take(&a), None);
        assert_eq!((idle.take(&b), idle.take(&b), idle.take(&b)), (Some(4), Some(2), None));
        assert!(idle.is_empty() && idle.take_oldest().is_none());
    }

    #[test]
    fn what_waits_too_long_or_is_closed_goes_and_its_pool_with_it() {
        let (pool, now) = (Arc::new("a"), Instant::now());
        let mut idle = Idle::default();
        idle.put(Arc::clone(&pool), 1, now);
        idle.put(Arc::clone(&pool), 2, now + IDLE_MAX / 2);
        idle.put(Arc::clone(&pool), 3, now + IDLE_MAX / 2);
        idle.sweep(now + IDLE_MAX, |item| *item != 3);
        assert_eq!(Arc::strong_count(&pool), 2);
        assert_eq!(idle.take(&pool), Some(2));
        assert_eq!(Arc::strong_count(&pool), 1);
    }
}
