//! Events to partial aggregates, one a window and code.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::event::Event;
use crate::time::EventTime;
use crate::windows::Windows;

/// What is kept of the records of one window, code and partition.
///
/// `first` and `last` are ordered by (event time, offset), and that order is kept beside them,
/// so that a later merge with another partial aggregate stays right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partial {
    /// How many records were counted: at least 1.
    pub records: i64,
    /// The sum of their values, added in the order in which they came.
    pub sum: f64,
    /// The least of their values, none of which is NaN or -0.
    pub min: f64,
    /// The greatest of their values, none of which is NaN or -0.
    pub max: f64,
    /// The value of the earliest event time, and of the lowest offset where several have that time.
    pub first: Edge,
    /// The value of the latest event time, and of the highest offset where several have that time.
    pub last: Edge,
}

/// A value and where it stands in its partition's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    /// The event time, which comes first in the order.
    pub time: EventTime,
    /// The record's offset, which orders values of one event time.
    pub offset: i64,
    /// The record's value as it was counted.
    pub value: f64,
}

impl Edge {
    fn order(&self) -> (EventTime, i64) {
        (self.time, self.offset)
    }
}

impl Partial {
    fn new(edge: Edge) -> Self {
        Self { records: 1, sum: edge.value, min: edge.value, max: edge.value, first: edge, last: edge }
    }

    fn add(&mut self, edge: Edge) {
        self.records += 1;
        self.sum += edge.value;
        // No value is NaN, so a plain comparison will do: f64::min is a call in WebAssembly.
        if edge.value < self.min {
            self.min = edge.value;
        }
        if edge.value > self.max {
            self.max = edge.value;
        }
        if edge.order() < self.first.order() {
            self.first = edge;
        }
        if edge.order() > self.last.order() {
            self.last = edge;
        }
    }
}

/// The partial aggregates of one window: a code each, in no order.
#[derive(Debug, Default)]
pub struct Window<'a> {
    /// Unix seconds.
    pub start: i64,
    /// By code; each has at least one record.
    pub codes: FxHashMap<Cow<'a, str>, Partial>,
}

impl Window<'_> {
    /// Sorted by code: statements that take their row locks in one order never deadlock with each
    /// other.
    pub fn sorted(&self) -> Vec<(&str, &Partial)> {
        let mut codes: Vec<_> = self.codes.iter().map(|(code, partial)| (code.as_ref(), partial)).collect();
        codes.sort_unstable_by_key(|(code, _)| *code);
        codes
    }
}

/// The partial aggregates of one batch.
#[derive(Debug, Default)]
pub struct Fold<'a> {
    /// By their start.
    windows: FxHashMap<i64, FxHashMap<Cow<'a, str>, Partial>>,
    max_event_time: Option<EventTime>,
}

impl<'a> Fold<'a> {
    /// Counts the event in each of its windows for which `open` holds, and returns the starts
    /// (Unix seconds) of those for which it does not.
    pub fn add(&mut self, event: Event<'a>, offset: i64, windows: Windows, open: impl Fn(i64) -> bool) -> Vec<i64> {
        let edge = Edge { time: event.time, offset, value: event.value };
        self.max_event_time = self.max_event_time.max(Some(event.time));
        let mut closed = Vec::new();
        for start in windows.starts(event.time) {
            if open(start) {
                let codes = self.windows.entry(start).or_default();
                // Looked up first: the code of most records is there, and need not be copied.
                match codes.get_mut(event.code.as_ref()) {
                    Some(partial) => partial.add(edge),
                    None => _ = codes.insert(event.code.clone(), Partial::new(edge)),
                }
            } else {
                closed.push(start);
            }
        }
        closed
    }

    /// The highest event time added, late ones included.
    pub fn max_event_time(&self) -> Option<EventTime> {
        self.max_event_time
    }

    /// The windows, by their start.
    pub fn into_windows(self) -> Vec<Window<'a>> {
        let mut windows: Vec<_> = self.windows.into_iter().map(|(start, codes)| Window { start, codes }).collect();
        windows.sort_unstable_by_key(|window| window.start);
        windows
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "small numbers"
)]
mod tests {
    use super::*;

    fn event(code: &str, value: f64, seconds: i64) -> Event<'_> {
        Event { code: code.into(), value, time: EventTime(seconds * 1_000_000) }
    }

    #[test]
    fn a_fold_counts_by_window_and_code() {
        let windows = Windows::new(60, 60).unwrap();
        let mut fold = Fold::default();
        for (offset, (code, value, seconds)) in
            [("b", 1.0, 30), ("a", 2.0, 59), ("a", 5.0, 60), ("a", -1.0, 10)].into_iter().enumerate()
        {
            let closed = fold.add(event(code, value, seconds), offset as i64, windows, |_| true);
            assert!(closed.is_empty());
        }
        assert_eq!(fold.max_event_time(), Some(EventTime(60_000_000)));
        let windows = fold.into_windows();
        let codes = |window: &Window<'_>| -> Vec<(String, i64)> {
            window.sorted().into_iter().map(|(code, partial)| (code.to_owned(), partial.records)).collect()
        };
        assert_eq!((windows[0].start, codes(&windows[0])), (0, vec![("a".into(), 2), ("b".into(), 1)]));
        assert_eq!((windows[1].start, codes(&windows[1])), (60, vec![("a".into(), 1)]));
        let a = windows[0].codes["a"];
        assert_eq!((a.sum, a.min, a.max, a.first.value, a.last.value), (1.0, -1.0, 2.0, -1.0, 2.0));
    }

    #[test]
    fn equal_times_are_ordered_by_offset() {
        let windows = Windows::new(60, 60).unwrap();
        let mut fold = Fold::default();
        for offset in [7, 3, 9] {
            fold.add(event("a", offset as f64, 1), offset, windows, |_| true);
        }
        let partial = fold.into_windows()[0].codes["a"];
        assert_eq!((partial.first.value, partial.last.value), (3.0, 9.0));
    }

    #[test]
    fn lateness_is_judged_per_window() {
        let windows = Windows::new(60, 20).unwrap();
        let mut fold = Fold::default();
        let closed = fold.add(event("a", 1.0, 70), 0, windows, |start| start >= 40);
        assert_eq!(closed, vec![20]);
        let starts: Vec<_> = fold.into_windows().into_iter().map(|window| window.start).collect();
        assert_eq!(starts, vec![40, 60]);
    }
}
