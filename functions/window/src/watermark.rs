//! Before which time no event is expected any more, and what holds that time back.

use std::collections::BTreeMap;
use std::fmt;

use crate::time::{EventTime, MICROS_PER_SECOND};

/// A partition whose consumer was not heard of for longer counts as unattended. Consumers report
/// every few seconds, also when there is nothing to read.
pub const SEEN_WITHIN_SECONDS: f64 = 10.0;

/// Where one partition stands: a row of `progress`, with its times as ages by the database's clock.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct PartitionProgress {
    /// The topic's name, for messages; partitions belong together by `topic_id`.
    pub topic: String,
    /// Kafka's own id of the topic: a topic that is deleted and created again has another one.
    pub topic_id: String,
    /// From 0 on, within the topic.
    pub partition: i32,
    /// Partitions that the topic has.
    pub partition_count: i32,
    /// The first offset that is not applied yet.
    pub next_offset: i64,
    /// The offset that the next record gets, as the partition's consumer last saw it.
    pub end_offset: i64,
    /// Microseconds since the epoch; none before the first event.
    pub max_event_time_us: Option<i64>,
    /// Seconds since its consumer was last heard of.
    pub seen_ago: f64,
    /// Seconds since its last record, or since it was first seen.
    pub silent_for: f64,
}

impl PartitionProgress {
    /// Idle is only who is caught up, attended and silent: a consumer that is merely slow or gone
    /// must hold the watermark, or its records would all come late. Silence counts as far as
    /// somebody listened.
    fn is_idle(&self, idle_timeout_seconds: i64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a time-out in seconds is far below 2^53")]
        let idle_timeout_seconds = idle_timeout_seconds as f64;
        self.next_offset >= self.end_offset
            && self.seen_ago <= SEEN_WITHIN_SECONDS
            && self.silent_for - self.seen_ago >= idle_timeout_seconds
    }
}

/// What keeps the watermark where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The stream has no row in `progress`: no consumer has reported any partition.
    NothingSeenYet,
    /// Partitions of a topic that no consumer has reported yet.
    Unreported {
        /// The first such topic by its id.
        topic: String,
        /// How many of its partitions have a row in `progress`: fewer than `partitions`.
        reported: usize,
        /// How many partitions the topic has, by the highest count that a consumer reported.
        partitions: i32,
    },
    /// The partition with the least event time, or without any.
    Partition {
        /// The topic's name, as its consumer reported it.
        topic: String,
        /// From 0 on, within the topic.
        partition: i32,
        /// The reason in words for the status, such as `still reading` or `no live consumer`.
        why: &'static str,
    },
    /// All are idle: the clock moves it.
    Clock,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingSeenYet => write!(f, "no partition was seen yet"),
            Self::Unreported { topic, reported, partitions } => {
                write!(f, "topic {topic}: {reported} of {partitions} partitions have a consumer so far")
            }
            Self::Partition { topic, partition, why } => write!(f, "topic {topic} partition {partition}: {why}"),
            Self::Clock => write!(f, "all partitions are idle: the clock"),
        }
    }
}

/// The watermark of a stream (none: not known yet) and what holds it.
///
/// It is the least, over the partitions that are not idle, of the highest event time, and never
/// ahead of the clock (one fast clock must not close the windows that still run); the clock
/// less the idle time-out when all are idle; and none until each partition has reported.
///
/// An idle partition was empty when its consumer was last heard of; what came since then nobody
/// knows. So the watermark is at most that time, and a consumer that dies makes nothing late.
pub fn compute(
    partitions: &[PartitionProgress],
    idle_timeout_seconds: i64,
    now: EventTime,
) -> (Option<EventTime>, Holder) {
    if partitions.is_empty() {
        return (None, Holder::NothingSeenYet);
    }
    if let Some(holder) = unreported(partitions) {
        return (None, holder);
    }
    let (idle, busy): (Vec<_>, Vec<_>) =
        partitions.iter().partition(|partition| partition.is_idle(idle_timeout_seconds));
    let slowest = busy.into_iter().min_by_key(|partition| partition.max_event_time_us);
    let (watermark, held_by) = match slowest {
        Some(partition) => (partition.max_event_time_us.map(|time| time.min(now.0)), holder(partition)),
        None => (Some(now.0 - idle_timeout_seconds * MICROS_PER_SECOND), Holder::Clock),
    };
    let longest_unheard = idle.into_iter().max_by(|a, b| a.seen_ago.total_cmp(&b.seen_ago));
    match (watermark, longest_unheard) {
        (Some(watermark), Some(partition)) => {
            let proven = now.0 - micros(partition.seen_ago);
            let held_by = if proven < watermark { unheard(partition) } else { held_by };
            (Some(EventTime(watermark.min(proven))), held_by)
        }
        (watermark, _) => (watermark.map(EventTime), held_by),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an age is far below 2^53 microseconds")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}

fn unheard(partition: &PartitionProgress) -> Holder {
    let why = "idle, and its consumer was not heard of since";
    Holder::Partition { topic: partition.topic.clone(), partition: partition.partition, why }
}

fn unreported(partitions: &[PartitionProgress]) -> Option<Holder> {
    let mut topics: BTreeMap<&str, (usize, i32, &str)> = BTreeMap::new();
    for partition in partitions {
        let topic = topics.entry(&partition.topic_id).or_insert((0, 0, &partition.topic));
        topic.0 += 1;
        topic.1 = topic.1.max(partition.partition_count);
    }
    topics.into_values().find_map(|(reported, partitions, topic)| {
        let missing = i32::try_from(reported).is_ok_and(|reported| reported < partitions);
        missing.then(|| Holder::Unreported { topic: topic.to_owned(), reported, partitions })
    })
}

fn holder(partition: &PartitionProgress) -> Holder {
    let why = if partition.seen_ago > SEEN_WITHIN_SECONDS {
        "no live consumer"
    } else if partition.next_offset < partition.end_offset {
        "still reading"
    } else if partition.max_event_time_us.is_none() {
        "no event yet, and not idle for long enough"
    } else {
        "the least event time"
    };
    Holder::Partition { topic: partition.topic.clone(), partition: partition.partition, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EventTime = EventTime(1_000 * MICROS_PER_SECOND);

    fn partition(number: i32, event_seconds: Option<i64>) -> PartitionProgress {
        PartitionProgress {
            topic: "t".into(),
            topic_id: "id".into(),
            partition: number,
            partition_count: 2,
            next_offset: 10,
            end_offset: 10,
            max_event_time_us: event_seconds.map(|seconds| seconds * MICROS_PER_SECOND),
            seen_ago: 1.0,
            silent_for: 0.0,
        }
    }

    fn seconds(partitions: &[PartitionProgress]) -> Option<i64> {
        compute(partitions, 20, NOW).0.map(|time| time.0 / MICROS_PER_SECOND)
    }

    #[test]
    fn it_is_the_least_of_the_partitions() {
        assert_eq!(seconds(&[partition(0, Some(500)), partition(1, Some(400))]), Some(400));
    }

    #[test]
    fn there_is_none_until_every_partition_has_reported() {
        assert_eq!(seconds(&[]), None);
        assert_eq!(seconds(&[partition(0, Some(500))]), None);
        assert_eq!(seconds(&[partition(0, Some(500)), partition(1, None)]), None);
    }

    #[test]
    fn an_idle_partition_does_not_hold_it() {
        let idle = PartitionProgress { silent_for: 21.0, ..partition(1, Some(400)) };
        assert_eq!(seconds(&[partition(0, Some(500)), idle]), Some(500));
        let never = PartitionProgress { silent_for: 21.0, ..partition(1, None) };
        assert_eq!(seconds(&[partition(0, Some(500)), never]), Some(500));
    }

    #[test]
    fn a_partition_that_lags_or_is_unattended_is_not_idle() {
        let lagging = PartitionProgress { silent_for: 99.0, end_offset: 11, ..partition(1, Some(400)) };
        assert_eq!(seconds(&[partition(0, Some(500)), lagging]), Some(400));
        let unattended = PartitionProgress { silent_for: 99.0, seen_ago: 10.1, ..partition(1, Some(400)) };
        let (watermark, holder) = compute(&[partition(0, Some(500)), unattended], 20, NOW);
        assert_eq!(watermark, Some(EventTime(400 * MICROS_PER_SECOND)));
        assert_eq!(holder.to_string(), "topic t partition 1: no live consumer");
    }

    #[test]
    fn silence_counts_only_as_far_as_somebody_listened() {
        let gone = PartitionProgress { silent_for: 25.0, seen_ago: 9.0, ..partition(1, Some(400)) };
        assert_eq!(seconds(&[partition(0, Some(500)), gone]), Some(400));
    }

    #[test]
    fn an_idle_partition_proves_nothing_after_it_was_last_heard_of() {
        let idle = PartitionProgress { silent_for: 40.0, seen_ago: 9.0, ..partition(1, Some(400)) };
        let (watermark, holder) = compute(&[partition(0, Some(999)), idle], 20, NOW);
        assert_eq!(watermark, Some(EventTime((1_000 - 9) * MICROS_PER_SECOND)));
        assert!(holder.to_string().starts_with("topic t partition 1: idle"), "{holder}");
    }

    #[test]
    fn it_is_never_ahead_of_the_clock() {
        assert_eq!(seconds(&[partition(0, Some(1_050)), partition(1, Some(1_059))]), Some(1_000));
    }

    #[test]
    fn the_clock_moves_it_when_all_are_idle() {
        let idle = |number| PartitionProgress { silent_for: 30.0, ..partition(number, Some(400)) };
        assert_eq!(seconds(&[idle(0), idle(1)]), Some(980));
    }

    #[test]
    fn a_second_topic_must_have_reported_whole_as_well() {
        let other = PartitionProgress { topic_id: "other".into(), topic: "u".into(), ..partition(0, Some(900)) };
        let partitions = [partition(0, Some(500)), partition(1, Some(400)), other];
        let (watermark, holder) = compute(&partitions, 20, NOW);
        assert_eq!(watermark, None);
        assert_eq!(holder, Holder::Unreported { topic: "u".into(), reported: 1, partitions: 2 });
    }
}
