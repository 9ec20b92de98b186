//! A component's slot: which version of it runs, the one before it, and whether the new one has proven
//! itself. Every call asks for the version anew, so a swap takes effect between two calls.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::instance::{CallError, Component};

/// Good calls after which a swapped-in version has proven itself.
const GOOD_CALLS: u32 = 20;
/// Failing calls after which a version that has not proven itself goes again.
const BAD_CALLS_MAX: u32 = 3;

/// One component's slot. Its id, triggers and settings stay; its code may change.
pub struct Slot<C = Component> {
    /// The component's id in the manifest.
    pub id: String,
    versions: RwLock<Versions<C>>,
}

/// One version of a component.
pub trait Version: Send + Sync + 'static {
    /// SHA-256 of its code, in hex.
    fn digest(&self) -> &str;
}

impl Version for Component {
    fn digest(&self) -> &str {
        &self.digest
    }
}

/// The versions in one slot (pure: `C` is only told from others).
struct Versions<C> {
    current: Arc<C>,
    previous: Option<Arc<C>>,
    /// None once the current version has proven itself.
    trial: Option<Trial>,
    /// The trial that the previous version was taken out of by hand.
    previous_trial: Option<Trial>,
    rolled_back: Option<String>,
    /// The version that was taken back, as long as the one before runs in its place.
    taken_back: Option<Arc<C>>,
}

/// How a call went, as far as the component is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult<'a> {
    /// The function answered as it should: enough of these end a version's trial.
    Good,
    /// A dependency was unavailable: it says nothing of the component.
    Neutral,
    /// It failed, for this reason.
    Bad(&'a str),
}

/// Whether the answer of a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallVerdict {
    /// The answer counts: the caller follows it, a failure as well.
    Accepted,
    /// The version failed and has not proven itself: its answer does not count, call again.
    Rejected,
    /// The same, and it was taken back for that: the version before runs from now on.
    TakenBack,
}

/// A version's first calls (pure).
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    good: u32,
    bad: u32,
}

/// What a trial has come to.
enum TrialResult {
    OnTrial,
    Proven,
    Failed,
}

impl Trial {
    fn count(&mut self, call: CallResult<'_>) -> TrialResult {
        match call {
            CallResult::Good => self.good += 1,
            CallResult::Neutral => {}
            CallResult::Bad(_) => self.bad += 1,
        }
        if self.bad >= BAD_CALLS_MAX {
            return TrialResult::Failed;
        }
        if self.good >= GOOD_CALLS { TrialResult::Proven } else { TrialResult::OnTrial }
    }
}

/// What is in a slot, for status and metrics.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotStatus {
    /// SHA-256 of the code that runs now, in hex.
    pub digest: String,
    /// SHA-256 of the version that `back` would put back, in hex; none where there is no such version.
    pub previous: Option<String>,
    /// Swapped in lately, and not proven yet.
    pub on_trial: bool,
    /// Why the last version that was swapped in went again by itself.
    pub rolled_back: Option<String>,
}

impl<C> Versions<C> {
    fn new(first: C) -> Self {
        Self {
            current: Arc::new(first),
            previous: None,
            trial: None,
            previous_trial: None,
            rolled_back: None,
            taken_back: None,
        }
    }

    fn swap(&mut self, next: impl Into<Arc<C>>) {
        let last = std::mem::replace(&mut self.current, next.into());
        // One that has not proven itself is none to go back to: the one before it stays that.
        if self.trial.is_none() {
            self.previous = Some(last);
            self.previous_trial = None;
        }
        self.trial = Some(Trial::default());
        self.rolled_back = None;
        self.taken_back = None;
    }

    fn back(&mut self) -> bool {
        let Some(previous) = self.previous.as_mut() else { return false };
        std::mem::swap(&mut self.current, previous);
        std::mem::swap(&mut self.trial, &mut self.previous_trial);
        self.rolled_back = None;
        self.taken_back = None;
        true
    }

    /// Puts a version that was taken back in its place again: the one before fails at the same, so that it is no better.
    /// False where another was swapped in meanwhile.
    fn reinstate(&mut self, version: &Arc<C>) -> bool {
        if !self.taken_back.as_ref().is_some_and(|taken_back| Arc::ptr_eq(taken_back, version)) {
            return false;
        }
        self.taken_back = None;
        self.previous = Some(std::mem::replace(&mut self.current, Arc::clone(version)));
        (self.trial, self.previous_trial, self.rolled_back) = (None, None, None);
        true
    }

    fn is_on_trial(&self, version: &Arc<C>) -> bool {
        self.trial.is_some() && Arc::ptr_eq(&self.current, version)
    }

    /// Counts a call of `version`; one that fails its trial is gone afterwards.
    fn count(&mut self, version: &Arc<C>, call: CallResult<'_>) -> CallVerdict {
        let Some(trial) = self.trial.as_mut().filter(|_| Arc::ptr_eq(&self.current, version)) else {
            return self.verdict_without_trial(version, call);
        };
        match (trial.count(call), call) {
            (TrialResult::Failed, CallResult::Bad(reason)) => {
                if let Some(previous) = self.previous.take() {
                    self.taken_back = Some(std::mem::replace(&mut self.current, previous));
                }
                self.trial = self.previous_trial.take();
                self.rolled_back = Some(reason.to_owned());
                CallVerdict::TakenBack
            }
            (TrialResult::Proven, _) => {
                self.trial = None;
                CallVerdict::Accepted
            }
            (_, CallResult::Bad(_)) => CallVerdict::Rejected,
            _ => CallVerdict::Accepted,
        }
    }

    /// Without a trial: of a call that outlived its version, what it did stands, and what it failed at
    /// does not count.
    fn verdict_without_trial(&self, version: &Arc<C>, call: CallResult<'_>) -> CallVerdict {
        let gone = !Arc::ptr_eq(&self.current, version);
        if gone && matches!(call, CallResult::Bad(_)) { CallVerdict::Rejected } else { CallVerdict::Accepted }
    }
}

impl<C: Version> Slot<C> {
    /// A slot with its first version.
    pub fn new(id: String, first: C) -> Self {
        Self { id, versions: RwLock::new(Versions::new(first)) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Versions<C>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Versions<C>> {
        self.versions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that runs now.
    pub fn current(&self) -> Arc<C> {
        Arc::clone(&self.read().current)
    }

    /// Puts a checked version in the current one's place, which is kept.
    pub fn swap(&self, next: Arc<C>) {
        self.write().swap(next);
    }

    /// Puts the version before the current one back; false when there is none. Swapping back again
    /// undoes it.
    pub fn back(&self) -> bool {
        self.write().back()
    }

    /// The version before failed at the very records that this one was taken back for: it is put in its place again, and
    /// has proven itself as much as the other has. False where another version was swapped in meanwhile.
    pub fn reinstate(&self, version: &Arc<C>, reason: &str) -> bool {
        let is_done = self.write().reinstate(version);
        if is_done {
            tracing::warn!(
                component = %self.id,
                "the version before fails at the same records: {:.12} runs again, and the records are to blame: {reason}",
                version.digest()
            );
        }
        is_done
    }

    /// What is in the slot at one moment.
    pub fn status(&self) -> SlotStatus {
        let versions = self.read();
        SlotStatus {
            digest: versions.current.digest().to_owned(),
            previous: versions.previous.as_ref().map(|component| component.digest().to_owned()),
            on_trial: versions.trial.is_some(),
            rolled_back: versions.rolled_back.clone(),
        }
    }

    /// Counts a call of `component`. A version that fails its first calls goes again, and the one
    /// before it takes its place.
    pub fn record(&self, component: &Arc<C>, call: CallResult<'_>) -> CallVerdict {
        {
            let versions = self.read();
            if !versions.is_on_trial(component) {
                return versions.verdict_without_trial(component, call);
            }
        }
        let mut versions = self.write();
        let was_on_trial = versions.is_on_trial(component);
        let verdict = versions.count(component, call);
        if let (true, Some(reason)) = (was_on_trial, &versions.rolled_back) {
            tracing::error!(
                component = %self.id,
                "the new version {:.12} failed {BAD_CALLS_MAX} of its first calls and is taken back: {reason}",
                component.digest()
            );
        }
        verdict
    }
}

impl<'a> CallResult<'a> {
    /// A call that had no answer, told by its error.
    pub fn failed(error: &CallError, text: &'a str) -> Self {
        match error {
            CallError::Stalled(..) | CallError::NoRoom(_) => Self::Neutral,
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
            assert!(matches!(trial.count(CallResult::Neutral), TrialResult::OnTrial));
        }
        for _ in 1..GOOD_CALLS {
            assert!(matches!(trial.count(CallResult::Good), TrialResult::OnTrial));
        }
        assert!(matches!(trial.count(CallResult::Good), TrialResult::Proven));
    }

    #[test]
    fn a_version_that_fails_among_its_first_calls_goes() {
        let mut trial = Trial::default();
        for _ in 1..BAD_CALLS_MAX {
            assert!(matches!(trial.count(CallResult::Bad("trap")), TrialResult::OnTrial));
            trial.count(CallResult::Good);
        }
        assert!(matches!(trial.count(CallResult::Bad("trap")), TrialResult::Failed));
    }

    const BAD: CallResult<'_> = CallResult::Bad("trap");

    fn fail(versions: &mut Versions<&str>) {
        let current = Arc::clone(&versions.current);
        for _ in 1..BAD_CALLS_MAX {
            assert_eq!(versions.count(&current, BAD), CallVerdict::Rejected);
        }
        assert_eq!(versions.count(&current, BAD), CallVerdict::TakenBack);
    }

    #[test]
    fn a_version_that_is_no_worse_than_the_one_before_is_reinstated() {
        let mut versions = Versions::new("a");
        versions.swap("b");
        let second = Arc::clone(&versions.current);
        assert!(!versions.reinstate(&second), "it was not taken back");
        fail(&mut versions);
        assert!(versions.reinstate(&second) && *versions.current == "b" && versions.trial.is_none());
        assert_eq!(versions.previous.as_deref(), Some(&"a"));
        assert!(versions.rolled_back.is_none() && !versions.reinstate(&second));
        let mut versions = Versions::new("a");
        versions.swap("b");
        let second = Arc::clone(&versions.current);
        fail(&mut versions);
        versions.swap("c");
        assert!(!versions.reinstate(&second) && *versions.current == "c", "a person was quicker");
    }

    #[test]
    fn a_version_that_fails_gives_way_to_the_one_before() {
        let mut versions = Versions::new("a");
        versions.swap("b");
        fail(&mut versions);
        assert_eq!((*versions.current, versions.trial.is_some()), ("a", false));
        assert_eq!(versions.rolled_back.as_deref(), Some("trap"));
        // What is not on trial is believed, whatever it says.
        let current = Arc::clone(&versions.current);
        assert_eq!(versions.count(&current, BAD), CallVerdict::Accepted);
    }

    #[test]
    fn a_version_on_trial_is_none_to_go_back_to() {
        let mut versions = Versions::new("a");
        versions.swap("b");
        versions.swap("c");
        fail(&mut versions);
        assert_eq!(*versions.current, "a");
    }

    #[test]
    fn failures_of_a_version_that_is_gone_do_not_count() {
        let mut versions = Versions::new("a");
        let old = Arc::clone(&versions.current);
        versions.swap("b");
        for _ in 0..10 {
            assert_eq!(versions.count(&old, BAD), CallVerdict::Rejected);
            assert_eq!(versions.count(&old, CallResult::Good), CallVerdict::Accepted);
        }
        assert_eq!(*versions.current, "b");
        let current = Arc::clone(&versions.current);
        (0..GOOD_CALLS).for_each(|_| assert_eq!(versions.count(&current, CallResult::Good), CallVerdict::Accepted));
        assert!(versions.trial.is_none());
        assert!(versions.back() && *versions.current == "a" && versions.back() && *versions.current == "b");
    }

    #[test]
    fn a_version_taken_back_by_hand_returns_to_its_trial() {
        let mut versions = Versions::new("a");
        versions.swap("b");
        assert!(versions.back() && *versions.current == "a" && versions.trial.is_none());
        assert!(versions.back() && *versions.current == "b" && versions.trial.is_some());
        fail(&mut versions);
        assert_eq!(*versions.current, "a");
    }
}
