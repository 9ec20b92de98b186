//! The processors for what may compute without end: all but one.
//!
//! Priorities alone are not enough. They count within a control group, or within a session where Linux groups
//! tasks by session (`sched_autogroup_enabled`): to PostgreSQL in its own group a loop of the host's weighs as much
//! as any other work. With all processors busy, its waits for the disk, otherwise below a millisecond, took up to a
//! second. With one processor left free they take what they did before.

use std::num::NonZero;

/// How many processors such work may use; one at least.
pub fn count() -> usize {
    let all = std::thread::available_parallelism().map_or(1, NonZero::get);
    all.saturating_sub(1).max(1)
}

/// Keeps this thread, and those that it starts, away from the first processor that the process may use. Where there
/// is only one, or the system refuses, nothing changes.
#[cfg(target_os = "linux")]
pub fn leave_one() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let Ok(mut set) = sched_getaffinity(None) else { return };
    if set.count() > 1 {
        if let Some(first) = (0..CpuSet::MAX_CPU).find(|processor| set.is_set(*processor)) {
            set.unset(first);
        }
        let _ = sched_setaffinity(None, &set);
    }
}

/// Other systems have no such call, or only advise by it.
#[cfg(not(target_os = "linux"))]
pub fn leave_one() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::*;

    #[test]
    fn one_processor_is_left_to_the_others() {
        // A thread of its own: the others of the test keep theirs.
        std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|processor| before.is_set(*processor)).unwrap();
            let expected = count();
            leave_one();
            let after = sched_getaffinity(None).unwrap();
            if before.count() == 1 {
                assert_eq!(after, before);
                return;
            }
            assert!(!after.is_set(first));
            assert_eq!(after.count() + 1, before.count());
            // A quota of the container's may allow less.
            assert!(expected <= usize::try_from(after.count()).unwrap());
        })
        .join()
        .unwrap();
    }
}
