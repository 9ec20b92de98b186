//! How far a stage is in its partitions, for `exagg status` and the readiness probe.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use exagg_clients::kafka::{Offset, OffsetRange, Partition, TopicPartition};
use exagg_common::clock::Clock;
use exagg_runtime::metrics::Metrics;
use serde::Serialize;
use tokio::time::Instant;

use crate::log::RebalanceError;

/// What a partition does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum PartitionState {
    /// Nothing is in the way: batches are applied, or the partition is quiet.
    Reading,
    /// Something is in the way and is tried again.
    Waiting(String),
    /// A person has to look.
    Stopped(String),
}

/// How far a partition is.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    /// The topic by its name.
    pub topic: String,
    /// The number of the partition in its topic, from 0 on.
    pub partition: Partition,
    /// The first offset that is not applied yet; none until the group's offset or the policy is known.
    pub next_offset: Option<Offset>,
    /// The end of the partition as it was last heard of: by a batch, or asked for while nothing is applied.
    pub end_offset: Offset,
    /// The age of the oldest record that is not applied, 0 where there is none. Where that record was not seen yet,
    /// how long it is known that there is one.
    pub lag_seconds: f64,
    /// Offsets that the group had applied and the function did not know of when the partition was assigned: they are
    /// read again, or were by now.
    pub reads_again: Option<OffsetRange>,
    /// Written beside the other fields, as `state` and, where there is one, `reason`.
    #[serde(flatten)]
    pub state: PartitionState,
}

/// What is known of a partition.
struct Known {
    next_offset: Option<Offset>,
    end_offset: Offset,
    /// When `end_offset` was heard of.
    heard_at: Instant,
    /// The time of the oldest record that is not applied.
    behind_since: Option<DateTime<Utc>>,
    reads_again: Option<OffsetRange>,
    state: PartitionState,
}

impl Known {
    fn lag(&self) -> Option<i64> {
        Some((self.end_offset.0 - self.next_offset?.0).max(0))
    }

    /// `seen` is the time of the oldest record that is not applied, where it was seen.
    fn is_behind(&mut self, seen: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        self.behind_since = match self.lag() {
            Some(0) | None => None,
            Some(_) => seen.or(self.behind_since).or(Some(now)),
        };
    }

    fn lag_seconds(&self, now: DateTime<Utc>) -> f64 {
        self.behind_since.map_or(0.0, |since| (now - since).as_seconds_f64().max(0.0))
    }
}

/// How far a stage is in its partitions, and what is in its way.
pub struct StageState {
    stage: String,
    partitions: Mutex<BTreeMap<TopicPartition, Known>>,
    unreachable: AtomicBool,
    /// Whether the cluster leaves a stage without partitions unanswered.
    unanswered: AtomicBool,
    /// Whether the group has assigned nothing yet, or has gone on without this member.
    joining: AtomicBool,
    /// Why the last rebalance failed; none when it did not.
    rebalance_error: Mutex<Option<RebalanceError>>,
    /// Topics of the stage that do not exist.
    missing_topics: Mutex<Vec<String>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl StageState {
    /// A stage that has no partitions yet.
    pub fn new(stage: &str, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            stage: stage.to_owned(),
            partitions: Mutex::default(),
            unreachable: AtomicBool::new(false),
            unanswered: AtomicBool::new(false),
            joining: AtomicBool::new(true),
            rebalance_error: Mutex::default(),
            missing_topics: Mutex::default(),
            metrics,
            clock,
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<TopicPartition, Known>) -> R) -> R {
        work(&mut self.partitions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known of a partition, and tells its lag.
    fn change(&self, key: &TopicPartition, change: impl FnOnce(&mut Known, DateTime<Utc>)) {
        let now = self.clock.now();
        let told = self.with(|partitions| {
            let known = partitions.get_mut(key)?;
            change(known, now);
            Some((known.lag()?, known.lag_seconds(now)))
        });
        if let Some((records, seconds)) = told {
            self.metrics.lag(&self.stage, &key.topic, key.partition.0, records, seconds);
        }
    }

    /// Notes what the partition does, and its position where it is known.
    pub fn note(&self, key: &TopicPartition, next_offset: Option<Offset>, state: PartitionState) {
        self.with(|partitions| {
            partitions.entry(key.clone()).or_insert_with(|| Known {
                next_offset,
                end_offset: next_offset.unwrap_or_default(),
                heard_at: Instant::now(),
                behind_since: None,
                reads_again: None,
                state: state.clone(),
            });
        });
        self.change(key, |known, now| {
            known.next_offset = next_offset.or(known.next_offset);
            known.state = state;
            known.is_behind(None, now);
        });
        self.count();
    }

    /// Notes the records that a partition has in hand and has not applied: `first_timestamp` is the first one's, in
    /// Unix milliseconds, or negative.
    pub fn in_hand(&self, key: &TopicPartition, first_timestamp: i64, end_offset: Offset) {
        self.change(key, |known, now| {
            known.end_offset = known.end_offset.max(end_offset);
            known.heard_at = Instant::now();
            known.is_behind(time(first_timestamp), now);
        });
    }

    /// Everything below `next_offset` is applied; the time of the last of it is `last_timestamp`, in Unix milliseconds.
    pub fn applied(&self, key: &TopicPartition, next_offset: Offset, end_offset: Offset, last_timestamp: Option<i64>) {
        let mut was_reading = true;
        self.change(key, |known, now| {
            known.next_offset = Some(next_offset);
            known.end_offset = end_offset;
            known.heard_at = Instant::now();
            was_reading = known.state == PartitionState::Reading;
            known.state = PartitionState::Reading;
            // What comes next is hardly older than what was last.
            known.behind_since = None;
            known.is_behind(last_timestamp.and_then(time), now);
        });
        if !was_reading {
            self.count();
        }
    }

    /// The group had applied these offsets, and the function did not know of them.
    pub fn reads_again(&self, key: &TopicPartition, offsets: OffsetRange) {
        self.change(key, |known, _| known.reads_again = Some(offsets));
    }

    /// The partition's end, as the broker says.
    pub fn ends_at(&self, key: &TopicPartition, end_offset: Offset) {
        self.change(key, |known, now| {
            known.end_offset = end_offset;
            known.heard_at = Instant::now();
            known.is_behind(None, now);
        });
    }

    /// Partitions of whose end nothing was heard for so long.
    pub fn unheard(&self, since: Duration) -> Vec<TopicPartition> {
        self.with(|partitions| {
            let unheard = partitions.iter().filter(|(_, known)| known.heard_at.elapsed() >= since);
            unheard.map(|(key, _)| key.clone()).collect()
        })
    }

    /// Tells the metrics how old the lag is by now.
    pub fn tell_lag(&self) {
        let now = self.clock.now();
        self.with(|partitions| {
            for (key, known) in &*partitions {
                if let Some(records) = known.lag() {
                    let seconds = known.lag_seconds(now);
                    self.metrics.lag(&self.stage, &key.topic, key.partition.0, records, seconds);
                }
            }
        });
    }

    /// Tells the metrics how many partitions do what.
    fn count(&self) {
        let counts = self.with(|partitions| {
            let count = |is: fn(&PartitionState) -> bool| partitions.values().filter(|known| is(&known.state)).count();
            [
                ("reading", count(|state| matches!(state, PartitionState::Reading))),
                ("waiting", count(|state| matches!(state, PartitionState::Waiting(_)))),
                ("stopped", count(|state| matches!(state, PartitionState::Stopped(_)))),
            ]
        });
        for (state, count) in counts {
            self.metrics.partitions(&self.stage, state, count);
        }
    }

    /// Whether any broker can be reached: without one there may be no partition that waits.
    pub fn reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, Ordering::Relaxed);
    }

    /// Whether the cluster answers a stage that has no partitions.
    pub fn answers(&self, answers: bool) {
        self.unanswered.store(!answers, Ordering::Relaxed);
    }

    /// Whether no partition is this stage's.
    pub fn is_without_partitions(&self) -> bool {
        self.with(|partitions| partitions.is_empty())
    }

    /// Whether the stage is no member of its group: it reads nothing, and nobody is told of partitions that wait.
    pub fn joining(&self, joining: bool) {
        self.joining.store(joining, Ordering::Relaxed);
    }

    /// Whether the last rebalance succeeded, and if not, why.
    pub fn rebalanced(&self, result: Result<(), RebalanceError>) {
        *self.rebalance_error.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
    }

    /// Which topics of the stage do not exist.
    pub fn missing_topics(&self, topics: Vec<String>) {
        *self.missing_topics.lock().unwrap_or_else(PoisonError::into_inner) = topics;
    }

    /// The partition is not ours any more.
    pub fn remove(&self, key: &TopicPartition) {
        self.with(|partitions| partitions.remove(key));
        self.metrics.forget_lag(&self.stage, &key.topic, key.partition.0);
        self.count();
    }

    /// All partitions that are ours.
    pub fn all(&self) -> Vec<PartitionStatus> {
        let now = self.clock.now();
        let status = |(key, known): (&TopicPartition, &Known)| PartitionStatus {
            topic: key.topic.clone(),
            partition: key.partition,
            next_offset: known.next_offset,
            end_offset: known.end_offset,
            lag_seconds: known.lag_seconds(now),
            reads_again: known.reads_again,
            state: known.state.clone(),
        };
        self.with(|partitions| partitions.iter().map(status).collect())
    }

    /// What keeps the stage from being ready: a partition that is stopped, no broker, a cluster that does not answer, a rebalance that failed, a topic
    /// that does not exist, a group that has not taken the stage in, or a partition that waits for a dependency. What a
    /// person has to mend comes first.
    pub fn not_ready(&self) -> Option<String> {
        let partitions = self.all();
        let place = |known: &PartitionStatus| format!("topic {} partition {}", known.topic, known.partition);
        let stopped = partitions.iter().find_map(|known| match &known.state {
            PartitionState::Stopped(reason) => Some(format!("{} is stopped: {reason}", place(known))),
            _ => None,
        });
        if stopped.is_some() {
            return stopped;
        }
        if self.unreachable.load(Ordering::Relaxed) {
            return Some("no Kafka broker can be reached".to_owned());
        }
        if self.unanswered.load(Ordering::Relaxed) {
            return Some("the Kafka cluster does not answer".to_owned());
        }
        let rebalance_error = self.rebalance_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(error) = rebalance_error {
            return Some(format!("the last rebalance failed: {error}"));
        }
        let missing_topics = self.missing_topics.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
        if !missing_topics.is_empty() {
            return Some(format!("there is no topic {missing_topics}"));
        }
        if self.joining.load(Ordering::Relaxed) {
            return Some("it joins its consumer group".to_owned());
        }
        partitions.iter().find_map(|known| match &known.state {
            PartitionState::Waiting(reason) => Some(format!("{}: {reason}", place(known))),
            _ => None,
        })
    }
}

/// Kafka's time of a record, Unix milliseconds; none where it has none.
fn time(timestamp: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(timestamp).filter(|_| timestamp >= 0)
}
