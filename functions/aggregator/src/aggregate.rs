//! A batch to partial aggregates and rejects. Pure.

use std::collections::BTreeMap;

use exagg_sdk::kafka::{Batch, Message};
use window::event::{Record, Schema};
use window::fold::Fold;
use window::reject::Reject;
use window::time::{EventTime, MICROS_PER_SECOND};
use window::windows::Windows;

/// Bytes of a rejected value that are kept; its true length is kept beside them.
pub const REJECTED_BYTES_MAX: usize = 64 * 1024;

/// Rejected values of one reason that a stream keeps in a minute: of one wrong field name, all records of a log would be
/// copied. The records are written down all the same. Partitions that are read at the same moment do not know of each
/// other's.
pub const REJECTED_VALUES_MAX: usize = 100;

/// A record, or one window of it, that is not counted.
#[derive(Debug, PartialEq)]
pub struct Rejected<'a> {
    pub offset: i64,
    /// Start (Unix seconds) of the window it was too late for; none when it is rejected as a whole.
    pub window_start: Option<i64>,
    pub reject: Reject,
    pub value: Option<&'a [u8]>,
    /// The value's true length, of which `value` may be the head; none for a tombstone.
    pub value_bytes: Option<u64>,
    /// A record that is late for several windows keeps its value with the first of them; see [`Aggregate::keep_values`].
    pub keeps_value: bool,
}

impl Rejected<'_> {
    /// The value's true length; none for a tombstone.
    pub fn value_bytes(&self) -> Option<i64> {
        self.value_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// What is kept of the value.
    pub fn kept(&self) -> Option<&[u8]> {
        self.value.filter(|_| self.keeps_value).map(|value| &value[..value.len().min(REJECTED_BYTES_MAX)])
    }
}

/// What a batch comes to.
#[derive(Debug, Default)]
pub struct Aggregate<'a> {
    pub fold: Fold<'a>,
    pub rejected: Vec<Rejected<'a>>,
    /// Records looked at, counted or not.
    pub records: usize,
}

impl Aggregate<'_> {
    /// Leaves the values of the first records of each reason, up to [`REJECTED_VALUES_MAX`] with those that are `kept`
    /// already.
    pub fn keep_values(&mut self, mut kept: BTreeMap<String, usize>) {
        for rejected in self.rejected.iter_mut().filter(|rejected| rejected.keeps_value) {
            let kept = kept.entry(rejected.reject.reason().to_owned()).or_default();
            *kept += 1;
            rejected.keeps_value = *kept <= REJECTED_VALUES_MAX;
        }
    }
}

/// Folds the records of `batch` from offset `from` on.
///
/// A window that ends at or before `closed_before` (Unix microseconds; none while late records
/// are welcome) is closed: a record is late for that window alone, and may count in another.
pub fn aggregate<'a>(
    batch: &'a Batch,
    from: i64,
    schema: &Schema,
    windows: Windows,
    closed_before: Option<i64>,
    now: EventTime,
) -> Aggregate<'a> {
    let mut result = Aggregate::default();
    let mut reader = schema.reader();
    let open = |start| closed_before.is_none_or(|closed| windows.end(start) * MICROS_PER_SECOND > closed);
    for message in batch.messages().filter(|message| message.offset >= from) {
        result.records += 1;
        if let Some(cut) = message.cut() {
            let whole = rejected(&message, Reject::TooLarge, None);
            result.rejected.push(Rejected { value_bytes: cut.value_bytes, ..whole });
            continue;
        }
        let record =
            Record { value: message.value, key: message.key, timestamp: message.timestamp, partition: batch.partition };
        match reader.read(record, now) {
            Ok(event) => {
                let late = result.fold.add(event, message.offset, windows, open);
                result.rejected.extend(late.into_iter().enumerate().map(|(index, start)| Rejected {
                    keeps_value: index == 0,
                    ..rejected(&message, Reject::Late, Some(start))
                }));
            }
            Err(reject) => result.rejected.push(rejected(&message, reject, None)),
        }
    }
    result
}

fn rejected<'a>(message: &Message<'a>, reject: Reject, window_start: Option<i64>) -> Rejected<'a> {
    let value_bytes = message.value.map(|value| value.len() as u64);
    Rejected { offset: message.offset, window_start, reject, value: message.value, value_bytes, keeps_value: true }
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
    use crate::settings::Settings;
    use crate::settings::tests::texts;
    use exagg_sdk::kafka::bindings::exagg::kafka::types::Header;

    fn batch(values: &[&str]) -> Batch {
        let count = values.len() as i64;
        Batch {
            topic: "t".into(),
            topic_id: "id".into(),
            partition: 0,
            partition_count: 1,
            group: "g".into(),
            from_offset: 0,
            next_offset: count,
            end_offset: count,
            lost: None,
            offsets: (0..count).collect(),
            timestamps: vec![-1; values.len()],
            keys: Vec::new(),
            key_lengths: vec![-1; values.len()],
            values: values.concat().into_bytes(),
            value_lengths: values.iter().map(|value| value.len() as i32).collect(),
            headers: Vec::new(),
        }
    }

    const NOW: EventTime = EventTime(1_700_000_000 * MICROS_PER_SECOND);
    const GOOD: &str = r#"{"code":"a","volume":2,"time":"2023-11-14 22:13:10"}"#;

    #[test]
    fn a_bad_record_is_rejected_and_its_neighbours_are_counted() {
        let settings = Settings::new(texts()).unwrap();
        let batch = batch(&[GOOD, "nonsense", GOOD]);
        let result = aggregate(&batch, 0, &settings.schema, settings.windows, None, NOW);
        assert_eq!(result.records, 3);
        assert_eq!(
            result.rejected,
            vec![Rejected {
                offset: 1,
                window_start: None,
                reject: Reject::NotJson,
                value: Some(b"nonsense"),
                value_bytes: Some(8),
                keeps_value: true
            }]
        );
        let windows = result.fold.into_windows();
        let partial = windows[0].codes["a"];
        assert_eq!((windows.len(), partial.records, partial.sum), (1, 2, 4.0));
    }

    #[test]
    fn records_below_the_progress_are_dropped() {
        let settings = Settings::new(texts()).unwrap();
        let batch = batch(&[GOOD, GOOD, GOOD]);
        let result = aggregate(&batch, 2, &settings.schema, settings.windows, None, NOW);
        assert_eq!((result.records, result.fold.into_windows()[0].codes["a"].records), (1, 1));
    }

    #[test]
    fn late_is_judged_by_the_end_of_the_window() {
        let settings = Settings::new(texts()).unwrap();
        let batch = batch(&[GOOD]);
        let window_start = 1_699_999_980; // 22:13:00
        let window_end_us = (window_start + 60) * MICROS_PER_SECOND;
        let late = aggregate(&batch, 0, &settings.schema, settings.windows, Some(window_end_us), NOW);
        assert_eq!(late.rejected.len(), 1);
        assert_eq!((late.rejected[0].window_start, late.rejected[0].reject), (Some(window_start), Reject::Late));
        let in_time = aggregate(&batch, 0, &settings.schema, settings.windows, Some(window_end_us - 1), NOW);
        assert!(in_time.rejected.is_empty());
    }

    #[test]
    fn a_record_that_is_given_cut_is_too_large_whatever_its_head_says() {
        let settings = Settings::new(texts()).unwrap();
        let mut batch = batch(&[GOOD, GOOD, GOOD]);
        let header =
            |record_index, value: &[u8]| Header { record_index, name: "exagg-cut".into(), value: Some(value.to_vec()) };
        batch.headers = vec![header(1, b"3:140000000")];
        let result = aggregate(&batch, 0, &settings.schema, settings.windows, None, NOW);
        assert_eq!(result.records, 3);
        assert_eq!(result.rejected.len(), 1);
        let rejected = &result.rejected[0];
        assert_eq!(
            (rejected.offset, rejected.reject, rejected.value_bytes()),
            (1, Reject::TooLarge, Some(140_000_000))
        );
        assert_eq!(rejected.kept(), Some(GOOD.as_bytes()));
        assert_eq!(result.fold.into_windows()[0].codes["a"].records, 2);
    }

    #[test]
    fn only_the_first_values_of_a_reason_are_kept_and_every_record_is_written_down() {
        let settings = Settings::new(texts()).unwrap();
        let bad = vec!["nonsense"; REJECTED_VALUES_MAX + 50];
        let batch = batch(&[&bad[..], &["{}"]].concat());
        let mut result = aggregate(&batch, 0, &settings.schema, settings.windows, None, NOW);
        result.keep_values([("not_json".to_owned(), 30), ("late".to_owned(), 500)].into());
        assert_eq!(result.rejected.len(), REJECTED_VALUES_MAX + 51);
        let kept: Vec<_> = result.rejected.iter().filter(|rejected| rejected.kept().is_some()).collect();
        assert_eq!((kept.len(), kept.last().map(|last| last.offset)), (REJECTED_VALUES_MAX - 30 + 1, Some(150)));
        assert!(result.rejected.iter().all(|rejected| rejected.value_bytes().is_some()));
    }

    #[test]
    fn only_the_head_of_a_long_value_is_kept() {
        let long = "x".repeat(1_000_000);
        let settings = Settings::new(texts()).unwrap();
        let batch = batch(&[&long]);
        let result = aggregate(&batch, 0, &settings.schema, settings.windows, None, NOW);
        assert_eq!(result.rejected[0].value_bytes(), Some(1_000_000));
        assert_eq!(result.rejected[0].kept().map(<[u8]>::len), Some(REJECTED_BYTES_MAX));
    }
}
