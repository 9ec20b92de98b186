//! Instances that wait for their next call, where the trigger asked for that.
//!
//! By default a call gets a fresh instance, so that nothing is left of the call before. A trigger with `reuse` gives that
//! up for speed: its instances, and the connections to PostgreSQL that they gave back, serve further calls of the same
//! version of the component. After a failure, a number of calls or a time the next one is fresh.

use std::any::Any;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Deserialize;
use wasmtime::Store;

use super::State;

/// Bytes of memory with which an instance is kept: one that a large call has grown beyond that is dropped.
pub const BYTES_MAX: u64 = 16 << 20;
/// Instances of a component that wait at the most: one more than there are processors.
static WAITING_MAX: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get) + 1);
const CALLS_MAX: u32 = 1_000_000;
const SECONDS_MAX: u64 = 3_600;

/// How long an instance serves: `reuse` of a trigger, `true` for the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Calls that one instance serves at the most; 10,000 by default.
    pub calls_max: u32,
    /// How old it may be; 60 s by default.
    pub age_max: Duration,
}

/// As it is written.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum ReuseSetting {
    /// Whether instances are reused.
    Switch(bool),
    /// They are, within these bounds.
    Bounds(Bounds),
}

/// The bounds as they are written.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    #[serde(default = "calls_max")]
    calls_max: u32,
    #[serde(default = "seconds_max")]
    seconds_max: u64,
}

fn calls_max() -> u32 {
    10_000
}
fn seconds_max() -> u64 {
    60
}

impl ReuseSetting {
    /// The checked setting; none where each call gets a fresh instance.
    ///
    /// # Errors
    /// When a bound is out of its range.
    pub fn parse(self) -> Result<Option<Reuse>> {
        let bounds = match self {
            Self::Switch(false) => return Ok(None),
            Self::Switch(true) => Bounds { calls_max: calls_max(), seconds_max: seconds_max() },
            Self::Bounds(bounds) => bounds,
        };
        ensure!(
            (1..=CALLS_MAX).contains(&bounds.calls_max) && (1..=SECONDS_MAX).contains(&bounds.seconds_max),
            "reuse: calls_max is from 1 to {CALLS_MAX}, and seconds_max from 1 to {SECONDS_MAX}"
        );
        Ok(Some(Reuse { calls_max: bounds.calls_max, age_max: Duration::from_secs(bounds.seconds_max) }))
    }
}

/// An instance between two calls.
pub struct Kept {
    /// Holds the instance and all that it has open.
    pub store: Store<State>,
    /// What is called of it, as the trigger looked it up.
    pub function: Box<dyn Any + Send>,
    /// Of which version it is.
    pub version: u64,
    /// How many calls it has served.
    pub calls: u32,
    /// Until when it serves.
    pub until: Instant,
}

/// The instances of one component that wait for calls of one kind. There are never more of them, with those that run, than
/// calls may run at a time: whoever makes another has taken one out.
#[derive(Default)]
pub struct Waiting(Mutex<Instances>);

#[derive(Default)]
struct Instances {
    instances: Vec<Kept>,
    /// Whether a task drops those that have become too old.
    is_swept: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Instances> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last. One of another version, or one that is too old, goes instead, and so does one where
    /// none is asked for: a fresh one takes its place.
    pub fn take(&self, version: Option<u64>) -> Option<Kept> {
        let taken = self.lock().instances.pop();
        // What is not taken is dropped here, outside of the lock.
        taken.filter(|kept| Some(kept.version) == version && Instant::now() < kept.until)
    }

    /// Keeps one for its next call, unless enough wait: their memory is the component's, and others want it too.
    pub fn put(self: &Arc<Self>, kept: Kept) {
        let mut state = self.lock();
        if state.instances.len() >= *WAITING_MAX {
            return;
        }
        state.instances.push(kept);
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Drops what has become too old, as long as any is kept.
async fn sweep(waiting: Weak<Waiting>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(waiting) = waiting.upgrade() else { return };
        let now = Instant::now();
        let old = {
            let mut state = waiting.lock();
            let (kept, old): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.instances).into_iter().partition(|kept| now < kept.until);
            state.instances = kept;
            state.is_swept = !state.instances.is_empty();
            old
        };
        drop(old);
        if !waiting.lock().is_swept {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_a_switch_or_bounds_within_their_ranges() {
        let parse =
            |text: &str| serde_json::from_str::<ReuseSetting>(text).map_err(Into::into).and_then(ReuseSetting::parse);
        assert_eq!(parse("false").unwrap(), None);
        assert_eq!(parse("true").unwrap(), Some(Reuse { calls_max: 10_000, age_max: Duration::from_secs(60) }));
        let bounds = parse(r#"{"calls_max": 5}"#).unwrap().unwrap();
        assert_eq!((bounds.calls_max, bounds.age_max.as_secs()), (5, 60));
        for refused in [r#"{"calls_max": 0}"#, r#"{"seconds_max": 3601}"#, r#"{"calls": 5}"#, "1"] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
