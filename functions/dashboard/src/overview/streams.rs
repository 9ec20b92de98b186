//! Streams as the API shows them: what the tables say, and what the hosts say that read them.

use std::cmp::Ordering;

use serde::Serialize;

use super::facts::{self, Facts, StagePartition, time};

/// The steps of a history, in seconds.
const STEP_SECONDS: f64 = 5.0;
/// Entries of a history, and those whose trend says when the lag is gone.
const HISTORY: usize = 60;
const TREND: usize = 6;
/// A partition goes from one host to another within it, as the watermark has it.
const HANDOVER_SECONDS: f64 = 10.0;

#[derive(Debug, Serialize)]
pub struct Stream {
    pub stream: String,
    pub window_seconds: i64,
    pub slide_seconds: i64,
    pub allowed_lateness_seconds: i64,
    pub late: String,
    pub watermark: Option<String>,
    pub watermark_held_by: String,
    pub seconds_behind: Option<f64>,
    pub lag_records: i64,
    pub records_per_second: Option<f64>,
    pub seconds_left: Option<f64>,
    pub lag_history: Vec<Option<f64>>,
    pub open_windows: i64,
    pub rejected_records: i64,
    pub rejected_last_minutes: i64,
    pub gaps: i64,
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    pub end_offset: i64,
    pub lag_records: i64,
    pub lag_seconds: Option<f64>,
    pub event_time: Option<String>,
    pub holds_watermark: bool,
    pub seen_seconds_ago: f64,
    pub host: Option<String>,
    /// `reading`, `waiting`, `stopped`, `unattended`.
    pub state: String,
    pub reason: Option<String>,
    /// Since when it is in its state, where a host says so.
    #[serde(skip)]
    pub since: Option<String>,
}

impl Stream {
    pub fn new(facts: &Facts, stream: &facts::Stream) -> Self {
        let writers: Vec<_> = facts.writers(&stream.stream).collect();
        let partitions = stream.partitions.iter().map(|row| partition(facts, &writers, stream, row));
        let partitions: Vec<_> = partitions.collect();
        let lag_history = history(writers.iter().map(|(_, stage)| *stage));
        let told = !writers.is_empty();
        Self {
            stream: stream.stream.clone(),
            window_seconds: stream.window_seconds,
            slide_seconds: stream.slide_seconds,
            allowed_lateness_seconds: stream.allowed_lateness_seconds,
            late: stream.late.clone(),
            watermark: stream.watermark_us.map(time),
            watermark_held_by: stream.held_by.clone(),
            seconds_behind: partitions.iter().filter_map(|partition| partition.lag_seconds).reduce(f64::max),
            lag_records: partitions.iter().map(|partition| partition.lag_records).sum(),
            records_per_second: told.then(|| writers.iter().map(|(_, stage)| stage.records_per_second).sum()),
            seconds_left: seconds_left(&lag_history),
            lag_history,
            open_windows: stream.open_windows,
            rejected_records: stream.rejected,
            rejected_last_minutes: stream.rejected_lately.iter().map(|lately| lately.records).sum(),
            gaps: stream.gaps,
            partitions,
        }
    }
}

type Writer<'a> = (&'a facts::Host, &'a facts::Stage);

/// The host that reads a partition, and what it says of it. Of two, the one that has it from now on: not the one that stops,
/// nor the one that was not heard of for longer.
fn reader<'a>(writers: &[Writer<'a>], row: &facts::Partition) -> Option<(&'a facts::Host, &'a StagePartition)> {
    let is = |told: &&StagePartition| told.topic == row.topic && told.partition == row.partition;
    let told = |(host, stage): &Writer<'a>| Some((*host, stage.partitions.as_deref()?.iter().find(is)?));
    let order = |host: &facts::Host| (host.state.state == "stopping", host.seen_ago);
    let readers = writers.iter().filter_map(told);
    readers.min_by(|(one, _), (other, _)| order(one).partial_cmp(&order(other)).unwrap_or(Ordering::Equal))
}

fn partition(facts: &Facts, writers: &[Writer<'_>], stream: &facts::Stream, row: &facts::Partition) -> Partition {
    let reader = reader(writers, row);
    let is_named = !writers.iter().any(|(_, stage)| stage.is_cut());
    let is_gone = row.seen_ago > HANDOVER_SECONDS || facts.was_lost_with(&row.topic, row.partition);
    let (state, reason) = match reader {
        Some((_, told)) => (told.state.clone(), told.reason.clone()),
        None if is_named && is_gone => ("unattended".to_owned(), None),
        None => ("reading".to_owned(), None),
    };
    let end_offset = reader.map_or(row.end_offset, |(_, told)| told.end_offset.max(row.end_offset));
    Partition {
        topic: row.topic.clone(),
        partition: row.partition,
        next_offset: row.next_offset,
        end_offset,
        lag_records: (end_offset - row.next_offset).max(0),
        lag_seconds: reader.map(|(_, told)| told.lag_seconds),
        event_time: row.event_us.map(time),
        holds_watermark: stream.held_by.starts_with(&format!("topic {} partition {}:", row.topic, row.partition)),
        seen_seconds_ago: row.seen_ago,
        host: reader.map(|(host, _)| host.state.name.clone()),
        state,
        reason,
        since: reader.and_then(|(_, told)| told.since.clone()),
    }
}

/// The most of all hosts at each time. The latest entry of the host that wrote last is the last one.
fn history<'a>(stages: impl Iterator<Item = &'a facts::Stage> + Clone) -> Vec<Option<f64>> {
    let Some(latest) = stages.clone().map(|stage| stage.lag_slot).max() else { return Vec::new() };
    let mut history: Vec<Option<f64>> = vec![None; HISTORY];
    for stage in stages {
        let Ok(behind) = usize::try_from(latest - stage.lag_slot) else { continue };
        let newest_first = stage.lag_history.iter().rev();
        for (slot, value) in history.iter_mut().rev().skip(behind).zip(newest_first) {
            *slot = match (*slot, *value) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
    }
    let known = history.iter().position(Option::is_some).unwrap_or(history.len());
    history.split_off(known)
}

/// When the lag is gone at the rate at which it has shrunk of late.
fn seconds_left(history: &[Option<f64>]) -> Option<f64> {
    let tail: Vec<f64> = history.iter().rev().take(TREND).map_while(|value| *value).collect();
    let (now, before) = (tail.first()?, tail.last()?);
    let steps = tail.len().saturating_sub(1);
    if *now < 1.0 || steps == 0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let shrinks_by = (before - now) / (steps as f64 * STEP_SECONDS);
    (shrinks_by > 0.0).then(|| now / shrinks_by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_of_hosts_are_laid_beside_each_other() {
        let stage = |slot, values: &[f64]| facts::Stage {
            lag_slot: slot,
            lag_history: values.iter().map(|value| Some(*value)).collect(),
            ..facts::Stage::default()
        };
        let stages = [stage(10, &[1.0, 5.0, 2.0]), stage(9, &[4.0, 3.0])];
        assert_eq!(history(stages.iter()), [Some(4.0), Some(5.0), Some(2.0)]);
        assert_eq!(history([].iter()), []);
    }

    #[test]
    fn the_time_left_is_told_while_the_lag_shrinks() {
        let some = |values: &[f64]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
        assert_eq!(seconds_left(&some(&[100.0, 90.0, 80.0])), Some(40.0));
        assert_eq!(seconds_left(&some(&[80.0, 90.0])), None);
        assert_eq!(seconds_left(&some(&[0.0, 0.2])), None);
        assert_eq!(seconds_left(&[]), None);
    }
}
