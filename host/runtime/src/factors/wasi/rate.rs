//! How much a component may log a second: a bucket that fills with time and is emptied by lines.

use std::time::{Duration, Instant};

/// Bytes a second, on average.
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// The average is over so many seconds: a burst may be as large.
const SECONDS: u64 = 10;
/// What is dropped is told this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The bucket, and what did not fit.
pub struct Rate {
    left_bytes: u64,
    filled: Instant,
    dropped_bytes: u64,
    reported: Option<Instant>,
}

impl Rate {
    pub fn new(now: Instant) -> Self {
        Self { left_bytes: BYTES_PER_SECOND * SECONDS, filled: now, dropped_bytes: 0, reported: None }
    }

    /// Whether a line of so many bytes may be logged.
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(SECONDS));
        let more = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_SECOND) / 1000;
        if more > 0 {
            self.left_bytes = (self.left_bytes + more).min(BYTES_PER_SECOND * SECONDS);
            self.filled = self.filled.max(now);
        }
        let fits = bytes <= self.left_bytes;
        if fits {
            self.left_bytes -= bytes;
        } else {
            self.dropped_bytes += bytes;
        }
        fits
    }

    /// Bytes dropped since they were told last, where it is time to tell.
    pub fn report(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.reported.is_none_or(|last| now.saturating_duration_since(last) >= REPORT_INTERVAL);
        if self.dropped_bytes == 0 || !is_due {
            return None;
        }
        self.reported = Some(now);
        Some(std::mem::take(&mut self.dropped_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 1000;

    /// Lines of a second, a thousand times as many as may be logged.
    fn flood(rate: &mut Rate, from: Instant) -> u64 {
        let at = |millis| from + Duration::from_millis(millis);
        (0..1000).map(|millis| (0..1000).filter(|_| rate.take(at(millis), LINE)).count() as u64).sum::<u64>()
            * LINE as u64
    }

    /// Take out: the comparison in `take`, or the upper bound of what is left.
    #[test]
    fn a_flood_is_cut_to_its_rate_and_a_burst_passes() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let first = flood(&mut rate, start);
        assert!((10_000_000..12_000_000).contains(&first), "{first}");
        let second = flood(&mut rate, start + Duration::from_secs(1));
        assert!((1_000_000..1_100_000).contains(&second), "{second}");
        // An hour of silence earns no more than the burst.
        let later = flood(&mut rate, start + Duration::from_secs(3600));
        assert!((10_000_000..12_000_000).contains(&later), "{later}");
    }

    #[test]
    fn what_is_dropped_is_told_once_a_second_and_none_of_it_twice() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!(rate.report(start), None);
        assert!(!rate.take(start, 100_000_000));
        assert_eq!(rate.report(start), Some(100_000_000));
        assert!(!rate.take(start, 50_000_000));
        assert_eq!(rate.report(start + Duration::from_millis(999)), None);
        assert!(!rate.take(start, 50_000_000));
        assert_eq!(rate.report(start + Duration::from_secs(1)), Some(100_000_000));
        assert_eq!(rate.report(start + Duration::from_secs(9)), None);
    }
}
