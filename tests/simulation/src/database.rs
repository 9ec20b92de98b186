//! The tables, and each statement as one atomic step.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::aggregate::Aggregate;
use window::fold::Partial;
use window::time::MICROS_PER_SECOND;
use window::watermark::{Candidate, PartitionProgress};

use crate::Broken;
use crate::world::{PARTITIONS, WINDOW_SECONDS};

/// (event time, partition, offset)
pub type Order = (i64, i32, i64);
/// (window start in Unix seconds, code)
pub type Key = (i64, String);

/// (window start, code, partition)
pub type StateKey = (i64, String, i32);

/// A row of `aggregates`, or what one partition adds to it. Values are whole numbers, so that
/// sums are exact in any order.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub records: i64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub first: (Order, f64),
    pub last: (Order, f64),
}

impl Row {
    pub fn new(order: Order, value: f64) -> Self {
        Self { records: 1, sum: value, min: value, max: value, first: (order, value), last: (order, value) }
    }

    fn of(partial: &Partial, partition: i32) -> Self {
        let order = |edge: window::fold::Edge| ((edge.time.0, partition, edge.offset), edge.value);
        Self {
            records: partial.records,
            sum: partial.sum,
            min: partial.min,
            max: partial.max,
            first: order(partial.first),
            last: order(partial.last),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.first.0 < self.first.0 {
            self.first = other.first;
        }
        if other.last.0 > self.last.0 {
            self.last = other.last;
        }
    }
}

#[derive(Clone, Debug)]
pub struct Progress {
    pub next_offset: i64,
    pub end_offset: i64,
    max_event_time_us: Option<i64>,
    first_seen_us: i64,
    last_record_us: Option<i64>,
    last_seen_us: i64,
}

/// A row of `rejected_records`: partition, offset, window.
pub type RejectKey = (i32, i64, Option<i64>);

pub struct Database {
    broken: Broken,
    pub progress: BTreeMap<i32, Progress>,
    pub state: BTreeMap<StateKey, Row>,
    /// With the revision.
    pub aggregates: BTreeMap<Key, (Row, u32)>,
    pub rejects: BTreeMap<RejectKey, &'static str>,
    /// Rejects that a key kept from being written twice; with the fence there are none.
    pub rejects_refused: u32,
    pub watermark_us: Option<i64>,
    pub closed_before_us: Option<i64>,
    /// With the time at which it was written.
    pub candidate_us: Option<(i64, i64)>,
    pub held_by: Option<String>,
    has_settings: bool,
}

impl Database {
    pub fn new(broken: Broken) -> Self {
        Self {
            broken,
            progress: BTreeMap::new(),
            state: BTreeMap::new(),
            aggregates: BTreeMap::new(),
            rejects: BTreeMap::new(),
            rejects_refused: 0,
            watermark_us: None,
            closed_before_us: None,
            candidate_us: None,
            held_by: None,
            has_settings: false,
        }
    }

    pub fn begin(&mut self, partition: i32, from: i64, end: i64, now_us: i64) {
        self.progress.entry(partition).or_insert(Progress {
            next_offset: from,
            end_offset: end,
            max_event_time_us: None,
            first_seen_us: now_us,
            last_record_us: None,
            last_seen_us: now_us,
        });
    }

    pub fn write_settings(&mut self) {
        self.has_settings = true;
    }

    /// The aggregator's statement: the fence, and what hangs on it.
    pub fn apply(
        &mut self,
        (partition, from, next, end): (i32, i64, i64, i64),
        aggregate: Aggregate<'_>,
        reject_late: bool,
        (now_us, future_us): (i64, i64),
    ) -> bool {
        let max_event_time_us = aggregate.fold.max_event_time().map(|time| time.0);
        let rejected: Vec<_> = aggregate
            .rejected
            .iter()
            .map(|reject| ((partition, reject.offset, reject.window_start), reject.reject.reason()))
            .collect();
        let windows = aggregate.fold.into_windows();
        let closed = |start: i64| {
            self.closed_before_us.is_some_and(|closed| (start + WINDOW_SECONDS) * MICROS_PER_SECOND <= closed)
        };
        let still_open =
            !reject_late || self.broken == Broken::NoShareLock || !windows.iter().any(|window| closed(window.start));
        let Some(progress) = self.progress.get_mut(&partition) else { return false };
        let matches = progress.next_offset == from || self.broken == Broken::NoCompareAndSet;
        let is_future = max_event_time_us > Some(future_us) && self.broken != Broken::HostsClockPasses;
        let passed = matches && still_open && !is_future;
        if passed {
            progress.next_offset = next;
            progress.end_offset = progress.end_offset.max(end);
            progress.last_seen_us = now_us;
            progress.max_event_time_us = progress.max_event_time_us.max(max_event_time_us);
            if max_event_time_us.is_some() {
                progress.last_record_us = Some(now_us);
            }
        }
        if passed || self.broken == Broken::StateWithoutFence {
            let partials =
                windows.iter().flat_map(|window| window.codes.iter().map(|(code, p)| (window.start, code, p)));
            for (start, code, partial) in partials {
                let row = Row::of(partial, partition);
                self.state
                    .entry((start, code.to_string(), partition))
                    .and_modify(|there| there.merge(&row))
                    .or_insert(row);
            }
        }
        if passed || self.broken == Broken::RejectsWithoutFence {
            for (key, reason) in rejected {
                if self.rejects.insert(key, reason).is_some() {
                    self.rejects_refused += 1;
                }
            }
        }
        passed
    }

    pub fn apply_empty(&mut self, (partition, from, next, end): (i32, i64, i64, i64), now_us: i64) -> bool {
        match self.progress.get_mut(&partition) {
            Some(progress) if progress.next_offset == from => {
                progress.next_offset = next;
                progress.end_offset = end;
                progress.last_seen_us = now_us;
                true
            }
            _ => false,
        }
    }

    /// What the closer sees of the partitions; none before an aggregator wrote its settings.
    pub fn partitions(&self, now_us: i64) -> Option<Vec<PartitionProgress>> {
        let seconds = |since_us: i64| (now_us - since_us) as f64 / 1e6;
        let reported = self.progress.len() as i32;
        self.has_settings.then(|| {
            self.progress
                .iter()
                .map(|(partition, progress)| PartitionProgress {
                    topic: "t".into(),
                    topic_id: "id".into(),
                    partition: *partition,
                    partition_count: if self.broken == Broken::UnreportedIsIgnored { reported } else { PARTITIONS },
                    next_offset: progress.next_offset,
                    end_offset: if self.broken == Broken::LagLooksIdle {
                        progress.next_offset
                    } else {
                        progress.end_offset
                    },
                    max_event_time_us: progress.max_event_time_us,
                    seen_ago: if self.broken == Broken::DeadLooksAlive { 0.0 } else { seconds(progress.last_seen_us) },
                    silent_for: seconds(progress.last_record_us.unwrap_or(progress.first_seen_us)),
                })
                .collect()
        })
    }

    /// The ends of the first and of the last window that is pending.
    pub fn pending_us(&self, now_us: i64) -> Option<(i64, i64)> {
        let ends = || self.state.keys().map(|key| (key.0 + WINDOW_SECONDS) * MICROS_PER_SECOND);
        if self.broken == Broken::IdleFollowsTheClock {
            return Some((ends().min().unwrap_or(now_us), now_us));
        }
        Some((ends().min()?, ends().max()?))
    }

    /// What the watermark may become.
    pub fn candidate(&self, now_us: i64) -> Option<Candidate> {
        let age = |written_us: i64| {
            if self.broken == Broken::CandidatesCountAtOnce { f64::MAX } else { (now_us - written_us) as f64 / 1e6 }
        };
        self.candidate_us.map(|(time_us, written_us)| Candidate { time_us, age: age(written_us) })
    }

    pub fn raise_watermark(&mut self, watermark_us: Option<i64>) -> Option<i64> {
        if self.broken == Broken::WatermarkFalls {
            self.watermark_us = watermark_us.or(self.watermark_us);
        } else {
            self.watermark_us = self.watermark_us.max(watermark_us);
        }
        self.watermark_us
    }

    pub fn raise_closed_before(&mut self, closed_before_us: i64) {
        self.closed_before_us = self.closed_before_us.max(Some(closed_before_us));
    }

    /// The first step of closing: what the statement's snapshot sees of the oldest windows.
    pub fn snapshot(&self, closed_before_us: i64, windows_max: usize) -> (usize, Vec<(StateKey, Row)>) {
        let behind = |start: i64| (start + WINDOW_SECONDS) * MICROS_PER_SECOND <= closed_before_us;
        let starts: BTreeSet<i64> = self.state.keys().map(|key| key.0).filter(|start| behind(*start)).collect();
        let oldest: BTreeSet<i64> = starts.into_iter().take(windows_max).collect();
        let rows = self.state.iter().filter(|(key, _)| oldest.contains(&key.0));
        (oldest.len(), rows.map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    /// The second step: the rows of the snapshot that are still there are deleted, as they are now,
    /// and folded.
    pub fn fold(&mut self, snapshot: Vec<(StateKey, Row)>) {
        let mut folded: BTreeMap<Key, Row> = BTreeMap::new();
        for (key, seen) in snapshot {
            let Some(now) = self.state.remove(&key) else { continue };
            let row = if self.broken == Broken::CloserReadsTwice { seen } else { now };
            folded.entry((key.0, key.1)).and_modify(|there| there.merge(&row)).or_insert(row);
        }
        for (key, row) in folded {
            match self.aggregates.get_mut(&key) {
                None => drop(self.aggregates.insert(key, (row, 0))),
                Some((there, revision)) => {
                    if self.broken == Broken::CloserReplaces {
                        *there = row;
                    } else {
                        there.merge(&row);
                    }
                    *revision += 1;
                }
            }
        }
    }
}
