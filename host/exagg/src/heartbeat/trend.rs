//! What a stage does by the second, and how far it was behind. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// Rates and quantiles are of so long.
const OVER: Duration = Duration::from_secs(30);
/// A resource that was refused within this time is told as refused now.
const REFUSED_LATELY: Duration = Duration::from_secs(30);
/// Entries of the history, and the seconds between two of them.
const HISTORY: usize = 60;
const SLOT_SECONDS: i64 = 5;

/// Counters as they are at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub records: u64,
    pub calls: u64,
    /// How many calls took so many seconds at the most.
    pub within: Vec<(f64, u64)>,
    pub cpu: Duration,
}

/// The samples of the last while.
#[derive(Default)]
pub struct Trend {
    samples: VecDeque<(Instant, Sample)>,
    history: VecDeque<Option<f64>>,
    /// The number of the latest entry: Unix time by [`SLOT_SECONDS`].
    slot: i64,
    refused: u64,
    refused_at: Option<Instant>,
}

impl Trend {
    /// The counters now.
    pub fn add(&mut self, at: Instant, sample: Sample) {
        self.samples.push_back((at, sample));
        while self.samples.get(1).is_some_and(|(second, _)| at.duration_since(*second) >= OVER) {
            self.samples.pop_front();
        }
    }

    /// How many seconds it is behind now; none where it reads nothing. An entry of the history has the most of its time.
    pub fn lag(&mut self, seconds: Option<f64>, now: DateTime<Utc>) {
        let slot = now.timestamp().div_euclid(SLOT_SECONDS);
        if self.history.is_empty() {
            self.slot = slot;
            self.history.push_back(seconds);
        }
        // A pause, or a clock that was set, leaves a gap.
        let passed = usize::try_from(slot - self.slot).unwrap_or_default().min(HISTORY);
        self.history.extend(std::iter::repeat_n(None, passed));
        self.history.drain(..self.history.len().saturating_sub(HISTORY));
        self.slot = self.slot.max(slot);
        if let Some(latest) = self.history.back_mut() {
            *latest = match (*latest, seconds) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
    }

    /// How far it was behind, the latest last.
    pub fn history(&self) -> &VecDeque<Option<f64>> {
        &self.history
    }

    /// The number of the latest entry of the history, which is the same for all hosts.
    pub fn slot(&self) -> i64 {
        self.slot
    }

    /// Whether anything was refused lately, where so many times were counted by now.
    pub fn refused(&mut self, count: u64, at: Instant) -> bool {
        if count > self.refused {
            self.refused = count;
            self.refused_at = Some(at);
        }
        self.refused_at.is_some_and(|refused_at| at.duration_since(refused_at) < REFUSED_LATELY)
    }

    fn ends(&self) -> Option<(&Sample, &Sample, f64)> {
        let ((began, first), (ended, last)) = (self.samples.front()?, self.samples.back()?);
        let seconds = ended.duration_since(*began).as_secs_f64();
        (seconds > 0.0).then_some((first, last, seconds))
    }

    #[expect(clippy::cast_precision_loss, reason = "counts within half a minute are far below 2^53")]
    fn per_second(&self, count: impl Fn(&Sample) -> u64) -> f64 {
        self.ends().map_or(0.0, |(first, last, seconds)| (count(last) - count(first)) as f64 / seconds)
    }

    pub fn records_per_second(&self) -> f64 {
        self.per_second(|sample| sample.records)
    }

    pub fn calls_per_second(&self) -> f64 {
        self.per_second(|sample| sample.calls)
    }

    /// Seconds of processor time.
    pub fn cpu_per_second(&self) -> f64 {
        self.ends().map_or(0.0, |(first, last, seconds)| last.cpu.saturating_sub(first.cpu).as_secs_f64() / seconds)
    }

    /// The time that so large a part of the calls stayed within, in seconds: evenly spread within a bucket of the
    /// histogram. None where there was no call.
    #[expect(clippy::cast_precision_loss, reason = "counts within half a minute are far below 2^53")]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let (first, last, _) = self.ends()?;
        let before = |index: usize| first.within.get(index).map_or(0, |(_, count)| *count);
        let all = last.calls - first.calls;
        if all == 0 {
            return None;
        }
        let wanted = part * all as f64;
        let (mut low, mut below) = (0.0, 0.0);
        for (index, (bound, count)) in last.within.iter().enumerate() {
            let count = (count - before(index)) as f64;
            if count >= wanted && count > below {
                return Some(low + (bound - low) * (wanted - below) / (count - below));
            }
            (low, below) = (*bound, count);
        }
        // Beyond the last bound.
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(records: u64, within: [u64; 2], calls: u64) -> Sample {
        Sample { records, calls, within: vec![(0.001, within[0]), (0.01, within[1])], cpu: Duration::ZERO }
    }

    #[test]
    fn rates_and_quantiles_are_of_the_last_half_minute() {
        let mut trend = Trend::default();
        assert_eq!((trend.records_per_second(), trend.quantile(0.5)), (0.0, None));
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        trend.add(at(0), sample(0, [0, 0], 0));
        trend.add(at(10), sample(1_000, [5, 10], 10));
        assert!((trend.records_per_second() - 100.0).abs() < 1e-9);
        let quantile = |trend: &Trend, part| (trend.quantile(part).unwrap() * 1e6).round();
        assert_eq!((quantile(&trend, 0.5), quantile(&trend, 0.75)), (1_000.0, 5_500.0));
        // What was before counts no more.
        trend.add(at(40), sample(1_000, [5, 10], 12));
        trend.add(at(50), sample(1_000, [5, 10], 12));
        assert!(trend.records_per_second().abs() < 1e-9);
        assert!((quantile(&trend, 0.5) - 10_000.0).abs() < 1e-9, "beyond the last bound is told as that bound");
    }

    #[test]
    fn the_history_has_the_most_of_each_time_and_gaps() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let mut trend = Trend::default();
        for (seconds, lag) in [(100, 1.0), (104, 3.0), (105, 2.0), (117, 4.0)] {
            trend.lag(Some(lag), at(seconds));
        }
        assert_eq!(Vec::from(trend.history().clone()), [Some(3.0), Some(2.0), None, Some(4.0)]);
        assert_eq!(trend.slot(), 23);
        trend.lag(Some(5.0), at(1_000_000));
        assert_eq!((trend.history().len(), trend.history().back()), (HISTORY, Some(&Some(5.0))));
    }

    #[test]
    fn what_was_refused_is_told_for_a_while() {
        let mut trend = Trend::default();
        let began = Instant::now();
        assert!(!trend.refused(0, began));
        assert!(trend.refused(2, began));
        assert!(trend.refused(2, began + Duration::from_secs(29)));
        assert!(!trend.refused(2, began + Duration::from_secs(31)));
    }
}
