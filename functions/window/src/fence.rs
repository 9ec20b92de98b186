//! What an offset interval means beside the progress already made.
//!
//! A batch is applied by one statement that moves `next_offset` from the batch's first offset to
//! its next one, by compare-and-set. When the statement found another value there, the progress
//! is read again and this decides.

/// What to do with a batch `[from, next)` whose compare-and-set did not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The progress is where the batch begins: something else stood in the way; try again.
    TryAgain,
    /// All of it was applied before.
    AlreadyApplied,
    /// The part before this offset was applied before: drop it and try again with the rest.
    DropBefore(i64),
    /// The log was skipped: go on at this offset.
    ResumeAt(i64),
}

/// Judges the batch `[from, next)` by the `next_offset` of the progress row.
pub fn judge(progress: i64, from: i64, next: i64) -> Verdict {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match (progress.cmp(&from), progress.cmp(&next)) {
        (Equal, _) => Verdict::TryAgain,
        (Greater, Less) => Verdict::DropBefore(progress),
        (Greater, Equal) => Verdict::AlreadyApplied,
        // The log was skipped, or somebody else is further on: no need to read all that again.
        (Less, _) | (Greater, Greater) => Verdict::ResumeAt(progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_applied_from_the_progress_on_and_nothing_is_skipped() {
        assert_eq!(judge(9, 10, 20), Verdict::ResumeAt(9));
        assert_eq!(judge(10, 10, 20), Verdict::TryAgain);
        assert_eq!(judge(11, 10, 20), Verdict::DropBefore(11));
        assert_eq!(judge(19, 10, 20), Verdict::DropBefore(19));
        assert_eq!(judge(20, 10, 20), Verdict::AlreadyApplied);
        assert_eq!(judge(99, 10, 20), Verdict::ResumeAt(99));
        assert_eq!(judge(10, 10, 10), Verdict::TryAgain);
        assert_eq!(judge(11, 10, 10), Verdict::ResumeAt(11));
    }
}
