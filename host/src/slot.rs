//! The place of a component: which version runs, the one before it, and whether the new one has
//! proven itself. Every call asks for the version anew, so a swap takes effect between two calls.

use std::sync::{Arc, PoisonError, RwLock};

use crate::instance::{CallError, Component};

/// Good calls after which a swapped-in version has proven itself.
const GOOD_CALLS: u32 = 20;
/// Failing calls after which a version that has not proven itself goes again.
const BAD_CALLS_MAX: u32 = 3;

/// One component's place. Its id, triggers and settings stay; its code may change.
pub struct Slot {
    pub id: String,
    versions: RwLock<Versions>,
}

struct Versions {
    current: Arc<Component>,
    previous: Option<Arc<Component>>,
    /// None once the current version has proven itself.
    trial: Option<Trial>,
    rolled_back: Option<String>,
}

/// How a call went, as far as the component is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    Good,
    /// The world was in the way: it says nothing of the component.
    Neutral,
    Bad(&'a str),
}

/// What a call means for the version that was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its answer stands.
    Trusted,
    /// It failed and has not proven itself: its answer does not count, call again.
    Doubted,
}

/// A version's first calls (pure).
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    good: u32,
    bad: u32,
}

enum Verdict {
    OnTrial,
    Proven,
    Failed,
}

impl Trial {
    fn count(&mut self, call: Call<'_>) -> Verdict {
        match call {
            Call::Good => self.good += 1,
            Call::Neutral => {}
            Call::Bad(_) => self.bad += 1,
        }
        if self.bad >= BAD_CALLS_MAX {
            return Verdict::Failed;
        }
        if self.good >= GOOD_CALLS { Verdict::Proven } else { Verdict::OnTrial }
    }
}

/// What stands in a slot, for status and metrics.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Standings {
    pub digest: String,
    pub previous: Option<String>,
    /// Swapped in lately, and not proven yet.
    pub on_trial: bool,
    /// Why the last version that was swapped in went again by itself.
    pub rolled_back: Option<String>,
}

impl Slot {
    pub fn new(component: Component) -> Self {
        let versions = Versions { current: Arc::new(component), previous: None, trial: None, rolled_back: None };
        Self { id: versions.current.id.clone(), versions: RwLock::new(versions) }
    }

    /// The version that runs now.
    pub fn current(&self) -> Arc<Component> {
        Arc::clone(&self.versions.read().unwrap_or_else(PoisonError::into_inner).current)
    }

    /// Puts a checked version in the current one's place, which is kept.
    pub fn swap(&self, next: Component) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut versions.current, Arc::new(next));
        versions.previous = Some(last);
        versions.trial = Some(Trial::default());
        versions.rolled_back = None;
    }

    /// Puts the version before the current one back; false when there is none. Swapping back again
    /// undoes it.
    pub fn back(&self) -> bool {
        let mut guard = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let versions = &mut *guard;
        let Some(previous) = versions.previous.as_mut() else { return false };
        std::mem::swap(&mut versions.current, previous);
        versions.trial = None;
        versions.rolled_back = None;
        true
    }

    pub fn standings(&self) -> Standings {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        Standings {
            digest: versions.current.digest.clone(),
            previous: versions.previous.as_ref().map(|component| component.digest.clone()),
            on_trial: versions.trial.is_some(),
            rolled_back: versions.rolled_back.clone(),
        }
    }

    /// Counts a call of `component`. A version that fails its first calls goes again, and the one
    /// before it takes its place.
    pub fn report(&self, component: &Arc<Component>, call: Call<'_>) -> Standing {
        let is_on_trial = |versions: &Versions| versions.trial.is_some() && Arc::ptr_eq(&versions.current, component);
        if !is_on_trial(&self.versions.read().unwrap_or_else(PoisonError::into_inner)) {
            return self.standing_of_another(component, call);
        }
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        // Another call may have decided meanwhile.
        let verdict = match &mut *versions {
            Versions { current, trial: Some(trial), .. } if Arc::ptr_eq(current, component) => trial.count(call),
            _ => {
                drop(versions);
                return self.standing_of_another(component, call);
            }
        };
        match (verdict, call) {
            (Verdict::Failed, Call::Bad(reason)) => {
                tracing::error!(
                    component = %self.id,
                    "the new version {:.12} failed {BAD_CALLS_MAX} of its first calls and is taken back: {reason}",
                    versions.current.digest
                );
                if let Some(previous) = versions.previous.take() {
                    versions.current = previous;
                }
                versions.trial = None;
                versions.rolled_back = Some(reason.to_owned());
                Standing::Doubted
            }
            (Verdict::Proven, _) => {
                versions.trial = None;
                Standing::Trusted
            }
            (_, Call::Bad(_)) => Standing::Doubted,
            _ => Standing::Trusted,
        }
    }

    /// A call that outlived its version: what it did stands, what it failed at does not count.
    fn standing_of_another(&self, component: &Arc<Component>, call: Call<'_>) -> Standing {
        let gone = !Arc::ptr_eq(&self.current(), component);
        if gone && matches!(call, Call::Bad(_)) { Standing::Doubted } else { Standing::Trusted }
    }
}

impl<'a> Call<'a> {
    /// A call that had no answer, told by its error.
    pub fn failed(error: &CallError, text: &'a str) -> Self {
        match error {
            CallError::Stalled(_) => Self::Neutral,
            CallError::TimedOut(_) | CallError::Trapped(_) | CallError::NoInstance(_) => Self::Bad(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_proves_itself_by_good_calls_only() {
        let mut trial = Trial::default();
        for _ in 0..100 {
            assert!(matches!(trial.count(Call::Neutral), Verdict::OnTrial));
        }
        for _ in 1..GOOD_CALLS {
            assert!(matches!(trial.count(Call::Good), Verdict::OnTrial));
        }
        assert!(matches!(trial.count(Call::Good), Verdict::Proven));
    }

    #[test]
    fn a_version_that_fails_among_its_first_calls_goes() {
        let mut trial = Trial::default();
        for _ in 1..BAD_CALLS_MAX {
            assert!(matches!(trial.count(Call::Bad("trap")), Verdict::OnTrial));
            trial.count(Call::Good);
        }
        assert!(matches!(trial.count(Call::Bad("trap")), Verdict::Failed));
    }
}
