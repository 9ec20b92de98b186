//! How far a stage is in its partitions, for `exagg status` and the readiness probe.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use exagg_clients::kafka::{Offset, Partition, TopicPartition};
use exagg_runtime::metrics::Metrics;
use serde::Serialize;

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
    /// The first offset that is not applied yet.
    pub next_offset: Offset,
    /// The end of the partition as the last applied batch knew it; the lag is up to here.
    pub end_offset: Offset,
    /// Written beside the other fields, as `state` and, where there is one, `reason`.
    #[serde(flatten)]
    pub state: PartitionState,
}

/// How far a stage is in its partitions, and what is in its way.
pub struct StageState {
    stage: String,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionStatus>>,
    unreachable: AtomicBool,
    /// Why the last rebalance failed; none when it did not.
    rebalance_error: Mutex<Option<RebalanceError>>,
    metrics: Arc<Metrics>,
}

impl StageState {
    /// A stage that has no partitions yet.
    pub fn new(stage: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            stage: stage.to_owned(),
            partitions: Mutex::default(),
            unreachable: AtomicBool::new(false),
            rebalance_error: Mutex::default(),
            metrics,
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<TopicPartition, PartitionStatus>) -> R) -> R {
        work(&mut self.partitions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what the partition does, and its position.
    pub fn note(&self, key: &TopicPartition, next_offset: Offset, state: PartitionState) {
        self.with(|partitions| {
            let known = partitions.entry(key.clone()).or_insert_with(|| PartitionStatus {
                topic: key.topic.clone(),
                partition: key.partition,
                next_offset,
                end_offset: next_offset,
                state: state.clone(),
            });
            known.next_offset = next_offset;
            known.state = state;
        });
    }

    /// Everything below `next_offset` is applied.
    pub fn applied(&self, key: &TopicPartition, next_offset: Offset, end_offset: Offset) {
        self.with(|partitions| {
            if let Some(known) = partitions.get_mut(key) {
                known.next_offset = next_offset;
                known.end_offset = end_offset;
                known.state = PartitionState::Reading;
            }
        });
        self.metrics.lag(&self.stage, &key.topic, key.partition.0, (end_offset.0 - next_offset.0).max(0));
    }

    /// Whether any broker can be reached: without one there may be no partition that waits.
    pub fn reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, Ordering::Relaxed);
    }

    /// Whether the last rebalance succeeded, and if not, why.
    pub fn rebalanced(&self, result: Result<(), RebalanceError>) {
        *self.rebalance_error.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
    }

    /// The partition is not ours any more.
    pub fn remove(&self, key: &TopicPartition) {
        self.with(|partitions| partitions.remove(key));
        self.metrics.forget_lag(&self.stage, &key.topic, key.partition.0);
    }

    /// All partitions that are ours.
    pub fn all(&self) -> Vec<PartitionStatus> {
        self.with(|partitions| partitions.values().cloned().collect())
    }

    /// What keeps the stage from being ready: no broker, a rebalance that failed, or a partition that waits for a
    /// dependency.
    pub fn not_ready(&self) -> Option<String> {
        if self.unreachable.load(Ordering::Relaxed) {
            return Some("no Kafka broker can be reached".to_owned());
        }
        let rebalance_error = self.rebalance_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(error) = rebalance_error {
            return Some(format!("the last rebalance failed: {error}"));
        }
        self.all().into_iter().find_map(|partition| match partition.state {
            PartitionState::Waiting(reason) => {
                Some(format!("topic {} partition {}: {reason}", partition.topic, partition.partition))
            }
            _ => None,
        })
    }
}
