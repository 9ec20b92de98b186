//! Before which time no event is expected any more, and what holds that time back.

use std::collections::BTreeMap;
use std::fmt;

use crate::time::{EventTime, MICROS_PER_SECOND};

/// A partition whose consumer was not heard of for longer counts as unattended. Consumers report
/// every few seconds, also when there is nothing to read.
pub const SEEN_WITHIN_SECONDS: f64 = 10.0;

/// After so long the status says that an idle partition's consumer is waited for.
const HEARD_WITHIN_SECONDS: f64 = 5.0;

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
    /// All are idle: the clock moves it, as far as closing what is pending needs.
    Clock,
    /// All are idle and nothing is pending: it stays where it is.
    NothingPending,
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
            Self::NothingPending => write!(f, "all partitions are idle, and nothing is pending"),
        }
    }
}

/// A time that a stream's partitions came to while some of them were idle, and that nobody has confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
pub struct Candidate {
    /// What the watermark may become: microseconds since the epoch.
    pub time_us: i64,
    /// Seconds since it was written down.
    pub age: f64,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextCandidate {
    /// It waits on; or there is none, and none is needed.
    Keep,
    /// This one takes its place, as of now.
    Set(EventTime),
}

/// A stream's watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// What it is to be raised to; none: it stays where it is.
    pub time: Option<EventTime>,
    /// What keeps it from being later.
    pub held_by: Holder,
    /// What to write down for the next look.
    pub candidate: NextCandidate,
}

impl Watermark {
    fn stays(held_by: Holder) -> Self {
        Self { time: None, held_by, candidate: NextCandidate::Keep }
    }
}

/// The watermark of a stream and what holds it.
///
/// It is the least, over the partitions that are not idle, of the highest event time, and never
/// ahead of the clock (one fast clock must not close the windows that still run); and none until
/// each partition has reported.
///
/// When all are idle it is the clock less the idle time-out, but no further than `closes_all`, the
/// time that closes all that is pending (none: nothing is). Silence says that no more is coming for the
/// windows that hold records. It says nothing of what comes after it: a source whose event time is not the
/// clock, such as history that is sent afterwards, goes on from its own time, and would come late as a whole.
///
/// An idle partition was empty when its consumer was last heard of; what came since then nobody
/// knows. So what the others come to is a candidate first, and counts once every idle partition was heard of after it,
/// empty still. A consumer that dies makes nothing late, nor does one whose records come a moment after the others'.
pub fn compute(
    partitions: &[PartitionProgress],
    idle_timeout_seconds: i64,
    closes_all: Option<EventTime>,
    candidate: Option<Candidate>,
    now: EventTime,
) -> Watermark {
    if partitions.is_empty() {
        return Watermark::stays(Holder::NothingSeenYet);
    }
    if let Some(holder) = unreported(partitions) {
        return Watermark::stays(holder);
    }
    let (idle, busy): (Vec<_>, Vec<_>) =
        partitions.iter().partition(|partition| partition.is_idle(idle_timeout_seconds));
    let slowest = busy.into_iter().min_by_key(|partition| partition.max_event_time_us);
    let (time, held_by) = match slowest {
        Some(partition) => (partition.max_event_time_us.map(|time| time.min(now.0)), holder(partition)),
        None => match closes_all {
            Some(closes_all) => {
                (Some(closes_all.0.min(now.0 - idle_timeout_seconds * MICROS_PER_SECOND)), Holder::Clock)
            }
            None => (None, Holder::NothingPending),
        },
    };
    let Some(time) = time else { return Watermark::stays(held_by) };
    let longest_unheard = idle.into_iter().max_by(|a, b| a.seen_ago.total_cmp(&b.seen_ago));
    let Some(longest_unheard) = longest_unheard else {
        return Watermark { time: Some(EventTime(time)), held_by, candidate: NextCandidate::Keep };
    };
    match candidate {
        Some(candidate) if longest_unheard.seen_ago < candidate.age => Watermark {
            time: Some(EventTime(time.min(candidate.time_us))),
            held_by,
            candidate: NextCandidate::Set(EventTime(time)),
        },
        Some(candidate) if candidate.time_us <= time => {
            let is_late = longest_unheard.seen_ago > HEARD_WITHIN_SECONDS;
            Watermark::stays(if is_late { unheard(longest_unheard) } else { held_by })
        }
        _ => Watermark { time: None, held_by, candidate: NextCandidate::Set(EventTime(time)) },
    }
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

    /// With a candidate that every partition was heard of after.
    fn compute_confirmed(partitions: &[PartitionProgress]) -> Watermark {
        let candidate = Some(Candidate { time_us: NOW.0, age: SEEN_WITHIN_SECONDS + 1.0 });
        compute(partitions, 20, Some(NOW), candidate, NOW)
    }

    fn seconds(partitions: &[PartitionProgress]) -> Option<i64> {
        compute_confirmed(partitions).time.map(|time| time.0 / MICROS_PER_SECOND)
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
        let held = compute_confirmed(&[partition(0, Some(500)), unattended]);
        assert_eq!(held.time, Some(EventTime(400 * MICROS_PER_SECOND)));
        assert_eq!(held.held_by.to_string(), "topic t partition 1: no live consumer");
    }

    #[test]
    fn silence_counts_only_as_far_as_somebody_listened() {
        let gone = PartitionProgress { silent_for: 25.0, seen_ago: 9.0, ..partition(1, Some(400)) };
        assert_eq!(seconds(&[partition(0, Some(500)), gone]), Some(400));
    }

    #[test]
    fn an_idle_partition_proves_nothing_after_it_was_last_heard_of() {
        let look = |seen_ago: f64, candidate: Option<Candidate>| {
            let idle = PartitionProgress { silent_for: 40.0, seen_ago, ..partition(1, Some(400)) };
            compute(&[partition(0, Some(999)), idle], 20, None, candidate, NOW)
        };
        let (before, after) = (EventTime(990 * MICROS_PER_SECOND), EventTime(999 * MICROS_PER_SECOND));
        assert_eq!((look(1.0, None).time, look(1.0, None).candidate), (None, NextCandidate::Set(after)));
        let candidate = |age: f64| Some(Candidate { time_us: before.0, age });
        // It is kept until the partition was heard of after it, or it would never be confirmed.
        let waits = look(1.5, candidate(1.0));
        assert_eq!((waits.time, waits.candidate), (None, NextCandidate::Keep));
        assert_eq!(waits.held_by.to_string(), "topic t partition 0: the least event time");
        let confirmed = look(0.5, candidate(1.0));
        assert_eq!((confirmed.time, confirmed.candidate), (Some(before), NextCandidate::Set(after)));
        let dead = look(9.0, candidate(8.0)).held_by.to_string();
        assert!(dead.starts_with("topic t partition 1: idle"), "{dead}");
        // A partition that is further back than the candidate takes its place.
        let behind = PartitionProgress { silent_for: 40.0, ..partition(1, Some(400)) };
        let back = compute(&[partition(0, Some(300)), behind], 20, None, candidate(0.5), NOW);
        assert_eq!(back.candidate, NextCandidate::Set(EventTime(300 * MICROS_PER_SECOND)));
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
    fn silence_closes_what_is_pending_and_makes_nothing_late_that_comes_after_it() {
        let idle = |number| PartitionProgress { silent_for: 30.0, ..partition(number, Some(400)) };
        let closes_all = Some(EventTime(460 * MICROS_PER_SECOND));
        let candidate = Some(Candidate { time_us: NOW.0, age: 2.0 });
        let look = |partitions: &[PartitionProgress], closes_all| compute(partitions, 20, closes_all, candidate, NOW);
        let silent = look(&[idle(0), idle(1)], closes_all);
        assert_eq!((silent.time, silent.held_by), (closes_all, Holder::Clock));
        let done = look(&[idle(0), idle(1)], None);
        assert_eq!((done.time, done.held_by), (None, Holder::NothingPending));
        // A partition that is not idle moves it as ever.
        assert_eq!(look(&[idle(0), partition(1, Some(700))], closes_all).time, Some(EventTime(700_000_000)));
    }

    #[test]
    fn a_second_topic_must_have_reported_whole_as_well() {
        let other = PartitionProgress { topic_id: "other".into(), topic: "u".into(), ..partition(0, Some(900)) };
        let partitions = [partition(0, Some(500)), partition(1, Some(400)), other];
        let held = compute_confirmed(&partitions);
        assert_eq!(held.time, None);
        assert_eq!(held.held_by, Holder::Unreported { topic: "u".into(), reported: 1, partitions: 2 });
    }
}
