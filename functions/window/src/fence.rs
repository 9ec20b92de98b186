//! What an offset interval means beside the progress already made.
//!
//! A batch is applied by one statement that moves `next_offset` from the batch's first offset to
//! its next one, by compare-and-set. When the statement found another value there, the progress
//! is read again and this decides.

/// What to do with a batch `[from, next)` whose compare-and-set did not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The progress is where the batch begins: something else stood in the way; try again.
    TryAgain,
    /// All of it was applied before.
    AlreadyApplied,
    /// The part before this offset was applied before: drop it and try again with the rest.
    DropBefore(i64),
    /// The log was skipped: go on at this offset.
    ResumeAt(i64),
}

/// Decides about the batch `[from, next)` by the `next_offset` of the progress row.
pub fn decide(progress: i64, from: i64, next: i64) -> Decision {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match (progress.cmp(&from), progress.cmp(&next)) {
        (Equal, _) => Decision::TryAgain,
        (Greater, Less) => Decision::DropBefore(progress),
        (Greater, Equal) => Decision::AlreadyApplied,
        // The log was skipped, or somebody else is further on: no need to read all that again.
        (Less, _) | (Greater, Greater) => Decision::ResumeAt(progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_applied_from_the_progress_on_and_nothing_is_skipped() {
        assert_eq!(decide(9, 10, 20), Decision::ResumeAt(9));
        assert_eq!(decide(10, 10, 20), Decision::TryAgain);
        assert_eq!(decide(11, 10, 20), Decision::DropBefore(11));
        assert_eq!(decide(19, 10, 20), Decision::DropBefore(19));
        assert_eq!(decide(20, 10, 20), Decision::AlreadyApplied);
        assert_eq!(decide(99, 10, 20), Decision::ResumeAt(99));
        assert_eq!(decide(10, 10, 10), Decision::TryAgain);
        assert_eq!(decide(11, 10, 10), Decision::ResumeAt(11));
    }
}
